"""The relay's client for Python: resumes where it was, and hands each event over once.

    async with connect("https://realtime.example.org", token=token, bot_id=bot_id) as events:
        async for event in events:
            if event.type == "chat_message": ...

It needs Tornado and, of this project, nothing but itself. docs/python-client.md tells the rest.
"""

from realtime.client.client import RealtimeClient, connect
from realtime.client.events import Event
from realtime.client.rules import CLOSE_CODES, Closed, Reconnecting, Timings

__all__ = [
    "CLOSE_CODES",
    "Closed",
    "Event",
    "RealtimeClient",
    "Reconnecting",
    "Timings",
    "connect",
]
