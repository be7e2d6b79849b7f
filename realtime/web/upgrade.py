"""What a WebSocket handshake must have (RFC 6455 section 4.2.1), and whose pages may make one.

Checked here, before Tornado looks at the request: what it checks differs between its versions.
"""

import binascii
from base64 import b64decode
from collections.abc import Collection
from typing import NamedTuple

from tornado.httputil import HTTPServerRequest

VERSION = "13"
KEY_CHARACTERS = 24
"""A key is 16 bytes in base64."""


class BadUpgrade(NamedTuple):
    """The HTTP answer to a request that opens no WebSocket."""

    status: int
    error: str


def check_upgrade(
    request: HTTPServerRequest, allowed_origins: Collection[str] | None
) -> BadUpgrade | None:
    """Say what is wrong with a handshake; None: nothing is.

    Args:
        allowed_origins: whose pages may connect; None: anybody's.
    """
    headers = request.headers
    if request.version != "HTTP/1.1":
        return BadUpgrade(400, "a WebSocket handshake needs HTTP/1.1")
    if _tokens(headers.get("Upgrade")) != ["websocket"]:
        return BadUpgrade(400, "this address is a WebSocket's: send Upgrade: websocket")
    if "upgrade" not in _tokens(headers.get("Connection")):
        return BadUpgrade(400, "a WebSocket handshake needs Connection: Upgrade")
    if request.body:
        return BadUpgrade(400, "a WebSocket handshake has no body")
    origin = headers.get("Origin")
    if not (origin is None or allowed_origins is None or origin in allowed_origins):
        return BadUpgrade(403, "pages of this Origin may not connect: see ALLOWED_ORIGINS")
    if headers.get("Sec-WebSocket-Version") != VERSION:
        return BadUpgrade(426, f"send Sec-WebSocket-Version: {VERSION}, once")
    if not _is_key(headers.get("Sec-WebSocket-Key", "")):
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
