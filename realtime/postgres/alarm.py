"""A time limit for waits that nearly always end long before it."""

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls something when a time is over, unless it was cleared before.

    It is set and cleared for nearly every event. So the loop's timer is left running: when that is
    over, it looks whether it has to run on. A timer for each event would stay in the loop's heap
    until its time.

    Args:
        loop: has the clock.
        act: what is called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
        self._loop = loop
        self._act = act
        self._due: float | None = None
        """When it is due, by the loop's clock; None: it is not set."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Call it after that time."""
        self._due = due = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def clear(self) -> None:
        """Do not call it."""
        self._due = None

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._look)
        else:
            self._act()
