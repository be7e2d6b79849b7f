"""Tests of `realtime.relay.subscriber`: what one socket is sent, and when."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.cursor import Anchor, Cursor
from realtime.relay.events import AccessChange, AccessKind, Event
from realtime.relay.position import Position
from realtime.relay.protocol import Message
from realtime.relay.subscriber import Delivery, HoldLimit, State, Subscriber
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    OTHER_BOT,
    SIGNER,
    START,
    Named,
    RecordingSink,
    access_change,
    at,
    cursors,
    event,
    frame,
    make_subscriber,
    unframe,
)


def delivery(*events: Event, place: Cursor = START, before: Cursor = START) -> Delivery:
    return Delivery(BOT, list(events), Named(before, "b"), Named(place, "c"), frame)


# Deliveries.


def test_the_last_event_carries_the_cursor() -> None:
    """Of a batch; the first one carries that of before. Where these have no text, none does."""
    batch = [event(number, 10) for number in (1, 2, 3)]
    found = [message.get("cursor") for message in unframe(delivery(*batch).frames)]
    assert found == ["b", None, "c"]
    crowded = Position(Cursor(2000, tuple(range(1, 2000))), SIGNER)
    plain = [{"id": f"{number}-0", "type": "x"} for number in (1, 2, 3)]
    assert unframe(Delivery(BOT, batch, crowded, crowded, frame).frames) == plain


def test_the_first_event_names_the_newest_row() -> None:
    """Who is cut off before the last, and comes back, is told if a crash forgot that row."""
    batch = [event(1, 12), event(2, 11), event(3, 10)]
    before, position = Position(at(9), SIGNER), Position(at(12), SIGNER)
    first, *_ = unframe(Delivery(BOT, batch, before, position, frame).frames)
    assert SIGNER.read(first["cursor"], BOT) == at(9).naming(batch[0].anchor)


def test_framed_once_for_all_that_get_all() -> None:
    """Whoever gets the whole batch gets the same bytes, with or without a `since`."""
    batch = delivery(event(1, 10), event(2, 11), before=at(9), place=at(11))
    assert (
        batch.frames_for(frame, None, at(9)) is batch.frames_for(frame, None, None) is batch.frames
    )
    alone = delivery(event(1, 10), place=at(10))
    assert alone.frames_for(frame, None, at(9)) is alone.frames


def test_no_cursor_is_from_before_a_socket_came() -> None:
    """Where the batch began before that, the first event claims what the socket has seen."""
    batch = delivery(event(1, 10), event(2, 11), before=at(8), place=at(11))
    found = [message["cursor"] for message in unframe(batch.frames_for(frame, None, at(9)))]
    assert found == ["b+", "c"]


def test_each_kind_of_sink_has_its_own_frames() -> None:
    """Made once for each kind; and each message says which cursor it carries."""
    made: list[list[str | None]] = []

    def other(messages: Iterable[Message]) -> bytes:
        made.append([message.cursor for message in messages])
        return b"other"

    batch = delivery(event(1, 10), event(2, 11), before=at(9), place=at(11))
    assert [batch.frames_for(other, None, since) for since in (None, at(9), None)] == [b"other"] * 3
    assert batch.frames_for(frame, None, None) == batch.frames
    assert batch.frames_for(other, None, at(10)) == b"other"
    assert made == [["b", "c"], ["c"]]


def test_the_rest_carries_the_cursor() -> None:
    """Where the last events are not for a socket, the last that is carries the cursor."""
    batch = delivery(event(1, 12), event(2, 10), place=at(12))
    assert unframe(batch.frames_for(frame, None, at(10))) == [
        {"id": "1-0", "cursor": "c", "type": "x"}
    ]


def test_nothing_is_left() -> None:
    """Where nothing of a batch is for a socket, there are no bytes."""
    assert delivery(event(1, 10), place=at(10)).frames_for(frame, None, at(10)) == b""


def test_what_a_user_wrote_is_withheld_from_them() -> None:
    """Another user gets all of it; the author the rest, and the cursor with its last event."""
    events = [event(1, 10), event(2, 10, author=ADA), event(3, 11), event(4, 12, author=ADA)]
    batch = Delivery(BOT, events, Named(at(9), "b"), Named(at(12), "c"), frame, frozenset({ADA}))
    assert batch.frames_for(frame, GRACE, None) is batch.frames
    assert [one["id"] for one in unframe(batch.frames_for(frame, ADA, None))] == ["1-0", "3-0"]
    last = {"id": "3-0", "cursor": "c", "type": "x"}
    assert unframe(batch.frames_for(frame, ADA, at(10))) == [last]
    assert batch.frames_for(frame, ADA, at(11)) == b""


@given(st.lists(st.integers(1, 11)), cursors(), cursors(), cursors())
def test_any_since(xids: list[int], earlier: Cursor, place: Cursor, since: Cursor) -> None:
    """A socket gets the events that its `since` does not cover, and no cursor from before it."""
    events = [event(number, xid) for number, xid in enumerate(xids, 1)]
    earlier = earlier if place.includes(earlier) else place
    before, position = (Position(one.naming(Anchor(20, 1, 1)), SIGNER) for one in (earlier, place))
    batch = Delivery(BOT, events, before, position, frame)
    messages = unframe(batch.frames_for(frame, None, since))
    expected = [one.wire_id for one in events if not since.covers(one.xid)]
    assert [message["id"] for message in messages] == expected
    texts = [message["cursor"] for message in messages if "cursor" in message]
    assert len(texts) == min(2, len(messages))
    claims = [earlier, place][-len(texts) :] if texts else []
    for text, claim in zip(texts, claims, strict=True):
        cursor = SIGNER.read(text, BOT)
        assert cursor.includes(since)
        assert cursor.includes(claim) or (cursor.last, cursor.open) == (since.last, since.open)
        assert cursor.anchor == Anchor(20, 1, 1)


# Joining.


def test_nothing_is_sent_while_joining() -> None:
    """A joining socket is sent nothing; what comes is given back, in order, when it is let in."""
    subscriber, sink = make_subscriber()
    items: list[Delivery | AccessChange] = [
        delivery(event(1, 10)),
        access_change(2, 11),
        delivery(event(3, 12)),
    ]
    for item in items:
        if isinstance(item, Delivery):
            subscriber.deliver(item)
        else:
            subscriber.hold(item)
    assert sink.messages == []
    subscriber.since = START
    assert subscriber.go_live() == items
    assert subscriber.state is State.LIVE


def test_live() -> None:
    """A live socket is sent what comes, but for what its `since` covers."""
    subscriber, sink = make_subscriber()
    subscriber.since = at(10)
    subscriber.go_live()
    subscriber.deliver(delivery(event(1, 10)))
    subscriber.deliver(delivery(event(2, 10), event(3, 11)))
    assert sink.ids == [3]
    subscriber.since = None
    subscriber.deliver(delivery(event(4, 10)))
    assert sink.ids == [3, 4]


def test_stopped() -> None:
    """A stopped socket is sent nothing, whatever still refers to it."""
    subscriber, sink = make_subscriber()
    subscriber.deliver(delivery(event(1, 10)))
    subscriber.stop()
    subscriber.deliver(delivery(event(2, 11)))
    assert (sink.messages, sink.closed) == ([], None)


@pytest.mark.parametrize("since", [None, at(8)])
def test_paused(since: Cursor | None) -> None:
    """A paused socket holds again, keeps the place of what it was sent, and its `since`."""
    subscriber, sink = make_subscriber()
    subscriber.since = since
    subscriber.go_live()
    subscriber.pause(here := Named(START, "here"))
    subscriber.deliver(delivery(event(1, 10)))
    assert (sink.messages, subscriber.cursor, subscriber.since) == ([], here, since)
    assert len(subscriber.go_live()) == 1


# The limit of what is held.


def test_too_much_held() -> None:
    """Where more would be held than may be, what was held is gone, and what comes is not held."""
    one = delivery(event(1, 10))
    subscriber, sink = make_subscriber(hold_bytes=2 * len(one.frames))
    for has_overflowed in (False, False, True, True):
        subscriber.deliver(one)
        assert subscriber.has_overflowed == has_overflowed
    subscriber.since = START
    assert (subscriber.go_live(), sink.messages) == ([], [])


def test_holding_anew() -> None:
    """A socket that has overflowed and begins anew has room again."""
    one = delivery(event(1, 10))
    subscriber, _ = make_subscriber(hold_bytes=len(one.frames))
    for _ in range(2):
        subscriber.deliver(one)
    subscriber.hold_anew()
    subscriber.deliver(one)
    assert not subscriber.has_overflowed
    subscriber.since = START
    assert subscriber.go_live() == [one]


def test_the_limit_is_for_what_is_held_at_once() -> None:
    """What was held before a socket was let in does not count when it is paused later."""
    one = delivery(event(1, 10))
    subscriber, _ = make_subscriber(hold_bytes=len(one.frames))
    for _ in range(5):
        subscriber.deliver(one)
        assert not subscriber.has_overflowed
        subscriber.since = START
        subscriber.go_live()
        subscriber.pause(None)


def test_what_is_forgotten_twice_is_given_back_once() -> None:
    """Or the others of the socket could hold more than is allowed, each time."""
    one = delivery(event(1, 10))
    limit = HoldLimit(len(one.frames))
    subscriber = Subscriber(BOT, "c1", RecordingSink(), opened_at=0.0, hold=limit)
    subscriber.deliver(one)
    assert not limit.take(1)
    limit.give_back(1)
    subscriber.hold_anew()
    subscriber.stop()
    assert limit.take(len(one.frames))
    assert not limit.take(1)


def test_subscriptions_of_one_socket_share_the_limit() -> None:
    """What one of them holds is not left for the others, until it holds it no longer."""
    one = delivery(event(1, 10))
    limit = HoldLimit(2 * len(one.frames))
    first, second = (
        Subscriber(BOT, "c", RecordingSink(), opened_at=0.0, hold=limit, socket_id="s")
        for _ in range(2)
    )
    for subscriber in (first, first, second):
        subscriber.deliver(one)
    assert (first.has_overflowed, second.has_overflowed) == (False, True)
    first.stop()
    second.hold_anew()
    for _ in range(2):
        second.deliver(one)
    assert not second.has_overflowed


def test_final_messages_count() -> None:
    """Ejections count towards the limit with their final messages."""
    subscriber, _ = make_subscriber(hold_bytes=100)
    subscriber.hold(access_change(1, 10, final_message='{"type":"' + "x" * 200 + '"}'))
    assert subscriber.has_overflowed


def test_held_access_changes_are_bounded() -> None:
    """However little an access change says, a socket does not hold any number of them."""
    subscriber, _ = make_subscriber(hold_bytes=1_000)
    for number in range(10_000):
        subscriber.hold(access_change(number, 10, topic=None))
    assert subscriber.has_overflowed


# Being locked out, and being meant.


@pytest.mark.parametrize(
    ("item", "was_locked_out"),
    [
        (access_change(1, 10), True),
        (access_change(1, 11), False),
        (access_change(1, 10, is_recheck=True), False),
        (access_change(1, 10, user_id="grace"), False),
        (AccessChange(1, 10, BOT, "ada", AccessKind.GRANT), True),
        (AccessChange(1, 11, BOT, "ada", AccessKind.GRANT), False),
        (AccessChange(1, 10, BOT, "grace", AccessKind.GRANT), False),
    ],
)
def test_was_locked_out(item: AccessChange, was_locked_out: bool) -> None:
    """A user was locked out where access was surely taken, or given, up to the answer."""
    subscriber, _ = make_subscriber()
    subscriber.user_id = "ada"
    assert not subscriber.was_locked_out(at(10))
    subscriber.deliver(delivery(event(5, 10)))
    subscriber.hold(item)
    assert subscriber.was_locked_out(at(10)) == was_locked_out


@pytest.mark.parametrize(("xid", "was_locked_out"), [(10, False), (11, True), (12, False)])
def test_asked_about_twice_with_everybody(xid: int, was_locked_out: bool) -> None:
    """Access may be lost by one transaction and come back by another, up to the answer."""
    subscriber, _ = make_subscriber()
    subscriber.user_id = ADA
    subscriber.pending = access_change(1, 10, None, None, is_recheck=True)
    subscriber.hold(access_change(2, xid, None, None, is_recheck=True))
    assert subscriber.was_locked_out(at(11)) == was_locked_out


@pytest.mark.parametrize(
    ("topic", "user_id", "is_concerned", "may_be_concerned"),
    [
        (BOT, "ada", True, True),
        (BOT, "grace", False, True),
        (OTHER_BOT, "ada", False, False),
        (OTHER_BOT, None, False, False),
        (BOT, None, True, True),
        (None, "ada", True, True),
        (None, "grace", False, True),
        (None, None, True, True),
    ],
)
def test_is_concerned(
    topic: str | None, user_id: str | None, is_concerned: bool, may_be_concerned: bool
) -> None:
    """It concerns a topic and a user, null being all; an unknown user may be meant."""
    subscriber, _ = make_subscriber(BOT)
    one = access_change(1, 10, topic, user_id)
    assert subscriber.is_concerned_by(one) == may_be_concerned
    subscriber.user_id = "ada"
    assert subscriber.is_concerned_by(one) == is_concerned
