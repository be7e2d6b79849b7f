"""Tests of `realtime.runtime.server.evenly`, by which a process that drains closes its sockets."""

from __future__ import annotations

from realtime.runtime.server import evenly
from tests.unit.relay_fakes import run


class SlowSleep:
    """A clock, and a sleep that takes a millisecond longer than it was asked to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.now += seconds + 0.001


def times(number: int, delay: float) -> tuple[list[float], float]:
    """When each of so many items comes, and when it is over; in seconds from the beginning."""
    sleep, came = SlowSleep(), []

    async def collect() -> None:
        async for _ in evenly(range(number), delay, lambda: sleep.now, sleep):
            came.append(sleep.now - 100.0)

    run(collect())
    assert min(sleep.asked, default=0.0) >= 0.0
    return came, sleep.now - 100.0


def test_what_sleeps_take_longer_does_not_add_up() -> None:
    """The last of many comes when it should."""
    came, ended = times(1000, 0.002)
    assert len(came) == 1000
    assert all(abs(time - number * 0.002) < 0.0011 for number, time in enumerate(came))
    assert abs(ended - 2.0) < 0.0011


def test_who_is_late_gives_way_all_the_same() -> None:
    """Between any two the others have a turn, though there is no time left to wait."""
    came, _ = times(10, 0.0)
    assert len(set(came)) == 10


def test_nothing() -> None:
    """It is over at once."""
    assert times(0, 1.0) == ([], 0.0)
