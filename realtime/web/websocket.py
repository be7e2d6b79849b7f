"""A WebSocket that keeps to RFC 6455, and says why it closes where Tornado would cut the line.

Tornado drops the connection on a protocol error, on text that is not UTF-8 and on a message that
is too long; a browser then reports 1006 and its script cannot know what was wrong. Here the peer is
sent 1002, 1007 or 1009 (RFC 6455 section 7.4.1) first, and the rest of its input is discarded
until it closes, for a TCP reset would destroy the close frame on its way. The frames that arrive
are read here and not by Tornado, which accepts frames without a mask and close codes that nobody
may send.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, cast

from tornado.iostream import StreamClosedError
from tornado.util import _websocket_mask
from tornado.websocket import WebSocketProtocol13, _WebSocketParams

from realtime.relay import closing
from realtime.relay.closing import Closing
from realtime.relay.room import Room

DISCARD_CHUNK = 65536
MAX_FRAMES = 256
"""How many frames one message may come in. A frame costs the process the same however little is in
it, and only whole messages count in the rate limit."""
YIELD_BYTES = 262_144
"""After so much input other tasks get a turn: what has arrived already is read without a wait."""
FRAME_COST = 1024
"""So many bytes are added to the length of each frame, for the work that a frame costs."""

# RFC 6455 section 5.2.
_FINAL, _RESERVED, _OPCODE, _MASKED = 0x80, 0x70, 0x0F, 0x80
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = {_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG}
_MAX_CONTROL = 125


class _Violation(Exception):
    """The peer broke the protocol; nothing it sends is interpreted any more."""

    def __init__(self, closing: Closing = closing.PROTOCOL_ERROR) -> None:
        super().__init__(closing.reason)
        self.closing = closing


class Delegate(Protocol):
    """What is told what arrives on a socket: the methods that Tornado calls, and `close`."""

    def close(self, code: int, reason: str) -> None:
        """Send nothing more, and call the protocol's `send_close`."""

    def on_message(self, message: str) -> Awaitable[None] | None: ...

    def on_ping(self, data: bytes) -> None:
        """Answer with a pong that has the same data."""

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
    """Tornado's protocol, but that frames are read by the letter, and a violation by the peer ends
    in a close frame."""

    handler: Delegate  # type: ignore[assignment]
    # Of the class, until a message comes in several frames: few sockets ever need them.
    _message: bytearray | None = None
    """What has arrived of a message that comes in several frames."""
    _frames = 0
    """How many frames of that message have arrived."""
    _is_told = False
    """Whether the delegate knows that the connection is over."""

    def __init__(self, handler: Delegate, parameters: _WebSocketParams, room: Room) -> None:
        super().__init__(
            cast("Any", handler),  # which need not take bytes, as Tornado's do
            mask_outgoing=False,
            params=parameters,
        )
        self._room = room
        self._reader: asyncio.Task[None] | None = None

    async def _receive_frame_loop(self) -> None:
        # In a task of its own, so that the handshake ends, and with it the request's objects.
        self._reader = asyncio.create_task(self._read_to_end())

    async def _read_to_end(self) -> None:
        try:
            await self._receive_frames()
            self._tell_closed()
            await self._discard()
        except StreamClosedError:
            pass
        except _Violation as violation:
            self.handler.close(*violation.closing)
            await self._discard()
        except Exception:  # noqa: BLE001 - logged; it must end this socket, and no other
            self.handler.log_exception(*sys.exc_info())
        finally:
            self._reader = None
            self.drop()
            self._room.remove(self)
            self._tell_closed()

    def _tell_closed(self) -> None:
        if not self._is_told:
            self._is_told = True
            self.handler.on_ws_connection_close(self.close_code, self.close_reason)

    async def _receive_frames(self) -> None:
        work = 0
        while not self.client_terminated:
            work += FRAME_COST + await self._receive_a_frame()
            if work >= YIELD_BYTES:
                work = 0
                await asyncio.sleep(0)

    async def _receive_a_frame(self) -> int:
        """Read a frame and act on it; returns how long its payload was."""
        first, second = await self._read_bytes(2)
        is_final, opcode = bool(first & _FINAL), first & _OPCODE
        if first & _RESERVED or opcode not in _OPCODES or not second & _MASKED:
            raise _Violation
        length = second & ~_MASKED
        if opcode >= _CLOSE:
            if not is_final or length > _MAX_CONTROL:
                raise _Violation
            await self._on_control(opcode, await self._read_payload(length))
            return length
        self._check_order(opcode)
        length = await self._read_length(length)
        await self._on_data(is_final, await self._read_payload(length))
        return length

    def _check_order(self, opcode: int) -> None:
        if (opcode == _CONTINUATION) != (self._message is not None):
            raise _Violation
        if opcode == _BINARY:
            raise _Violation(closing.BINARY_FRAME)

    async def _read_length(self, length: int) -> int:
        """Read the rest of a data frame's length, and see that the message may be so long."""
        if length > _MAX_CONTROL:
            length = int.from_bytes(await self._read_bytes(2 if length == 126 else 8))
        if length >= 2**63:
            raise _Violation  # the most significant bit must be 0
        if length + len(self._message or b"") > self.params.max_message_size:
            raise _Violation(closing.MESSAGE_TOO_BIG)
        return length

    async def _read_payload(self, length: int) -> bytes:
        mask = await self._read_bytes(4)
        return _websocket_mask(mask, await self._read_bytes(length))

    async def _on_data(self, is_final: bool, payload: bytes) -> None:
        if self._message is not None:
            self._message += payload
            payload = b""
        elif not is_final:
            self._message = bytearray(payload)
        if not is_final:
            self._frames += 1
            if self._frames >= MAX_FRAMES:
                raise _Violation(closing.TOO_MANY_FRAMES)
            return
        message, self._message, self._frames = self._message or payload, None, 0
        answered = self.handler.on_message(_text(message))
        if answered is not None:
            await answered

    async def _on_control(self, opcode: int, payload: bytes) -> None:
        match opcode:
            case 0x9:
                self.handler.on_ping(payload)
            case 0xA:
                self.handler.on_pong(payload)
            case _:
                self._on_close(payload)

    def _on_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2]) if payload else None
        if code is not None and (len(payload) == 1 or not closing.may_be_sent(code)):
            raise _Violation
        self.close_reason = _text(payload[2:]) or None
        self.close_code = code
        # Echo the code, if any (RFC 6455 section 5.5.1).
        super().close(code)
        self._room.add_closing(self)
        self.client_terminated = True

    def send_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        super().close(code, reason)
        self._room.add_closing(self)

    def drop(self) -> None:
        """Close the connection without a closing handshake."""
        super()._abort()

    async def _discard(self) -> None:
        """Read on until the peer closes or Tornado's own limit after a close (5 s) ends it.

        To close with input unread would reset the connection, and destroy what was sent.
        """
        with suppress(StreamClosedError):
            await self.stream.write(b"")  # done when all before it has been sent
            with suppress(OSError):  # the peer is gone already
                self.stream.socket.shutdown(socket.SHUT_WR)
            while True:
                await self.stream.read_bytes(DISCARD_CHUNK, partial=True)


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _Violation(closing.NOT_UTF8) from None
