"""The metrics of all processes: put together in `snapshot.py`, written in `prometheus.py`."""
