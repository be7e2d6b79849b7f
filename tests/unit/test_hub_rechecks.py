"""Tests of `realtime.relay.hub`: rechecks of sockets, and events lost for good."""

import pytest

from realtime.relay import closing
from realtime.relay.cursor import Cursor
from realtime.relay.events import AccessChange
from realtime.relay.growing import SEND_EVERY
from realtime.relay.hub import Hub
from realtime.relay.position import Position
from realtime.relay.protocol import SOCKET_TOPIC
from realtime.relay.subscriber import State, Subscriber
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    NOWHERE,
    SIGNER,
    Asked,
    access_change,
    at,
    event,
    grant_row,
    join,
    make_hub,
    make_subscriber,
    page,
    read,
    read_part,
    run,
    seen,
)

FINAL_MESSAGE = '{"type":"permission_change"}'


def stay(hub: Hub, subscriber: Subscriber, until: Cursor) -> None:
    """The answer to the latest question about it: it may stay."""
    assert subscriber.pending is not None
    hub.stay(subscriber, subscriber.pending, until)


# Being asked about, and staying.


def test_stays_as_if_nothing_had_been() -> None:
    """A paused socket that may stay gets all that was held, once the reads know the answer."""
    hub = make_hub(asked := Asked())
    subscriber, sink = join(hub)
    read(hub, at(8), "b")
    recheck = access_change(1, 10, final_message=FINAL_MESSAGE, is_recheck=True)
    read(hub, at(10), "c", recheck, event(2, 10))
    assert (subscriber.state, asked, sink.ids) == (State.PAUSED, [(subscriber, recheck)], [])
    stay(hub, subscriber, at(12))
    read_part(hub, event(3, 9))
    read(hub, at(11), "c")
    assert subscriber.state is State.PAUSED
    read(hub, at(13), "d", event(4, 13))
    assert (sink.ids, sink.closed, hub.cursor_of(subscriber)) == ([2, 3, 4], None, "d")
    read(hub, at(15), "e", event(5, 15))
    assert (sink.ids, hub.cursor_of(subscriber)) == ([2, 3, 4, 5], "e")


def test_stays_with_its_since() -> None:
    """What was not for a socket when it was paused is not for it afterwards either."""
    hub = make_hub()
    subscriber, sink = join(hub, since=at(19, 15))
    read_part(hub, event(1, 16))
    read(hub, at(20), "c", access_change(2, 15, is_recheck=True), event(3, 17))
    assert hub.cursor_of(subscriber) == "+"
    stay(hub, subscriber, at(20))
    read(hub, at(22), "d", event(4, 19), event(5, 21))
    assert (sink.ids, hub.cursor_of(subscriber)) == ([5], "d")


@pytest.mark.parametrize("is_asked_about", [False, True])
def test_a_pong_after_what_was_held_knows_of_it(is_asked_about: bool) -> None:
    """Of who goes live, and of who then has to be asked about by the last of what was held."""
    hub = make_hub()
    hub.position = Position(at(10), SIGNER)
    subscriber, sink = make_subscriber()
    hub.subscribe(subscriber)
    hub.identify(subscriber, ADA, ADA)
    subscriber.cursor = hub.position
    held = [event(1, 11), access_change(2, 12, user_id=None, is_recheck=True)]
    for row in held[: 1 + is_asked_about]:
        run(hub.deliver(page(seen(20), row), Position(at(row.xid), SIGNER)))
    hub.go_live(subscriber, at(10))
    assert (sink.ids, subscriber.state is State.PAUSED) == ([1], is_asked_about)
    assert hub.cursor_of(subscriber) == sink.cursors[-1] == SIGNER.write(at(11), BOT)


@pytest.mark.parametrize("change", [access_change(4, 11), grant_row(11, BOT, ADA)])
@pytest.mark.parametrize("knows_cursors", [False, True])
def test_lost_and_regained(change: AccessChange, knows_cursors: bool) -> None:
    """Who was locked out in between is told to refetch, or has to come back."""
    hub = make_hub()
    subscriber, sink = join(hub, knows_cursors=knows_cursors)
    read(hub, at(10), "c", access_change(1, 10, is_recheck=True), event(2, 10))
    read(hub, at(12), "d", change, event(3, 12))
    stay(hub, subscriber, at(11))
    read(hub, at(12), "e")
    if knows_cursors:
        resync = {"type": "resync", "bot_id": "b1", "data": {"reason": "access_changed"}}
        assert (sink.closed, sink.messages[0], sink.ids) == (None, resync, [3])
        read(hub, at(12), "f")
        assert hub.cursor_of(subscriber) == "f"
    else:
        assert (sink.closed, sink.messages) == (closing.EVENTS_MISSED, [])


def test_may_not_stay() -> None:
    """A paused socket that may not stay is sent its final_message, and nothing that was held."""
    hub = make_hub()
    (first, sink), (second, other) = join(hub), join(hub, GRACE)
    told = access_change(1, 10, final_message=FINAL_MESSAGE, is_recheck=True)
    untold = access_change(2, 10, user_id=GRACE, is_recheck=True)
    read(hub, at(10), "c", told, untold, event(3, 10))
    hub.refuse(first, told)
    hub.refuse(second, untold)
    assert sink.messages == [{"id": "1-0", "type": "permission_change"}]
    assert (sink.closed, other.closed) == ((4003, "access ended"),) * 2
    assert other.messages == []


def test_no_second_final_message() -> None:
    """A socket that was told already when it was cut off is not told again when it must go."""
    hub = make_hub()
    subscriber, sink = join(hub)
    read(hub, at(10), "c", told := access_change(1, 10, final_message=FINAL_MESSAGE))
    hub.refuse(subscriber, told)
    assert (sink.ids, sink.closed) == ([1], (4003, "access ended"))


@pytest.mark.parametrize("how", ["gone before the answer", "gone after it", "closed after it"])
def test_leaves_while_asked_about(how: str) -> None:
    """A socket that leaves while it is asked about is not let back."""
    hub = make_hub()
    subscriber, sink = join(hub)
    read(hub, at(11), "c", access_change(1, 10, is_recheck=True), event(2, 11))
    if how == "gone before the answer":
        hub.unsubscribe(subscriber)
    stay(hub, subscriber, at(10))
    if how == "gone after it":
        hub.unsubscribe(subscriber)
    assert (subscriber in hub._returning) == (how == "closed after it")
    if how == "closed after it":
        subscriber.stop()
    read(hub, at(11), "d")
    assert (subscriber.state, sink.messages, sink.closed) == (State.STOPPED, [], None)


def test_revoked_while_away() -> None:
    """A revoke that commits after the answer still ends it, before any later event."""
    hub = make_hub(asked := Asked())
    subscriber, sink = join(hub)
    read(hub, at(10), "c", access_change(1, 10, is_recheck=True))
    revoke = access_change(3, 13, final_message=FINAL_MESSAGE)
    read(hub, at(13), "d", revoke, event(2, 12), event(4, 13))
    stay(hub, subscriber, at(12))
    read(hub, at(13), "e")
    assert (subscriber.state, sink.ids, len(asked)) == (State.STOPPED, [3], 2)


@pytest.mark.parametrize("is_locked_out", [False, True])
def test_in_doubt_again_on_the_way_back(is_locked_out: bool) -> None:
    """A socket that is asked about once more has the place of what it was sent, not of the hub."""
    hub = make_hub()
    subscriber, sink = join(hub, knows_cursors=True)
    read(hub, at(9), "start")
    read(hub, at(10), "c", access_change(1, 10, is_recheck=True))
    if is_locked_out:
        read(hub, at(11), "d", grant_row(11, BOT, ADA))
    stay(hub, subscriber, at(11))
    read(hub, at(13), "e", access_change(3, 13, is_recheck=True), event(4, 13))
    assert (subscriber.state, sink.ids) == (State.PAUSED, [])
    assert hub.cursor_of(subscriber) == "start"


def test_locked_out_and_let_in_while_in_doubt_again() -> None:
    """A grant that is held across the first answer tells the second one what was missed."""
    hub = make_hub(asked := Asked())
    subscriber, sink = join(hub, knows_cursors=True)
    read(hub, at(10), "c", access_change(1, 10, is_recheck=True))
    read_part(hub, access_change(3, 13, is_recheck=True), grant_row(14, BOT, ADA))
    read_part(hub, event(2, 12))
    stay(hub, subscriber, at(11))
    read(hub, at(11), "d")
    assert (subscriber.state, len(asked)) == (State.PAUSED, 2)
    stay(hub, subscriber, at(14))
    read(hub, at(14), "e")
    assert subscriber.state is State.LIVE
    assert [message["type"] for message in sink.messages] == ["resync"]


def test_a_grant_to_who_is_there_already_locks_nobody_out() -> None:
    """Nothing of it is kept, however many come: only who is asked about may have missed some."""
    hub = make_hub()
    subscriber, sink = join(hub)
    read(hub, at(9), "c", *[grant_row(9, BOT, ADA) for _ in range(100)])
    read(hub, at(10), "d", access_change(1, 10, is_recheck=True), event(2, 10))
    stay(hub, subscriber, at(10))
    read(hub, at(11), "e")
    assert (subscriber.state, sink.ids, sink.closed) == (State.LIVE, [2], None)


@pytest.mark.parametrize("before", [access_change(4, 10), grant_row(10, BOT, ADA)])
def test_what_was_before_it_came_locks_nobody_out(before: AccessChange) -> None:
    """A revoke or a grant from before a socket was let in is nothing that it has missed."""
    hub = make_hub()
    subscriber, sink = join(hub, since=at(10))
    read(hub, at(11), "c", access_change(2, 11, is_recheck=True), before, event(3, 11))
    stay(hub, subscriber, at(11))
    read(hub, at(11), "d")
    assert (subscriber.state, sink.ids, sink.closed) == (State.LIVE, [3], None)


def test_a_grant_that_names_nobody_locks_nobody_out() -> None:
    """Or each new user of a bot would be a reason to send all others away."""
    hub = make_hub()
    subscriber, sink = join(hub, since=at(9))
    read(hub, at(11), "c", access_change(1, 10, is_recheck=True), grant_row(11, BOT, None))
    stay(hub, subscriber, at(11))
    read(hub, at(12), "d", event(2, 12))
    assert (subscriber.state, sink.ids, sink.closed) == (State.LIVE, [2], None)


def test_one_answer_for_all_that_it_covers() -> None:
    """Of several rechecks that an answer covers, none needs another answer."""
    hub = make_hub(asked := Asked())
    subscriber, sink = join(hub)
    rechecks = [access_change(number, 10, is_recheck=True) for number in (1, 2, 3)]
    read(hub, at(10), "c", *rechecks, event(4, 10))
    stay(hub, subscriber, at(10))
    read(hub, at(10), "d")
    assert (subscriber.state, sink.ids, len(asked)) == (State.LIVE, [4], 1)


def test_too_much_happened_meanwhile() -> None:
    """A paused socket for which more than its limit would be held has to come back."""
    hub = make_hub()
    subscriber, sink = join(hub, knows_cursors=True)
    read_part(hub, access_change(1, 10, is_recheck=True))
    read(hub, at(11), "c", *[event(number, 11) for number in range(2, 999)])
    stay(hub, subscriber, at(11))
    read(hub, at(11), "d")
    assert (sink.messages, sink.closed) == ([], closing.HELD_TOO_MUCH)


# When events are lost for good.


def test_a_gap_is_told() -> None:
    """Who knows cursors is asked about anew, then told, and goes on from the answer."""
    hub = make_hub(asked := Asked())
    (chat, sink) = join(hub, knows_cursors=True)
    (notifications, _) = join(hub, topic="user:ada", knows_cursors=True)
    read(hub, at(5), "c")
    hub.lose_track(NOWHERE, "too_old")
    codes = {subscriber: one.code for subscriber, one in asked}
    assert codes == {chat: 4003, notifications: 4001}
    read(hub, at(25), "e", event(1, 19), event(2, 21))
    assert (chat.state, sink.messages, hub.cursor_of(chat)) == (State.PAUSED, [], "c")
    stay(hub, chat, at(20))
    read(hub, at(25), "f")
    assert sink.messages[0] == {"type": "resync", "bot_id": "b1", "data": {"reason": "too_old"}}
    assert (sink.ids, sink.closed) == ([2], None)
    read(hub, at(26), "g", event(3, 26))
    assert (sink.ids, hub.cursor_of(chat)) == ([2, 3], "g")


def test_a_socket_for_many_misses_nothing() -> None:
    """Its own topic has no events: it is asked about, goes on, and is told nothing."""
    hub = make_hub(asked := Asked())
    socket, sink = join(hub, topic=SOCKET_TOPIC, knows_cursors=True)
    hub.lose_track(NOWHERE, "too_old")
    assert [(one, pending.code) for one, pending in asked] == [(socket, 4001)]
    stay(hub, socket, at(20))
    read(hub, at(20), "c")
    assert (socket.state, sink.messages, sink.closed) == (State.LIVE, [], None)


def test_since_when_a_socket_was_here_means_nothing_after_a_gap() -> None:
    """Another history may count from lower on: a revoke in it is not from before the socket came.

    Until it is told, it has the place of what it was sent.
    """
    hub = make_hub()
    read(hub, at(5), "c")
    socket, sink = join(hub, topic=SOCKET_TOPIC, since=at(50), knows_cursors=True)
    hub.lose_track(NOWHERE, "foreign")
    assert hub.cursor_of(socket) == "c+"
    stay(hub, socket, at(20))
    read(hub, at(20), "d")
    assert socket.state is State.LIVE
    read(hub, at(30), "e", access_change(1, 30, None))
    assert (socket.state, sink.closed) == (State.STOPPED, None)


def test_a_gap_is_told_once() -> None:
    """A socket that was told of a gap is not told again when it is paused later."""
    hub = make_hub()
    subscriber, sink = join(hub, knows_cursors=True)
    hub.lose_track(NOWHERE, "too_old")
    stay(hub, subscriber, at(20))
    read(hub, at(20), "c")
    read(hub, at(21), "d", access_change(1, 21, is_recheck=True))
    stay(hub, subscriber, at(21))
    read(hub, at(21), "e")
    assert [message["type"] for message in sink.messages] == ["resync"]


def test_a_gap_closes_whom_it_cannot_be_told() -> None:
    """Who is joining, or would not understand, has to come back; who is stopped stays so."""
    hub = make_hub(asked := Asked())
    (_, plain), (stopped, _) = join(hub), join(hub, GRACE, knows_cursors=True)
    joining, sink = make_subscriber(knows_cursors=True)
    hub.subscribe(joining)
    stopped.stop()
    hub.lose_track(NOWHERE, "foreign")
    assert plain.closed == sink.closed == closing.EVENTS_MISSED
    assert (asked, joining.state) == ([], State.STOPPED)


def test_what_was_held_before_a_gap_is_gone() -> None:
    """A socket that was paused when events were lost forgets what it held, and any answer."""
    hub = make_hub(asked := Asked())
    subscriber, sink = join(hub, knows_cursors=True)
    read(hub, at(10), "c", access_change(1, 10, is_recheck=True), event(2, 10))
    stay(hub, subscriber, at(10))
    hub.lose_track(NOWHERE, "foreign")
    read(hub, at(11), "d")
    assert (subscriber.state, len(asked)) == (State.PAUSED, 2)
    stay(hub, subscriber, at(5))
    read(hub, at(11), "e", event(3, 11))
    assert sink.ids == [3]


def test_what_was_held_back_before_a_gap_is_gone() -> None:
    """An update that waited for its time is not sent after the client was told to fetch all."""
    now = [0.0]
    hub = make_hub(clock=lambda: now[0])
    subscriber, sink = join(hub, knows_cursors=True)
    read(hub, at(10), "c", event(1, 10, subject="answer"))
    read(hub, at(11), "d", event(2, 11, subject="answer"))
    assert sink.ids == [1]
    hub.lose_track(NOWHERE, "foreign")
    stay(hub, subscriber, at(5))
    now[0] += SEND_EVERY
    read(hub, at(12), "e", event(3, 12))
    assert sink.ids == [1, 3]


def test_an_earlier_question_is_void() -> None:
    """Once events are lost, only the question that is asked then counts, whatever its answer."""
    hub = make_hub(asked := Asked())
    subscriber, sink = join(hub, knows_cursors=True)
    read(hub, at(10), "c", access_change(1, 10, is_recheck=True))
    hub.lose_track(NOWHERE, "too_old")
    (_, earlier), (_, latest) = asked
    hub.stay(subscriber, earlier, at(10))
    hub.refuse(subscriber, earlier)
    read(hub, at(11), "d")
    assert (subscriber.state, sink.closed) == (State.PAUSED, None)
    hub.refuse(subscriber, latest)
    assert sink.closed == (4003, "access ended")
