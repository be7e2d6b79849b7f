"""Turns keystrokes into few messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rowcast.rules import Timings


class TypingSignal:
    """True now and then while keystrokes go on, false once they end.

    Args:
        say: sends `is_typing`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        say: Callable[[bool], object],
        timings: Timings,
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._say = say
        self._timings = timings
        self._sleep = sleep
        self._clock = clock
        self._said_at: float | None = None  # None while shown as stopped
        self._stop: asyncio.Task[None] | None = None

    def set(self, is_typing: bool, group: asyncio.TaskGroup) -> None:
        """A keystroke, or (false) the end of them; the wait for the next runs in `group`."""
        self._cancel()
        if not is_typing:
            self._end()
            return
        self._stop = group.create_task(self._end_later())
        now = self._clock()
        if self._said_at is None or now - self._said_at >= self._timings.typing_every:
            self._said_at = now
            self._say(True)

    def reset(self) -> None:
        """The connection is gone, and the server has shown the typist as stopped."""
        self._cancel()
        self._said_at = None

    async def _end_later(self) -> None:
        await self._sleep(self._timings.typing_stops_after)
        self._end()

    def _end(self) -> None:
        if self._said_at is not None:
            self._said_at = None
            self._say(False)

    def _cancel(self) -> None:
        if self._stop is not None:
            self._stop.cancel()
            self._stop = None
