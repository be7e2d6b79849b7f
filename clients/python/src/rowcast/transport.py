"""The bytes: Tornado's WebSocket client, opened and closed so that nothing is left behind.

Tornado hands frames over through a queue of one, so who does not `receive` stops the reading, and
the kernel's buffers and then the server notice. Opened by `keeper`; whoever needs another socket
(a test, a proxy) gives it another `open_socket`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from ssl import SSLContext
from typing import Any, Final, Protocol

from tornado.httpclient import HTTPRequest
from tornado.iostream import IOStream, StreamBufferFullError
from tornado.queues import QueueEmpty
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    websocket_connect,
)

from rowcast.rules import CUT, Closed

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Of the server's: events from rows may be large. Tornado buffers at most 100 MiB."""
WRITE_BUFFER_BYTES: Final = 256 * 1024
CLOSE_WITHIN: Final = 2.0


class Socket(Protocol):
    """What the client needs of a connection."""

    hears_only: bool
    """Nothing can be sent on it: what the server has to know comes with another connection."""

    async def receive(self) -> str | bytes:
        """Wait for the next frame and return it.

        Raises:
            Closed: there will be no more.
        """
        ...

    def send(self, text: str) -> bool:
        """Send without waiting; false where that is not possible."""
        ...

    async def close(self, code: int) -> None:
        """Say goodbye, wait a moment for the answer, and go. Cancelled, it goes at once."""
        ...

    def abort(self, code: int = CUT, reason: str = "") -> None:
        """Go without a word; a waiting `receive` raises that code."""
        ...


OpenSocket = Callable[[str, Mapping[str, str], float], Awaitable[Socket]]
"""From an address, headers and a limit in seconds. Raises `Closed` if it fails."""


async def open_socket(
    url: str, headers: Mapping[str, str], within: float, ssl: SSLContext | None = None
) -> TornadoSocket:
    """Connect and shake hands.

    Raises:
        Closed: 1006, with what went wrong, as a browser has it.
    """
    request = HTTPRequest(
        url,
        headers=dict(headers),
        connect_timeout=within,
        request_timeout=within,
        ssl_options=ssl,
    )
    opening = asyncio.ensure_future(websocket_connect(request, max_message_size=MAX_MESSAGE_BYTES))
    try:
        # Not awaited itself: a cancelled future would leave behind a socket that opens later.
        await asyncio.wait([opening])
    except asyncio.CancelledError:
        opening.add_done_callback(_discard)
        raise
    if error := opening.exception():
        raise Closed(CUT, str(error) or type(error).__name__) from error
    return TornadoSocket(opening.result())


def _discard(opening: asyncio.Future[WebSocketClientConnection]) -> None:
    if opening.exception() is None:
        TornadoSocket(opening.result()).abort()


class TornadoSocket:
    """An open connection; see `Socket`."""

    hears_only = False

    def __init__(self, connection: WebSocketClientConnection) -> None:
        assert connection.protocol is not None
        self._connection = connection
        # Kept, for Tornado forgets it as soon as a close has begun.
        self._protocol = connection.protocol
        self._aborted: Closed | None = None
        if (stream := self._protocol.stream) is not None:
            stream.max_write_buffer_size = WRITE_BUFFER_BYTES
            stream.set_nodelay(True)

    @property
    def stream(self) -> IOStream | None:
        return self._protocol.stream

    async def receive(self) -> str | bytes:
        frame = None if self._aborted else await self._connection.read_message()
        if frame is not None and not self._aborted:
            return frame
        ending = self._aborted or self._ending()
        self.abort()
        raise ending

    def _ending(self) -> Closed:
        return Closed(self._connection.close_code or CUT, self._connection.close_reason or "")

    def send(self, text: str) -> bool:
        try:
            sending = self._connection.write_message(text)
        except (WebSocketClosedError, StreamBufferFullError):
            return False
        sending.add_done_callback(_look_at)
        return True

    async def close(self, code: int) -> None:
        try:
            self._connection.close(code)
            async with asyncio.timeout(CLOSE_WITHIN):
                while await self._connection.read_message() is not None:
                    pass
        except TimeoutError:
            pass  # it does not answer: it is left
        finally:
            self.abort()

    def abort(self, code: int = CUT, reason: str = "") -> None:
        if self._aborted is not None:
            return
        self._aborted = Closed(code, reason)
        self._protocol.on_connection_close()
        self._connection.close()
        # Tornado's reading task may wait for room in this queue: it has to see the end.
        with suppress(QueueEmpty):
            self._connection.read_queue.get_nowait()


def _look_at(sending: asyncio.Future[Any]) -> None:
    """That the peer is gone is told by `receive`; here it must only not be called unobserved."""
    if not sending.cancelled():
        sending.exception()
