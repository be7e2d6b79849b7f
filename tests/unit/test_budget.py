"""Tests of `realtime.relay.budget`: what all replays of a process hold at once."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.budget import COPIES, ReadBudget, live_bytes
from tests.unit.relay_fakes import run

SIZE = 128  # 96 of them for replays, and 24 for one user's
ASKERS = st.tuples(st.integers(1, 50), st.sampled_from("abcdefg"), st.booleans())


@given(st.lists(ASKERS, max_size=16))
def test_never_more_than_there_is(askers: list[tuple[int, str, bool]]) -> None:
    """Whoever asks and whoever leaves; and at the end everybody has had theirs."""

    async def everybody() -> None:
        budget = ReadBudget(SIZE)
        held: list[tuple[str, int]] = []
        served = 0

        def check() -> None:
            assert sum(min(size, 24) for _, size in held) <= 96
            for user in "abcdefg":
                assert sum(min(size, 24) for one, size in held if one == user) <= 24

        async def replay(size: int, user: str) -> None:
            nonlocal served
            async with budget.reserve(size, user):
                mine = user, size * COPIES
                held.append(mine)
                check()
                try:
                    await asyncio.sleep(0)
                finally:
                    held.remove(mine)
            served += 1

        tasks = [asyncio.create_task(replay(size, user)) for size, user, _ in askers]
        await asyncio.sleep(0)
        for task, (_, _, leaves) in zip(tasks, askers, strict=True):
            if leaves:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served >= sum(not leaves for _, _, leaves in askers)
        async with asyncio.timeout(1), AsyncExitStack() as all_of_it:
            for user in "abcd":
                await all_of_it.enter_async_context(budget.reserve(12, user))

    run(everybody())


async def _order(budget: ReadBudget, *requests: tuple[str, int]) -> list[str]:
    """Who of those that ask for it is served, in which order, until nobody more is.

    They hold it to the end.
    """
    order: list[str] = []

    async def replay(user: str, size: int) -> None:
        async with budget.reserve(size, user):
            order.append(user)
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(replay(*request)) for request in requests]
    for _ in range(3):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return order


def test_who_needs_little_does_not_overtake_who_needs_much() -> None:
    """That one would never be served."""

    async def in_turn() -> list[str]:
        budget = ReadBudget(SIZE)
        async with AsyncExitStack() as held:
            for user in "abcd":
                await held.enter_async_context(budget.reserve(11, user))  # 8 of 96 are left
            return await _order(budget, ("much", 12), ("little", 1))

    assert run(in_turn()) == []


def test_no_user_holds_more_than_a_share() -> None:
    """However many sockets of theirs take nothing, others go on."""

    async def beside_one_who_takes_nothing() -> list[str]:
        return await _order(ReadBudget(SIZE), *[("greedy", 6)] * 50, ("other", 12))

    assert run(beside_one_who_takes_nothing()) == ["greedy", "greedy", "other"]


def test_live_events_have_what_replays_leave() -> None:
    """Each of their bytes is held up to four times."""
    assert 4 * live_bytes(SIZE) == SIZE - 96


def test_whether_there_is_room_at_once() -> None:
    """For one who may not hold more than a share, and behind nobody who waits."""

    async def asked() -> None:
        budget = ReadBudget(SIZE)
        assert budget.largest == 24 // COPIES
        assert budget.has_room(budget.largest, "ada")
        assert not budget.has_room(budget.largest + 1, "ada")
        async with AsyncExitStack() as held:
            for user in "abcd":
                assert budget.has_room(12, user)
                await held.enter_async_context(budget.reserve(12, user))
                assert not budget.has_room(1, user)
            assert not budget.has_room(1, "ada")
            waiting = asyncio.create_task(budget.reserve(1, "grace").__aenter__())
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    run(asked())


def test_who_holds_what_others_wait_for() -> None:
    """Not who waits only for their own, nor anybody once that is over."""

    async def watched() -> None:
        budget = ReadBudget(SIZE)
        assert not budget.is_wanted("greedy")
        async with AsyncExitStack() as held:
            await held.enter_async_context(budget.reserve(12, "greedy"))
            more = asyncio.create_task(budget.reserve(12, "greedy").__aenter__())
            await asyncio.sleep(0)
            assert budget.is_wanted("greedy")
            assert not budget.is_wanted("other")
            for user in "abc":
                await held.enter_async_context(budget.reserve(12, user))
            other = asyncio.create_task(budget.reserve(12, "other").__aenter__())
            await asyncio.sleep(0)
            assert all(map(budget.is_wanted, ("greedy", "a", "b", "c")))
            for waiting in (other, more):
                waiting.cancel()
            await asyncio.wait((other, more))
            assert not any(map(budget.is_wanted, ("greedy", "a")))

    run(watched())


def test_users_take_turns() -> None:
    """Whoever has many sockets that wait: the first of another user is next."""

    async def in_turns() -> list[str]:
        budget = ReadBudget(SIZE)
        order: list[str] = []

        async def replay(user: str) -> None:
            async with budget.reserve(12, user):
                order.append(user)

        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as held:
            for user in "abcd":
                await held.enter_async_context(budget.reserve(12, user))
            for user in ("greedy", "greedy", "greedy", "other"):
                tasks.create_task(replay(user))
            await asyncio.sleep(0)
            assert order == []
        return order

    assert run(in_turns()) == ["greedy", "other", "greedy", "greedy"]


class Leaving:
    """One who waits for their bytes and leaves, and one who waits behind."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.budget = ReadBudget(SIZE)
        self.order: list[str] = []
        self._tasks = tasks

    async def _replay(self, name: str) -> None:
        async with self.budget.reserve(12, "user"):
            self.order.append(name)

    async def wait(self) -> asyncio.Task[None]:
        """Both wait from now on; returns the task of who is to leave."""
        leaving = self._tasks.create_task(self._replay("leaving"))
        self._tasks.create_task(self._replay("next"))
        await asyncio.sleep(0)
        return leaving


def test_who_leaves_at_the_moment_of_their_turn_gives_it_to_the_next() -> None:
    """What was given to somebody who is not there any more is not lost."""

    async def the_first_leaves() -> list[str]:
        async with asyncio.timeout(1), asyncio.TaskGroup() as tasks:
            both = Leaving(tasks)
            async with both.budget.reserve(12, "user"):
                leaving = await both.wait()
            leaving.cancel()  # it was given its bytes when these were given back
        return both.order

    assert run(the_first_leaves()) == ["next"]


@pytest.mark.parametrize("notices", [False, True])
def test_who_leaves_before_their_turn_is_passed_over(notices: bool) -> None:
    """Also if the bytes are given back in the same moment, before who leaves has noticed."""

    async def the_first_leaves() -> list[str]:
        async with asyncio.timeout(1), asyncio.TaskGroup() as tasks:
            both = Leaving(tasks)
            async with both.budget.reserve(12, "user"):
                (await both.wait()).cancel()
                if notices:
                    await asyncio.sleep(0)
        return both.order

    assert run(the_first_leaves()) == ["next"]
