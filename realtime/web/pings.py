"""Pings every open socket from one task, because routers of hosts cut a silent connection.

Tornado's own pings cost a task of 2 kB for each socket. Here the sockets stand in a ring of slices,
and one slice is pinged at a time. A new socket joins the slice that was pinged last, so it is first
pinged when the ring has gone round once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

SLICES = 25
AT_ONCE = 100
"""How many sockets are pinged before other tasks get a turn."""


class OpenSocket(Protocol):
    """A socket that is pinged for as long as it is open."""

    def ping(self) -> None:
        """Send a ping, or close the socket if it did not answer the one before. Never raises."""
        ...

    def clock_has_moved(self) -> None:
        """Look at the wall clock anew. Never raises, and does nothing once the socket is gone."""
        ...


class Pings:
    """Pings all sockets, each of them once an interval.

    Args:
        seconds: the time between two pings of one socket.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, seconds: float, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._seconds = seconds
        self._sleep = sleep
        self._slices: list[set[OpenSocket]] = [set() for _ in range(SLICES)]
        self._newest = 0

    def add(self, socket: OpenSocket) -> int:
        """Ping the socket from now on; returns its slice, which `remove` needs."""
        self._slices[self._newest].add(socket)
        return self._newest

    def remove(self, socket: OpenSocket, slice_number: int) -> None:
        """Do not ping the socket any more."""
        self._slices[slice_number].discard(socket)

    def sockets(self) -> list[OpenSocket]:
        """All of them."""
        return [socket for one in self._slices for socket in one]

    async def run(self) -> NoReturn:
        """Ping until cancelled."""
        while True:
            await self._sleep(self._seconds / SLICES)
            due = (self._newest + 1) % SLICES
            for number, socket in enumerate(tuple(self._slices[due]), 1):
                # The socket may have gone while others had their turn; then its ping does nothing.
                socket.ping()
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._newest = due
