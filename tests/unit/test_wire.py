"""How much is asked for at once, by how long the answers took."""

from __future__ import annotations

from typing import cast

import asyncpg
import pytest

from realtime.postgres.wire import MAX_PORTION, MIN_PORTION, Wire

ROUND_TRIP = 0.3


class Line:
    """A connection over which an answer takes a round trip, and then the time of its bytes."""

    def __init__(self, speed: float, round_trip: float = ROUND_TRIP) -> None:
        self.now = 0.0
        self.heard_bytes = 0
        self.speed = speed
        self.round_trip = round_trip
        self.wire = Wire(10.0, lambda: self.now)

    async def fetch(self, query: str, timeout: float) -> list[asyncpg.Record]:
        seconds = self.round_trip + len(query) / self.speed
        if seconds > timeout:
            raise TimeoutError
        self.heard_bytes += len(query)
        self.now += seconds
        return []

    def transaction(self, **_: object) -> Line:
        return self

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def execute(self, statement: str) -> None:
        assert statement.startswith("SET LOCAL statement_timeout = ")

    async def bring(self, size: int) -> float:
        """Ask for an answer of so many bytes; return how many seconds it took."""
        began = self.now
        connection = cast("asyncpg.Connection[asyncpg.Record]", self)
        await self.wire.fetch(connection, "x" * size, payloads=size)
        return self.now - began

    async def bring_portion(self) -> float:
        return await self.bring(self.wire.portion_bytes)


@pytest.mark.gen_test
async def test_a_line_that_nobody_knows_is_asked_for_little() -> None:
    line = Line(60_000)
    assert line.wire.portion_bytes == MIN_PORTION
    assert await line.bring_portion() == pytest.approx(0.3 + MIN_PORTION / 60_000)


@pytest.mark.gen_test
async def test_on_a_slow_line_each_portion_takes_at_most_two_seconds() -> None:
    line = Line(60_000)
    took = [await line.bring_portion() for _ in range(10)]
    assert max(took) < 2.001
    # What two seconds have beside the round trip.
    assert line.wire.portion_bytes == pytest.approx(60_000 * (2.0 - ROUND_TRIP), rel=0.01)


@pytest.mark.gen_test
async def test_on_a_fast_line_each_portion_is_twice_as_large_up_to_the_largest() -> None:
    line = Line(100_000_000, round_trip=0.001)
    asked = []
    for _ in range(6):
        asked.append(line.wire.portion_bytes)
        await line.bring_portion()
    assert asked == [65_536, 131_072, 262_144, 524_288, MAX_PORTION, MAX_PORTION]


@pytest.mark.gen_test
async def test_a_fast_line_far_away_is_known_for_fast() -> None:
    line = Line(100_000_000, round_trip=0.3)
    for _ in range(4):
        await line.bring_portion()
    assert line.wire.portion_bytes == MAX_PORTION


@pytest.mark.gen_test
async def test_small_quick_answers_teach_nothing() -> None:
    line = Line(60_000)
    for _ in range(12):
        assert await line.bring(10_000) < 0.5
    assert line.wire.portion_bytes == MIN_PORTION
    fast = Line(100_000_000, round_trip=0.02)
    for _ in range(4):
        await fast.bring_portion()
    await fast.bring(500)
    assert fast.wire.portion_bytes == MAX_PORTION


@pytest.mark.gen_test
async def test_an_answer_that_is_small_and_slow_makes_the_next_portion_smaller() -> None:
    line = Line(100_000_000)
    for _ in range(4):
        await line.bring_portion()
    line.speed = 60_000
    assert await line.bring(30_000) == pytest.approx(0.8)
    assert line.wire.portion_bytes == round(30_000 / 0.8 * 2.0)


@pytest.mark.gen_test
async def test_a_portion_that_does_not_come_in_time_is_half_as_large_next() -> None:
    line = Line(100_000_000)
    for _ in range(4):
        await line.bring_portion()
    line.speed = 1000
    for expected in (524_288, 262_144, 131_072, MIN_PORTION, MIN_PORTION):
        with pytest.raises(TimeoutError):
            await line.bring_portion()
        assert line.wire.portion_bytes == expected
