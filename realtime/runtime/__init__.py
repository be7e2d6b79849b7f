"""One running process: composed in `server.py`, kept alive by `process.py` and `supervisor.py`."""
