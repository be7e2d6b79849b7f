"""Asks for a sign of life now and then; when none comes, the connection is dead, whatever it says.

One per connection, run by `keeper` in the connection's task group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from rowcast.rules import Patience, Timings

MAX_ASKED: Final = 10


class Heartbeat:
    """Pings, and the limits within which something must be heard.

    Args:
        ping: sends one; false where that is not possible.
        dead: called with the reason when nothing was heard in time.
        random: a random number from 0 to 1.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        *,
        ping: Callable[[], bool],
        dead: Callable[[str], None],
        timings: Timings,
        patience: Patience,
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._group = group
        self._ping = ping
        self._dead = dead
        self._timings = timings
        self._patience = patience
        self._sleep = sleep
        self._clock = clock
        self._random = random
        self._asked: dict[str, float] = {}
        self._limit: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None
        self.is_blind = False
        """Nothing is read, for the application has enough: silence is ours, and says nothing."""

    def start(self) -> None:
        """Ping from now on."""
        if self._beat is None:
            self._beat = self._group.create_task(self._beat_on())

    def stop(self) -> None:
        self.heard()
        if self._beat is not None:
            self._beat.cancel()

    async def _beat_on(self) -> None:
        while True:
            await self._sleep(self._timings.ping_every * (1 + self._random() / 5))
            if not self.is_blind and not self._ping():
                # Nothing is answered then. A server shows that it is there now and then.
                limit = self._timings.ping_every + self._patience.seconds
                self.expect(limit, "nothing was heard", self._patience.gave_up)

    def asked(self, timestamp: str) -> None:
        """A ping went out: an answer is due."""
        if len(self._asked) == MAX_ASKED:
            self._asked.clear()
        self._asked[timestamp] = self._clock()
        if not self.is_blind:
            limit = self._patience.seconds
            self.expect(limit, "no answer to a ping", self._patience.gave_up)

    def expect(
        self, seconds: float, reason: str, gave_up: Callable[[], None] = lambda: None
    ) -> None:
        """Something must be heard within that time; a limit that is set is not extended."""
        if self._limit is None:
            self._limit = self._group.create_task(self._wait(seconds, reason, gave_up))

    async def _wait(self, seconds: float, reason: str, gave_up: Callable[[], None]) -> None:
        await self._sleep(seconds)
        gave_up()
        self._dead(reason)

    def heard(self) -> None:
        """Any frame is a sign of life: a pong may queue behind a burst of events."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def took(self, timestamp: object) -> float | None:
        """Seconds since the ping with this timestamp went out; None for one that is not known."""
        sent = self._asked.get(timestamp) if isinstance(timestamp, str) else None
        self._asked.clear()
        self._patience.answered()
        return None if sent is None else self._clock() - sent
