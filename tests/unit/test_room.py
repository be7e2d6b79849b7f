"""Tests of `realtime.relay.room`: sockets that join and that close."""

import asyncio
from contextlib import ExitStack

import pytest

from realtime.relay.errors import Refused
from realtime.relay.room import Room
from tests.unit.relay_fakes import run
from tests.waiting import LIMIT


class FakeSocket:
    def __init__(self) -> None:
        self.is_dropped = False

    def drop(self) -> None:
        self.is_dropped = True


def test_so_many_of_a_subject_may_join_at_a_time() -> None:
    """Each subject has its own; who is done makes room, also by an error."""
    room = Room(2)
    with ExitStack() as joining:
        joining.enter_context(room.joining("ada"))
        with pytest.raises(ValueError, match="oops"), room.joining("ada"):
            raise ValueError("oops")
        joining.enter_context(room.joining("ada"))
        with pytest.raises(Refused) as refused, room.joining("ada"):
            pass
        assert refused.value.code == 1013
        joining.enter_context(room.joining("grace"))
    with room.joining("ada"):
        pass
    assert room._joining == {}, "it would grow with every subject that was ever here"


def test_of_too_many_that_close_the_oldest_is_dropped() -> None:
    """Those that are gone do not count."""
    room = Room(1, max_closing=2)
    first, second, third, fourth = sockets = [FakeSocket() for _ in range(4)]
    room.add_closing(first)
    room.add_closing(second)
    room.add_closing(second)
    room.remove(first)
    room.remove(first)
    room.add_closing(third)
    assert not any(one.is_dropped for one in sockets)
    room.add_closing(fourth)
    assert [one.is_dropped for one in sockets] == [False, True, False, False]
    assert len(room._closing) == 2


def test_it_is_empty_when_none_is_closing_any_more() -> None:
    """At once where none is; nobody is dropped who is gone in time."""

    async def go() -> list[FakeSocket]:
        room = Room(1)
        await room.empty(LIMIT)
        first, second = sockets = FakeSocket(), FakeSocket()
        for one in sockets:
            room.add_closing(one)
        waiting = asyncio.create_task(room.empty(LIMIT))
        await asyncio.sleep(0)
        room.remove(first)
        await asyncio.sleep(0)
        assert not waiting.done()
        room.remove(second)
        await waiting
        return list(sockets)

    assert not any(one.is_dropped for one in run(go()))


def test_who_takes_too_long_to_close_is_dropped() -> None:
    """Nothing is left behind."""
    room, socket = Room(1), FakeSocket()
    room.add_closing(socket)
    run(room.empty(0.0))
    assert socket.is_dropped
