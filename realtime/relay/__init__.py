"""Who gets which event: the rules, without I/O.

Nothing here imports tornado or asyncpg; clocks, sockets and the database come in as arguments, so
every rule is tested without waiting. Read in this order: `errors`, `cursor`, `events`, `protocol`,
`subscriber`, `hub`, `reader`, `resume`, `presence`, `typing`.
"""
