"""The connection of one client: bytes come as they arrive, and go as the kernel takes them.

It is a WebSocket, or takes events over HTTP. There are as many of these as sockets, and most are
idle. So each is a few slots: no task reads, and nothing is kept of what was read and sent.
Tornado's `IOStream`, with a coroutine that reads, costs several times the memory, and most of the
time of a handshake.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Protocol

from tornado.iostream import IOStream

READ_BYTES = 16_384
"""How much is read before other tasks get a turn."""
MAX_EARLY_BYTES = 65_536
"""How much of what Tornado has read already is taken over; its own limit is not higher."""
PARTS_AT_ONCE = 64
"""How many of the pieces that wait are given to the kernel in one call."""


class BufferFull(Exception):
    """More would wait than may."""


class Receiver(Protocol):
    """What is told what arrives."""

    def data_received(self, data: bytes) -> None: ...

    def connection_lost(self) -> None:
        """The connection is over, whoever ended it. Called once, never within another call."""
        ...


class ClientStream:
    """A connection of which what arrives goes to a receiver, and what does not fit waits.

    Args:
        connection: non-blocking.
        max_waiting: how many bytes may wait for the kernel; None: any number.
        loop: tells what arrives.
    """

    __slots__ = (
        "_drains",
        "_is_closed",
        "_is_ending",
        "_is_reading",
        "_is_writing",
        "_loop",
        "_queue",
        "_receiver",
        "is_broken",
        "max_waiting",
        "socket",
        "taken_bytes",
        "waiting_bytes",
    )

    def __init__(
        self,
        connection: socket.socket,
        max_waiting: int | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.socket = connection
        self.max_waiting = max_waiting
        self.waiting_bytes = 0
        """How many bytes the kernel has not taken yet."""
        self.taken_bytes = 0
        """How many bytes it has taken, of those that had to wait."""
        self._loop = loop
        self._receiver: Receiver | None = None
        self._queue: deque[bytes | memoryview] | None = None
        """What waits; None: nothing does."""
        self._drains: list[Callable[[], None]] | None = None
        """Called when nothing waits any more."""
        self.is_broken = False
        """Whether the connection ended by an error, as one that was reset or timed out."""
        self._is_closed = False
        self._is_reading = False
        self._is_writing = False
        """Whether the loop tells when the kernel takes more."""
        self._is_ending = False
        """Whether nothing will be written after what waits."""

    def closed(self) -> bool:
        return self._is_closed

    def writing(self) -> bool:
        """Whether something waits for the kernel."""
        return self._queue is not None

    # What arrives.

    def begin(self, receiver: Receiver) -> None:
        """Give the receiver what arrives."""
        self._receiver = receiver
        self.resume_reading()

    def pause_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self.socket.fileno())

    def resume_reading(self) -> None:
        if not self._is_reading and not self._is_closed:
            self._is_reading = True
            self._loop.add_reader(self.socket.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.is_broken = True
            data = b""
        if not data:
            self.close()
        elif self._receiver is not None:
            self._receiver.data_received(data)

    # What goes.

    def cork(self, data: bytes) -> None:
        """Have these bytes go with the next that are written, or when `flush` is called."""
        self._append(data)

    def write(self, data: bytes | memoryview) -> None:
        """Send behind what waits, as soon as the kernel takes it.

        Raises:
            BufferFull: too much would wait; nothing of this is sent.
        """
        if self._is_closed or not data:
            return
        if self.max_waiting is not None and self.waiting_bytes + len(data) > self.max_waiting:
            raise BufferFull
        self._append(data)
        self.flush()

    def _append(self, data: bytes | memoryview) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data)
        self.waiting_bytes += len(data)

    def flush(self) -> None:
        """Send what is corked."""
        if not self._is_writing:
            self._send_what_waits()

    def _send_what_waits(self) -> None:
        if self._queue is None:
            return
        try:
            sent = self.socket.sendmsg(islice(self._queue, PARTS_AT_ONCE))
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.is_broken = True
            self.close()
            return
        self._drop(self._queue, sent)
        if not self._queue:
            self._all_taken()
        elif not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self.socket.fileno(), self._send_what_waits)

    def _drop(self, queue: deque[bytes | memoryview], sent: int) -> None:
        """The kernel has taken so many bytes."""
        self.waiting_bytes -= sent
        self.taken_bytes += sent
        while sent and sent >= len(queue[0]):
            sent -= len(queue.popleft())
        if sent:
            queue[0] = memoryview(queue[0])[sent:]

    def _all_taken(self) -> None:
        self._queue = None
        self._stop_writing()
        if self._is_ending:
            self._shut_down()
        self._tell_drained()

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self.socket.fileno())

    def _tell_drained(self) -> None:
        drains, self._drains = self._drains, None
        for tell in drains or ():
            tell()

    async def drained(self) -> None:
        """Return when the kernel has taken all that was written, or the connection is over."""
        if self._queue is None:
            return
        drained = self._loop.create_future()
        if self._drains is None:
            self._drains = []
        self._drains.append(lambda: None if drained.done() else drained.set_result(None))
        await drained

    # The end.

    def end_output(self) -> None:
        """Tell the other side that nothing comes any more after what waits."""
        self._is_ending = True
        if self._queue is None:
            self._shut_down()

    def _shut_down(self) -> None:
        with suppress(OSError):  # the other side is gone already
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection now; what waits is not sent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.pause_reading()
        self._stop_writing()
        self.socket.close()
        self._queue = None
        self.waiting_bytes = 0
        self._tell_drained()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._loop.call_soon(receiver.connection_lost)


def give_up_after(connection: socket.socket, seconds: float | None) -> None:
    """Have the kernel cut a connection whose other side takes nothing of what waits for so long.

    Args:
        seconds: None: as long as the system's own limit.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        limit = 0 if seconds is None else max(1, int(1000 * seconds))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)


def take_over(stream: IOStream) -> tuple[socket.socket | None, bytes]:
    """Take a connection from Tornado, and what was read of it already; None: it is over."""
    if stream.closed():
        return None, b""
    early = asyncio.ensure_future(stream.read_bytes(MAX_EARLY_BYTES, partial=True))
    early.add_done_callback(asyncio.Future.exception)  # that nothing came is no error
    if stream.closed():  # reading has shown that the client is gone
        return None, b""
    connection = stream.socket.dup()
    connection.setblocking(False)
    give_up_after(connection, None)
    stream.close()
    is_read = early.done() and early.exception() is None
    return connection, early.result() if is_read else b""
