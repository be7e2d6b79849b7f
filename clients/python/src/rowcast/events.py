"""What a server says, as the application is handed it. Read by `keeper` from each frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

UNREADABLE: Final = "unreadable"
"""The reason of the `resync` that stands for a frame that is no message."""
MAX_CURSOR: Final = 4_000
"""Characters; those of this server have at most 1,000. A longer one might be refused for ever."""
MAX_DIGITS: Final = 640
"""The least that Python can be told to read as an integer."""


@dataclass(frozen=True, slots=True)
class Event:
    """One message of the server, as in docs/protocol.md.

    Attributes:
        type: such as `chat_message`, or the name that `relay.emit` was given.
        data: the message's `data`; None where it has none (an `error`).
        id: unique per event that came from a row; None for all else.
        cursor: where the stream has come to, on the first and the last of each batch.
        raw: the whole message, for what only some types have (`timestamp`, `bot_id`,
            `notification_type`, `code`). Where a frame could not be read as a message, there is
            `frame`: the text or bytes that came.
    """

    type: str
    data: Any
    id: str | None
    cursor: str | None
    raw: Mapping[str, Any]

    def field(self, name: str) -> Any:
        """A member of `data`; None where it has none."""
        return self.data.get(name) if isinstance(self.data, dict) else None


def parse(frame: str | bytes) -> Event | None:
    """Read a frame; None for what is not a message: a text that is an object with a type."""
    if isinstance(frame, bytes):
        return None
    try:
        raw = json.loads(frame, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        return None
    return Event(raw["type"], raw.get("data"), _text(raw, "id"), sendable_cursor(raw), raw)


def resync(reason: object) -> Event:
    """What the application is told when a server says of a cursor that nothing was recovered."""
    data = {"reason": reason}
    return Event("resync", data, None, None, {"type": "resync", "data": data})


def unreadable(frame: str | bytes) -> Event:
    """What the application is told of a frame that is no message. `raw` has it as it came."""
    event = resync(UNREADABLE)
    return replace(event, raw={**event.raw, "frame": frame})


def sendable_cursor(members: Mapping[str, Any]) -> str | None:
    """The `cursor` among these, if it can be given back in an address; None where it cannot."""
    cursor = _text(members, "cursor")
    is_sendable = cursor is not None and len(cursor) <= MAX_CURSOR and cursor.isascii()
    return cursor if is_sendable else None


def _integer(text: str) -> int | Decimal:
    """Read an integer, also one that is longer than Python reads (`sys.set_int_max_str_digits`)."""
    return int(text) if len(text) <= MAX_DIGITS else Decimal(text)


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return value if isinstance(value, str) and value else None
