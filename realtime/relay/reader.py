"""The central loop: woken by the bell, it reads what became visible and gives it to the hub.

`postgres.listener` runs it over the connection that is up. The position outlives connections: after
an outage, the first read returns everything that was committed meanwhile, once. `pace` decides when
to read next.
"""

import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence, Set
from contextlib import aclosing
from typing import NamedTuple, Protocol

from realtime.relay.carried import Ahead, Inbox
from realtime.relay.counters import Counters
from realtime.relay.cursor import Anchor, Cursor, Snapshot, newer
from realtime.relay.events import Event, Page, RowKey
from realtime.relay.hub import Hub
from realtime.relay.large_read import NOTHING_UNLISTED, LargeLimits, LargeRead, Unlisted
from realtime.relay.pace import DEFAULT_LIMITS, Action, Pace, PaceLimits, PaceState, Step
from realtime.relay.position import Lineage, Position
from realtime.relay.refusals import Refusals
from realtime.relay.resume import GapReason, Unrecoverable


class LogSource(Protocol):
    """Where events are read from; implemented by `postgres.event_log`."""

    def read(
        self, cursor: Cursor, newest: Anchor | None, ahead: Set[Anchor]
    ) -> AsyncGenerator[Page, None]:
        """Everything that the cursor does not cover, in one snapshot, at least one page.

        Where the last page has an `end`, the events are still to be listed.

        Args:
            newest: a row that was seen besides, and must be there.
            ahead: events that were delivered ahead of this read. Those that a page has `confirmed`
                it does not have among its events.

        Raises:
            Unrecoverable: some of it has been removed from the log, or this is another log.
        """
        ...

    async def listing(self, large: LargeRead, newest: Anchor | None) -> Page:
        """The next events of a large read, without payloads; none: those were all.

        Raises:
            Unrecoverable: as `read`.
        """
        ...

    async def first_of(
        self, topics: Sequence[str], number: int, large: LargeRead, newest: Anchor | None
    ) -> list[Event]:
        """Of each topic some events that a large read has, so many at most, without payloads.

        Raises:
            Unrecoverable: as `read`.
        """
        ...

    async def payloads(
        self, keys: Sequence[RowKey], cursor: Cursor, newest: Anchor | None
    ) -> list[Event]:
        """A portion of events with their payloads, in the order of the keys.

        Raises:
            Unrecoverable: as `read`.
        """
        ...

    @property
    def portion_bytes(self) -> int:
        """How many bytes of payloads to ask for at once."""
        ...

    async def start(self) -> Position:
        """The position of a reader that begins now."""
        ...


class Bell(Protocol):
    """What wakes the relay, and is silenced by it; implemented by `postgres.doorbell`.

    Each method raises one of `postgres.pool.DATABASE_ERRORS` when nothing can be heard any more.
    """

    async def wait(self, seconds: float) -> None:
        """Return when something may have been written since the last call, or after that time."""
        ...

    async def pause(self, seconds: float) -> None:
        """Return after that time, even if it rings."""
        ...

    async def silence(self) -> None:
        """Say that this process is awake, and silence the bell if all live processes are."""
        ...

    async def ring_on(self) -> int:
        """Say that this process sleeps, switch the bell on, and return a transaction id taken
        after that."""
        ...

    async def fence(self) -> int:
        """See that the bell is on, and return a transaction id taken after that."""
        ...

    async def check(self) -> bool:
        """See whether the bell rings and this process is known to sleep."""
        ...

    @property
    def inbox(self) -> Inbox:
        """What was heard since the last read was sent."""
        ...


_NOTHING_SEEN = Snapshot(0, frozenset())
DEFAULT_LARGE_LIMITS = LargeLimits()
STUCK_SECONDS = 15.0
"""The log is read every two seconds at least. After so long without an answer, it cannot be."""
PORTION_ROWS = 1000
"""How many events one portion has at most."""


class Found(NamedTuple):
    """The result of one read."""

    transactions: int
    """The number of transactions that had written something."""
    xmin: int
    """Every transaction with a lower id had ended."""
    waited: float = 0.0
    """How many extra transactions their delay counts for, all together: see `Pace.waited`."""


class Reader:
    """Reads the log from a cursor on and feeds the hub.

    Args:
        hub: who gets the events.
        refusals: who was refused lately. They learn of grants before any event is sent.
        lineage: which log it is, and what was seen of it.
        monotonic: seconds.
        counters: counts.
        limits: when to read the log next.
        on_missed: called with the reason where events of the log can not be had any more.
        large: how much of a large read is listed before anything else is read.
    """

    def __init__(
        self,
        hub: Hub,
        refusals: Refusals,
        lineage: Lineage,
        *,
        monotonic: Callable[[], float],
        counters: Counters | None = None,
        limits: PaceLimits = DEFAULT_LIMITS,
        on_missed: Callable[[GapReason], None] = lambda _reason: None,
        large: LargeLimits = DEFAULT_LARGE_LIMITS,
    ) -> None:
        self._limits = limits
        self._on_missed = on_missed
        self._large_limits = large
        self._large: deque[LargeRead] = deque()
        """The large reads whose events are still to be listed; it is the first one's turn."""
        self._numbers = itertools.count(1)
        self._counters = counters or Counters(monotonic)
        self._hub = hub
        self._refusals = refusals
        self._monotonic = monotonic
        self._pace = Pace(monotonic, limits)
        self.lineage = lineage
        self._ahead = Ahead()
        self._inbox = Inbox(self._counters)
        self._moved_at = monotonic()

    @property
    def position(self) -> Position:
        """How far the log has been read and delivered."""
        return self._hub.position

    def start_over(self, position: Position, reason: GapReason) -> None:
        """Go on from another position. What lies between is missed, and every socket is told."""
        self.lineage.start_over(position)
        self._large.clear()
        self._ahead = Ahead()
        self._inbox.close()
        self._refusals.forget_all()
        self._hub.lose_track(position, reason)

    @property
    def is_stuck(self) -> bool:
        """Whether nothing could be read for so long that it is more than a lost connection."""
        return self.stuck_seconds > STUCK_SECONDS

    @property
    def stuck_seconds(self) -> float:
        """How long nothing could be read: no page and no portion, nor that there is nothing."""
        return self._monotonic() - self._moved_at

    def stood_still(self, seconds: float) -> None:
        """The process itself did nothing for so long: nothing was tried, so nothing failed."""
        self._moved_at = min(self._moved_at + seconds, self._monotonic())

    @property
    def is_listing(self) -> bool:
        """Whether events of a large read are still to be listed."""
        return bool(self._large)

    @property
    def state(self) -> PaceState:
        """Whether it sleeps until the bell rings, or polls."""
        return self._pace.state

    async def run(self, log: LogSource, bell: Bell) -> None:
        """Relay until the connection is lost. Safe to cancel and to call again with another."""
        self._pace = Pace(self._monotonic, self._limits)
        self._inbox = bell.inbox
        step = self._pace.begin()
        while True:
            await self._take(step, bell)
            step = await self._deliver_ahead() or await self._read(log)

    async def _read(self, log: LogSource) -> Step:
        found = await self._catch_up_or_start_over(log)
        return self._pace.after_read(
            found.transactions, found.xmin, self._inbox.is_stale, found.waited
        )

    def _waited(self, events: Collection[Event], transactions: int) -> float:
        """How many extra transactions the delay of these events counts for.

        Each as if it had waited as long as the latest: where this process was held up, that one has
        not waited.
        """
        if not events:
            return 0.0
        return self._pace.waited(min(map(self._counters.age, events))) * transactions

    async def _deliver_ahead(self) -> Step | None:
        """Deliver what rings carried, without a read. None: a read is due.

        Only while it sleeps: then all is read that did not ring, or rang before the last read was
        sent. docs/design.md ("The event in the ring") has the rules.
        """
        if self._pace.state is not PaceState.ASLEEP or self._is_busy:
            return None
        heard = self._inbox.take()
        if not heard:
            return None
        position = self.position
        fresh = {
            anchor: event
            for event in heard
            if (anchor := event.anchor) not in self._ahead and not position.cursor.covers(event.xid)
        }
        transactions = len({anchor.xid for anchor in fresh})
        waited = self._waited(fresh.values(), transactions)
        if fresh:
            newest = max(fresh)
            position = position.naming(newest)
            if not position.has_text:
                return None  # clients could not be told where they are
            # The lineage has not seen it: the read that confirms it asks for what was read before,
            # which is not there where the log was restored in place.
            events = tuple(fresh.values())
            self._counters.heard(events)
            await self._hub.deliver(Page(_NOTHING_SEEN, (), events, is_last=False), position)
            self._ahead.add(fresh)
        step = self._pace.after_carried(transactions, waited)
        return None if self._inbox.is_bare else step

    @property
    def _is_busy(self) -> bool:
        """Whether something that was found is still to be delivered."""
        return self.is_listing or bool(self._hub.backlog)

    async def _take(self, step: Step, bell: Bell) -> None:
        match step.action:
            case Action.WAIT:
                due_in = 0.0 if self.is_listing else self._hub.due_in()
                await bell.wait(min(step.seconds, due_in))
            case Action.PAUSE:
                await bell.pause(0.0 if self._is_busy else step.seconds)
            case Action.SILENCE:
                await bell.silence()
                self._counters.silences += 1
                self._pace.silenced()
            case Action.FENCE:
                self._pace.fenced_anew(await bell.fence())
            case Action.CHECK:
                if await bell.check():
                    self._pace.checked()
                else:
                    self._pace.fenced(await bell.ring_on())
            case _:  # RING
                self._pace.fenced(await bell.ring_on())

    async def _catch_up_or_start_over(self, log: LogSource) -> Found:
        try:
            found = await self.catch_up(log)
            await self.list_some(log)
            await self.send_portion(log)
        except Unrecoverable as lost:
            # The process was away for longer than the log goes back, or the log is another one.
            self._on_missed(lost.reason)
            self.start_over(await log.start(), lost.reason)
            return Found(0, 0)
        return found

    async def send_portion(self, log: LogSource) -> None:
        """Deliver some of what was too much for one answer: no other topic waits for all of it."""
        portion = await self._hub.next_portion(log.portion_bytes, PORTION_ROWS)
        if portion is None:
            return
        topic, keys = portion
        events = await log.payloads(keys, self.position.cursor, self.lineage.newest)
        await self._hub.deliver_portion(topic, events)
        self._moved_at = self._monotonic()

    async def list_some(self, log: LogSource) -> None:
        """List a page of what a large read found. Large reads take turns."""
        if not self._large:
            return
        large = self._large[0]
        events = await self._list_page(log, large)
        self._hub.backlog.listed(events, large.number)
        if large.is_over:
            self._large.popleft()
            self._hub.backlog.end_listing(large.number)
        else:
            self._large.rotate(-1)

    async def _list_page(self, log: LogSource, large: LargeRead) -> Sequence[Event]:
        page = await log.listing(large, self.lineage.newest)
        self._moved_at = self._monotonic()
        fresh = large.take(page)
        self._count(page, fresh)
        return fresh.events

    async def catch_up(self, log: LogSource) -> Found:
        """Read once and deliver what was found."""
        number = self._refusals.read_begins()
        found = Found(0, 0)
        newest: Anchor | None = None
        unconfirmed = self._ahead.rows()
        self._inbox.read_is_sent()
        async with aclosing(
            log.read(self.position.cursor, self.lineage.newest, unconfirmed)
        ) as pages:
            async for page in pages:
                self._moved_at = self._monotonic()
                newest = newer(newest, page.newest)
                unconfirmed = unconfirmed - page.confirmed - {one.anchor for one in page.events}
                if unconfirmed and page.is_last and page.end is None:
                    raise Unrecoverable(GapReason.FOREIGN)  # what a ring carried was never there
                self.lineage.saw(newest)
                fresh = self._ahead.without(page)
                self._count(page, fresh)
                found = self._with_page(found, fresh)
                self._refusals.forget(page.grants)
                more = await self._hand_over(log, fresh, newest)
                found = found._replace(transactions=found.transactions + more)
        self._refusals.read_ends(number)
        return found

    def _count(self, page: Page, fresh: Page) -> None:
        self._counters.confirmed += len(page.confirmed) + len(page.events) - len(fresh.events)
        self._counters.found(fresh)

    def _with_page(self, found: Found, page: Page) -> Found:
        return Found(
            found.transactions + len(page.xids),
            page.snapshot.xmin,
            found.waited + self._waited(page.events, len(page.xids)),
        )

    async def _hand_over(self, log: LogSource, page: Page, newest: Anchor | None) -> int:
        """Deliver a page. Returns how many transactions were found besides.

        Args:
            newest: the newest row that the read has found so far.
        """
        if not page.is_last:
            await self._deliver(page, self.position.cursor.naming(newest))
            return 0
        cursor = self.position.cursor.after(page.snapshot, newest)
        self.lineage.saw(cursor.anchor)
        return await self._finish_read(log, page, cursor)

    async def _finish_read(self, log: LogSource, page: Page, cursor: Cursor) -> int:
        """Deliver the last page. Returns how many transactions were found besides."""
        listed: Sequence[Event] = ()
        if page.end is None:
            await self._deliver(page, cursor)
        else:
            listed = await self._set_aside(log, page, cursor)
        self._ahead = Ahead()  # all of it is found, and the cursor has moved past it
        return len({event.xid for event in listed})

    async def _set_aside(self, log: LogSource, page: Page, cursor: Cursor) -> Sequence[Event]:
        """Have the events of a large read listed while what comes after it is delivered.

        Nothing is handed to the hub before all has been asked: a read that breaks is repeated.
        Returns those events that were listed at once.
        """
        large = LargeRead(next(self._numbers), self.position.cursor, page.snapshot, self._ahead)
        listed: list[Event] = []
        for _ in range(self._large_limits.pages):
            listed += await self._list_page(log, large)
            if large.is_over:
                await self._deliver(page._replace(events=tuple(listed)), cursor)
                return listed
        events, topics = await self._look_into_topics(log, large)
        unlisted = Unlisted(topics, large.number)
        await self._deliver(page._replace(events=tuple(events)), cursor, unlisted)
        self._hub.backlog.listed(listed, large.number)
        if topics or large.has_due:
            self._large.append(large)
        return listed

    async def _look_into_topics(
        self, log: LogSource, large: LargeRead
    ) -> tuple[list[Event], list[str]]:
        """All events of the topics that have few of them, and which topics have more."""
        events: list[Event] = []
        unlisted: list[str] = []
        number = self._large_limits.events
        # Who comes to another topic now is admitted later than the read, and is owed nothing of it.
        for topics in _batches(self._hub.subscribers.topics(), self._large_limits.topics):
            found = await log.first_of(topics, number, large, self.lineage.newest)
            self._moved_at = self._monotonic()
            few, more = large.split(topics, found, number)
            events += few
            unlisted += more
        return events, unlisted

    async def _deliver(
        self, page: Page, cursor: Cursor, unlisted: Unlisted = NOTHING_UNLISTED
    ) -> None:
        await self._hub.deliver(page, Position(cursor, self.lineage.signer), unlisted)


def _batches(topics: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (topics[start : start + size] for start in range(0, len(topics), size))
