"""Where a client connects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit
from uuid import UUID

_IS_SECURE: Final = {"http": False, "https": True, "ws": False, "wss": True}


SHARED: Final = ""
"""The place of a connection for many subscriptions."""


def of(bot_id: str | UUID | None) -> str:
    """The place of a bot's chat; None: of the user's notifications."""
    return "/notifications" if bot_id is None else f"/chat/{quote(str(bot_id), safe='')}"


class Address:
    """One endpoint of a server.

    Args:
        url: the server's, `https://realtime.example.org`, with a path where it has a prefix.
        place: what to connect to, such as `of(bot_id)`.
        parameters: more for the query.
        sse: whether events come over HTTP, and not by a WebSocket.

    Raises:
        ValueError: that is no address.
    """

    def __init__(
        self, url: str, place: str, parameters: Mapping[str, str], *, sse: bool = False
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _IS_SECURE or not parts.hostname:
            raise ValueError(f"{url!r} is no address like https://realtime.example.org")
        _ = parts.port  # raises where it is none
        protocol, folder = ("http", "sse") if sse else ("ws", "ws")
        self._parts = SplitResult(
            protocol + "s" * _IS_SECURE[parts.scheme],
            parts.netloc,
            f"{parts.path.rstrip('/')}/api/{folder}{place}",
            "",
            "",
        )
        self._query = dict(parse_qsl(parts.query, keep_blank_values=True)) | dict(parameters)

    def at(self, cursor: str) -> str:
        """The address to resume at a cursor.

        It is sent when empty, too: it tells the server that this client understands `resync`.
        """
        return self._parts._replace(query=urlencode(self._query | {"cursor": cursor})).geturl()
