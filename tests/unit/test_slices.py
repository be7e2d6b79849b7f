"""Long work in slices."""

from __future__ import annotations

import asyncio

import pytest

from realtime.relay.slices import Slices
from tests.unit.relay_fakes import run


def test_each_slice_ends_with_a_pause() -> None:
    """And the next one begins after it."""

    async def count() -> list[int]:
        done: list[int] = []
        pauses: list[int] = []

        async def pause() -> None:
            pauses.append(len(done) + 1)

        slices = Slices(pause, 3)
        while len(done) < 10:
            await slices.count()
            done.append(1)
        return pauses

    assert run(count()) == [3, 6, 9]


def test_a_pause_that_is_cancelled_is_not_the_last_one() -> None:
    """A read that is cut off within it is repeated, by the same hub."""

    async def count() -> int:
        pauses = 0

        async def pause() -> None:
            nonlocal pauses
            pauses += 1
            if pauses == 1:
                raise asyncio.CancelledError

        slices = Slices(pause, 2)
        await slices.count()
        with pytest.raises(asyncio.CancelledError):
            await slices.count()
        for _ in range(6):
            await slices.count()
        return pauses

    assert run(count()) == 4
