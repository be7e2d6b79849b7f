"""The bounded queue between the socket (`keeper` fills it) and the application (`client`)."""

from __future__ import annotations

import asyncio

from rowcast.events import Event


class Handover:
    """Events in order, and with them how far the stream has come for the application.

    Args:
        cursor: where the application is.
        most: events that may wait.
    """

    def __init__(self, cursor: str | None, most: int) -> None:
        self.cursor = cursor
        # An event, a cursor, or both; None only wakes who waits.
        self._queue: asyncio.Queue[tuple[Event | None, str | None] | None] = asyncio.Queue(most)

    @property
    def is_full(self) -> bool:
        return self._queue.full()

    async def put(self, event: Event | None, cursor: str | None) -> None:
        """Wait for room. Cancelled, it has put nothing."""
        await self._queue.put((event, cursor))

    async def take(self, life: asyncio.Task[None]) -> Event:
        """The next event. Cancelled, it has taken nothing.

        Args:
            life: what fills this queue; how it ended is raised when the queue is empty.

        Raises:
            StopAsyncIteration: it was cancelled; what still waits stays for the next life.
        """
        while True:
            if life.done() and life.cancelled():
                raise StopAsyncIteration
            if life.done() and self._queue.empty():
                life.result()
            item = await self._queue.get()
            if item is None:
                continue
            event, cursor = item
            self.cursor = cursor or self.cursor
            if event is not None:
                return event

    def wake(self, _life: object) -> None:
        """Whoever waits has to see that life has ended."""
        if self._queue.empty():
            self._queue.put_nowait(None)
