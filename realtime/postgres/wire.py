"""The line to PostgreSQL: how much is asked for at once, and when it counts as dead.

A time limit for a whole answer is also one for its size: what is too large could never be read,
however often it is tried. So the limit is for silence, and beyond that it follows from the size. A
line that carries fewer than `MIN_SPEED` bytes a second counts as broken.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from realtime.relay.budget import MIN_SPEED

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection

    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

MIN_PORTION, MAX_PORTION = 65_536, 1_048_576
"""How many bytes of payloads one statement is asked for. A single row may have more."""
PORTION_SECONDS = 2.0
"""About how long a portion may take."""
QUICK_SECONDS = 0.5
"""An answer that takes longer came over a slow line."""
ROW_BYTES = 200
"""More than most rows have on the line without their payload."""

# Where a system does not know one of these, the limit for silence remains.
_DEAD_LINE = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 10_000,
}


class Wire:
    """Asks for answers that may be large, and learns from how long they take.

    It begins with the smallest portion, for nobody knows the line yet, and takes at most twice as
    much next. It outlives connections: a portion that was too large for one is smaller on the next.

    Args:
        timeout: seconds in which a small answer must come, and of silence in a large one.
        monotonic: seconds.
    """

    def __init__(self, timeout: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.timeout = timeout
        self._monotonic = monotonic
        self.portion_bytes = MIN_PORTION
        """How many bytes of payloads to ask for at once."""
        self._is_slow = False
        """Whether the next answer may need more time than the connection's own limit gives."""

    def limit_for(self, payloads: int, rows: int) -> float:
        """Seconds that an answer of so many bytes and rows may take."""
        return self.timeout + (payloads + rows * ROW_BYTES) / MIN_SPEED

    async def fetch(
        self,
        connection: "AnyConnection",
        query: str,
        *arguments: object,
        payloads: int = 0,
        rows: int = 0,
    ) -> "list[asyncpg.Record]":
        """Ask for an answer of at most so many bytes of payloads, in so many rows.

        Raises:
            One of `pool.DATABASE_ERRORS`.
        """
        limit = self.limit_for(payloads, rows)
        try:
            with silence_limit(connection, self.timeout):
                return await self._fetch(connection, query, *arguments, size=payloads, limit=limit)
        except (TimeoutError, asyncpg.QueryCanceledError):
            self._is_slow = True
            self.portion_bytes = max(MIN_PORTION, self.portion_bytes // 2)
            raise

    async def _fetch(
        self, connection: "AnyConnection", query: str, *arguments: object, size: int, limit: float
    ) -> "list[asyncpg.Record]":
        if not self._is_slow and size <= MAX_PORTION:
            return await self._measure(connection, query, *arguments, limit=limit)
        async with connection.transaction(isolation="read_committed", readonly=True):
            # PostgreSQL would end it at the connection's own limit, however well it goes on.
            await connection.execute(f"SET LOCAL statement_timeout = {round(1000 * limit)}")
            return await self._measure(connection, query, *arguments, limit=limit)

    async def _measure(
        self, connection: "AnyConnection", query: str, *arguments: object, limit: float
    ) -> "list[asyncpg.Record]":
        heard, asked = _heard_bytes(connection), self._monotonic()
        found = await connection.fetch(query, *arguments, timeout=limit)
        self._learn(_heard_bytes(connection) - heard, self._monotonic() - asked)
        return found

    def _learn(self, size: int, seconds: float) -> None:
        # The next portion has twice as much at most, and so takes no longer than the time limit.
        self._is_slow = seconds > self.timeout / 2
        # What is small and quick says nothing: it takes the time of its round trip.
        if seconds > QUICK_SECONDS or size >= self.portion_bytes // 2:
            fitting = round(size / max(seconds, 0.001) * PORTION_SECONDS)
            most = min(MAX_PORTION, 2 * self.portion_bytes)
            self.portion_bytes = min(most, max(MIN_PORTION, fitting))


class WireConnection(_Connection):
    """A connection that knows when it last heard anything, and soon notices a dead line."""

    __slots__ = ("_listening", "_silence")

    def __init__(
        self, protocol: Any, transport: asyncio.Transport, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(protocol, transport, *arguments, **options)
        self._listening = _Listening(protocol)
        transport.set_protocol(self._listening)
        self._silence = _SilenceLimit(self, self._listening)
        _watch_for_dead_line(transport.get_extra_info("socket"))

    @property
    def heard_bytes(self) -> int:
        """How many bytes have come, in all."""
        return self._listening.heard_bytes

    def ends_in_silence(self, seconds: float) -> "_SilenceLimit":
        """Terminate the connection if an answer is waited for and nothing comes for so long."""
        self._silence.seconds = seconds
        return self._silence


class _SilenceLimit:
    """Within it, a connection over which nothing comes for so long is terminated.

    One for each connection, whose timer is left running between two questions: to start one for
    each costs more than all else here.

    Raises:
        TimeoutError: that happened.
    """

    __slots__ = ("_connection", "_heard", "_is_silent", "_listening", "_since", "_timer", "seconds")

    def __init__(self, connection: WireConnection, listening: "_Listening") -> None:
        self._connection = connection
        self._listening = listening
        self._heard = 0
        self._since: float | None = None
        """When it was last known that something comes; None: nobody waits for an answer."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_silent = False
        self.seconds = 0.0

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._heard, self._since = self._listening.heard_bytes, loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._since = None
        if self._is_silent and isinstance(error, Exception):
            raise TimeoutError(f"nothing came for {self.seconds:g} s") from error

    def _look(self) -> None:
        self._timer = None
        if self._since is None or self._connection.is_closed():
            return
        loop = asyncio.get_running_loop()
        if self._listening.heard_bytes != self._heard:
            self._heard, self._since = self._listening.heard_bytes, loop.time()
        left = self._since + self.seconds - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        else:
            self._is_silent = True
            self._connection.terminate()


class _Listening(asyncio.Protocol):
    """Counts what arrives on its way to asyncpg."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.heard_bytes = 0
        self.data_received_by = protocol.data_received
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        self.heard_bytes += len(data)
        self.data_received_by(data)


def _watch_for_dead_line(line: socket.socket | None) -> None:
    """Have the kernel notice a peer that is gone, also while nothing is asked."""
    if line is None or line.family == getattr(socket, "AF_UNIX", None):
        return
    with suppress(OSError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _DEAD_LINE.items():
        with suppress(OSError, AttributeError):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _heard_bytes(connection: "AnyConnection") -> int:
    """How many bytes have come over it in all, where it can tell."""
    heard: int = getattr(connection, "heard_bytes", 0)
    return heard


def silence_limit(connection: "AnyConnection", seconds: float) -> AbstractContextManager[None]:
    """Terminate the connection if nothing comes for so long, where it can tell."""
    watch = getattr(connection, "ends_in_silence", None)
    return nullcontext() if watch is None else watch(seconds)
