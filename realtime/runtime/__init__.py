"""Runs a process: `parts.py` makes its parts, `server.py` runs them; `supervisor.py` for several."""
