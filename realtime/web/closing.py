"""A WebSocket that says why it closes, where Tornado would cut the line.

Tornado 6 drops the connection on a protocol error, on text that is not UTF-8 and on a message that
is too long; a browser then reports 1006 and its script cannot know what was wrong. Here the peer is
sent 1002, 1007 or 1009 (RFC 6455 section 7.4.1) first, and the rest of its input is discarded
until it closes, for a TCP reset would destroy the close frame on its way. Used by `sockets`.
"""

import asyncio
import socket
from contextlib import suppress

from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from realtime.relay.errors import CloseCode

DISCARD_CHUNK = 65536
_TEXT = 0x1


class _Violation(Exception):
    """The peer broke the protocol; nothing it sends is interpreted any more."""


class Endable(WebSocketHandler):
    """A handler that can be told to end its socket."""

    def end(self, code: int, reason: str) -> None:
        """Send nothing more, and call the protocol's `finish`."""
        raise NotImplementedError


class ExplainingProtocol(WebSocketProtocol13):
    """Tornado's protocol, but that a violation by the peer ends in a close frame."""

    handler: Endable
    _reader: "asyncio.Task[object] | None" = None
    _reason: tuple[CloseCode, str] = (CloseCode.PROTOCOL_ERROR, "protocol error")

    async def _receive_frame_loop(self) -> None:
        self._reader = asyncio.current_task()
        await super()._receive_frame_loop()

    async def _receive_frame(self) -> None:
        try:
            await super()._receive_frame()
        except _Violation:
            self.close(*self._reason)
            await self._discard()
        except UnicodeDecodeError:
            # The reason in a close frame was not UTF-8.
            self.close(CloseCode.INVALID_DATA, "text is not valid UTF-8")

    def _handle_message(self, opcode: int, data: bytes) -> "asyncio.Future[None] | None":
        if opcode == _TEXT:
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                self._reason = (CloseCode.INVALID_DATA, "text is not valid UTF-8")
                raise _Violation from None
        return super()._handle_message(opcode, data)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        # A reason says that Tornado itself ends it (a ping unanswered, a message too long): the
        # handler must know, for it sends past this object. 1000, Tornado's code for a client that
        # fell silent, would tell it to stay away.
        if reason is None:
            super().close(code)
        else:
            self.handler.end(code or CloseCode.TRY_AGAIN_LATER, reason)

    def finish(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        super().close(code, reason)

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
