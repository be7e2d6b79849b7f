"""The messages of docs/protocol.md: those of a client, and those that the server makes itself.

Events from rows are not built here: their JSON comes finished from the log, and `stamp` only puts
`id` and `cursor` in front.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Never, TypeVar

from realtime.relay.errors import ErrorCode, MessageError
from realtime.relay.events import Event

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_WORD = re.compile(r"[\w.-]{1,64}", re.ASCII)
_MAX_TEXT = 256
_KNOWN = "ping or authenticate, and on a chat typing or session_sync"
_KNOWN_ON_MULTI = "subscribe, unsubscribe, ping, authenticate, typing or session_sync"
_T = TypeVar("_T", bool, str)
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Message(NamedTuple):
    """A message on its way to clients."""

    text: bytes
    """One JSON object."""
    cursor: str | None = None
    """Covers all that was sent on its topic before this message. But while a client is sent what it
    missed, it covers what the client came with. None: there is no such cursor."""


Framer = Callable[[Iterable[Message]], bytes]
"""Joins messages into the bytes that a socket is sent."""


@dataclass(frozen=True, slots=True)
class Ping:
    """`timestamp` is sent back unchanged; None: the client sent none."""

    timestamp: str | float | None


@dataclass(frozen=True, slots=True)
class Typing:
    is_typing: bool


@dataclass(frozen=True, slots=True)
class SessionSync:
    session_id: str


@dataclass(frozen=True, slots=True)
class Authenticate:
    token: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    cursor: str | None
    """None: the client sent none."""
    wants_presence: bool


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    pass


ClientMessage = Ping | Typing | SessionSync | Authenticate
"""What a client says on a socket for one topic."""
MultiMessage = ClientMessage | Subscribe | Unsubscribe
"""What a client says on a socket for many."""


class Target(NamedTuple):
    """Which subscription of a socket for many topics a message is about."""

    bot_id: str | None
    """None: the user's own notifications."""

    @property
    def named(self) -> dict[str, Any]:
        """The fields by which a message names it."""
        return {"notifications": True} if self.bot_id is None else {"bot_id": self.bot_id}


def decode_client_message(text: str) -> ClientMessage:
    """Read one text frame of a client.

    Raises:
        MessageError: with the code and words of the `error` reply. Nothing else is raised, whatever
            the text.
    """
    return _decode(_parse_object(text))


def decode_multi_message(text: str) -> tuple[Target | None, MultiMessage]:
    """Read one text frame of a client that may have many subscriptions, and what it is about.

    Target: None: it is about none of them.

    Raises:
        MessageError: as `decode_client_message` does. It says which subscription it is about.
    """
    message = _parse_object(text)
    target = _target(message) if _has_target(message) else None
    try:
        return target, _decode_multi(message)
    except MessageError as error:
        error.target = target
        raise


def _has_target(message: Mapping[str, Any]) -> bool:
    kind = message.get("type")
    if kind == "ping":
        return bool(_data(message).keys() & {"bot_id", "notifications"})
    return kind in ("subscribe", "unsubscribe", "typing", "session_sync")


def _decode_multi(message: Mapping[str, Any]) -> MultiMessage:
    match message.get("type"):
        case "subscribe":
            return Subscribe(_cursor(message), _wants_presence(message))
        case "unsubscribe":
            return Unsubscribe()
        case "typing" | "session_sync":
            _field(message, "bot_id", str)
            return _decode(message, _KNOWN_ON_MULTI)
        case _:
            return _decode(message, _KNOWN_ON_MULTI)


def _decode(message: Mapping[str, Any], known: str = _KNOWN) -> ClientMessage:
    match message.get("type"):
        case "ping":
            return Ping(_timestamp(message))
        case "typing":
            return Typing(_field(message, "is_typing", bool))
        case "session_sync":
            return SessionSync(_short(_field(message, "session_id", str), "data.session_id"))
        case "authenticate":
            return Authenticate(_field(message, "token", str))
        case str(kind):
            # Whoever reads the answer may show it: nothing but a plain word is repeated.
            named = f"the type {kind}" if _WORD.fullmatch(kind) else "this message type"
            raise MessageError(ErrorCode.UNKNOWN_TYPE, f"{named} is not known here: send {known}")
        case _:
            raise MessageError(ErrorCode.INVALID_MESSAGE, "type must be a string")


def _parse_object(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # ValueError includes JSONDecodeError and integers of too many digits.
        raise MessageError(ErrorCode.INVALID_JSON, "the message is not valid JSON") from None
    if not isinstance(message, dict):
        raise MessageError(ErrorCode.INVALID_MESSAGE, "the message must be a JSON object")
    return message


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _data(message: Mapping[str, Any]) -> dict[str, Any]:
    data = message.get("data")
    return data if isinstance(data, dict) else {}


def _target(message: Mapping[str, Any]) -> Target:
    data = _data(message)
    if data.get("notifications") is True and "bot_id" not in data:
        return Target(None)
    if "notifications" in data:
        words = "data must have either bot_id or notifications, which is true"
        raise MessageError(ErrorCode.INVALID_MESSAGE, words)
    bot_id = _short(_field(message, "bot_id", str), "data.bot_id")
    return Target(canonical_uuid(bot_id) or bot_id)


def _cursor(message: Mapping[str, Any]) -> str | None:
    return _field(message, "cursor", str) if "cursor" in _data(message) else None


def _wants_presence(message: Mapping[str, Any]) -> bool:
    return "presence" in _data(message) and _field(message, "presence", bool)


def _field(message: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    value = _data(message).get(name)
    if isinstance(value, kind):
        return value
    word = "a string" if kind is str else "true or false"
    raise MessageError(ErrorCode.INVALID_MESSAGE, f"data.{name} must be {word}")


def _short(value: str, name: str) -> str:
    if len(value) <= _MAX_TEXT:
        return value
    raise MessageError(ErrorCode.INVALID_MESSAGE, f"{name} is longer than {_MAX_TEXT} characters")


def _timestamp(message: Mapping[str, Any]) -> str | float | None:
    value = message.get("timestamp")
    if value is None:
        return None
    if isinstance(value, str):
        return _short(value, "timestamp")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MessageError(ErrorCode.INVALID_MESSAGE, "timestamp must be a string or a number")
    if not _is_modest(value):
        words = "timestamp is too large for a number: send it as a string"
        raise MessageError(ErrorCode.INVALID_MESSAGE, words)
    return value


def _is_modest(number: float) -> bool:
    """Whether JSON can repeat the number exactly (no `1e999`, no integer of a thousand digits)."""
    return abs(number) < 2**64 if isinstance(number, int) else math.isfinite(number)


def canonical_uuid(text: str) -> str | None:
    """The lower-case form of a hyphenated UUID, or None where the text is not one."""
    lower = text.lower()
    return lower if _UUID.fullmatch(lower) else None


def bot_topic(bot_id: str) -> str:
    return f"bot:{bot_id}"


def user_topic(user_id: str) -> str:
    return f"user:{user_id}"


SOCKET_TOPIC = "socket"
"""The topic of a socket for many topics itself. No event is on it."""


def bot_of(topic: str) -> str | None:
    """The bot's id where the topic is a bot's."""
    kind, _, identifier = topic.partition(":")
    return identifier if kind == "bot" else None


def user_of(topic: str) -> str | None:
    """The user's id where the topic is a user's."""
    kind, _, identifier = topic.partition(":")
    return identifier if kind == "user" else None


def rfc3339(epoch: float) -> str:
    """Epoch seconds as RFC 3339 in UTC, to the microsecond, ending in `Z`."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def stamp(payload: str, event_id: str, cursor: str | None) -> Message:
    """The wire message of an event: its payload with `id` (and `cursor`) spliced in front."""
    return Message(f"{_start(event_id, cursor)}{payload[1:]}".encode(), cursor or None)


def stamp_all(events: Sequence[Event], first: str | None, last: str | None) -> list[Message]:
    """The wire messages of events that are sent together.

    Args:
        first: the cursor of the first one.
        last: that of the last one. An only one has this, if it is not None.
    """
    end = len(events) - 1
    messages = []
    for number, event in enumerate(events):
        cursor = (last if number == end else None) or (None if number else first)
        messages.append(stamp(event.payload or "", event.wire_id, cursor))
    return messages


def stamp_start(part: bytes, event_id: str, cursor: str | None) -> Message:
    """As `stamp`, for the first bytes of a payload."""
    return Message(_start(event_id, cursor).encode() + part[1:], cursor or None)


def _start(event_id: str, cursor: str | None) -> str:
    field = f'"cursor":"{cursor}",' if cursor else ""
    return f'{{"id":"{event_id}",{field}'


def _encode(message: Mapping[str, Any]) -> Message:
    # ASCII escapes also carry a lone surrogate that a client may have sent us to echo.
    return Message(_to_json(message).encode("ascii"))


def _named(target: Target | None) -> dict[str, Any]:
    """The fields that a message has on a socket for many topics, and on no other."""
    return {} if target is None else target.named


def connection_established(data: Mapping[str, Any], cursor: str | None = None) -> Message:
    """Make the first message.

    Args:
        cursor: that of `data`, unless missed events follow.
    """
    return _encode({"type": "connection_established", "data": data})._replace(cursor=cursor)


def subscribed(target: Target, data: Mapping[str, Any]) -> Message:
    return _encode({"type": "subscribed", **target.named, "data": data})


def unsubscribed(target: Target, code: int, reason: str) -> Message:
    data = {"code": code, "reason": reason}
    return _encode({"type": "unsubscribed", **target.named, "data": data})


def pong(timestamp: str | float, cursor: str | None, target: Target | None = None) -> Message:
    fields = {} if cursor is None else {"cursor": cursor}
    return _encode({"type": "pong", **_named(target), "timestamp": timestamp, **fields})


def error(code: ErrorCode, message: str, target: Target | None = None) -> Message:
    return _encode({"type": "error", **_named(target), "code": code, "message": message})


def session_synced(
    session_id: str, bot_id: str, now: float, target: Target | None = None
) -> Message:
    data = {"session_id": session_id, "bot_id": bot_id, "timestamp": rfc3339(now)}
    return _encode({"type": "session_synced", **_named(target), "data": data})


def resync(reason: str, bot_id: str | None) -> Message:
    named = {} if bot_id is None else {"bot_id": bot_id}
    return _encode({"type": "resync", **named, "data": {"reason": reason}})


def going_away(retry_after: float) -> Message:
    return _encode({"type": "going_away", "data": {"retry_after_seconds": retry_after}})


def token_expiring(expires_at: float) -> Message:
    return _encode({"type": "token_expiring", "data": {"expires_at": rfc3339(expires_at)}})


def authenticated(expires_at: float) -> Message:
    return _encode({"type": "authenticated", "data": {"expires_at": rfc3339(expires_at)}})


def presence_state(bot_id: str, data: Mapping[str, Any], now: float) -> Message:
    return _of_bot("presence_state", bot_id, data, now)


def presence_diff(bot_id: str, data: Mapping[str, Any], now: float) -> Message:
    return _of_bot("presence_diff", bot_id, data, now)


def typing_indicator(
    bot_id: str, user_id: str, username: str, is_typing: bool, now: float
) -> Message:
    data = {"user_id": user_id, "username": username, "is_typing": is_typing}
    return _of_bot("typing_indicator", bot_id, data, now)


def _of_bot(kind: str, bot_id: str, data: Mapping[str, Any], now: float) -> Message:
    return _encode({"type": kind, "bot_id": bot_id, "data": data, "timestamp": rfc3339(now)})
