"""The client for Python of Rowcast: resumes where it was, and hands each event over once.

    async with connect("https://realtime.example.org", token=token, bot_id=bot_id) as events:
        async for event in events:
            if event.type == "chat_message": ...

It needs Tornado, and nothing of the server. docs/python-client.md tells the rest.
"""

from rowcast.client import RealtimeClient, connect
from rowcast.events import Event
from rowcast.rules import CLOSE_CODES, Closed, Reconnecting, Timings
from rowcast.shared import SharedConnection

__version__ = "0.2.0.dev0"

__all__ = [
    "CLOSE_CODES",
    "Closed",
    "Event",
    "RealtimeClient",
    "Reconnecting",
    "SharedConnection",
    "Timings",
    "connect",
]
