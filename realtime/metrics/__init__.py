"""How the processes are doing: taken down in `snapshot.py`, written for Prometheus."""
