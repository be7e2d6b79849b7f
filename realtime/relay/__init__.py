"""Who gets which event: the rules, without I/O.

Nothing here imports tornado or asyncpg; clocks, sockets and the database come in as arguments, so
every rule is tested without waiting. These are all files, in the order in which to read them. The
first twelve are the core, and about half of all lines: begin with their docstrings.

- From a read of the log to its sockets: `cursor`, `position`, `events`, `subscriber`,
  `subscribers`, `audience`, `protocol`, `hub`, `pace`, `reader`, `recheck`, `growing`.
- Events that rings carry: `carried`. What is too much at once: `owed`, `turns`, `large_read`.
- Who comes in: `errors`, `closing`, `batcher`, `admission`, `refusals`, `room`, `subscribing`.
- Who comes back: `resume`, `budget`.
- Who is there, and types: `remote`, `presence`, `typing`.
- Small helpers: `backoff`, `counters`, `observers`, `rate_limit`, `slices`.
"""
