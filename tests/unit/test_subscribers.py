"""Tests for realtime.relay.subscribers, through the hub, which adds and removes them."""

from typing import Any

from realtime.relay.events import AccessChange
from realtime.relay.protocol import SOCKET_TOPIC
from realtime.relay.subscriber import HoldLimit, State, Subscriber
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    OTHER_BOT,
    RecordingSink,
    access_change,
    at,
    event,
    grant_row,
    join,
    make_hub,
    make_subscriber,
    read,
)


class Counted(Subscriber):
    """Counts how often one of them is asked what it is subscribed to."""

    looks = 0

    def __init__(self, topic: str) -> None:
        super().__init__(topic, "c", RecordingSink(), opened_at=0.0, hold=HoldLimit(10_000))

    @property
    def topic(self) -> Any:
        Counted.looks += 1
        return self._topic

    @topic.setter
    def topic(self, topic: str) -> None:
        self._topic = topic


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
    assert len(indexes) == 8
    assert not any(indexes)


MANY = 100


def looks_at(*changes: AccessChange) -> int:
    """How often somebody is looked at, where Ada has many subscriptions and a bot many sockets.

    And many join elsewhere.
    """
    hub = make_hub()
    for number in range(MANY):
        for one, user in ((Counted(f"bot:{number}"), ADA), (Counted(BOT), f"user {number}")):
            hub.subscribe(one)
            hub.identify(one, user, user)
            hub.go_live(one, at(1))
        hub.subscribe(Counted(f"bot:joining {number}"))
    Counted.looks = 0
    read(hub, at(10), "c", *changes)
    return Counted.looks


def test_a_change_of_one_user_on_one_topic_looks_at_few() -> None:
    """Or many changes of one user, or of one topic, would cost as much as both together."""
    of_ada = [access_change(number, 10, f"bot:{number}") for number in range(MANY)]
    of_bot = [access_change(number, 10, BOT, f"user {number}") for number in range(MANY)]
    of_nobody = [access_change(number, 10, "bot:x", f"user {number}") for number in range(MANY)]
    grants = [grant_row(10, f"bot:{number}", ADA) for number in range(MANY)]
    for changes in (of_ada, of_bot, of_nobody, grants):
        assert looks_at(*changes) <= 5 * MANY


def test_those_of_a_user_on_a_topic() -> None:
    """Whichever has fewer: the user or the topic."""
    hub = make_hub()
    (first, _), (second, _), (other, _) = join(hub), join(hub), join(hub, topic=OTHER_BOT)
    of_grace = [join(hub, GRACE)[0] for _ in range(4)]
    find = hub.subscribers.of_user_on
    assert set(find(ADA, BOT)) == {first, second}
    assert set(find(GRACE, BOT)) == set(of_grace)
    assert (find(ADA, OTHER_BOT), find(GRACE, OTHER_BOT)) == ([other], [])
    assert (find(ADA, "bot:none"), find("nobody", BOT)) == ([], [])


def test_whom_a_change_may_be_about() -> None:
    """Also those whose user is not known yet, where it is their topic."""
    hub = make_hub()
    ada, grace, there = join(hub)[0], join(hub, GRACE)[0], join(hub, topic=OTHER_BOT)[0]
    unknown, unknown_there = make_subscriber()[0], make_subscriber(OTHER_BOT)[0]
    for one in (unknown, unknown_there):
        hub.subscribe(one)

    def candidates(topic: str | None, user_id: str | None) -> list[Subscriber]:
        return sorted(hub.subscribers.candidates(access_change(1, 10, topic, user_id)), key=id)

    everybody = [ada, grace, there, unknown, unknown_there]
    assert candidates(None, None) == sorted(everybody, key=id)
    assert candidates(BOT, None) == sorted([ada, grace, unknown], key=id)
    assert candidates(None, ADA) == sorted([ada, there, unknown, unknown_there], key=id)
    assert candidates(BOT, ADA) == sorted([ada, unknown], key=id)
    assert candidates(OTHER_BOT, GRACE) == [unknown_there]
    assert candidates("bot:none", ADA) == []


def test_who_was_stopped_before_their_user_was_known_is_not_counted() -> None:
    """Nor does the end of such a one take from the user's number."""
    hub = make_hub()
    join(hub)
    late, _ = make_subscriber()
    hub.subscribe(late)
    hub.stop(late)
    hub.identify(late, ADA, "ada")
    assert hub.subscribers.count_of(ADA) == 1
    hub.unsubscribe(late)
    assert hub.subscribers.count_of(ADA) == 1
