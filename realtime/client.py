"""The client for Python, `rowcast`, under the name that it had in 0.1.0."""

from rowcast import CLOSE_CODES, Closed, Event, RealtimeClient, Reconnecting, Timings, connect

__all__ = [
    "CLOSE_CODES",
    "Closed",
    "Event",
    "RealtimeClient",
    "Reconnecting",
    "Timings",
    "connect",
]
