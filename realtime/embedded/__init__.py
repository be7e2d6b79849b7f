"""A PostgreSQL server of our own, for `bin/dev` and for the tests. Start with `server.py`."""
