"""Tests for realtime.relay.turns, through the hub, which asks it what to send next."""

import math
from collections.abc import Iterator

import pytest

from realtime.relay import closing
from realtime.relay.cursor import Anchor, Cursor
from realtime.relay.events import Event
from realtime.relay.growing import SEND_EVERY
from realtime.relay.large_read import Unlisted
from realtime.relay.owed import Owed
from realtime.relay.position import Position
from realtime.relay.subscriber import State, Subscriber
from realtime.relay.subscribers import Subscribers
from realtime.relay.turns import LOOK_AGAIN_SECONDS, PORTION_SECONDS, Turns
from tests.unit.relay_fakes import (
    BOT,
    GRACE,
    OTHER_BOT,
    SIGNER,
    START,
    Named,
    at,
    event,
    join,
    make_hub,
    make_subscriber,
    page,
    read,
    run,
    seen,
)


def large_event(event_id: int, topic: str = BOT) -> Event:
    """One whose payload is read later."""
    return event(event_id, 10, topic)._replace(payload=None, size=9)


def test_no_cursor_is_ahead_of_what_a_topic_still_waits_for() -> None:
    """Who leaves in the middle of what was too much for one answer is sent the rest later."""
    hub = make_hub()
    subscriber, sink = join(hub)
    read(hub, at(2), "before")
    large = [large_event(number) for number in (1, 2, 3)]
    read(hub, at(10), "after", *large)
    for number in (1, 2, 3):
        assert hub.cursor_of(subscriber) == "before"
        assert run(hub.next_portion(9, 9)) == (BOT, [large[number - 1].key])
        run(hub.deliver_portion(BOT, [event(number, 10)]))
    assert sink.ids == [1, 2, 3]
    assert sink.cursors == ["before", "before", "after"]
    assert hub.cursor_of(subscriber) == "after"


def test_a_pong_names_the_newest_row_that_was_sent() -> None:
    """Also where a later read has put it behind what the topic still waits for."""
    hub = make_hub()
    hub.position = Position(at(9), SIGNER)
    subscriber, sink = join(hub)
    for number, xid in ((1, 10), (2, 11), (3, 12)):
        row = large_event(number)._replace(xid=xid)
        run(hub.deliver(page(seen(0), row), Position(at(9).naming(row.anchor), SIGNER)))
    run(hub.deliver_portion(BOT, [event(1, 10), event(2, 11)]))
    sent = SIGNER.read(sink.cursors[-1], BOT).anchor
    told = SIGNER.read(hub.cursor_of(subscriber) or "", BOT).anchor
    assert sent is not None
    assert told is not None
    assert told >= sent


def test_what_is_sent_before_a_topic_waits_has_no_cursor_of_what_waits() -> None:
    """Of one read, the first event is sent at once and the second comes later."""
    hub = make_hub()
    subscriber, sink = join(hub)
    read(hub, at(2), "before")
    read(hub, at(10), "after", event(1, 10), large_event(2))
    assert (sink.ids, sink.cursors) == ([1], ["before"])
    assert hub.cursor_of(subscriber) == "before"


def test_what_was_held_back_is_sent_without_a_cursor_of_what_is_still_listed() -> None:
    """It is due just when a large read finds more on its topic."""
    now = [0.0]
    hub = make_hub(clock=lambda: now[0])
    _, sink = join(hub)
    read(hub, at(8), "first", event(1, 8, subject="answer"))
    read(hub, at(9), "before", event(2, 9, subject="answer"))
    now[0] += SEND_EVERY
    run(hub.deliver(page(seen(0)), Named(at(10), "after"), Unlisted((BOT,), 1)))
    assert (sink.ids, sink.cursors) == ([1, 2], ["first", "before"])


def test_no_cursor_is_ahead_of_what_is_still_listed() -> None:
    """Also where all that is known by now was sent."""
    hub = make_hub()
    _, sink = join(hub)
    read(hub, at(2), "before")
    read(hub, at(10), "between", large_event(1))
    run(hub.deliver(page(seen(0)), Named(at(11), "after"), Unlisted((BOT,), 1)))
    run(hub.deliver_portion(BOT, [event(1, 10)]))
    hub.backlog.listed([large_event(2)], 1)
    hub.backlog.end_listing(1)
    run(hub.deliver_portion(BOT, [event(2, 10)]))
    assert (sink.ids, sink.cursors) == ([1, 2], ["before", "after"])


def test_the_cursor_of_a_portion_names_its_newest_row() -> None:
    """Who saw that row before a crash forgot it is told so when they come back."""
    hub = make_hub()
    hub.position = Position(at(9), SIGNER)
    _, sink = join(hub)
    for number, xid in ((1, 10), (2, 11), (3, 12)):
        row = large_event(number)._replace(xid=xid)
        run(hub.deliver(page(seen(0), row), Position(at(9).naming(row.anchor), SIGNER)))
    for number, xid in ((1, 10), (2, 11)):
        run(hub.deliver_portion(BOT, [event(number, xid)]))
    told = [SIGNER.read(text, BOT) for text in sink.cursors]
    assert told == [at(9).naming(Anchor(xid, number, 0)) for number, xid in ((1, 10), (2, 11))]


def test_what_was_before_a_socket_came_is_not_for_it_however_late_it_is_sent() -> None:
    """Its topic waits for it longer than the reads take to come as far as the socket."""
    hub = make_hub()
    _, sink = join(hub, since=at(10))
    rows = [large_event(1), large_event(2)._replace(xid=11)]
    read(hub, at(11), "c", *rows)
    read(hub, at(12), "d")
    run(hub.deliver_portion(BOT, [event(1, 10), event(2, 11)]))
    assert sink.ids == [2]
    read(hub, at(13), "e")
    assert hub._recent == set()


def test_what_is_held_back_comes_before_what_waits() -> None:
    """For cursors, and for who goes on alone."""
    now = [0.0]
    hub = make_hub(clock=lambda: now[0])
    slow, sink = join(hub)
    left: list[tuple[list[int], Cursor]] = []
    slow.catch_up = lambda owed, since: left.append(([key.id for key in owed.first(99, 99)], since))
    read(hub, at(8), "sent", event(1, 8, subject="answer"))
    read(hub, at(9), "held", event(2, 9, subject="answer"))
    read(hub, at(10), "after", large_event(3))
    assert hub.cursor_of(slow) == "sent"
    sink.is_waiting = True
    now[0] = PORTION_SECONDS
    assert run(hub.next_portion(9, 9)) == (BOT, [large_event(3).key])
    assert left == [([2, 3], at(10))]


def test_who_takes_a_portion_slowly_holds_up_only_their_topic() -> None:
    """The next topic has its turn. The slow one gets its next portion when its time is over."""
    now = 0.0
    hub = make_hub(clock=lambda: now)
    (_, slow), _ = join(hub), join(hub, GRACE, OTHER_BOT)
    mine, rest = large_event(1), large_event(2)
    read(hub, at(10), "c", mine, rest, large_event(3, OTHER_BOT))
    slow.room = 0
    assert (hub.due_in(), run(hub.next_portion(9, 1))) == (0.0, (BOT, [mine.key]))
    run(hub.deliver_portion(BOT, [event(1, 10)]))
    assert run(hub.next_portion(9, 1)) == (OTHER_BOT, [large_event(3, OTHER_BOT).key])
    run(hub.deliver_portion(OTHER_BOT, [event(3, 10, OTHER_BOT)]))
    assert (hub.due_in(), run(hub.next_portion(9, 1))) == (LOOK_AGAIN_SECONDS, None)
    now = PORTION_SECONDS
    assert (hub.due_in(), run(hub.next_portion(9, 1))) == (0.0, (BOT, [rest.key]))


def test_who_takes_a_portion_too_slowly_goes_on_alone() -> None:
    """With what the others are still sent. They do not wait for it any more, and it goes live."""
    now = [0.0]
    hub = make_hub(clock=lambda: now[0])
    slow, sink = join(hub)
    _, other = join(hub)
    left: list[tuple[list[int], Cursor]] = []
    slow.catch_up = lambda owed, since: left.append(([key.id for key in owed.first(99, 99)], since))
    read(hub, at(10), "c", *(large_event(number) for number in (1, 2, 3)))
    run(hub.next_portion(9, 1))
    sink.room = 0
    run(hub.deliver_portion(BOT, [event(1, 10)]))
    assert run(hub.next_portion(9, 1)) is None
    now[0] = PORTION_SECONDS
    assert run(hub.next_portion(9, 1)) == (BOT, [large_event(2).key])
    run(hub.deliver_portion(BOT, [event(2, 10)]))
    assert run(hub.next_portion(9, 1)) == (BOT, [large_event(3).key])
    run(hub.deliver_portion(BOT, [event(3, 10)]))
    read(hub, at(11), "d", event(4, 11))
    assert left == [([2, 3], at(10))]
    assert (sink.ids, other.ids) == ([1], [1, 2, 3, 4])
    sink.drain()
    hub.go_live(slow, at(10))
    assert sink.ids == [1, 4]


def test_who_is_busy_when_a_topic_begins_to_wait_has_time_as_well() -> None:
    """And those who are too slow in the end share one list of what they are owed."""
    now = [5.0]
    hub = make_hub(clock=lambda: now[0])
    owed: list[Owed] = []
    for _ in range(2):
        slow, sink = join(hub)
        read(hub, at(2), "settled")
        slow.catch_up = lambda mine, _since: owed.append(mine)
        sink.is_waiting = True
    read(hub, at(10), "c", *(large_event(number) for number in (1, 2, 3)))
    assert run(hub.next_portion(9, 1)) is None
    now[0] += PORTION_SECONDS
    assert run(hub.next_portion(9, 1)) == (BOT, [large_event(1).key])
    first, second = owed
    assert [key.id for key in first.first(99, 99)] == [1, 2, 3]
    assert first.portion(9, 1) is second.portion(9, 1)


def test_who_is_closed_while_it_catches_up_does_not_go_live_again() -> None:
    """Nor is it removed twice for those who look on."""
    now = [0.0]
    hub = make_hub(clock=lambda: now[0])
    slow, sink = join(hub)
    slow.catch_up = lambda _owed, _since: None
    sink.is_waiting = True
    read(hub, at(10), "c", large_event(1))
    now[0] = PORTION_SECONDS
    run(hub.next_portion(9, 1))
    assert slow.is_behind
    hub.dismiss(slow, 4001, "token expired")
    hub.go_live(slow, at(10))
    assert slow.state is State.STOPPED
    hub.unsubscribe(slow)
    assert len(hub.subscribers) == 0


@pytest.mark.parametrize(
    ("since", "expected"),
    [(None, ([1], at(10))), (at(50), ([], at(50)))],
)
def test_who_goes_on_alone_is_owed_what_its_since_does_not_cover(
    since: Cursor | None, expected: tuple[list[int], Cursor]
) -> None:
    """None: what is found is all for it."""
    hub = make_hub(live_bytes=8)
    subscriber, _ = join(hub, since=since or START)
    if since is None:
        read(hub, at(2), "settled")
    left: list[tuple[list[int], Cursor]] = []
    subscriber.catch_up = lambda owed, since: left.append(
        ([key.id for key in owed.first(99, 99)], since)
    )
    read(hub, at(10), "c", large_event(1))
    assert run(hub.next_portion(9, 1)) is None
    assert left == [expected]


def test_what_is_too_large_to_be_held_for_all_is_left_to_each() -> None:
    """Who can reads it by itself, who joins reads it later, and who can do neither is closed."""
    hub = make_hub(live_bytes=8)
    joining, _ = make_subscriber()
    hub.subscribe(joining)
    alone, to_alone = join(hub)
    _, to_nobody = join(hub)
    alone.catch_up = lambda *_: None
    read(hub, at(10), "c", large_event(1))
    assert run(hub.next_portion(9, 1)) is None
    assert joining.has_overflowed
    assert (alone.is_behind, to_alone.closed) == (True, None)
    assert to_nobody.closed == closing.TOO_SLOW
    assert not hub.backlog


def test_no_more_is_on_its_way_at_once_than_may_be() -> None:
    """However many topics wait: the next has its turn when who is slow has had their time."""
    now = 0.0
    hub = make_hub(clock=lambda: now, live_bytes=9)
    (subscriber, slow), _ = join(hub), join(hub, GRACE, OTHER_BOT)
    subscriber.catch_up = lambda *_: None
    read(hub, at(10), "c", large_event(1), rest := large_event(2), large_event(3, OTHER_BOT))
    slow.room = 0
    run(hub.deliver_portion(BOT, [event(1, 10)._replace(size=9)]))
    assert run(hub.next_portion(9, 1)) is None
    now = PORTION_SECONDS
    assert run(hub.next_portion(9, 1)) == (BOT, [rest.key])
    assert subscriber.is_behind
    assert run(hub.next_portion(9, 1)) == (OTHER_BOT, [large_event(3).key])


def test_who_has_taken_a_portion_gets_the_next_at_once() -> None:
    """However little of their time is over."""
    hub = make_hub()
    _, sink = join(hub)
    read(hub, at(10), "c", large_event(1), rest := large_event(2))
    sink.room = 0
    run(hub.deliver_portion(BOT, [event(1, 10)]))
    assert run(hub.next_portion(9, 1)) is None
    sink.drain()
    assert (hub.due_in(), run(hub.next_portion(9, 1))) == (0.0, (BOT, [rest.key]))


def test_of_many_topics_that_wait_few_are_looked_at_for_each() -> None:
    """One statement may write to thousands: else each portion would cost as much as all of them."""
    many, looks = 100, 0

    class Counting(Subscribers):
        def live_on(self, topic: str) -> Iterator[Subscriber]:
            nonlocal looks
            looks += 1
            return super().live_on(topic)

    hub = make_hub()
    hub.subscribers = Counting()
    hub._turns = Turns(hub.backlog, hub.subscribers, lambda: 0.0)
    topics = [f"bot:{number}" for number in range(many)]
    for topic in topics:
        join(hub, topic=topic)
    read(hub, at(10), "c", *(large_event(number, topic) for number, topic in enumerate(topics)))
    for number in range(many):
        assert hub.due_in() == 0.0
        assert run(hub.next_portion(9, 9)) == (topics[number], [large_event(number).key])
        run(hub.deliver_portion(topics[number], [event(number, 10, topics[number])]))
    assert (hub.due_in(), looks <= 5 * many) == (math.inf, True)


def test_what_waits_for_a_topic_without_sockets_is_dropped() -> None:
    """Nothing is read for it; the other topics have their turn, and then nothing is due."""
    hub = make_hub()
    leaving, _ = join(hub)
    _, staying = join(hub, GRACE, OTHER_BOT)
    read(hub, at(10), "c", large_event(1), large_event(2, OTHER_BOT))
    hub.unsubscribe(leaving)
    assert run(hub.next_portion(9, 1)) == (OTHER_BOT, [large_event(2, OTHER_BOT).key])
    run(hub.deliver_portion(OTHER_BOT, [event(2, 10, OTHER_BOT)]))
    assert (staying.ids, hub.due_in()) == ([2], math.inf)
