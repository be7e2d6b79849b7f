"""Tests of `realtime.relay.hub` by example; `test_hub_model` tries everything at once."""

import sys
from collections.abc import Callable

import pytest

from realtime.relay.cursor import Anchor, Cursor
from realtime.relay.events import AccessChange
from realtime.relay.observers import HubObserver
from realtime.relay.position import Position
from realtime.relay.subscriber import State, Subscriber
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    OTHER_BOT,
    SIGNER,
    START,
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
    run,
    seen,
)

FINAL_MESSAGE = '{"type":"permission_change"}'


# Authors.


def test_authors_are_not_sent_their_own_messages() -> None:
    """None of their sockets, also one whose user is known only later; all others are sent them."""
    hub = make_hub(echoes_to_author=False)
    _, of_ada = join(hub)
    _, of_grace = join(hub, GRACE)
    late, to_late = make_subscriber()
    hub.subscribe(late)
    read(hub, at(10), "c", event(1, 10), event(2, 10, author=ADA))
    hub.identify(late, ADA, "ada")
    hub.go_live(late, START)
    read(hub, at(11), "d", event(3, 11, author=ADA))
    read(hub, at(12), "e", event(4, 12, author=GRACE))
    read(hub, at(13), "f", event(5, 13, author=GRACE))
    assert of_ada.ids == to_late.ids == [1, 4, 5]
    assert of_grace.ids == [1, 2, 3]


def test_what_an_author_writes_on_another_topic_leaves_their_socket_in_the_list() -> None:
    """Only sockets that are sent a part of it are looked at one by one."""
    hub = make_hub(echoes_to_author=False)
    _, here = join(hub)
    _, there = join(hub, topic=OTHER_BOT)
    read(hub, at(10), "c")
    read(hub, at(11), "d", event(1, 11), event(2, 11, OTHER_BOT))
    assert (here.is_lent, there.is_lent) == (True, True)
    read(hub, at(12), "e", event(3, 12, author=ADA))
    assert there.is_lent
    assert (here.ids, there.ids) == ([1], [2])


def test_authors_are_sent_their_own_messages_by_default() -> None:
    """As everybody else is."""
    hub = make_hub()
    _, of_ada = join(hub)
    read(hub, at(10), "c", event(1, 10, author=ADA))
    assert of_ada.ids == [1]


# Coming and going.


class Moves(HubObserver):
    """Notes who joins (True) and leaves."""

    def __init__(self) -> None:
        self.all: list[tuple[Subscriber, bool]] = []

    def joined(self, subscriber: Subscriber) -> None:
        self.all.append((subscriber, True))

    def left(self, subscriber: Subscriber) -> None:
        self.all.append((subscriber, False))


def test_comings_and_goings_are_told() -> None:
    """Each socket's once: when it is let in, and when it is stopped, however long it then takes."""
    hub, moves = make_hub(), Moves()
    hub.add_observer(moves)
    joining, _ = make_subscriber()
    hub.subscribe(joining)
    hub.identify(joining, ADA, "ada")
    (admitted, _), (dismissed, _), (cut_off, _) = join(hub), join(hub), join(hub, GRACE)
    assert moves.all == [(one, True) for one in (admitted, dismissed, cut_off)]
    moves.all.clear()
    hub.dismiss(dismissed, 1013, "come back")
    read(hub, at(10), "c", access_change(1, 10, user_id=GRACE))
    assert moves.all == [(dismissed, False), (cut_off, False)]
    assert set(hub.subscribers.joined()) == {admitted}
    for one in (joining, admitted, dismissed, cut_off):
        hub.unsubscribe(one)
    assert moves.all[2:] == [(admitted, False)]


def test_access_changes_are_told() -> None:
    """Each once it is applied, whomever it was about."""
    told: list[object] = []
    hub = make_hub()
    ada, _ = join(hub)

    class Told(HubObserver):
        def access_changed(self, change: AccessChange) -> None:
            told.append((change, ada.state))

    hub.add_observer(Told())
    changes = access_change(1, 10, user_id=ADA), access_change(2, 10, OTHER_BOT, user_id=None)
    read(hub, at(10), "c", *changes)
    assert told == [(one, State.STOPPED) for one in changes]


def test_one_of_two_goes() -> None:
    """When one of a user's sockets goes, the other goes on."""
    hub = make_hub()
    (first, _), (_, sink) = join(hub), join(hub)
    hub.unsubscribe(first)
    read(hub, at(10), "c", event(1, 10))
    assert (hub.subscribers.count_of(ADA), sink.ids) == (1, [1])


def test_admitted_too_late() -> None:
    """A socket that left while it was being asked about is not admitted."""
    hub = make_hub()
    subscriber, sink = make_subscriber()
    hub.subscribe(subscriber)
    hub.unsubscribe(subscriber)
    hub.go_live(subscriber, START)
    assert (subscriber.state, sink.messages) == (State.STOPPED, [])


# Events.


def test_to_the_topic_only() -> None:
    """Events reach the sockets on their topic, all of a read at once; the last has its cursor."""
    hub = make_hub()
    (_, here), (_, there) = join(hub), join(hub, topic=OTHER_BOT)
    rows = [event(1, 10), event(2, 10, OTHER_BOT), event(3, 10), event(4, 10, "bot:empty")]
    read(hub, at(10), "c", *rows)
    assert (here.ids, there.ids) == ([1, 3], [2])
    assert [message.get("cursor") for message in here.messages] == ["+", "c"]


def test_what_was_large_once_is_small_when_it_is_empty() -> None:
    """Python walks all places of a set, however few are taken; some are walked for each event."""
    hub = make_hub()
    for number in range(1000):
        join(hub, f"user {number}")
    assert sys.getsizeof(hub._recent) > sys.getsizeof(set())
    read(hub, at(9), "far", event(1, 9))
    read(hub, at(10), "farther", event(2, 10))
    audience = hub.subscribers.audience(BOT)
    assert audience is not None
    for walked in (hub._recent, hub.subscribers._unidentified, audience._apart):
        assert sys.getsizeof(walked) == sys.getsizeof(type(walked)())


def test_of_who_is_gone_nothing_is_kept() -> None:
    """Whether or not a read has come as far as where they began."""
    hub = make_hub()
    subscriber, _ = join(hub, since=at(9))
    assert hub._recent == {subscriber}
    hub.unsubscribe(subscriber)
    assert (hub._recent, len(hub.subscribers), hub.subscribers.topics()) == (set(), 0, ())
    asked_about, _ = join(hub)
    read(hub, at(10), "c", access_change(1, 10, is_recheck=True))
    assert asked_about.pending is not None
    hub.stay(asked_about, asked_about.pending, at(20))
    hub.unsubscribe(asked_about)
    assert hub._returning == {}


def test_joining_in_between() -> None:
    """What arrives between subscribing and admission is sent after it, but for what is covered."""
    hub = make_hub()
    subscriber, sink = make_subscriber()
    hub.subscribe(subscriber)
    read(hub, at(11), "c", event(1, 10), event(2, 11))
    assert sink.messages == []
    hub.identify(subscriber, ADA, "Ada")
    hub.go_live(subscriber, at(10))
    assert sink.ids == [2]


def test_the_place_of_a_socket() -> None:
    """A socket's cursor is the admission's until the reads have come as far, then the hub's.

    Either names the newest row that was delivered.
    """
    hub = make_hub()
    hub.position = Position(at(3), SIGNER)
    subscriber, _ = join(hub, since=at(19))
    for end in (at(14), at(14).naming(Anchor(25, 1, 1))):
        run(hub.deliver(page(seen(0)), Position(end, SIGNER)))
        assert SIGNER.read(hub.cursor_of(subscriber) or "", BOT) == at(19).naming(end.anchor)
    run(hub.deliver(page(seen(0)), Position(at(26), SIGNER)))
    assert SIGNER.read(hub.cursor_of(subscriber) or "", BOT) == at(26)


def test_within_a_fan_out_the_newest_row_is_named() -> None:
    """Before it is over nothing more is claimed, but who was served may have seen that row."""
    end = at(14)

    async def look() -> None:
        cursors.append(SIGNER.read(hub.cursor_of(subscriber) or "", BOT))

    cursors: list[Cursor] = []
    hub = make_hub(pause=look, fan_out_slice=1)
    hub.position = Position(at(3), SIGNER)
    subscriber, _ = join(hub, since=at(2))
    run(hub.deliver(page(seen(0)), Position(at(3), SIGNER)))
    join(hub, since=at(2))
    run(hub.deliver(page(seen(0), event(1, 14)), Position(end, SIGNER)))
    assert cursors == [at(3).naming(end.anchor)]
    hub.unsubscribe(subscriber)
    assert hub.cursor_of(subscriber) == "told"


def test_fan_out_in_slices() -> None:
    """Between slices others get a turn; who leaves then gets nothing more, who comes waits."""
    turns: list[Callable[[], object]] = []

    async def pause() -> None:
        turns.pop(0)()

    hub = make_hub(pause=pause, fan_out_slice=2)
    joined = [join(hub) for _ in range(6)]
    late, _ = make_subscriber()

    def some_leave() -> None:
        for subscriber, sink in joined:
            if not sink.messages:
                hub.unsubscribe(subscriber)
        hub.subscribe(late)

    turns += [lambda: None, some_leave]
    read(hub, at(10), "c", event(1, 10))
    assert sorted(len(sink.ids) for _, sink in joined) == [0, 0, 1, 1, 1, 1]
    assert late.go_live() == []
    assert turns == []


# Ejections.


def test_cut_off_before_the_events() -> None:
    """A revoked socket is sent its final message and no event of this read or a later one."""
    asked = Asked()
    hub = make_hub(asked)
    (subscriber, sink), (_, other) = join(hub), join(hub, GRACE)
    revoke = access_change(9, 10, final_message=FINAL_MESSAGE)
    read(hub, at(10), "c", revoke, event(1, 5))
    read(hub, at(11), "d", event(2, 11))
    assert sink.messages == [{"id": "9-0", "type": "permission_change"}]
    assert (other.ids, sink.closed, asked) == ([1, 2], None, [(subscriber, revoke)])
    hub.dismiss(subscriber, 4003, "access ended")
    assert sink.closed == (4003, "access ended")


def test_the_end_of_a_bot_comes_before_its_permissions() -> None:
    """Of one transaction, that is; what another revoked before stays before."""
    hub = make_hub(Asked())
    (_, ada), (_, grace) = join(hub), join(hub, GRACE)
    bot_deleted = '{"type":"bot_update"}'
    read(
        hub,
        at(11),
        "c",
        access_change(5, 9, user_id=GRACE, final_message=FINAL_MESSAGE),
        access_change(6, 10, user_id=ADA, final_message=FINAL_MESSAGE),
        access_change(7, 10, user_id=None, final_message=bot_deleted),
    )
    assert grace.messages == [{"id": "5-0", "type": "permission_change"}]
    assert ada.messages == [{"id": "7-0", "type": "bot_update"}]


@pytest.mark.parametrize(
    ("topic", "user_id", "who"),
    [
        (BOT, ADA, {"ada here"}),
        (None, ADA, {"ada here", "ada there"}),
        (BOT, None, {"ada here", "grace here"}),
        (None, None, {"ada here", "ada there", "grace here"}),
        (BOT, "nobody", set()),
        ("bot:empty", None, set()),
    ],
)
def test_whose_access_ends(topic: str | None, user_id: str | None, who: set[str]) -> None:
    """An access change is for a user or everyone, on a topic or all of them."""
    asked = Asked()
    hub = make_hub(asked)
    names = {
        join(hub)[0]: "ada here",
        join(hub, topic=OTHER_BOT)[0]: "ada there",
        join(hub, GRACE)[0]: "grace here",
    }
    read(hub, at(10), "c", access_change(1, 10, topic, user_id))
    assert {names[subscriber] for subscriber, _ in asked} == who


@pytest.mark.parametrize("user_id", [ADA, GRACE, None])
@pytest.mark.parametrize("is_covered", [False, True])
def test_revoked_while_joining(user_id: str | None, is_covered: bool) -> None:
    """An access change waits until it is known whose socket it is, and since when."""
    asked = Asked()
    hub = make_hub(asked)
    subscriber, sink = make_subscriber()
    hub.subscribe(subscriber)
    read(hub, at(11), "c", access_change(1, 11, user_id=user_id), event(2, 11))
    assert asked == []
    hub.identify(subscriber, ADA, "Ada")
    hub.go_live(subscriber, at(11) if is_covered else at(10))
    is_meant = user_id != GRACE and not is_covered
    assert bool(asked) == is_meant
    assert sink.ids == ([] if is_meant or is_covered else [2])


def test_revoked_before_it_came() -> None:
    """An earlier change that is read late does not close who was let in after it."""
    asked = Asked()
    hub = make_hub(asked)
    subscriber, _ = join(hub, since=at(19, 15))
    read(hub, at(17), "c", access_change(1, 10))
    assert (subscriber.state, asked) == (State.LIVE, [])
    read(hub, at(20), "d", access_change(2, 15))
    assert len(asked) == 1


def test_many_access_changes_give_way_to_others() -> None:
    """A thousand revokes in one statement do not stop the pings, nor one that ends a thousand."""
    pauses: list[None] = []

    async def pause() -> None:
        pauses.append(None)

    hub = make_hub(pause=pause, access_change_slice=2)
    read(hub, at(10), "c", *(access_change(number, 10, user_id=f"{number}") for number in range(5)))
    assert len(pauses) == 2
    for _ in range(7):
        join(hub)
    read(hub, at(11), "d", access_change(9, 11))
    assert len(pauses) == 6
    for one in hub.subscribers:
        hub.unsubscribe(one)
    for _ in range(8):
        hub.subscribe(make_subscriber()[0])
    read(hub, at(12), "e", grant_row(12, BOT, ADA))
    assert len(pauses) == 11


def test_what_a_transaction_repeats_is_applied_once() -> None:
    """Each of a user's thousand teams says that all of their access ends; their sockets are many.

    What it says of others, or another way, counts.
    """
    told: list[AccessChange] = []

    class Told(HubObserver):
        def access_changed(self, change: AccessChange) -> None:
            told.append(change)

    hub = make_hub()
    hub.add_observer(Told())
    first = access_change(1, 10, None)
    others = (
        access_change(5, 10, None, GRACE),
        access_change(6, 10, BOT),
        access_change(7, 10, None, is_recheck=True),
        access_change(8, 10, None, final_message=FINAL_MESSAGE),
        access_change(9, 11, None),
    )
    again = (first._replace(id=number, written_at=number) for number in (2, 3, 4))
    read(hub, at(11), "c", first, *again, *others)
    assert told == [first, *others]


def test_a_page_of_grants_is_held_by_those_whom_they_name() -> None:
    """However many other subscriptions their user has."""
    hub = make_hub()
    ones = [join(hub, topic=topic)[0] for topic in (BOT, OTHER_BOT, "bot:b3")]
    for one in ones:
        one.pause(None)
    grants = [grant_row(10, BOT, ADA), grant_row(10, "bot:b3", ADA), grant_row(10, BOT, GRACE)]
    read(hub, at(10), "c", *grants)
    assert [one.go_live() for one in ones] == [grants[:1], [], grants[1:2]]
