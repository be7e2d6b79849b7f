"""Tests of `realtime.web.pings`: everybody in their turn, and nobody too early."""

import asyncio
from collections.abc import Callable

import pytest

from realtime.web.pings import AT_ONCE, SLICES, Pings
from tests.unit.relay_fakes import run, while_running


class Socket:
    """Counts its pings, and does something at each."""

    def __init__(self, on_ping: Callable[[], object] = lambda: None) -> None:
        self.pings = 0
        self._on_ping = on_ping

    def clock_has_moved(self) -> None:
        raise NotImplementedError

    def ping(self) -> None:
        self.pings += 1
        self._on_ping()


def test_everybody_is_pinged_once_a_round() -> None:
    """Whenever they came."""
    sockets: list[Socket] = []

    async def turn(_: float) -> None:
        if len(sockets) < 2 * SLICES:
            sockets.append(Socket())
            pings.add(sockets[-1])
        elif sockets[-1].pings == 3:
            raise EOFError

    pings = Pings(1.0, sleep=turn)
    with pytest.raises(EOFError):
        run(pings.run())
    # One came before each turn: the first half is one round ahead of the second.
    assert [one.pings for one in sockets] == [4] * SLICES + [3] * SLICES


def test_who_comes_is_not_due_before_a_whole_round() -> None:
    """There is as much time to answer the first ping as any other."""

    async def rounds() -> None:
        first, second = Socket(), Socket()
        turns = 0

        async def turn(_: float) -> None:
            nonlocal turns
            turns += 1
            if turns == SLICES // 2:
                pings.add(second)
            assert first.pings == (turns - 1) // SLICES
            assert second.pings == max(0, (turns - 1 - SLICES // 2 + 1) // SLICES)
            if turns > 4 * SLICES:
                raise EOFError

        pings = Pings(1.0, sleep=turn)
        pings.add(first)
        await pings.run()

    with pytest.raises(EOFError):
        run(rounds())


def test_who_is_gone_is_not_pinged() -> None:
    """Though others were added to the same slice."""

    async def rounds() -> None:
        pings = Pings(0.0)
        gone, here = Socket(), Socket()
        number = pings.add(gone)
        pings.add(here)
        pings.remove(gone, number)
        await while_running(pings.run(), lambda: here.pings >= 2)
        assert gone.pings == 0

    run(rounds())


def test_others_get_a_turn_in_a_wide_round() -> None:
    """However many sockets came at the same time."""

    async def rounds() -> None:
        pings = Pings(0.0)
        turns = 0
        seen: list[int] = []

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        sockets = [Socket(lambda: seen.append(turns)) for _ in range(3 * AT_ONCE)]
        for one in sockets:
            pings.add(one)
        beside = asyncio.create_task(others())
        await while_running(pings.run(), lambda: len(seen) >= len(sockets))
        beside.cancel()
        assert len(set(seen[: len(sockets)])) == 3

    run(rounds())
