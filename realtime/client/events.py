"""What a server says, as the application is handed it. Read by `client` from each frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One message of the server, as in docs/protocol.md.

    Attributes:
        type: such as `chat_message`, or the name that `relay.emit` was given.
        data: the message's `data`; None where it has none (an `error`).
        id: unique per event that came from a row; None for all else.
        cursor: where the stream has come to with this event, on the last of each batch.
        raw: the whole message, for what only some types have (`timestamp`, `bot_id`,
            `notification_type`, `code`).
    """

    type: str
    data: Any
    id: str | None
    cursor: str | None
    raw: Mapping[str, Any]


def parse(frame: str | bytes) -> Event | None:
    """Read a frame; None for what is not a message: a text that is an object with a type."""
    if isinstance(frame, bytes):
        return None
    try:
        raw = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        return None
    return Event(raw["type"], raw.get("data"), _text(raw, "id"), _text(raw, "cursor"), raw)


def resync(reason: str | None) -> Event:
    """What the application is told when a server says of a cursor that nothing was recovered."""
    data = {"reason": reason}
    return Event("resync", data, None, None, {"type": "resync", "data": data})


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return value if isinstance(value, str) and value else None
