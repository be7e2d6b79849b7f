"""Tests of `realtime.relay.growing`: of an answer that grows, the newest, in time and in order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.events import Event
from realtime.relay.growing import SEND_EVERY, GrowingAnswers, newest_only
from realtime.relay.large_read import NOTHING_UNLISTED, Unlisted
from realtime.relay.position import Position
from tests.unit.relay_fakes import (
    BOT,
    FIRST_XID,
    NOWHERE,
    OTHER_BOT,
    SIGNER,
    Named,
    access_change,
    at,
    event,
    join,
    make_hub,
    page,
    read,
    run,
    seen,
)

BEFORE = Named(at(5), "before")


class ClockedStreams:
    """GrowingAnswers, and the time by which they go."""

    def __init__(self, **limits: int) -> None:
        self.now = 100.0
        self.streams = GrowingAnswers(lambda: self.now, **limits)
        self.ids = 0

    def update(self, subject: str | None = "answer", topic: str = BOT) -> Event:
        self.ids += 1
        return event(self.ids, self.ids, topic, subject=subject)

    def send(self, *events: Event) -> list[int]:
        """What goes out after a read that found these."""
        found: dict[str, list[Event]] = {}
        for one in events:
            found.setdefault(one.topic, []).append(one)
        selected = self.streams.select(found, BEFORE)
        for topic, chosen in selected.items():
            self.streams.sent(topic, chosen)
        return [one.id for chosen in selected.values() for one in chosen]


@pytest.fixture
def clocked() -> ClockedStreams:
    return ClockedStreams()


def test_the_first_at_once_and_then_the_newest(clocked: ClockedStreams) -> None:
    """Of those that follow closely, one when the time is over; then there is nothing more."""
    assert clocked.send(clocked.update()) == [1]
    assert clocked.streams.due_in() == math.inf
    assert clocked.send(clocked.update(), clocked.update()) == []
    clocked.now += SEND_EVERY / 2
    assert clocked.send(clocked.update()) == []
    assert clocked.streams.due_in() == pytest.approx(SEND_EVERY / 2)
    clocked.now += SEND_EVERY / 2
    assert clocked.streams.due_in() == 0.0
    assert clocked.send() == [4]
    assert clocked.streams.due_in() == math.inf
    clocked.now += SEND_EVERY
    assert clocked.send() == []
    assert clocked.send(clocked.update()) == [5]


def test_of_one_read_the_newest(clocked: ClockedStreams) -> None:
    """Also where nothing was sent before, and each thing by itself."""
    assert clocked.send(clocked.update("a"), clocked.update("b"), clocked.update("a")) == [2, 3]


@pytest.mark.parametrize("else_", [None, "another"])
def test_what_else_happens_takes_along_what_is_held(
    clocked: ClockedStreams, else_: str | None
) -> None:
    """So that the topic's order stays; on other topics nothing changes."""
    clocked.send(clocked.update(), clocked.update("far", OTHER_BOT))
    assert clocked.send(clocked.update(), clocked.update("far", OTHER_BOT)) == []
    assert clocked.send(clocked.update(else_)) == [3, 5]
    assert clocked.send(clocked.update(), clocked.update(None)) == [6, 7]
    clocked.now += SEND_EVERY
    assert clocked.send() == [4]


def test_things_that_grow_together_go_together(clocked: ClockedStreams) -> None:
    """The time of the first to be due is that of all on the topic."""
    clocked.send(clocked.update("a"))
    clocked.now += SEND_EVERY / 2
    clocked.send(clocked.update("b"))
    assert clocked.send(clocked.update("b"), clocked.update("a")) == []
    clocked.now += SEND_EVERY / 2
    assert clocked.send() == [3, 4]
    clocked.now += SEND_EVERY / 2
    assert clocked.send(clocked.update("b")) == []


def test_until_it_is_said_that_it_was_sent(clocked: ClockedStreams) -> None:
    """It is selected again: whoever is cancelled in between loses nothing."""
    clocked.send(clocked.update())
    clocked.send(clocked.update())
    clocked.now += SEND_EVERY
    for _ in range(2):
        selected = clocked.streams.select({}, BEFORE)
        assert [one.id for one in selected[BOT]] == [2]


def test_the_place_before_what_is_held(clocked: ClockedStreams) -> None:
    """It is that of the first that is held, and there is none when nothing is held any more."""
    clocked.send(clocked.update())
    assert clocked.streams.position_before(BOT) is None
    then, later = Named(at(5), "then"), Named(at(6), "later")
    for position in (then, later):
        clocked.streams.select({BOT: [clocked.update()]}, position)
    assert clocked.streams.position_before(BOT) is then
    assert clocked.streams.position_before(OTHER_BOT) is None
    clocked.now += SEND_EVERY
    clocked.send()
    assert clocked.streams.position_before(BOT) is None


def test_forget(clocked: ClockedStreams) -> None:
    """What is held is dropped."""
    clocked.send(clocked.update())
    clocked.send(clocked.update())
    clocked.streams.forget()
    clocked.now += SEND_EVERY
    assert clocked.streams.position_before(BOT) is None
    assert clocked.send() == []


def test_not_everything_is_remembered() -> None:
    """With too many things at once, what is not remembered is sent whenever it changes."""
    clocked = ClockedStreams(max_remembered=1)
    clocked.send(clocked.update("a"), clocked.update("b"))
    assert clocked.send(clocked.update("a")) == []
    assert clocked.send(clocked.update("b")) == [3, 4]


def test_newest_only() -> None:
    """Where its newest stands; all else where it was."""
    rows = [event(1, 1, subject="a"), event(2, 1), event(3, 1, subject="b")]
    assert newest_only(rows) == rows
    assert [one.id for one in newest_only([*rows, event(4, 1, subject="a")])] == [2, 3, 4]


# In the hub.


def test_a_cursor_never_covers_what_is_held() -> None:
    """Neither with a message nor with a pong."""
    now = 0.0
    hub = make_hub(clock=lambda: now)
    subscriber, sink = join(hub)
    read(hub, at(6), "one", event(1, 6, subject="a"))
    read(hub, at(7), "two", event(2, 7, subject="a"))
    assert (sink.ids, hub.cursor_of(subscriber)) == ([1], "one")
    assert hub.due_in() == SEND_EVERY
    read(hub, at(7), "three")
    assert (sink.ids, hub.cursor_of(subscriber)) == ([1], "one")
    now = SEND_EVERY
    read(hub, at(7), "four")
    assert (sink.ids, sink.cursors, hub.cursor_of(subscriber)) == ([1, 2], ["one", "four"], "four")


def test_who_came_after_is_not_sent_it() -> None:
    """What was held when a socket was let in, and is covered by the answer, is not for it."""
    now = 0.0
    hub = make_hub(clock=lambda: now)
    _, early = join(hub)
    read(hub, at(6), "one", event(1, 6, subject="a"))
    read(hub, at(7), "two", event(2, 7, subject="a"))
    _, late = join(hub, since=at(7))
    read(hub, at(7), "three")
    now = SEND_EVERY
    read(hub, at(7), "four")
    assert (early.ids, late.ids) == ([1, 2], [])
    read(hub, at(8), "five", event(3, 8))
    assert (early.ids, late.ids, late.cursors) == ([1, 2, 3], [3], ["five"])


def test_who_was_revoked_is_not_sent_it() -> None:
    """Whatever is held was not theirs any more."""
    now = 0.0
    hub = make_hub(clock=lambda: now)
    _, sink = join(hub)
    read(hub, at(6), "one", event(1, 6, subject="a"))
    read(hub, at(7), "two", event(2, 7, subject="a"))
    now = SEND_EVERY
    read(hub, at(8), "three", access_change(3, 8))
    assert sink.ids == [1]


def test_a_gap_ends_what_is_held() -> None:
    """Everybody is told that events were lost; the held ones are of before that."""
    hub = make_hub()
    join(hub, knows_cursors=True)
    read(hub, at(6), "one", event(1, 6, subject="a"))
    read(hub, at(7), "two", event(2, 7, subject="a"))
    hub.lose_track(NOWHERE, "too_old")
    assert hub.due_in() == math.inf


@pytest.mark.parametrize("is_listed", [True, False])
def test_what_is_held_and_due_claims_nothing_of_what_waits(is_listed: bool) -> None:
    """It is due in the very read that finds an event of the topic which is too large for now."""
    now = 0.0
    hub = make_hub(clock=lambda: now)
    subscriber, sink = join(hub)
    for number in (1, 2):
        row = event(number, 10 + number, subject="a")
        run(hub.deliver(page(seen(20), row), Position(at(10 + number), SIGNER)))
    assert sink.ids == [1]
    now = SEND_EVERY
    large = event(3, 13)._replace(payload=None, size=300_000)
    found = [large] if is_listed else []
    unlisted = NOTHING_UNLISTED if is_listed else Unlisted([BOT], 1)
    run(hub.deliver(page(seen(20), *found), Position(at(13), SIGNER), unlisted))
    assert sink.ids == [1, 2]
    for text in (sink.cursors[-1], hub.cursor_of(subscriber)):
        cursor = SIGNER.read(str(text), BOT)
        assert (cursor.covers(12), cursor.covers(13)) == (True, False)


STEPS = st.lists(
    st.tuples(st.sampled_from(["a", "b", None, "time", "read"]), st.sampled_from([BOT, OTHER_BOT])),
    max_size=40,
)


@given(STEPS)
def test_the_last_state_is_never_missed(steps: list[tuple[str | None, str]]) -> None:
    """Whenever a client leaves, what its cursor covers it has, or a newer state of it.

    And once it is quiet, everybody has the newest of all; in the order of the ids.
    """
    now = 0.0
    hub = make_hub(clock=lambda: now)
    clients = {topic: join(hub, topic=topic) for topic in (BOT, OTHER_BOT)}
    written: list[Event] = []
    unread: list[Event] = []

    def look() -> None:
        place = Position(at(FIRST_XID + len(written)), SIGNER)
        run(hub.deliver(page(seen(0), *unread), place))
        unread.clear()
        for topic, (subscriber, sink) in clients.items():
            assert sink.ids == sorted(sink.ids)
            for text in (*sink.cursors[-1:], hub.cursor_of(subscriber)):
                if text not in (None, "told"):  # as it was when they joined
                    owes_nothing(sink.ids, topic, SIGNER.read(text, topic).last)

    def owes_nothing(ids: list[int], topic: str, last: int) -> None:
        for one in newest_only(row for row in written if row.topic == topic and row.xid <= last):
            newer = [row.id for row in written if row.subject and row.subject == one.subject]
            assert {one.id, *(new for new in newer if new > one.id)} & set(ids)

    for what, topic in [*steps, ("read", BOT), ("time", BOT), ("read", BOT)]:
        if what == "time":
            now += SEND_EVERY
        elif what == "read":
            look()
        else:
            number = len(written) + 1
            written.append(event(number, FIRST_XID + number, topic, subject=what))
            unread.append(written[-1])
    for topic, (_, sink) in clients.items():
        newest = newest_only(row for row in written if row.topic == topic)
        assert {row.id for row in newest} <= set(sink.ids)


def test_what_somebody_else_wrote_does_not_give_way_to_the_authors_own() -> None:
    """The author may not be sent the newest, and has to learn of the other one."""
    edits = [event(number, 10, subject="m", author=author) for number, author in enumerate("abab")]
    assert [one.id for one in newest_only(edits)] == [2, 3]
