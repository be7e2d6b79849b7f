"""Who is sent a delivery directly, who is looked at first, and who leaves the list when."""

from __future__ import annotations

import pytest

from realtime.relay.hub import Hub
from realtime.relay.subscriber import State, Subscriber
from tests.unit.relay_fakes import (
    ADA,
    GRACE,
    Asked,
    RecordingSink,
    access_change,
    at,
    event,
    join,
    make_hub,
    read,
)


def say(hub: Hub, number: int) -> None:
    """Have the hub deliver one event."""
    read(hub, at(number), f"p{number}", event(number, number))


def joined(hub: Hub, user: str = ADA) -> tuple[Subscriber, RecordingSink]:
    """A socket that is sent to directly from event 3 on."""
    subscriber, sink = join(hub, user, knows_cursors=True)
    say(hub, 2)
    say(hub, 3)
    assert subscriber.send_now is not None
    return subscriber, sink


def test_a_socket_is_sent_to_directly_once_it_has_no_since() -> None:
    """The first read after it was accepted may still find what is not for it."""
    hub = make_hub()
    subscriber, _ = join(hub)
    assert subscriber.send_now is None
    say(hub, 2)
    assert subscriber.send_now is None
    say(hub, 3)
    assert subscriber.send_now is not None


@pytest.mark.parametrize("room", [0, 5])
def test_a_slow_socket_leaves_the_list_until_it_has_caught_up(room: int) -> None:
    """What waits stays in front: the sink sends what comes, and lends again after that."""
    hub = make_hub()
    subscriber, sink = joined(hub)
    sink.room = room
    say(hub, 4)
    assert (subscriber.send_now, sink.is_waiting) == (None, True)
    say(hub, 5)
    assert subscriber.send_now is None
    sink.drain()
    say(hub, 6)
    assert subscriber.send_now is not None
    say(hub, 7)
    assert sink.ids == [2, 3, 4, 5, 6, 7]


def test_a_message_of_its_own_that_has_to_wait_takes_a_socket_out_of_the_list() -> None:
    """A pong or an answer may be what the kernel does not take."""
    hub = make_hub()
    subscriber, sink = joined(hub)
    sink.room = 0
    sink.send(b'{"type":"pong"}\n')
    assert (subscriber.send_now, subscriber.state) == (None, State.LIVE)


def test_a_paused_socket_leaves_the_list_at_once() -> None:
    """Its access is asked about again: until the answer it is sent nothing."""
    asked = Asked()
    hub = make_hub(asked)
    subscriber, sink = joined(hub)
    change = access_change(4, 4, is_recheck=True)
    read(hub, at(5), "p5", change, event(5, 5))
    assert (subscriber.send_now, sink.ids) == (None, [2, 3])
    hub.stay(subscriber, asked[0][1], at(5))
    say(hub, 6)
    assert sink.ids == [2, 3, 5, 6]


def test_a_stopped_socket_leaves_the_list_at_once() -> None:
    """It was revoked: nothing follows, though it stays a member until its close is done."""
    hub = make_hub()
    subscriber, sink = joined(hub)
    read(hub, at(5), "p5", access_change(4, 4), event(5, 5))
    assert (subscriber.send_now, subscriber.state) == (None, State.STOPPED)
    assert sink.ids == [2, 3]
    assert list(hub.subscribers.on_topic(subscriber.topic)) == [subscriber]
    hub.unsubscribe(subscriber)
    assert not hub.subscribers.has_topic(subscriber.topic)


def test_a_socket_that_is_removed_during_a_fan_out_is_sent_nothing_more() -> None:
    """The others are sent everything, once."""
    sockets: list[tuple[Subscriber, RecordingSink]] = []

    async def remove_the_last() -> None:
        if is_removing:
            hub.unsubscribe(sockets[1][0])

    is_removing = False
    hub = make_hub(pause=remove_the_last, fan_out_slice=1)
    sockets = [join(hub, user) for user in (ADA, GRACE, "eve")]
    sockets.sort(key=lambda one: one[0].user_id or "")
    for number in (2, 3):
        say(hub, number)
    order = list(hub.subscribers.on_topic(sockets[0][0].topic))
    sockets.sort(key=lambda one: order.index(one[0]))
    is_removing = True
    say(hub, 4)
    assert [sink.ids for _, sink in sockets] == [[2, 3, 4], [2, 3], [2, 3, 4]]


def test_a_socket_that_leaves_the_list_during_a_fan_out_is_still_served_once() -> None:
    """It waits for its client in the pause before its turn: the sink queues what comes."""
    sockets: list[tuple[Subscriber, RecordingSink]] = []

    async def stall_all() -> None:
        for _, sink in sockets if is_stalling else ():
            sink.room = 0
            sink.send(b'{"type":"pong"}\n')

    is_stalling = False
    hub = make_hub(pause=stall_all, fan_out_slice=1)
    sockets = [join(hub, user) for user in (ADA, GRACE)]
    for number in (2, 3):
        say(hub, number)
    is_stalling = True
    say(hub, 4)
    assert [sink.ids for _, sink in sockets] == [[2, 3, 4], [2, 3, 4]]
    assert [one.send_now for one, _ in sockets] == [None, None]


def test_nobody_on_a_topic_any_more_is_no_error() -> None:
    """All leave while another topic's fan-out gives way."""
    hub = make_hub(fan_out_slice=1)
    first, _ = join(hub, topic="bot:1")
    second, sink = join(hub, GRACE, topic="bot:1")
    third, other = join(hub, topic="bot:2")
    fourth, _ = join(hub, GRACE, topic="bot:2")

    async def remove_all() -> None:
        for one in (first, second, third, fourth):
            hub.unsubscribe(one)

    hub._pause = remove_all
    read(hub, at(3), "p3", event(2, 2, "bot:1"), event(3, 3, "bot:2"))
    assert len(hub.subscribers) == 0
    assert len(sink.ids) + len(other.ids) <= 1
