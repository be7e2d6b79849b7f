"""Relays rows committed in Postgres to WebSockets.

An event passes through three packages: `postgres` (where it comes from) → `relay` (who gets it) →
`web` (how it reaches them). Only `runtime` knows all three.
"""

__version__ = "0.2.0.dev0"
