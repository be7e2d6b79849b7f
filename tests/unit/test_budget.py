"""Tests of `realtime.relay.budget`: what all replays of a process hold at once."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.budget import COPIES, ReadBudget
from tests.unit.relay_fakes import run


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=12))
def test_never_more_than_there_is(askers: list[tuple[int, bool]]) -> None:
    """Whoever asks and whoever leaves; and at the end everybody has had theirs."""

    async def everybody() -> None:
        budget = ReadBudget(100)  # 75 of them for replays
        held: list[int] = []
        served = 0

        async def replay(size: int) -> None:
            nonlocal served
            async with budget.reserve(size):
                held.append(min(size * COPIES, 75))
                assert sum(held) <= 75
                try:
                    await asyncio.sleep(0)
                finally:
                    held.remove(min(size * COPIES, 75))
            served += 1

        tasks = [asyncio.create_task(replay(size)) for size, _ in askers]
        await asyncio.sleep(0)
        for task, (_, leaves) in zip(tasks, askers, strict=True):
            if leaves:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served >= sum(not leaves for _, leaves in askers)
        async with asyncio.timeout(1), budget.reserve(1000):
            pass

    run(everybody())


def test_who_comes_first_is_served_first() -> None:
    """Who needs little does not overtake who needs much: that one would never be served."""

    async def in_turn() -> list[str]:
        budget = ReadBudget(100)
        order: list[str] = []

        async def replay(name: str, size: int) -> None:
            async with budget.reserve(size):
                order.append(name)

        async with asyncio.TaskGroup() as tasks, budget.reserve(30):
            tasks.create_task(replay("much", 30))
            await asyncio.sleep(0)
            tasks.create_task(replay("little", 1))
            await asyncio.sleep(0)
            assert order == []
        return order

    assert run(in_turn()) == ["much", "little"]
