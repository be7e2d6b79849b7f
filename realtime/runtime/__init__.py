"""Runs one process or several: `parts.py` makes the parts of one, and `server.py` starts them."""
