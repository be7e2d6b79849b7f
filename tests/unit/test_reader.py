"""Tests of `realtime.relay.reader`: reading a log through everything that may break it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence, Set
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.relay.carried import Inbox
from realtime.relay.counters import Counters
from realtime.relay.cursor import Anchor, Cursor, Signer, parse_cursor
from realtime.relay.errors import Refused
from realtime.relay.events import Event, Page, RowKey
from realtime.relay.hub import Hub
from realtime.relay.large_read import LargeLimits
from realtime.relay.pace import DEFAULT_LIMITS, PaceLimits, PaceState
from realtime.relay.position import Position
from realtime.relay.protocol import SOCKET_TOPIC
from realtime.relay.reader import STUCK_SECONDS, LogSource, Reader
from realtime.relay.refusals import Refusals
from realtime.relay.resume import GapReason, Unrecoverable
from realtime.relay.turns import PORTION_SECONDS
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    HISTORY,
    OTHER_BOT,
    SIGNER,
    Asked,
    FakeDatabase,
    RecordingSink,
    access_change,
    at,
    event,
    grant_row,
    join,
    make_hub,
    make_relay,
    page,
    run,
    seen,
)
from tests.waiting import eventually

END = at(8)
MOST_TOLD = 100
"""What is done more often would be done for ever, and nothing here gives a time limit its turn."""


class Pages:
    """A log whose every read returns the same pages, and breaks after them where told to."""

    def __init__(self, *pages: Page, breaks: bool = False) -> None:
        self.pages = pages
        self.breaks = breaks
        self.lost: Unrecoverable | None = None
        """What the next read raises."""
        self.cursors: list[Cursor] = []
        self.newest: Anchor | None = None
        """Which row must be there for the latest read."""

    async def start(self) -> Position:
        return Position(END, SIGNER)

    async def payloads(
        self, keys: Sequence[RowKey], cursor: Cursor, newest: Anchor | None
    ) -> list[Event]:
        self.newest = newest
        if self.lost is not None:
            lost, self.lost = self.lost, None
            raise lost
        return [event(key.id, key.xid) for key in keys]

    @property
    def portion_bytes(self) -> int:
        return 0

    async def read(
        self, cursor: Cursor, newest: Anchor | None, ahead: Set[Anchor]
    ) -> AsyncGenerator[Page, None]:
        self.cursors.append(cursor)
        self.newest = newest
        if self.lost is not None:
            lost, self.lost = self.lost, None
            raise lost
        for one in self.pages:
            yield one
        if self.breaks:
            raise ConnectionError("cut")


def cursor_of(hub: Hub) -> Cursor:
    return hub.position.cursor


def test_begins_where_it_is_told() -> None:
    """Before anything is read, every socket is where the relay begins."""
    hub = make_hub()
    relay = make_relay(hub, at(5, 3))
    assert cursor_of(hub) == at(5, 3)
    assert relay.lineage.database == HISTORY


def test_goes_on_after_what_it_read() -> None:
    """Each read begins where the last one ended, and its last event carries that place.

    The first one carries the place from before, by who has seen the newest row.
    """
    hub = make_hub()
    relay = make_relay(hub, at(5))
    _, sink = join(hub)
    log = Pages(page(seen(12, 8), event(1, 9), event(2, 6)))
    run(relay.catch_up(log))
    run(relay.catch_up(log))
    after = Cursor(9, (8,), Anchor(9, 1, 0))
    assert log.cursors == [at(5), after]
    assert log.newest == Anchor(9, 1, 0)
    assert [SIGNER.read(one, BOT) for one in sink.cursors[:2]] == [
        at(5).naming(after.anchor),
        after,
    ]
    assert cursor_of(hub) == after


def test_a_read_in_pages() -> None:
    """Each page's cursor names the newest row so far; only the last one's covers any of them."""
    hub = make_hub()
    relay = make_relay(hub, at(5))
    _, sink = join(hub)
    pages = [
        page(seen(12), is_last=False),
        page(seen(12), event(1, 11), is_last=False),
        page(seen(12), event(2, 6)),
    ]
    run(relay.catch_up(Pages(*pages)))
    first, last = (SIGNER.read(text, BOT) for text in sink.cursors)
    assert first == Cursor(5, (), Anchor(11, 1, 0))
    assert last == cursor_of(hub) == Cursor(11, (), Anchor(11, 1, 0))


def test_a_grant_counts() -> None:
    """A read that found nothing but a grant has come as far as that: it is not found again."""
    hub = make_hub()
    relay = make_relay(hub, at(5))
    subscriber, _ = join(hub, since=at(7))
    log = Pages(page(seen(9))._replace(grants=(grant_row(7, None, None),)))
    run(relay.catch_up(log))
    run(relay.catch_up(log))
    assert log.cursors == [at(5), at(7)]
    assert hub.cursor_of(subscriber) == SIGNER.write(at(7), BOT)


NOTHING_AT_ONCE = LargeLimits(pages=0, topics=1, events=2)


def large_read(
    *topics: str, clock: Callable[[], float] = lambda: 0.0
) -> tuple[FakeDatabase, Hub, Reader, list[RecordingSink]]:
    """A log in which one transaction has written more than one answer holds, much on one topic
    and little on another; and a socket for each of the given topics. It was read, not listed."""
    log = FakeDatabase(page_rows=3)
    hub = make_hub(clock=clock)
    relay = make_relay(hub, log.place(), large=NOTHING_AT_ONCE)
    sinks = [join(hub, topic=topic)[1] for topic in topics]
    write(log, BOT, BOT, BOT, OTHER_BOT, BOT)
    run(relay.catch_up(log))
    return log, hub, relay, sinks


def write(log: FakeDatabase, *topics: str) -> None:
    xid = log.begin()
    for topic in topics:
        log.write(xid, topic)
    log.commit(xid)


def finish(log: FakeDatabase, hub: Hub, relay: Reader) -> None:
    for _ in while_it_holds(lambda: bool(hub.backlog)):
        run(relay.list_some(log))
        run(relay.send_portion(log))
    assert not relay.is_listing


def while_it_holds(condition: Callable[[], bool]) -> Iterator[None]:
    """Go on while it does, but not for ever."""
    for _ in range(MOST_TOLD):
        if not condition():
            return
        yield
    pytest.fail("it does not end")


def test_a_large_read_holds_up_only_the_topics_that_it_found_much_of() -> None:
    """What is written later to another goes out before it is even listed, and covers it."""
    log, hub, relay, (of_large, of_few, of_none) = large_read(BOT, OTHER_BOT, SOCKET_TOPIC)
    write(log, BOT, SOCKET_TOPIC)
    run(relay.catch_up(log))
    assert of_none.ids == [7]
    assert SIGNER.read(of_none.cursors[0], SOCKET_TOPIC) == cursor_of(hub) == log.place()
    run(relay.send_portion(log))
    assert of_few.ids == [4]
    assert of_large.ids == []
    finish(log, hub, relay)
    assert of_large.ids == [1, 2, 3, 5, 6]
    assert SIGNER.read(of_large.cursors[-1], BOT) == cursor_of(hub)


def test_a_listing_that_breaks_goes_on_where_it_was() -> None:
    """Nothing is sent twice, and nothing is left out, also of what was written since."""
    log, hub, relay, [sink] = large_read(BOT)
    run(relay.list_some(log))
    write(log, BOT)
    log.breaks_after = 0
    with pytest.raises(ConnectionError):
        run(relay.list_some(log))
    run(relay.catch_up(log))
    finish(log, hub, relay)
    assert sink.ids == [1, 2, 3, 5, 6]


def test_large_reads_take_turns() -> None:
    """The second does not wait until all of the first is listed."""
    log, hub, relay, (first, second) = large_read(BOT, OTHER_BOT)
    write(log, *[BOT] * 8)
    run(relay.catch_up(log))
    write(log, *[OTHER_BOT] * 3)
    run(relay.catch_up(log))
    for _ in while_it_holds(lambda: len(second.ids) < 4):
        run(relay.list_some(log))
        run(relay.send_portion(log))
    assert relay.is_listing
    assert len(first.ids) < 12
    finish(log, hub, relay)
    assert first.ids == [1, 2, 3, 5, *range(6, 14)]


def test_while_a_topic_is_listed_only_those_are_sent_to_who_can_take_it() -> None:
    """Nobody can be left to go on alone with all that it is owed before that is known."""
    now = [0.0]
    log, hub, relay, [sink] = large_read(BOT, clock=lambda: now[0])
    for _ in while_it_holds(lambda: relay.is_listing):
        run(relay.list_some(log))
    write(log, *[BOT] * 4)
    run(relay.catch_up(log))
    sink.is_waiting = True
    now[0] = PORTION_SECONDS
    assert run(hub.next_portion(10, 10)) is None
    for _ in while_it_holds(lambda: relay.is_listing):
        run(relay.list_some(log))
    assert run(hub.next_portion(10, 10)) is not None


def test_a_listing_ends_with_the_history_that_it_is_of() -> None:
    """Where the relay starts over, nothing is listed any more."""
    log, hub, relay, _ = large_read(BOT)
    relay.start_over(Position(log.place(), SIGNER), GapReason.TOO_OLD)
    assert not relay.is_listing
    assert not hub.backlog


class Bell:
    """Is waited for some times, and then not heard any more; notes what it is told."""

    def __init__(self, waits: int = 0, *, is_ok: bool = True) -> None:
        self.waits = waits
        self.is_ok = is_ok
        self.told: list[str] = []
        self.inbox = Inbox(Counters(lambda: 0.0))

    async def wait(self, seconds: float) -> None:
        if not self.waits:
            raise ConnectionResetError
        self.waits -= 1
        self.note("wait")

    async def pause(self, seconds: float) -> None:
        self.note("pause")

    async def silence(self) -> None:
        self.note("silence")

    async def ring_on(self) -> int:
        self.note("ring on")
        return 8

    async def fence(self) -> int:
        self.note("fence")
        return 8

    async def check(self) -> bool:
        self.note("is it on?")
        return self.is_ok

    def note(self, what: str) -> None:
        self.told.append(what)
        assert len(self.told) <= MOST_TOLD, f"it does not end: {self.told[:10]}"


def test_runs_until_nothing_is_heard() -> None:
    """The relay reads once for each step, the first of which is to switch the bell on."""
    log, bell = Pages(page(seen(9))), Bell(2)
    with pytest.raises(ConnectionResetError):
        run(make_relay(make_hub(), at(5)).run(log, bell))
    assert bell.told == ["ring on", "wait", "wait"]
    assert len(log.cursors) == 3


class Lull(Pages):
    """Two transactions at once, and then nothing more."""

    async def read(
        self, cursor: Cursor, newest: Anchor | None, ahead: Set[Anchor]
    ) -> AsyncGenerator[Page, None]:
        self.cursors.append(cursor)
        is_first = len(self.cursors) == 1
        yield page(seen(9), event(1, 6), event(2, 7)) if is_first else page(seen(9))


def test_polls_while_busy() -> None:
    """It silences the bell, reads on in short pauses, and switches it on before it sleeps."""
    bell = Bell()
    limits = PaceLimits(busy_transactions=2)
    relay = make_relay(make_hub(), at(5), limits=limits)
    assert relay.state is PaceState.ASLEEP
    with pytest.raises(ConnectionResetError):
        run(relay.run(Lull(), bell))
    pauses = ["pause"] * (DEFAULT_LIMITS.quiet_reads - 1)
    assert bell.told == ["ring on", "silence", *pauses, "ring on"]
    assert relay.state is PaceState.ASLEEP


@pytest.mark.parametrize("is_ok", [True, False])
def test_looks_at_the_bell(is_ok: bool) -> None:
    """Where it is not as it should be while the relay sleeps, it is switched on again."""
    limits = PaceLimits(safety_seconds=0.0)
    bell = Bell(is_ok=is_ok)
    log = Pages(page(seen(9)), breaks=False)
    bell.check = ends_after(2, bell.check)  # type: ignore[method-assign]
    with pytest.raises(ConnectionResetError):
        run(make_relay(make_hub(), at(5), limits=limits).run(log, bell))
    mended = [] if is_ok else ["ring on"]
    assert bell.told == ["ring on", "is it on?", *mended, "is it on?", *mended]


def ends_after(times: int, act: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    """The same, and then the connection is gone."""
    left = iter(range(times))

    async def act_or_end() -> bool:
        if next(left, None) is None:
            raise ConnectionResetError
        return await act()

    return act_or_end


# Delivered ahead of a read.

SLEEPY = PaceLimits(confirm_seconds=0.0)


class Carrying(Bell):
    """Rings carry what each wait is given, after the fence."""

    def __init__(self, *rings: Sequence[str], epoch: str = "7.3") -> None:
        super().__init__(len(rings))
        self.rings = list(rings)
        self.epoch = epoch

    async def ring_on(self) -> int:
        self.inbox.open(self.epoch)
        return await super().ring_on()

    async def fence(self) -> int:
        self.inbox.open(self.epoch)
        return await super().fence()

    async def wait(self, seconds: float) -> None:
        await super().wait(seconds)
        for ring in self.rings.pop(0):
            self.inbox.hear(ring)


def carried(row: Event, epoch: str = "7.3") -> str:
    author = row.author or "-"
    return f"{epoch} {row.id} {row.xid} {row.written_at} {author} {row.topic} {row.payload}"


def relayed(
    bell: Bell,
    *pages: Page,
    limits: PaceLimits = DEFAULT_LIMITS,
    echoes_to_author: bool = True,
) -> tuple[Any, Pages]:
    """What a socket is sent, while the log has those pages, one a read."""
    hub = make_hub(asked := Asked(), echoes_to_author=echoes_to_author)
    _, sink = join(hub, knows_cursors=True)
    log = InTurn(*pages)
    with pytest.raises(ConnectionResetError):
        run(make_relay(hub, at(5), limits=limits).run(log, bell))
    sink.asked = asked
    return sink, log


class InTurn(Pages):
    """A log whose reads return one page each, and then nothing more."""

    async def read(
        self, cursor: Cursor, newest: Anchor | None, ahead: Set[Anchor]
    ) -> AsyncGenerator[Page, None]:
        self.cursors.append(cursor)
        self.newest = newest
        if self.lost is not None:
            self.lost, lost = None, self.lost
            raise lost
        number = len(self.cursors) - 1
        yield self.pages[number] if number < len(self.pages) else page(seen(99))


def test_what_a_ring_carries_comes_without_a_read_and_once() -> None:
    """The read that confirms it does not bring it again.

    It asks for the row, and for the one that a read had returned before: if the log was restored in
    place, only that one is missing.
    """
    first, second = event(1, 20), event(2, 21)
    bell = Carrying([carried(first)], [carried(second)], [])
    sink, log = relayed(bell, page(seen(9)), page(seen(30), first, second))
    assert sink.ids == [1, 2]
    assert len(log.cursors) == 2
    assert log.cursors[1].anchor == second.anchor
    assert log.newest == at(5).anchor
    assert parse_cursor(sink.cursors[0])[1].anchor == first.anchor


class Writing(Carrying):
    """Something is written while it is waited for."""

    def __init__(self, *acts: Callable[[], Sequence[str]]) -> None:
        super().__init__(*[[] for _ in acts])
        self.acts = list(acts)

    async def wait(self, seconds: float) -> None:
        await super().wait(seconds)
        for ring in self.acts.pop(0)():
            self.inbox.hear(ring)


def test_a_topic_of_which_rings_carried_all_waits_for_no_large_read() -> None:
    """The read finds as many of its rows as of one that has more; listed, none is to be sent."""
    log, hub = FakeDatabase(page_rows=3), make_hub()
    relay = make_relay(hub, log.place(), large=NOTHING_AT_ONCE)
    of_carried, of_large = (join(hub, topic=topic)[1] for topic in (BOT, OTHER_BOT))

    def single() -> list[str]:
        write(log, BOT)
        row = log.committed[-1]
        assert isinstance(row, Event)
        return [carried(row)]

    def many() -> list[str]:
        write(log, *[OTHER_BOT] * 9)
        return ["messages"]

    with pytest.raises(ConnectionResetError):
        run(relay.run(log, Writing(single, single, single, many, *[lambda: []] * 9)))
    finish(log, hub, relay)
    assert (of_carried.ids, of_large.ids) == ([1, 2, 3], list(range(4, 13)))


def test_what_is_owed_does_not_wait_for_rings_that_carry() -> None:
    """However many come: while something is still to be delivered, each has the log read."""
    log, hub = FakeDatabase(page_rows=3), make_hub()
    relay = make_relay(hub, log.place(), large=NOTHING_AT_ONCE)
    of_large, of_carried = (join(hub, topic=topic)[1] for topic in (BOT, OTHER_BOT))

    def many() -> list[str]:
        write(log, *[BOT] * 9)
        return ["messages"]

    def single() -> list[str]:
        write(log, OTHER_BOT)
        row = log.committed[-1]
        assert isinstance(row, Event)
        return [carried(row)]

    with pytest.raises(ConnectionResetError):
        run(relay.run(log, Writing(many, *[single] * 12)))
    assert (of_large.ids, of_carried.ids) == (list(range(1, 10)), list(range(10, 22)))


def test_what_a_ring_carries_is_not_echoed_to_its_author() -> None:
    """ECHO_TO_AUTHOR=false holds ahead of a read, too."""
    own, others = event(1, 20, author=ADA), event(2, 21, author="somebody")
    bell = Carrying([carried(own), carried(others)], [])
    sink, _ = relayed(bell, page(seen(9)), page(seen(30), own, others), echoes_to_author=False)
    assert sink.ids == [2]


@pytest.mark.parametrize(
    "rings",
    [
        ["messages", carried(event(1, 20))],
        [carried(event(1, 20), epoch="7.4")],
        [carried(event(1, 20), epoch="7.4"), carried(event(1, 20))],
        ["1 20 0 3 - bot:b1"],
        ["x 1 20 3 - bot:b1 {}"],
        ["7.3 x 20 3 - bot:b1 {}"],
    ],
)
def test_what_counts_as_bare_waits_for_a_read(rings: list[str]) -> None:
    """After a bare ring, with another epoch, or in no form that is known."""
    sink, log = relayed(Carrying(rings), page(seen(9)), page(seen(30), event(2, 19), event(1, 20)))
    assert sink.ids == [2, 1]
    assert len(log.cursors) == 2


def test_what_was_heard_before_a_bare_ring_comes_first() -> None:
    """And the read follows at once."""
    rings = [carried(event(1, 20)), "permissions", carried(event(3, 22))]
    pages = page(seen(9)), page(seen(30), event(1, 20), event(2, 21), event(3, 22))
    sink, log = relayed(Carrying(rings), *pages)
    assert sink.ids == [1, 2, 3]
    assert len(log.cursors) == 2


def test_who_is_fenced_delivers_nothing_ahead() -> None:
    """Somebody below the fence may have written without a ring."""
    fenced = page(seen(9, 7))
    sink, log = relayed(Carrying([carried(event(1, 20))]), fenced, page(seen(30), event(1, 20)))
    assert sink.ids == [1]
    assert len(log.cursors) == 2


def test_a_read_has_brought_what_is_heard_later() -> None:
    """The ring of a transaction that the cursor covers says nothing new."""
    bell = Carrying([carried(event(1, 8))], [])
    sink, log = relayed(bell, page(seen(9), event(2, 8), event(3, 8)))
    assert sink.ids == [2, 3]
    assert len(log.cursors) == 2


def test_what_was_heard_and_is_not_in_the_log_means_another_history() -> None:
    """Also where the newest row is there: a crash may have forgotten the one and not the other."""
    rings = [carried(event(1, 20)), carried(event(2, 21))]
    sink, _ = relayed(Carrying(rings, [], []), page(seen(9)), page(seen(30), event(2, 21)))
    assert sink.ids == [1, 2]
    assert [subscriber.gap for subscriber, _ in sink.asked] == ["foreign"]


def test_the_same_numbers_at_another_time_are_another_row() -> None:
    """Ids of transactions that a crash forgot are given out again."""
    forgotten, other = event(1, 20)._replace(written_at=5), event(1, 20)._replace(written_at=6)
    sink, _ = relayed(Carrying([carried(forgotten)], []), page(seen(9)), page(seen(30), other))
    assert [subscriber.gap for subscriber, _ in sink.asked] == ["foreign"]


def test_confirmed_not_later_than_a_second_after_the_first() -> None:
    """However many more come."""
    rings = [[carried(event(number, 20 + number))] for number in range(3)]
    pages = [page(seen(21 + number), event(number, 20 + number)) for number in range(3)]
    sink, log = relayed(Carrying(*rings), page(seen(20)), *pages, limits=SLEEPY)
    assert sink.ids == [0, 1, 2]
    assert len(log.cursors) == 4


def silences(late: float, latest: float, *, is_carried: bool) -> int:
    """How often the bell is silenced where a quarter of a busy number is found, each so late."""
    count = DEFAULT_LIMITS.busy_transactions // 4
    now = 1000.0
    written = [round(1e6 * (now - ago)) for ago in [late] * (count - 1) + [latest]]
    rows = [event(n, 20 + n)._replace(written_at=at) for n, at in enumerate(written)]
    rings = [carried(row) for row in rows] if is_carried else [""]
    counters = Counters(lambda: now)
    hub = make_hub()
    relay = make_relay(hub, at(5), clock=lambda: now, counters=counters)
    with pytest.raises(ConnectionResetError):
        run(relay.run(InTurn(page(seen(9)), page(seen(99), *rows)), Carrying(rings, [])))
    return counters.silences


@pytest.mark.parametrize("is_carried", [True, False])
def test_events_that_waited_for_each_other_silence_the_bell_sooner(is_carried: bool) -> None:
    """As where commits that ring are slow, and only so many come. It matters not how they come."""
    waited = 4 * DEFAULT_LIMITS.waited_seconds
    assert silences(waited, waited, is_carried=is_carried) == 1
    assert silences(0.0, 0.0, is_carried=is_carried) == 0


@pytest.mark.parametrize("is_carried", [True, False])
def test_events_that_waited_for_this_process_silence_nothing(is_carried: bool) -> None:
    """The latest of them has not waited; so commits do not wait for each other."""
    waited = 4 * DEFAULT_LIMITS.waited_seconds
    assert silences(waited, 0.0, is_carried=is_carried) == 0


def test_a_new_connection_has_to_pass_a_fence() -> None:
    """What was delivered over the one before is still not brought again."""
    hub = make_hub()
    _, sink = join(hub)
    relay = make_relay(hub, at(5))
    log = InTurn(page(seen(9)), page(seen(30, 7), event(1, 20)), page(seen(30, 7)))
    for bell in (Carrying([carried(event(1, 20))]), Carrying([carried(event(2, 31))])):
        with pytest.raises(ConnectionResetError):
            run(relay.run(log, bell))
    assert sink.ids == [1]


def test_nothing_comes_ahead_where_clients_could_not_be_told_where_they_are() -> None:
    """Of so many open transactions no cursor has a text: the event comes with the read."""
    row, crowded = event(1, 5000), at(4000, *range(10, 4000, 2))
    hub = make_hub()
    _, sink = join(hub, knows_cursors=True)
    log = InTurn(page(seen(4001, *crowded.open)), page(seen(6000), row))
    with pytest.raises(ConnectionResetError):
        run(make_relay(hub, crowded).run(log, Carrying([carried(row)], [])))
    assert sink.ids == [1]
    assert len(sink.cursors) == 1


def test_a_ring_of_another_epoch_is_followed_by_another_fence() -> None:
    """Until then rings are bare: what was written while the bell was silent comes first."""
    bell = Carrying([carried(event(1, 20), epoch="7.4")], [])
    relayed(bell, page(seen(9)), page(seen(30)), limits=PaceLimits(fence_seconds=0.0))
    assert bell.told[:3] == ["ring on", "wait", "fence"]


def test_what_is_kept_is_bounded() -> None:
    """The rest counts as bare."""
    inbox = Inbox(counters := Counters(lambda: 0.0), max_bytes=10)
    inbox.open("7.3")
    inbox.read_is_sent()
    for number in range(20):
        inbox.hear(carried(event(number, number)._replace(payload='{"a":1}')))
    assert len(inbox.take()) == 1
    assert inbox.is_bare
    assert counters.bare == 19


def test_what_was_heard_before_a_fence_is_left_to_a_read() -> None:
    """What must come before it may have been written while the bell was silent."""
    inbox = Inbox(Counters(lambda: 0.0))
    inbox.open("7.3")
    inbox.read_is_sent()
    inbox.hear(carried(event(1, 20)))
    inbox.open("7.3")
    assert inbox.is_bare
    inbox.hear(carried(event(2, 21)))
    assert inbox.take() == []


def test_the_same_ring_twice_brings_its_event_once() -> None:
    """Also where no read has confirmed the first one yet."""
    ring = carried(event(1, 20))
    bell = Carrying([ring, ring], [ring], [])
    sink, _ = relayed(bell, page(seen(9)), page(seen(30), event(1, 20)))
    assert sink.ids == [1]


def test_a_large_read_looks_for_what_rings_carried_also_where_nobody_waits_for_it() -> None:
    """Nothing of it is to be sent, so only what was carried tells that this is another history."""
    log, hub = FakeDatabase(page_rows=3), make_hub(asked := Asked())
    relay = make_relay(hub, log.place(), large=NOTHING_AT_ONCE)
    _, sink = join(hub, knows_cursors=True)

    def single() -> list[str]:
        write(log, BOT)
        row = log.committed[-1]
        assert isinstance(row, Event)
        return [carried(row)]

    def many_and_one_forgotten() -> list[str]:
        del log.committed[0]
        write(log, *[OTHER_BOT] * 9)
        return ["messages"]

    bell = Writing(single, single, many_and_one_forgotten, *[lambda: []] * 9)
    with pytest.raises(ConnectionResetError):
        run(relay.run(log, bell))
    assert sink.ids == [1, 2]
    assert [subscriber.gap for subscriber, _ in asked] == ["foreign"]


# Starting over.

BROKEN = page(seen(12, 8), access_change(2, 10, user_id=GRACE), is_last=False)
ELSEWHERE = Signer(HISTORY._replace(timeline=2), SIGNER.keys)


def test_what_it_had_not_read_is_gone() -> None:
    """Where the log does not go back far enough, the relay goes on from its end, and says so."""
    hub = make_hub(asked := Asked())
    reported: list[GapReason] = []
    relay = make_relay(hub, at(5), on_missed=reported.append)
    join(hub, knows_cursors=True)
    log = Pages(page(seen(9)))
    log.lost = Unrecoverable(GapReason.TOO_OLD)
    with pytest.raises(ConnectionResetError):
        run(relay.run(log, Bell(1)))
    assert reported == [GapReason.TOO_OLD]
    assert log.cursors == [at(5), END]
    assert cursor_of(hub) == END
    assert [subscriber.gap for subscriber, _ in asked] == ["too_old"]


def test_another_history() -> None:
    """On another database what was read before means nothing, broken reads included."""
    hub = make_hub()
    relay = make_relay(hub, at(5))
    with pytest.raises(ConnectionError):
        run(relay.catch_up(Pages(BROKEN, breaks=True)))
    relay.start_over(Position(at(7), ELSEWHERE), GapReason.FOREIGN)
    _, sink = join(hub)
    run(relay.catch_up(log := Pages(page(seen(13), event(1, 9), event(2, 10)))))
    assert (log.cursors, log.newest, sink.ids) == ([at(7)], at(7).anchor, [1, 2])
    assert parse_cursor(sink.cursors[-1])[0] == ELSEWHERE.database


def test_what_was_heard_of_the_history_before_is_not_delivered() -> None:
    """Nor looked for: it rang while the read was out that found another history."""
    bell = Carrying(["messages"], [], [])
    reported: list[GapReason] = []

    class Restored(InTurn):
        async def read(
            self, cursor: Cursor, newest: Anchor | None, ahead: Set[Anchor]
        ) -> AsyncGenerator[Page, None]:
            if len(self.cursors) == 1:
                self.lost = Unrecoverable(GapReason.FOREIGN)
                bell.inbox.hear(carried(event(1, 20)))
            async for one in super().read(cursor, newest, ahead):
                yield one

    hub = make_hub()
    relay = make_relay(hub, at(5), on_missed=reported.append)
    with pytest.raises(ConnectionResetError):
        run(relay.run(Restored(page(seen(9))), bell))
    assert reported == [GapReason.FOREIGN]
    assert cursor_of(hub).anchor == END.anchor


def test_the_place_before_the_gap() -> None:
    """Until it is told of the gap, a socket's place is the one from before it."""
    hub = make_hub()
    relay = make_relay(hub, at(5))
    subscriber, _ = join(hub, knows_cursors=True)
    run(relay.catch_up(Pages(page(seen(12), event(1, 9)))))
    before = hub.cursor_of(subscriber)
    relay.start_over(Position(at(50), SIGNER), GapReason.TOO_OLD)
    assert hub.cursor_of(subscriber) == before


@pytest.mark.parametrize("how", ["a page tells of a grant", "it starts over"])
def test_refusals_are_forgotten(how: str) -> None:
    """Whoever was refused may ask again once the log tells of a grant, or once it is not known."""
    refusals = Refusals(lambda: 0.0)
    refusals.remember(ADA, BOT, Refused(4003, "no"), refusals.generation)
    relay = make_relay(make_hub(), at(5), refusals)
    run(relay.catch_up(Pages(page(seen(9)))))
    assert refusals.find(ADA, BOT)
    if how == "it starts over":
        relay.start_over(Position(at(7), SIGNER), GapReason.TOO_OLD)
    else:
        run(relay.catch_up(Pages(page(seen(9))._replace(grants=(grant_row(1, BOT, ADA),)))))
    assert refusals.find(ADA, BOT) is None


def test_refusals_are_forgotten_before_an_event_is_sent() -> None:
    """Who is told of a grant by an event may come at once, and is not refused from memory."""
    refusals = Refusals(lambda: 0.0)
    refusals.remember(ADA, BOT, Refused(4003, "no"), refusals.generation)
    hub = make_hub()
    relay = make_relay(hub, at(5), refusals)
    _, sink = join(hub, GRACE)
    remembered: list[object] = []
    sink.take = lambda _frames: remembered.append(refusals.find(ADA, BOT))  # type: ignore[method-assign]
    found = page(seen(9), event(1, 7))._replace(grants=(grant_row(7, BOT, ADA),))
    run(relay.catch_up(Pages(found)))
    assert remembered == [None]


def test_a_read_that_has_begun_tells_nobody_that_no_grant_is_missing() -> None:
    """What was granted after its snapshot comes with the next one; that is waited for."""

    async def ask_within_a_read() -> None:
        refusals = Refusals(lambda: 0.0)
        relay = make_relay(make_hub(), at(5), refusals)
        asked: list[asyncio.Task[None]] = []

        class AskedMeanwhile(Pages):
            async def read(
                self, cursor: Cursor, newest: Anchor | None, ahead: Set[Anchor]
            ) -> AsyncGenerator[Page, None]:
                if not asked:
                    asked.append(asyncio.create_task(refusals.up_to_date()))
                await asyncio.sleep(0)
                yield page(seen(9))

        log = AskedMeanwhile()
        await relay.catch_up(log)
        await asyncio.wait(asked, timeout=0)
        await asyncio.sleep(0)
        assert not asked[0].done()
        await relay.catch_up(log)
        await asked[0]

    run(ask_within_a_read())


def test_what_any_statement_saw_must_be_there() -> None:
    """A row that an admission saw, or a page of a broken read, is looked for by the next read."""
    relay = make_relay(make_hub(), at(5))
    relay.lineage.saw(Anchor(7, 3, 1))
    log = Pages(page(seen(9)))
    run(relay.catch_up(log))
    assert (log.cursors, log.newest) == ([at(5)], Anchor(7, 3, 1))
    with pytest.raises(ConnectionError):
        run(relay.catch_up(Pages(BROKEN, breaks=True)))
    run(relay.catch_up(log))
    assert (log.cursors[-1], log.newest) == (at(5).naming(log.newest), Anchor(10, 2, 0))


def test_how_long_nothing_could_be_read() -> None:
    """A page ends that time, and so does a portion; a read that fails does not."""
    now = 0.0
    hub = make_hub()
    relay = make_relay(hub, at(5), clock=lambda: now)
    join(hub)
    now = 3.0
    assert relay.stuck_seconds == 3.0
    log = Pages(page(seen(9), event(1, 7)._replace(payload=None, size=9)))
    run(relay.catch_up(log))
    assert relay.stuck_seconds == 0.0
    now = 7.0
    log.lost = Unrecoverable(GapReason.TOO_OLD)
    with pytest.raises(Unrecoverable):
        run(relay.catch_up(log))
    assert relay.stuck_seconds == 4.0
    run(relay.send_portion(log))
    assert relay.stuck_seconds == 0.0
    now += STUCK_SECONDS
    assert not relay.is_stuck
    now += 1.0
    assert relay.is_stuck


def test_a_process_that_stood_still_is_not_stuck() -> None:
    """Nothing was tried meanwhile. What could not be read before that still counts."""
    now = 0.0
    relay = make_relay(make_hub(), at(5), clock=lambda: now)
    now = 103.0
    assert relay.is_stuck
    relay.stood_still(100.0)
    assert relay.stuck_seconds == 3.0
    relay.stood_still(100.0)
    assert relay.stuck_seconds == 0.0


# Being cancelled.


async def cancel_and_call_again(
    place: Cursor, log: LogSource, begin: Callable[[Reader], Coroutine[Any, Any, object]]
) -> None:
    """Cancel what delivers, and read again: none of three sockets is left without its event."""
    may_go_on = asyncio.Event()

    async def pause() -> None:
        await may_go_on.wait()

    hub = make_hub(pause=pause, fan_out_slice=1)
    relay = make_relay(hub, place)
    sinks = [join(hub)[1] for _ in range(3)]
    reading = asyncio.create_task(begin(relay))
    await eventually(lambda: any(sink.ids for sink in sinks))
    reading.cancel()
    await asyncio.wait([reading])
    may_go_on.set()
    await relay.catch_up(log)
    assert all(sink.ids for sink in sinks)


def test_cancelled_within_a_fan_out() -> None:
    """Cancelled while it delivers and called again, it leaves no socket without its event."""
    log = FakeDatabase()
    place = log.place()
    log.write(log.begin())
    log.commit(*log.running)
    run(cancel_and_call_again(place, log, lambda relay: relay.catch_up(log)))


def test_cancelled_while_it_delivers_what_a_ring_carried() -> None:
    """Who was not sent it ahead is sent it by the next read: it does not count as delivered."""
    row = event(1, 20)
    log, bell = InTurn(page(seen(9)), page(seen(30), row)), Carrying([carried(row)])
    run(cancel_and_call_again(at(5), log, lambda relay: relay.run(log, bell)))


# Everything at once.

STEP = st.sampled_from(
    ["begin", "write", "write", "write", "commit", "commit", "abort", "read", "break", "break"]
)
HISTORIES = st.lists(st.tuples(STEP, st.integers(0, 5)), max_size=60)


def take_step(log: FakeDatabase, relay: Reader, step: str, choice: int) -> None:
    """One step of a writer on one of the running transactions, or of the relay."""
    acts: dict[str, Callable[[int], object]] = {
        "write": log.write,
        "commit": log.commit,
        "abort": log.abort,
    }
    if step == "begin":
        log.begin()
    elif step in acts and log.running:
        acts[step](sorted(log.running)[choice % len(log.running)])
    elif step in ("read", "break"):
        log.breaks_after = choice if step == "break" else None
        try:
            run(relay.catch_up(log))
            if choice % 2:
                run(relay.list_some(log))
                run(relay.send_portion(log))
        except ConnectionError:
            assert step == "break"


BREAKS = [("begin", 0), *[("write", 0)] * 4, ("commit", 0), ("break", 2), ("read", 0)]


@given(HISTORIES, st.integers(1, 4), st.integers(0, 2), st.integers(1, 2))
@example([*BREAKS[:-1], ("begin", 0), ("abort", 0), BREAKS[-1]], 2, 0, 1).via("another snapshot")
@example(BREAKS, 2, 0, 1).via("the same snapshot")
@example([*BREAKS[:2], ("commit", 0), ("break", 3)], 1, 0, 1).via("a break within the listing")
@example([*BREAKS[:-2], ("read", 0)], 1, 1, 1).via("a page at once, and the rest later")
def test_exactly_once(
    history: list[tuple[str, int]], page_rows: int, pages: int, events: int
) -> None:
    """A live socket gets each committed event once, whatever is open and however reads break.

    And in an order consistent with commits: what a transaction saw committed comes before what it
    wrote.
    """
    log = FakeDatabase(page_rows=page_rows)
    hub = make_hub()
    relay = make_relay(hub, log.place(), large=LargeLimits(pages, topics=1, events=events))
    _, sink = join(hub, topic=BOT)
    for step, choice in [*history, ("read", 0)]:
        take_step(log, relay, step, choice)
    finish(log, hub, relay)
    assert sorted(sink.ids) == sorted(row.id for row in log.committed)
    committed_at = {row.id: log.committed_at[row.xid] for row in log.committed}
    for place, earlier in enumerate(sink.ids):
        assert all(log.written_at[earlier] < committed_at[later] for later in sink.ids[place:])
