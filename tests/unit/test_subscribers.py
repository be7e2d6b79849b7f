"""Tests for realtime.relay.subscribers, through the hub, which adds and removes them."""

from realtime.relay.protocol import SOCKET_TOPIC
from realtime.relay.subscriber import State
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    OTHER_BOT,
    at,
    event,
    join,
    make_hub,
    make_subscriber,
    read,
)


def test_who_is_here() -> None:
    """Every socket counts; this lists those whose user is known, and counts a user's own."""
    hub = make_hub()
    here = hub.subscribers
    unknown, _ = make_subscriber()
    hub.subscribe(unknown)
    first, _ = join(hub)
    second, _ = join(hub, topic=OTHER_BOT)
    third, _ = join(hub, GRACE)
    assert len(here) == 4
    assert set(here) == {unknown, first, second, third}
    assert set(here.joined()) == {first, second, third}
    assert [here.count_of(one) for one in (ADA, GRACE, "nobody")] == [2, 1, 0]
    assert set(here.live_on(BOT)) == {first, third}
    assert set(here.live_on("bot:none")) == set()


def test_who_is_closing_is_not_open() -> None:
    """However long its close takes, it takes nobody's room."""
    hub = make_hub()
    here = hub.subscribers
    staying, going = join(hub)[0], join(hub, GRACE)[0]
    assert here.open_count == 2
    hub.stop(going)
    hub.stop(going)
    assert (here.open_count, len(here)) == (1, 2)
    hub.unsubscribe(going)
    hub.stop(going)
    assert (here.open_count, len(here)) == (1, 1)
    assert list(here) == [staying]


def test_subscriptions_of_one_socket_are_no_sockets() -> None:
    """A socket counts once, however many subscriptions it has; they are sent to as all others."""
    hub = make_hub()
    here = hub.subscribers
    socket, _ = join(hub, topic=SOCKET_TOPIC)
    sinks = [
        join(hub, topic=topic, socket_id=socket.connection_id)[1] for topic in (BOT, OTHER_BOT)
    ]
    counts = here.open_count, here.count_of(ADA), len(here), len(set(here.joined()))
    assert counts == (1, 1, 3, 3)
    read(hub, at(10), "c", event(1, 10), event(2, 10, OTHER_BOT))
    assert [sink.ids for sink in sinks] == [[1], [2]]
    hub.stop(socket)
    assert (here.open_count, len(here)) == (0, 3)


def test_who_is_closing_is_not_counted() -> None:
    """A client that was told to come back is not refused because its close takes time."""
    hub = make_hub()
    closing, _ = join(hub)
    join(hub)
    hub.dismiss(closing, 1013, "connect again")
    assert (hub.subscribers.count_of(ADA), len(hub.subscribers)) == (1, 2)


def test_who_is_gone_is_forgotten() -> None:
    """Nothing refers to a socket that is gone, and it may be forgotten twice."""
    hub = make_hub()
    here = hub.subscribers
    unknown, _ = make_subscriber()
    hub.subscribe(unknown)
    others = [join(hub)[0], join(hub, GRACE)[0]]
    for one in (unknown, *others, unknown, *others):
        hub.unsubscribe(one)
        assert one.state is State.STOPPED
    assert (len(here), list(here), here.count_of(ADA)) == (0, [], 0)
    assert (here.topics(), here.on_topic(BOT)) == ((), ())
    values = [*vars(hub).values(), *vars(here).values()]
    indexes = [value for value in values if isinstance(value, set | dict)]
    assert len(indexes) == 7
    assert not any(indexes)
