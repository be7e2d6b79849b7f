"""A WebSocket that keeps to RFC 6455, and says why it closes.

Who breaks the protocol, sends text that is not UTF-8 or a message that is too long is sent 1002,
1007 or 1009 (section 7.4.1). A browser whose connection were simply cut would report 1006, and its
script could not know what was wrong. The rest of the input is discarded until the peer closes, for
a TCP reset would destroy the close frame on its way.
"""

import asyncio
import struct
import sys
from collections.abc import Awaitable
from types import TracebackType
from typing import NamedTuple, Protocol

from tornado.util import _websocket_mask

from realtime.relay import closing
from realtime.relay.closing import Closing
from realtime.relay.room import Room
from realtime.web.stream import ClientStream

CLOSE_SECONDS = 5.0
"""How long a closing handshake may take; then the connection is cut."""
QUIET_SECONDS = 0.2
"""How long a peer that broke the rules must send nothing, to count as done with what it sent."""
MAX_FRAMES = 256
"""How many frames one message may come in: only whole messages count in the rate limit."""
NO_CODE = 1005
"""What a close frame without a code means (RFC 6455 section 7.1.5); it is never sent."""
FRAMES_AT_ONCE = 256
"""After so many frames other tasks get a turn."""

# RFC 6455 section 5.2.
_FINAL, _RESERVED, _OPCODE, _MASKED = 0x80, 0x70, 0x0F, 0x80
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = frozenset({_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})
_MAX_CONTROL = 125
_LENGTH_BYTES = {126: 2, 127: 8}
_SMALLEST = {126: 126, 127: 65536}
_MASK_BYTES = 4
_CLOSE_HEAD = struct.Struct("!BB")


class _Violation(Exception):
    """The peer broke the protocol; nothing it sends is interpreted any more."""

    def __init__(self, closing: Closing = closing.PROTOCOL_ERROR) -> None:
        super().__init__(closing.reason)
        self.closing = closing


class _Frame(NamedTuple):
    opcode: int
    is_final: bool
    payload: bytes
    end: int
    """Where the next one begins."""


class Delegate(Protocol):
    """What is told what arrives on a socket."""

    def close(self, code: int, reason: str) -> None:
        """Send nothing more, and call the socket's `send_close`."""

    def on_message(self, message: str, frames: int) -> Awaitable[None] | None:
        """Act on a message, which came in so many frames.

        Nothing else is read until what is returned is done.
        """

    def on_ping(self, data: bytes) -> None:
        """Answer with a pong that has the same data."""

    def on_pong(self, data: bytes) -> None: ...

    def on_ws_connection_close(self, close_code: int | None = None) -> None:
        """The connection is over.

        Args:
            close_code: that of the peer's close frame, 1005 where it had none; None: no frame came.
        """

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...


class WebSocket:
    """One WebSocket after its handshake: reads frames, and closes by the letter.

    Args:
        early: what arrived with the handshake's request.
        max_message: how many bytes a message may have.
    """

    __slots__ = (
        "_close_code",
        "_delegate",
        "_frames",
        "_has_sent_close",
        "_is_over",
        "_is_paused",
        "_is_told",
        "_limit",
        "_max_message",
        "_message",
        "_quiet",
        "_rest",
        "_room",
        "_work",
        "stream",
    )

    def __init__(
        self,
        stream: ClientStream,
        delegate: Delegate,
        room: Room,
        *,
        max_message: int,
        early: bytes = b"",
    ) -> None:
        self.stream = stream
        self._delegate = delegate
        self._room = room
        self._max_message = max_message
        self._rest: bytearray | None = bytearray(early) if early else None
        """The beginning of a frame whose end has not come, or what is not read yet."""
        self._message: bytearray | None = None
        """What has arrived of a message that comes in several frames."""
        self._frames = 0
        """How many frames of that message have arrived."""
        self._is_paused = True
        """Whether what arrives is not read yet."""
        self._is_over = False
        """Whether what arrives is discarded."""
        self._is_told = False
        """Whether the delegate knows that the connection is over."""
        self._has_sent_close = False
        self._close_code: int | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._quiet: asyncio.TimerHandle | None = None
        """Until it is told that nothing follows the close frame; None: nothing is waited for."""
        self._work: asyncio.Task[None] | None = None
        stream.begin(self)

    def start(self) -> None:
        """Read frames, those that have arrived included; before this, none is read."""
        self._is_paused = False
        self.stream.resume_reading()
        if self._rest and not self.stream.closed():
            self._read_frames(self._rest)

    # What the stream says.

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            if self._quiet is not None:
                self._end_when_quiet()
            return
        if self._rest is None and not self._is_paused:
            self._read_frames(data)
            return
        if self._rest is None:
            self._rest = bytearray()
        self._rest += data
        if self._is_paused:
            self.stream.pause_reading()
        else:
            self._read_frames(self._rest)

    def connection_lost(self) -> None:
        self._is_over = True
        self._rest = self._message = None
        for timer in (self._limit, self._quiet):
            if timer is not None:
                timer.cancel()
        self._room.remove(self)
        self._tell_closed()

    def _tell_closed(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._delegate.on_ws_connection_close(self._close_code)

    # Frames.

    def _read_frames(self, data: bytes | bytearray) -> None:
        try:
            place = self._act_on_frames(data)
        except _Violation as violation:
            self._delegate.close(*violation.closing)
            self._discard()
            self._end_when_quiet()
        except Exception:  # noqa: BLE001 - logged; it must end this socket, and no other
            self._fail()
        else:
            self._keep(data, place)

    def _keep(self, data: bytes | bytearray, place: int) -> None:
        """Keep what is not read yet."""
        if self._is_over or place == len(data):
            self._rest = None
        elif data is not self._rest or place:
            self._rest = bytearray(data[place:])

    def _act_on_frames(self, data: bytes | bytearray) -> int:
        """Act on the frames that are there; returns where the first begins that was not read."""
        place = 0
        for _ in range(FRAMES_AT_ONCE):
            frame = self._frame_at(data, place)
            if frame is None:
                return place
            place = frame.end
            work = self._act(frame)
            if self._is_over:
                return place
            if work is not None:
                self._wait_for(work)
                return place
        self._wait_for(asyncio.sleep(0))
        return place

    def _frame_at(self, data: bytes | bytearray, place: int) -> _Frame | None:
        """The frame that begins at a place; None: it has not arrived completely."""
        if len(data) - place < 2:
            return None
        first, second = data[place], data[place + 1]
        is_final, opcode, length = bool(first & _FINAL), first & _OPCODE, second & ~_MASKED
        if first & _RESERVED or opcode not in _OPCODES or not second & _MASKED:
            raise _Violation
        if opcode >= _CLOSE:
            if not is_final or length > _MAX_CONTROL:
                raise _Violation
        else:
            self._check_order(opcode)
        start = place + 2
        if length > _MAX_CONTROL:
            start += _LENGTH_BYTES[length]
            if len(data) < start:
                return None
            length = int.from_bytes(data[place + 2 : start])
            if length < _SMALLEST[second & ~_MASKED]:
                raise _Violation  # it must be written in as few bytes as possible
        if opcode < _CLOSE:
            self._check_length(length)
        end = start + _MASK_BYTES + length
        if len(data) < end:
            return None
        mask, masked = data[start : start + _MASK_BYTES], data[start + _MASK_BYTES : end]
        return _Frame(opcode, is_final, _websocket_mask(bytes(mask), bytes(masked)), end)

    def _check_order(self, opcode: int) -> None:
        if (opcode == _CONTINUATION) != (self._message is not None):
            raise _Violation
        if opcode == _BINARY:
            raise _Violation(closing.BINARY_FRAME)

    def _check_length(self, length: int) -> None:
        """See that the message may be so long."""
        if length >= 2**63:
            raise _Violation  # the most significant bit must be 0
        if length + len(self._message or b"") > self._max_message:
            raise _Violation(closing.MESSAGE_TOO_BIG)

    def _act(self, frame: _Frame) -> Awaitable[None] | None:
        match frame.opcode:
            case 0x9:
                self._delegate.on_ping(frame.payload)
            case 0xA:
                self._delegate.on_pong(frame.payload)
            case 0x8:
                self._on_close(frame.payload)
            case _:
                return self._on_data(frame.is_final, frame.payload)
        return None

    def _on_data(self, is_final: bool, payload: bytes) -> Awaitable[None] | None:
        if self._message is not None:
            self._message += payload
            payload = b""
        elif not is_final:
            self._message = bytearray(payload)
        if not is_final:
            self._frames += 1
            if self._frames >= MAX_FRAMES:
                raise _Violation(closing.TOO_MANY_FRAMES)
            return None
        frames, self._frames = self._frames + 1, 0
        message, self._message = self._message or payload, None
        return self._delegate.on_message(_text(message), frames)

    def _wait_for(self, work: Awaitable[None]) -> None:
        """Read nothing more until that is done."""
        self._is_paused = True
        self.stream.pause_reading()
        self._work = asyncio.create_task(self._start_after(work))

    async def _start_after(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - logged; it must end this socket, and no other
            self._fail()
        else:
            self._work = None
            self.start()

    def _fail(self) -> None:
        self._delegate.log_exception(*sys.exc_info())
        self.drop()

    # The close.

    def _on_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2]) if payload else None
        if code is not None and (len(payload) == 1 or not closing.may_be_sent(code)):
            raise _Violation
        _text(payload[2:])
        self._close_code = NO_CODE if code is None else code
        # Echo the code, if any (RFC 6455 section 5.5.1).
        self._send_close(payload[:2])
        self._tell_closed()
        self._discard()
        self.stream.end_output()

    def send_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        self._send_close(code.to_bytes(2) + reason.encode())

    def _send_close(self, payload: bytes) -> None:
        if self.stream.closed():
            return
        if not self._has_sent_close:
            self._has_sent_close = True
            # It is the last that is sent, and must find room behind what waits.
            self.stream.max_waiting = None
            self.stream.write(_CLOSE_HEAD.pack(_FINAL | _CLOSE, len(payload)) + payload)
            self._limit = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.drop)
        self._room.add_closing(self)

    def drop(self) -> None:
        """Close the connection without a closing handshake."""
        self.stream.close()

    def _discard(self) -> None:
        """Act on nothing more that arrives, until the peer closes or the time limit ends it.

        To close with input unread would reset the connection, and destroy what was sent.
        """
        self._is_over = True
        self._rest = self._message = None

    def _end_when_quiet(self) -> None:
        """Say that nothing follows the close frame, once the peer sends nothing for a moment.

        Where it is still sending, a proxy would cut it off at that, before it has the close frame.
        """
        if self._quiet is not None:
            self._quiet.cancel()
        loop = asyncio.get_running_loop()
        self._quiet = loop.call_later(QUIET_SECONDS, self.stream.end_output)


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _Violation(closing.NOT_UTF8) from None
