"""Tests of `realtime.relay.owed`: what is still to be sent, by its keys."""

from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.events import RowKey
from realtime.relay.owed import Backlog, Owed
from realtime.relay.position import Position
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
    backlog = Backlog()
    for ids in ([7, 9, 8], [1, 3, 2]):
        for number in ids:
            backlog.add(event(number, 10), BEFORE)
        backlog.end_read()
    assert [key.id for key in backlog.first(BOT, 0, 1)] == [7]
    assert [key.id for key in backlog.first(BOT, 10, 9)] == [7, 8, 9, 1, 2, 3]


def test_of_one_thing_only_the_newest_is_sent() -> None:
    """Of a read, and of reads that follow each other."""
    backlog = Backlog()
    for number in (1, 3, 2):
        backlog.add(event(number, 10, subject="s"), BEFORE)
    backlog.end_read()
    assert [key.id for key in backlog.first(BOT, 10, 9)] == [3]
    backlog.add(event(4, 10, subject="s"), BEFORE)
    backlog.end_read()
    assert [key.id for key in backlog.first(BOT, 10, 9)] == [4]


def test_topics_take_turns() -> None:
    """And each keeps the position from before what it waits for."""
    backlog = Backlog()
    for number in (1, 2):
        backlog.add(event(number, 10, BOT), BEFORE)
    backlog.add(event(3, 10, OTHER_BOT), Position(at(9), SIGNER))
    backlog.end_read()
    assert backlog.topics() == (BOT, OTHER_BOT)
    backlog.sent(BOT, backlog.first(BOT, 0, 1), 1.0)
    assert backlog.topics() == (OTHER_BOT, BOT)
    assert backlog.position_before(BOT) is BEFORE
    backlog.sent(OTHER_BOT, backlog.first(OTHER_BOT, 0, 1), 2.0)
    assert backlog.position_before(OTHER_BOT) is None
    assert backlog.topics() == (BOT,)
