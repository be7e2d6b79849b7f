"""Relays rows committed in Postgres to WebSockets.

An event walks three rooms: `postgres` (where it comes from) → `relay` (who gets it) → `web` (how
it reaches them). `server` alone knows all three.
"""

__version__ = "0.2.0.dev0"
