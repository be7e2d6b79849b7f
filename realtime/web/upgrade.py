"""What a WebSocket handshake must have (RFC 6455 section 4.2.1), and whose pages may make one.

An ordinary one is read here, in a few microseconds. This reader takes only what is complete and
plain, and refuses nothing: all else is read by Tornado, on the same connection, and answered from
there. So there is one place for limits, time limits and HTTP errors, and no request can be
understood in two ways.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from hashlib import sha1
from typing import NamedTuple

from tornado.escape import parse_qs_bytes

VERSION = "13"
KEY_CHARACTERS = 24
"""A key is 16 bytes in base64."""
SUBPROTOCOL = "bearer"
FOREIGN_ORIGIN = "pages of this Origin may not connect: see ALLOWED_ORIGINS"
_ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_END = b"\r\n\r\n"
_HEAD = re.compile(
    r"GET (?P<path>/[\w./-]*)(?:\?(?P<query>[!-~]*))? HTTP/1\.1"
    r"(?P<headers>(?:\r\n[\w-]+:[\t -~]*)+)",
    re.ASCII,
)
_HOST = re.compile(r"[\w.-]+(?::\d+)?", re.ASCII)
_MAX_PARAMETERS = 16
_BODY_HEADERS = ("content-length", "transfer-encoding", "expect")


class Upgrade(NamedTuple):
    """The request of a handshake."""

    path: str
    query: Mapping[str, str]
    """The last value of each parameter; bytes that are no text are U+FFFD."""
    headers: Mapping[str, str]
    """By their names in lower case."""

    @property
    def subprotocols(self) -> list[str]:
        """What the client offers in `Sec-WebSocket-Protocol`, in its order."""
        return [one.strip() for one in self.headers.get("sec-websocket-protocol", "").split(",")]

    def answer(self) -> bytes:
        """The answer that completes the handshake."""
        key = self.headers["sec-websocket-key"].encode() + _ACCEPT
        accept = b64encode(sha1(key, usedforsecurity=False).digest()).decode()
        chosen = (
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n" if SUBPROTOCOL in self.subprotocols else ""
        )
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
        ).encode()


def read_upgrade(data: bytes) -> tuple[Upgrade, int] | None:
    """Read a handshake whose form is beyond doubt, and how many bytes it has; None: leave it.

    Args:
        data: the first bytes of a connection.
    """
    end = data.find(_END)
    match = _HEAD.fullmatch(data[:end].decode("latin-1")) if end >= 0 else None
    if match is None:
        return None
    lines = match["headers"].split("\r\n")[1:]
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" \t")
    is_plain = len(headers) == len(lines) and _HOST.fullmatch(headers.get("host", ""))
    query = match["query"] or ""
    if not is_plain or any(name in headers for name in _BODY_HEADERS):
        return None
    if query.count("&") >= _MAX_PARAMETERS:
        return None
    return Upgrade(match["path"], _parameters(query), headers), end + len(_END)


def _parameters(query: str) -> dict[str, str]:
    found = parse_qs_bytes(query, keep_blank_values=True)
    return {name: values[-1].decode("utf-8", "replace") for name, values in found.items()}


def is_welcome(origin: str | None, allowed_origins: Collection[str] | None) -> bool:
    """Whether a page of this origin may connect; no page has None.

    Args:
        allowed_origins: whose pages may connect; None: anybody's.
    """
    return origin is None or allowed_origins is None or origin in allowed_origins


class BadUpgrade(NamedTuple):
    """The HTTP answer to a request that opens no WebSocket."""

    status: int
    error: str


def check_upgrade(
    headers: Mapping[str, str], allowed_origins: Collection[str] | None
) -> BadUpgrade | None:
    """Say what is wrong with a handshake; None: nothing is.

    Args:
        headers: by their names in lower case.
        allowed_origins: whose pages may connect; None: anybody's.
    """
    if _tokens(headers.get("upgrade")) != ["websocket"]:
        return BadUpgrade(400, "this address is a WebSocket's: send Upgrade: websocket")
    if "upgrade" not in _tokens(headers.get("connection")):
        return BadUpgrade(400, "a WebSocket handshake needs Connection: Upgrade")
    if not is_welcome(headers.get("origin"), allowed_origins):
        return BadUpgrade(403, FOREIGN_ORIGIN)
    if headers.get("sec-websocket-version") != VERSION:
        return BadUpgrade(426, f"send Sec-WebSocket-Version: {VERSION}, once")
    if not _is_key(headers.get("sec-websocket-key", "")):
        return BadUpgrade(400, "send Sec-WebSocket-Key once, 16 bytes in base64")
    return None


def _tokens(value: str | None) -> list[str]:
    """A header's values in lower case; Tornado joins a header that comes twice with commas."""
    return [one.strip().lower() for one in (value or "").split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(key) == KEY_CHARACTERS and len(b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
