"""`bin/simulate`: the traffic of a believable platform, by plain SQL on the reference tables.

A tool beside the relay, which it knows nothing of: it writes rows, as any service would.
`corpus` is what people say, `cast` who there is, `acts` the statements, `scenes` what happens,
`plan` when; all of them without I/O. `player` executes it, `progress` tells how it goes.
"""
