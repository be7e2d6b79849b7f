"""Tests of `realtime.relay.owed`: what is still to be sent, by its keys."""

import asyncio
from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.errors import Refused
from realtime.relay.events import Event, RowKey
from realtime.relay.owed import Backlog, Owed
from realtime.relay.position import Position
from realtime.relay.protocol import Message
from tests.unit.relay_fakes import BOT, OTHER_BOT, SIGNER, at, event

BEFORE = Position(at(5), SIGNER)


def take_all(owed: Owed, size: int, number: int) -> list[list[int]]:
    portions = []
    while owed:
        keys = owed.first(size, number)
        assert owed.is_last(keys[-1]) == (len(owed.first(10**9, 10**9)) == len(keys))
        owed.drop(keys[-1])
        portions.append([key.id for key in keys])
    return portions


@given(st.lists(st.integers(0, 9)), st.integers(0, 20), st.integers(1, 4), st.data())
def test_portions(sizes: list[int], size: int, number: int, data: st.DataObject) -> None:
    """All that is needed comes once, in order; each portion is small, or one event."""
    owed = Owed(RowKey(1, place, size) for place, size in enumerate(sizes))
    dropped = data.draw(st.sets(st.sampled_from(range(len(sizes))))) if sizes else set()
    for one in dropped:
        owed.supersede(one)
    portions = take_all(owed, size, number)
    sent = [place for portion in portions for place in portion]
    assert sent == [place for place in range(len(sizes)) if place not in dropped]
    for portion in portions:
        assert len(portion) <= number
        assert len(portion) == 1 or sum(sizes[place] for place in portion) <= size


def test_each_read_is_sent_in_the_order_of_its_writing() -> None:
    """However it was found; but behind the reads before it."""
    backlog = Backlog(lambda: 0.0)
    for ids in ([7, 9, 8], [1, 3, 2]):
        for number in ids:
            backlog.add(event(number, 10), BEFORE)
        backlog.end_read()
    assert [key.id for key in backlog.first(BOT, 0, 1)] == [7]
    assert [key.id for key in backlog.first(BOT, 10, 9)] == [7, 8, 9, 1, 2, 3]


def test_of_one_thing_only_the_newest_is_sent() -> None:
    """Of a read, and of reads that follow each other."""
    backlog = Backlog(lambda: 0.0)
    for number in (1, 3, 2):
        backlog.add(event(number, 10, subject="s"), BEFORE)
    backlog.end_read()
    assert [key.id for key in backlog.first(BOT, 10, 9)] == [3]
    backlog.add(event(4, 10, subject="s"), BEFORE)
    backlog.end_read()
    assert [key.id for key in backlog.first(BOT, 10, 9)] == [4]


def test_of_what_several_wrote_the_newest_of_each_is_sent() -> None:
    """One of them may not be sent their own."""
    backlog = Backlog(lambda: 0.0)
    for number, author in enumerate("abab"):
        backlog.add(event(number, 10, subject="s", author=author), BEFORE)
    backlog.end_read()
    assert [key.id for key in backlog.first(BOT, 10, 9)] == [2, 3]


def test_topics_take_turns() -> None:
    """And each keeps the position from before what it waits for."""
    backlog = Backlog(lambda: 0.0)
    for number in (1, 2):
        backlog.add(event(number, 10, BOT), BEFORE)
    backlog.add(event(3, 10, OTHER_BOT), Position(at(9), SIGNER))
    backlog.end_read()
    assert tuple(backlog.topics()) == (BOT, OTHER_BOT)
    backlog.sent(BOT, backlog.first(BOT, 0, 1))
    assert tuple(backlog.topics()) == (OTHER_BOT, BOT)
    assert backlog.position_before(BOT) is BEFORE
    backlog.sent(OTHER_BOT, backlog.first(OTHER_BOT, 0, 1))
    assert backlog.position_before(OTHER_BOT) is None
    assert tuple(backlog.topics()) == (BOT,)


def test_what_somebody_has_seen_is_not_owed_to_them() -> None:
    """Neither of what waits, nor of what comes before it."""
    owed = Owed([RowKey(10, 3, 1), RowKey(11, 4, 1)])
    ahead = [RowKey(9, 1, 1), RowKey(11, 2, 1)]
    rest = [owed.rest(since, ahead).first(9, 9) for since in (None, at(10))]
    assert [[key.id for key in keys] for keys in rest] == [[1, 2, 3, 4], [2, 4]]


def framed(messages: Iterable[Message]) -> bytes:
    return b"".join(message.text for message in messages)


def test_clients_that_are_owed_the_same_share_a_portion() -> None:
    """It is read and framed once while one of them has it, and each goes on by itself."""
    asked: list[list[int]] = []

    async def read(keys: Sequence[RowKey]) -> Sequence[Event]:
        asked.append([key.id for key in keys])
        await asyncio.sleep(0)
        return [event(key.id, key.xid) for key in keys]

    async def scenario() -> None:
        first = Owed(RowKey(1, place, 10) for place in range(3))
        second = first.for_another()
        portions = first.portion(20, 9), second.portion(20, 9)
        events = await asyncio.gather(*(one.events(read) for one in portions))
        ours, theirs = (
            one.frames(found, "a", "c", framed) for one, found in zip(portions, events, strict=True)
        )
        assert ours is theirs
        assert await portions[1].events(read) is events[0]
        assert ours.index(b'"cursor":"a"') < ours.index(b'"cursor":"c"')
        assert b'"cursor":"c"' not in portions[0].frames(events[0], "a", None, framed)
        first.drop(portions[0].keys[-1])
        assert [key.id for key in second.portion(20, 9).keys] == [0, 1]
        await first.portion(20, 9).events(read)
        del portions
        await second.portion(20, 9).events(read)
        assert asked == [[0, 1], [2], [0, 1]]

    asyncio.run(scenario())


def test_who_leaves_does_not_end_the_reading_of_the_others() -> None:
    """An error is told to all who still wait, and to nobody's loss if there is none."""

    async def scenario(error: Exception | None) -> None:
        go_on = asyncio.Event()

        async def read(keys: Sequence[RowKey]) -> Sequence[Event]:
            await go_on.wait()
            if error is not None:
                raise error
            return [event(key.id, key.xid) for key in keys]

        portion = Owed([RowKey(1, 1, 1)]).portion(1, 1)
        waiting = [asyncio.create_task(portion.events(read)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        go_on.set()
        gone, *others = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(gone, asyncio.CancelledError)
        expected = [[event(1, 1)], [event(1, 1)]] if error is None else [error, error]
        assert others == expected

    asyncio.run(scenario(None))
    asyncio.run(scenario(Refused(1013, "away")))


def test_a_reading_that_is_cancelled_tells_nobody_of_an_error() -> None:
    """As at the end of the process, when all is cancelled."""

    async def read(keys: Sequence[RowKey]) -> Sequence[Event]:
        raise asyncio.CancelledError

    async def scenario() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        waiting = asyncio.create_task(Owed([RowKey(1, 1, 1)]).portion(1, 1).events(read))
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert told == []

    asyncio.run(scenario())
