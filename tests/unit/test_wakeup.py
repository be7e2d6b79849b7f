"""A wakeup, over a loop whose clock stands still until it is told."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from realtime.postgres.wakeup import Wakeup


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

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

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


def make() -> tuple[Loop, Wakeup]:
    """A wakeup whose loop has a clock of its own."""
    loop = Loop()
    return loop, Wakeup(cast(asyncio.AbstractEventLoop, cast(Any, loop)))


async def begin(wakeup: Wakeup, seconds: float) -> asyncio.Task[bool]:
    """One who waits."""
    task = asyncio.create_task(wakeup.wait(seconds))
    await asyncio.sleep(0)
    return task


async def goes_on_waiting(task: asyncio.Task[bool]) -> bool:
    """Whether it still waits when everybody had a turn."""
    for _ in range(3):
        await asyncio.sleep(0)
    return not task.done()


@pytest.mark.gen_test
async def test_who_waits_is_woken_when_the_time_is_over() -> None:
    """Not before; and is told that nobody set it."""
    loop, wakeup = make()
    waiting = await begin(wakeup, 2.0)
    loop.advance(1.9)
    assert await goes_on_waiting(waiting)
    loop.advance(2.0)
    assert await waiting is False


@pytest.mark.gen_test
async def test_who_waits_is_woken_when_it_is_set() -> None:
    """Until it is cleared; and the timer that is left wakes nobody."""
    loop, wakeup = make()
    waiting = await begin(wakeup, 2.0)
    wakeup.set()
    wakeup.set()
    assert await waiting is True
    assert await wakeup.wait(2.0) is True
    wakeup.clear()
    again = await begin(wakeup, 9.0)
    loop.advance(8.9)
    assert await goes_on_waiting(again)
    loop.advance(9.0)
    assert await again is False


@pytest.mark.gen_test
async def test_what_is_set_while_nobody_waits_is_kept_for_the_next() -> None:
    """Unless it is cleared: then the next waits."""
    loop, wakeup = make()
    wakeup.set()
    assert await wakeup.wait(2.0) is True
    wakeup.clear()
    waiting = await begin(wakeup, 2.0)
    assert await goes_on_waiting(waiting)
    loop.advance(2.0)
    assert await waiting is False


@pytest.mark.gen_test
async def test_a_later_time_keeps_the_timer() -> None:
    """Many waits that end early leave one timer, which then runs on to the last one's end."""
    loop, wakeup = make()
    for _ in range(1024):
        waiting = await begin(wakeup, 2.0)
        loop.advance(loop.now + 1 / 1024)
        wakeup.set()
        assert await waiting is True
        wakeup.clear()
    waiting = await begin(wakeup, 2.0)
    assert len(loop.timers) == 1
    loop.advance(2.9)
    assert await goes_on_waiting(waiting)
    loop.advance(3.0)
    assert await waiting is False
    assert not loop.timers


@pytest.mark.gen_test
async def test_an_earlier_time_counts() -> None:
    """A timer that would come too late is replaced."""
    loop, wakeup = make()
    waiting = await begin(wakeup, 2.0)
    wakeup.set()
    await waiting
    wakeup.clear()
    waiting = await begin(wakeup, 0.5)
    loop.advance(0.5)
    assert await waiting is False


@pytest.mark.gen_test
async def test_who_is_cancelled_leaves_the_ring_to_the_next() -> None:
    """A ring that came in the same turn is not lost with it."""
    _loop, wakeup = make()
    waiting = await begin(wakeup, 2.0)
    waiting.cancel()
    wakeup.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await wakeup.wait(2.0) is True
