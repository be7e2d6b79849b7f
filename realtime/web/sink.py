"""Bytes on the wire: frames made once for many sockets, and one bounded way out for each socket.

`frame` is what the hub joins messages with; `SocketSink` is the `Sink` of one WebSocket. Sending
straight to the kernel while nothing waits is what makes a wide fan-out cheap: Tornado's own
`write_message` costs three times as much a socket.
"""

import struct
from collections.abc import Callable, Iterable
from contextlib import suppress

from tornado.iostream import IOStream, StreamBufferFullError, StreamClosedError

from realtime.relay import closing

PING = b"\x89\x00"
"""A ping frame without a payload (RFC 6455 section 5.5.2)."""
_FINAL_TEXT = 0x81
_SHORT = struct.Struct("!BB")
_MEDIUM = struct.Struct("!BBH")
_LONG = struct.Struct("!BBQ")


def frame(messages: Iterable[bytes]) -> bytes:
    """Each message as an unmasked, final text frame (RFC 6455 section 5.2), all joined."""
    parts: list[bytes] = []
    for message in messages:
        parts.append(_header(len(message)))
        parts.append(message)
    return b"".join(parts)


def _header(length: int) -> bytes:
    if length < 126:
        return _SHORT.pack(_FINAL_TEXT, length)
    if length < 2**16:
        return _MEDIUM.pack(_FINAL_TEXT, 126, length)
    return _LONG.pack(_FINAL_TEXT, 127, length)


class SocketSink:
    """The way out to one socket.

    Args:
        stream: the socket's stream; its `max_write_buffer_size` bounds what may wait.
        close: begins the WebSocket's closing handshake; called at most once.
    """

    __slots__ = ("_close", "_stream", "is_closed")

    def __init__(self, stream: IOStream, close: Callable[[int, str], None]) -> None:
        self._stream = stream
        self._close = close
        self.is_closed = False

    def send(self, frames: bytes) -> None:
        """Send, or queue what the kernel does not take; too much queued closes with 1013."""
        if self.is_closed or self._stream.closed():
            return
        if self._stream.writing():
            self._queue(frames)
            return
        try:
            sent = self._stream.socket.send(frames)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._stream.close(error)
            return
        if sent < len(frames):
            # Whatever its size, one message to an empty queue is sent: it could never be otherwise.
            self._queue_beyond_limit(memoryview(frames)[sent:])

    @property
    def waiting_bytes(self) -> int:
        """What the kernel has not taken yet. Tornado tells only whether there is any."""
        return len(self._stream._write_buffer) if self._stream.writing() else 0

    async def drained(self) -> None:
        """Return when the kernel has taken all that was sent (or the socket is gone)."""
        with suppress(StreamClosedError):
            # An empty write is done when all before it are.
            await self._stream.write(b"")

    def close(self, code: int, reason: str) -> None:
        """Close with a code, after what was sent before."""
        if not self.is_closed:
            self.is_closed = True
            self._close(code, reason)

    def _queue(self, frames: bytes | memoryview) -> None:
        try:
            self._stream.write(frames)
        except StreamBufferFullError:
            self._close_slow()
        except StreamClosedError:
            self.is_closed = True

    def _queue_beyond_limit(self, frames: memoryview) -> None:
        limit = self._stream.max_write_buffer_size
        self._stream.max_write_buffer_size = None
        self._queue(frames)
        self._stream.max_write_buffer_size = limit

    def _close_slow(self) -> None:
        # The close frame itself must find room behind what waits.
        self._stream.max_write_buffer_size = None
        self.close(*closing.TOO_SLOW)
