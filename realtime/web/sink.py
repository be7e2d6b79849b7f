"""Sends bytes to WebSockets: frames made once for many, and a bounded queue for each socket.

Bytes go straight to the kernel while nothing waits, which makes a wide fan-out cheap.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from fcntl import ioctl
from termios import TIOCOUTQ

from realtime.relay import closing
from realtime.relay.protocol import Message
from realtime.web.stream import BufferFull, ClientStream

PING = b"\x89\x00"
"""A ping frame without a payload (RFC 6455 section 5.5.2)."""
# Where Linux has `tcpi_bytes_acked` in its `struct tcp_info` (include/uapi/linux/tcp.h).
_TCP_INFO = socket.TCP_INFO if sys.platform == "linux" else None
_ACKNOWLEDGED = slice(120, 128)
_FINAL = 0x80
_CONTINUATION, _TEXT = 0x0, 0x1
_FINAL_PONG = 0x8A
_SHORT = struct.Struct("!BB")
_MEDIUM = struct.Struct("!BBH")
_LONG = struct.Struct("!BBQ")


def pong_frame(data: bytes) -> bytes:
    """The pong that answers a ping with this data (RFC 6455 section 5.5.3)."""
    return _SHORT.pack(_FINAL_PONG, len(data)) + data


def _header(first_byte: int, length: int) -> bytes:
    if length < 126:
        return _SHORT.pack(first_byte, length)
    if length < 2**16:
        return _MEDIUM.pack(first_byte, 126, length)
    return _LONG.pack(first_byte, 127, length)


class WebSocketSink:
    """A sink whose bytes go into a WebSocket."""

    __slots__ = ()

    @staticmethod
    def frame(messages: Iterable[Message]) -> bytes:
        """Each message as an unmasked, final text frame (RFC 6455 section 5.2), all joined."""
        parts: list[bytes] = []
        for text, _ in messages:
            parts.append(_header(_FINAL | _TEXT, len(text)))
            parts.append(text)
        return b"".join(parts)

    @staticmethod
    def frame_part(part: Message, *, is_first: bool, is_last: bool) -> bytes:
        """A part of a message, whose cursor goes with the first (RFC 6455 section 5.4)."""
        first_byte = (_FINAL if is_last else 0) | (_TEXT if is_first else _CONTINUATION)
        return _header(first_byte, len(part.text)) + part.text


class SocketSink(WebSocketSink):
    """Sends to one socket, and knows whether that socket is closed.

    Args:
        stream: the socket's stream; its `max_waiting` bounds what may wait.
        on_close: begins the WebSocket's closing handshake; called at most once.
    """

    __slots__ = (
        "_behind",
        "_is_closed",
        "_limit",
        "_on_close",
        "_stream",
        "_turn",
        "_withdraw",
        "close_code",
    )

    def __init__(self, stream: ClientStream, on_close: Callable[[int, str], None]) -> None:
        self._stream = stream
        self._on_close = on_close
        self._is_closed = False
        self._limit = stream.max_waiting
        self._behind: bytearray | None = None
        """What waits for the end of a message that is sent in parts; None: there is none."""
        self._turn: asyncio.Lock | None = None
        self._withdraw: Callable[[], None] | None = None
        """Called when `socket.send`, which was lent, must not be used any more."""
        self.close_code: int | None = None
        """The code that this server closed the socket with; None: it did not."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more, whoever closed the socket."""
        return self._is_closed or self._stream.closed()

    def send(self, frames: bytes) -> None:
        """Send, or queue what the kernel does not take; too much queued closes with 1013."""
        if self._behind is None:
            self.send_control(frames)
        elif not self.is_closed:
            self._behind += frames
            if self._limit is not None and len(self._behind) > self._limit:
                self._close_slow()

    @property
    def turn(self) -> asyncio.Lock:
        """Held by who sends missed events, for a portion, or for all parts of a message."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        return self._turn

    @property
    def is_within_message(self) -> bool:
        """Whether a message is begun of which parts are still to come."""
        return self._behind is not None

    def send_part(self, part: Message, *, is_first: bool, is_last: bool) -> None:
        """Send a part of one message. Whatever else is sent meanwhile comes after its last part."""
        self._take_back()
        if self._behind is None:
            self._behind = bytearray()
        self.send_control(self.frame_part(part, is_first=is_first, is_last=is_last))
        if is_last:
            behind, self._behind = bytes(self._behind), None
            if behind:
                self.send_control(behind)

    def send_control(self, frames: bytes) -> None:
        """As `send`, but also between the parts of a message, where only control frames may be."""
        if self._is_closed or self._stream.closed():
            return
        if self._stream.writing():
            self._queue(frames)
            return
        try:
            sent = self._stream.socket.send(frames)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._stream.close()
            return
        if sent < len(frames):
            self.send_rest(frames, sent)

    def send_rest(self, frames: bytes, sent: int) -> None:
        """Queue what is left of frames of which the kernel has taken so many bytes."""
        # Whatever its size, one message to an empty queue is sent: it could never be otherwise.
        # Behind it there is as much room as ever: while it goes on, the client is not too slow.
        if self._limit is not None:
            self._stream.max_waiting = self._limit + len(frames) - sent
        self._queue(memoryview(frames)[sent:])

    def lend(self, withdraw: Callable[[], None]) -> Callable[[bytes], int] | None:
        """The socket's own `send`, to be used until `withdraw` is called; None: not now."""
        if self.is_closed or self._stream.writing() or self._behind is not None:
            return None
        self._withdraw = withdraw
        return self._stream.socket.send

    def _take_back(self) -> None:
        """Have what was lent not used any more. What closes the stream need not: then it fails."""
        withdraw, self._withdraw = self._withdraw, None
        if withdraw is not None:
            withdraw()

    @property
    def is_idle(self) -> bool:
        """Whether the kernel has taken all that was sent."""
        return not self._stream.writing()

    @property
    def waiting_bytes(self) -> int:
        """How many bytes the kernel has not taken yet."""
        return self._stream.waiting_bytes

    @property
    def taken_bytes(self) -> int:
        """How many bytes that had to wait the other side has taken, in all."""
        # The kernel takes more only when it has much room. So what the other side has acknowledged
        # counts.
        return self._stream.taken_bytes - self.unacknowledged_bytes

    @property
    def unacknowledged_bytes(self) -> int:
        """How many bytes the other side has not acknowledged, where the system tells."""
        if self._stream.closed():
            return 0
        try:
            return int.from_bytes(
                ioctl(self._stream.socket.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder
            )
        except OSError:
            return 0

    @property
    def acknowledged_bytes(self) -> int:
        """How many bytes the other side has acknowledged, in all; 0 if the system does not tell."""
        if self._stream.closed() or _TCP_INFO is None:
            return 0
        info = self._stream.socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED.stop)
        return int.from_bytes(info[_ACKNOWLEDGED], sys.byteorder)

    async def drained(self) -> None:
        """Return when the kernel has taken all that was sent (or the socket is gone)."""
        await self._stream.drained()

    def close(self, code: int, reason: str) -> None:
        """Close with a code, after what was sent before."""
        if not self._is_closed:
            self._is_closed = True
            self.close_code = code
            self._take_back()
            self._on_close(code, reason)

    def break_off(self, code: int, reason: str) -> None:
        """Close in the middle of a message that is sent in parts."""
        self.close(code, reason)

    def connection_lost(self) -> None:
        """The connection is over: from now on, `send` and `close` do nothing."""
        self._is_closed = True
        self._take_back()

    def _queue(self, frames: bytes | memoryview) -> None:
        self._take_back()
        try:
            self._stream.write(frames)
        except BufferFull:
            self._close_slow()

    def _close_slow(self) -> None:
        # The close frame itself must find room behind what waits.
        self._stream.max_waiting = None
        self.close(*closing.TOO_SLOW)
