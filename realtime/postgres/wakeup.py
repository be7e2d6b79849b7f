"""Waiting for a ring that nearly always comes long before the time is over."""

import asyncio


class Wakeup:
    """Wakes the one who waits: while it is set, or after a time.

    It is waited for once for nearly every event. So it is a future alone, which is less than an
    `asyncio.Event` with a timeout. And the loop's timer is left running: when that is over, it
    looks whether it has to run on. A timer for each event would stay in the loop's heap.

    Args:
        loop: has the clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None
        self._due = 0.0
        """When who waits is to be woken, by the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        """Wake who waits, and who comes until it is cleared."""
        self._is_set = True
        self._wake()

    def clear(self) -> None:
        """Who waits next waits for what comes from now on."""
        self._is_set = False

    async def wait(self, seconds: float) -> bool:
        """Return when it is set, or after that time; say whether it is set."""
        if not self._is_set:
            self._limit(seconds)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._is_set

    def _limit(self, seconds: float) -> None:
        self._due = due = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._look)
        else:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
