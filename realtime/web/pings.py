"""Pings to all sockets, from one task: routers of hosts cut a connection that is silent.

A task per socket, as Tornado has it, costs 2 kB each. Here the sockets stand in a ring of slices,
one of which is pinged every so often: who comes now is due when the ring has gone round once.
`conversation` adds and removes; `server` keeps `run` going.
"""

import asyncio
from typing import NoReturn, Protocol

PING_SECONDS = 25.0
"""Between two pings of one socket, and how long it may take to answer. Routers of Procfile hosts
cut a connection that is silent for 55 s."""
SLICES = 25
AT_ONCE = 100
"""Pings before other tasks get a turn."""


class Pingable(Protocol):
    def ping(self) -> None:
        """Send a ping, or end, if the one before was not answered. Never raises."""
        ...


class Pings:
    """The sockets that are pinged."""

    def __init__(self) -> None:
        self._slices: list[set[Pingable]] = [set() for _ in range(SLICES)]
        self._newest = 0

    def add(self, socket: Pingable) -> int:
        """Ping it from now on; returns what `remove` wants to know."""
        self._slices[self._newest].add(socket)
        return self._newest

    def remove(self, socket: Pingable, place: int) -> None:
        """Forget a socket that is gone."""
        self._slices[place].discard(socket)

    async def run(self) -> NoReturn:
        """Ping for ever. Cancel to end."""
        while True:
            await asyncio.sleep(PING_SECONDS / SLICES)
            due = (self._newest + 1) % SLICES
            for number, socket in enumerate(tuple(self._slices[due]), 1):
                # It may have gone while others had their turn; then its ping does nothing.
                socket.ping()
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._newest = due
