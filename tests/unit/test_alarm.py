"""An alarm, over a loop whose clock stands still until it is told."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from realtime.postgres.alarm import Alarm


class Timer:
    """One call that the loop owes."""

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at, self.act, self.is_cancelled = at, act, False

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """A clock, and the timers that were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, act: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at, act))
        return self.timers[-1]

    def advance(self, now: float) -> None:
        """Let all timers act whose time comes until then, each at its time."""
        while due := [one for one in self.timers if one.at <= now and not one.is_cancelled]:
            first = min(due, key=Timer.when)
            self.timers.remove(first)
            self.now = first.at
            first.act()
        self.now = now


def make() -> tuple[Loop, Alarm, list[float]]:
    """An alarm that notes when it is called."""
    loop, calls = Loop(), list[float]()
    timed = cast(asyncio.AbstractEventLoop, cast(Any, loop))
    return loop, Alarm(timed, lambda: calls.append(loop.now)), calls


def test_it_calls_when_the_time_is_over_and_once() -> None:
    """Not before, and not again."""
    loop, alarm, calls = make()
    alarm.set(2.0)
    loop.advance(1.9)
    assert calls == []
    loop.advance(9.0)
    assert calls == [2.0]


def test_who_clears_it_is_not_called() -> None:
    """Neither at the time that was set, nor when something else is set later."""
    loop, alarm, calls = make()
    alarm.set(2.0)
    alarm.clear()
    loop.advance(3.0)
    assert calls == []
    alarm.set(2.0)
    loop.advance(9.0)
    assert calls == [5.0]


def test_a_later_time_keeps_the_timer() -> None:
    """Many waits that end early leave one timer, which then runs on to the last one's end."""
    loop, alarm, calls = make()
    for _ in range(1024):
        alarm.set(2.0)
        loop.advance(loop.now + 1 / 1024)
        alarm.clear()
    alarm.set(2.0)
    assert len(loop.timers) == 1
    loop.advance(9.0)
    assert calls == [3.0]


def test_an_earlier_time_counts() -> None:
    """A timer that would come too late is replaced."""
    loop, alarm, calls = make()
    alarm.set(2.0)
    alarm.set(0.5)
    loop.advance(9.0)
    assert calls == [0.5]
