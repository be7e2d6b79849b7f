"""A WebSocket that says why it closes, where Tornado would cut the line.

Tornado 6 drops the connection on a protocol error, on text that is not UTF-8 and on a message that
is too long; a browser then reports 1006 and its script cannot know what was wrong. Here the peer is
sent 1002, 1007 or 1009 (RFC 6455 section 7.4.1) first, and the rest of its input is discarded
until it closes, for a TCP reset would destroy the close frame on its way.
"""

import asyncio
import socket
from collections.abc import Awaitable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from tornado.websocket import WebSocketProtocol13, _WebSocketParams

from realtime.relay import closing
from realtime.relay.closing import CloseCode

DISCARD_CHUNK = 65536
_TEXT = 0x1


class _Violation(Exception):
    """The peer broke the protocol; nothing it sends is interpreted any more."""


class Delegate(Protocol):
    """What is told what arrives on a socket: the methods that Tornado calls, and `close`."""

    def close(self, code: int, reason: str) -> None:
        """Send nothing more, and call the protocol's `send_close`."""

    def on_message(self, message: str | bytes) -> Awaitable[None] | None: ...

    def on_ping(self, data: bytes) -> None: ...

    def on_pong(self, data: bytes) -> None: ...

    def on_ws_connection_close(
        self, close_code: int | None = None, close_reason: str | None = None
    ) -> None: ...

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...


class ExplainingProtocol(WebSocketProtocol13):
    """Tornado's protocol, but that a violation by the peer ends in a close frame."""

    handler: Delegate

    def __init__(self, handler: Delegate, parameters: _WebSocketParams) -> None:
        super().__init__(handler, mask_outgoing=False, params=parameters)
        self._reader: asyncio.Task[None] | None = None
        self._violation = closing.PROTOCOL_ERROR

    async def _receive_frame_loop(self) -> None:
        # In a task of its own, so that the handshake ends, and with it the request's objects.
        self._reader = asyncio.create_task(super()._receive_frame_loop())
        self._reader.add_done_callback(self._has_read)

    def _has_read(self, reader: "asyncio.Task[None]") -> None:
        self._reader = None
        error = None if reader.cancelled() else reader.exception()
        if error is not None:
            self.handler.log_exception(type(error), error, error.__traceback__)

    async def _receive_frame(self) -> None:
        try:
            await super()._receive_frame()
        except _Violation:
            self.close(*self._violation)
            await self._discard()
        except UnicodeDecodeError:
            # The reason in a close frame was not UTF-8.
            self.close(*closing.NOT_UTF8)

    def _handle_message(self, opcode: int, data: bytes) -> "asyncio.Future[None] | None":
        if opcode != _TEXT:
            return super()._handle_message(opcode, data)
        if self.client_terminated:
            return None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self._violation = closing.NOT_UTF8
            raise _Violation from None
        return self._run_callback(self.handler.on_message, text)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        # A reason says that this class or Tornado itself ends it: the delegate must know, for it
        # sends past this object.
        if reason is None:
            super().close(code)
        elif code == CloseCode.MESSAGE_TOO_BIG:
            self.handler.close(*closing.MESSAGE_TOO_BIG)  # Tornado's own words say less
        else:
            self.handler.close(code or CloseCode.TRY_AGAIN_LATER, reason)

    def send_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        super().close(code, reason)

    def drop(self) -> None:
        """Close the connection without a closing handshake."""
        super()._abort()

    def _abort(self) -> None:
        # Called by the reading task itself, it means that the peer did what it must not; called by
        # any other (a time-out, a closed stream), that there is nobody left to tell.
        if asyncio.current_task() is self._reader and not self._is_gone():
            raise _Violation
        super()._abort()

    def _is_gone(self) -> bool:
        return self.stream is None or self.stream.closed()

    async def _discard(self) -> None:
        """Read on until the peer closes or Tornado's own limit after a close (5 s) ends it."""
        assert self.stream is not None
        if not (self.stream.closed() or self.stream.writing()):
            with suppress(OSError):  # the peer is gone already
                self.stream.socket.shutdown(socket.SHUT_WR)
        while True:
            # Raises StreamClosedError at the end, which ends the loop that called us.
            await self.stream.read_bytes(DISCARD_CHUNK, partial=True)
