"""Which sockets are subscribed, and the sending of what a read of the log found.

The reader hands over pages; sockets subscribe, go live, and leave. All of it runs on one
thread. The coroutines are called by the reader alone, one at a time, and give way to others between
slices; whatever else is here is over when it returns.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

from realtime.relay import closing
from realtime.relay.closing import CloseCode
from realtime.relay.counters import Counters
from realtime.relay.cursor import Cursor
from realtime.relay.events import (
    AccessChange,
    AccessKind,
    Event,
    GapRecheck,
    Page,
    Pending,
    RowKey,
    ends_first,
    newest_of,
    once_each,
)
from realtime.relay.growing import GrowingAnswers
from realtime.relay.large_read import NOTHING_UNLISTED, Unlisted
from realtime.relay.observers import HubObserver, Observers
from realtime.relay.owed import Backlog, Owed
from realtime.relay.position import Position
from realtime.relay.protocol import SOCKET_TOPIC, Framer, bot_of, resync, stamp
from realtime.relay.resume import GapReason
from realtime.relay.slices import Slices
from realtime.relay.subscriber import Delivery, State, Subscriber, at_least
from realtime.relay.subscribers import Subscribers
from realtime.relay.turns import LIVE_BYTES, Turns

FAN_OUT_SLICE = 500
"""Sockets served before other tasks (pings, closes) get a turn; a few milliseconds of work."""
ACCESS_CHANGE_SLICE = 100
"""How many access changes, and sockets that they are about, come before other tasks get a turn."""


_OwedSince = dict[Cursor | None, Owed]
"""What sockets of a topic are owed, by their `since`."""


class Hub:
    """The sockets of this process, and what each of them is sent.

    Args:
        frame: that of the sinks that most sockets have.
        pause: awaited between the slices of a fan-out.
        position: where the reader begins.
        ask_again: called for each socket whose right must be checked again. It must do so, and
            then call `stay`, `refuse`, or (they have to come back) `dismiss`.
        monotonic: seconds.
        echoes_to_author: whether users are sent what they wrote themselves.
        counters: counts.
        fan_out_slice: how many sockets are served before other tasks get a turn.
        access_change_slice: how many access changes, and sockets that they are about, come before
            other tasks get a turn.
        live_bytes: how many bytes of what was too much for one answer may be on their way to
            sockets at once. Each client reads a larger message by itself, in parts.
    """

    def __init__(
        self,
        position: Position,
        *,
        frame: Framer,
        pause: Callable[[], Awaitable[None]],
        ask_again: Callable[[Subscriber, Pending], None],
        monotonic: Callable[[], float],
        echoes_to_author: bool = True,
        counters: Counters | None = None,
        fan_out_slice: int = FAN_OUT_SLICE,
        access_change_slice: int = ACCESS_CHANGE_SLICE,
        live_bytes: int = LIVE_BYTES,
    ) -> None:
        self._fan_out_slice = fan_out_slice
        self._echoes_to_author = echoes_to_author
        self._counters = counters or Counters(monotonic)
        self._frame = frame
        self._pause = pause
        self._access_slices = Slices(pause, access_change_slice)
        self._ask_again = ask_again
        self._observers = Observers()
        self._monotonic = monotonic
        self._growing = GrowingAnswers(monotonic)
        self.backlog = Backlog(monotonic)
        """What was found and is too much to be sent at once."""
        self.subscribers = Subscribers()
        """Who is here. Only the hub adds and removes."""
        self._turns = Turns(self.backlog, self.subscribers, monotonic, live_bytes)
        self._recent: set[Subscriber] = set()
        """The sockets that have a `since`: a read may still find events that are not for them."""
        self._returning: dict[Subscriber, Cursor] = {}
        """Sockets that may stay. They go on when the reads have reached the answer's cursor."""
        self.position = position
        """How far the log was delivered: every live socket has seen at least this."""

    def add_observer(self, observer: HubObserver) -> None:
        """Call the observer from now on."""
        self._observers.add(observer)

    # Coming and going.

    def subscribe(self, subscriber: Subscriber) -> None:
        """Hold the topic's events for it from now on, until `go_live`."""
        self.subscribers.add(subscriber)

    def identify(self, subscriber: Subscriber, user_id: str, username: str) -> None:
        """Set the socket's user, as soon as it is known."""
        self.subscribers.identify(subscriber, user_id, username)

    def go_live(self, subscriber: Subscriber, since: Cursor) -> None:
        """Send it what was held and what comes, but for what `since` covers.

        Not to be called when it `has_overflowed`.
        """
        # Else it left while it was being asked about.
        if subscriber.state is State.JOINING or subscriber.is_behind:
            self._go_live(subscriber, since, since)

    def _go_live(self, subscriber: Subscriber, since: Cursor | None, answered: Cursor) -> None:
        """Send it what it held, and from now on what comes.

        Args:
            since: what this covers is not for the socket.
            answered: as of which cursor they may be here; changes up to there are done.
        """
        self._set_since(subscriber, since)
        cursor = subscriber.cursor
        was_joining = subscriber.state is State.JOINING
        held = subscriber.go_live()
        if was_joining:
            self._observers.joined(subscriber)
        for item in held:
            if isinstance(item, Delivery):
                if subscriber.state is State.LIVE:
                    cursor = item.position_for(since)
                subscriber.deliver(item)
            elif item.kind is AccessKind.GRANT:
                self._hold_grant(subscriber, item)
            elif not answered.covers(item.xid):
                self._change_access_of(subscriber, item)
        if subscriber.state is State.PAUSED:
            subscriber.cursor = cursor  # what came after the newer change is held again, not sent

    def _set_since(self, subscriber: Subscriber, since: Cursor | None) -> None:
        """Set `since`. Nothing else changes it, so `_recent` has exactly the sockets with one."""
        subscriber.since = since
        if since is None:
            self._recent.discard(subscriber)
        else:
            self._recent.add(subscriber)

    def stay(self, subscriber: Subscriber, pending: Pending, until: Cursor) -> None:
        """The answer is that the paused socket may stay: it goes on without a gap.

        But if access was lost and given back meanwhile, it is not sent what was committed in
        between. It is told `resync`, or closed so that the client connects again.

        Args:
            pending: the access change that was checked.
            until: the cursor as of which it may stay.
        """
        is_here = subscriber.state is State.PAUSED  # it may have left while it was asked about
        if is_here and subscriber.pending is pending:
            self._returning[subscriber] = until

    def refuse(self, subscriber: Subscriber, pending: Pending) -> None:
        """The answer is that the socket may not stay.

        Args:
            pending: the access change that was checked. If another is pending, nothing happens.
        """
        if subscriber.pending is not pending:
            return
        if isinstance(pending, AccessChange) and pending.is_recheck:
            self._send_final_message(subscriber, pending)
        self.dismiss(subscriber, pending.code, closing.ACCESS_ENDED.reason)

    def dismiss(self, subscriber: Subscriber, code: int, reason: str) -> None:
        """Send it nothing more and close it."""
        self.stop(subscriber)
        subscriber.sink.close(code, reason)

    def stop(self, subscriber: Subscriber) -> None:
        """Send it nothing more. It counts as gone, even if its close takes time."""
        was_joined = subscriber.is_joined
        subscriber.stop()
        self.subscribers.count_as_gone(subscriber)
        if was_joined:
            self._observers.left(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a socket that is gone."""
        self.stop(subscriber)
        self._recent.discard(subscriber)
        self._returning.pop(subscriber, None)
        self.subscribers.remove(subscriber)

    def cursor_of(self, subscriber: Subscriber) -> str | None:
        """The text of a cursor that is never ahead of what the socket was sent, if there is one."""
        position = self._position_of(subscriber)
        return None if position is None else position.text(subscriber.topic)

    def _position_of(self, subscriber: Subscriber) -> Position | None:
        """How far the socket has come. It names the newest row that the socket may have seen."""
        if subscriber.state is not State.LIVE:
            return subscriber.cursor
        position, before = self.position, self._position_before(subscriber.topic)
        if before is not None:
            position = before.naming(position.cursor.anchor)
        return at_least(position, subscriber.since)

    def _position_before(self, topic: str) -> Position | None:
        """The position from before what its sockets have not been sent; None: they have it all."""
        # What is held back was read before what is in the backlog.
        held = self._growing.position_before(topic)
        return held or self.backlog.position_before(topic)

    def due_in(self) -> float:
        """Seconds until there is something to deliver, even if nothing is found."""
        return self._turns.due_in() if self.backlog else self._growing.due_in()

    # What a read found.

    async def deliver(
        self, page: Page, position: Position, unlisted: Unlisted = NOTHING_UNLISTED
    ) -> None:
        """Apply a page's changes, then hand its events to the sockets on their topics.

        Args:
            position: how far the read came, with its last page. With the others it claims no more
                than before, and names the newest row that was found.
            unlisted: what the read has found besides, which comes later.
        """
        if page.changes or page.grants:
            await self._apply(page)
        now, later = self._sort_out(page.events)
        # Some sockets will have seen that row before the others are served.
        newest = position.cursor.anchor
        before = self.position = self.position.naming(newest) if page.is_last else position
        waiting = {event.topic for event in later}.union(unlisted.topics)
        await self._send(now, before, position, waiting=waiting)
        # Only now: a read that is cancelled within is repeated from the position before.
        for event in later:
            self.backlog.add(event, before)
        for topic in unlisted.topics:
            self.backlog.await_listing(topic, before, unlisted.number)
        self.position = position
        if page.is_last:
            self.backlog.end_read()
            self._settle(position.cursor)

    async def _apply(self, page: Page) -> None:
        """Apply a page's changes of access. One alone may be about thousands of sockets."""
        for change in ends_first(once_each(page.changes)):
            await self._apply_to_each(change, self._change_access_of)
            self._observers.access_changed(change)
        for grant in once_each(page.grants):
            if grant.user_id is not None:
                await self._apply_to_each(grant, self._hold_grant)

    async def _apply_to_each(
        self, change: AccessChange, apply: Callable[[Subscriber, AccessChange], None]
    ) -> None:
        """Apply a change to all that it may be about.

        Who subscribes during a pause asks for its right after this read: the change is none for it.
        """
        await self._access_slices.count()
        for subscriber in self.subscribers.candidates(change):
            apply(subscriber, change)
            await self._access_slices.count()

    def _sort_out(self, events: Iterable[Event]) -> tuple[dict[str, list[Event]], list[Event]]:
        """What can be sent now, by topic, and what has to wait for its payload or its turn."""
        now: defaultdict[str, list[Event]] = defaultdict(list)
        later: list[Event] = []
        for event in events:
            if not self.subscribers.has_topic(event.topic):
                continue
            if event.payload is None or event.topic in self.backlog:
                later.append(event._replace(payload=None))
            else:
                now[event.topic].append(event)
        return now, later

    async def _send(
        self,
        found: Mapping[str, list[Event]],
        before: Position,
        position: Position,
        ended: str | None = None,
        waiting: Collection[str] = (),
    ) -> None:
        """Send events, and what was held back and is due.

        Args:
            before: the position from before the events.
            position: how far those come who wait for nothing more.
            ended: a topic that waits for nothing more after this.
            waiting: topics that begin to wait for what the same read has found.
        """
        for topic, events in self._growing.select(found, before).items():
            earlier, claim = self._position_before(topic) or before, position
            waits_from = None if topic == ended else self.backlog.position_before(topic)
            if waits_from is None and topic in waiting:
                waits_from = before
            if waits_from is not None:
                claim = waits_from.naming(newest_of(events))
            withheld = self._withheld_from(events)
            delivery = Delivery(topic, events, earlier, claim, self._frame, withheld)
            await self._fan_out(topic, delivery)
            self._growing.sent(topic, events)

    async def next_portion(self, size: int, number: int) -> tuple[str, list[RowKey]] | None:
        """What is to be read next, for one of the topics that wait; None: nothing yet.

        Who did not take the one before in time goes on alone.

        Args:
            size: how many bytes to read, at most; but one event.
            number: how many events, at most.
        """
        while (topic := self._turns.next_topic()) is not None:
            keys = self.backlog.first(topic, size, number)
            if not self.subscribers.has_topic(topic):
                self.backlog.drop(topic)
            elif not self._turns.fits(keys[0].size):
                await self._leave_to_themselves(topic)
            else:
                owed: _OwedSince = {}
                for one in self.subscribers.live_on(topic):
                    if not one.sink.is_idle:
                        self._fall_behind(one, owed)
                        await self._pause()
                return topic, keys
        return None

    async def _leave_to_themselves(self, topic: str) -> None:
        """What a topic waits for is too large to be held for all: each reads it by itself."""
        owed: _OwedSince = {}
        for one in self.subscribers.on_topic(topic):
            if one.is_holding:
                one.overflow()
            elif one.state is State.LIVE and not self._fall_behind(one, owed):
                self.dismiss(one, *closing.TOO_SLOW)
            await self._pause()
        self.backlog.drop(topic)

    def _fall_behind(self, subscriber: Subscriber, owed: "_OwedSince") -> bool:
        """Have a live socket catch up by itself, if it can; the others do not wait for it.

        Args:
            owed: what others of its topic are owed now. It can be much, so they share it.
        """
        if subscriber.catch_up is None:
            return False
        topic, since = subscriber.topic, subscriber.since
        if since not in owed:
            held = [event.key for event in self._growing.held(topic)]
            owed[since] = self.backlog.rest(topic, since, held)
        subscriber.pause(self._position_of(subscriber))
        subscriber.is_behind = True
        if since is None or self.position.cursor.includes(since):
            self._set_since(subscriber, self.position.cursor)
        assert subscriber.since is not None
        subscriber.catch_up(owed[since].for_another(), subscriber.since)
        return True

    async def deliver_portion(self, topic: str, events: list[Event]) -> None:
        """Hand what was read for a topic that waits to its sockets."""
        before, last = self.backlog.position_before(topic), events[-1].key
        assert before is not None
        ended = topic if self.backlog.is_rest(topic, last) else None
        await self._send({topic: events}, before, self.position, ended)
        self.backlog.sent(topic, [event.key for event in events])

    def _withheld_from(self, events: Iterable[Event]) -> frozenset[str]:
        """The authors who are not sent their own events."""
        if self._echoes_to_author:
            return frozenset()
        return frozenset(event.author for event in events if event.author is not None)

    async def _fan_out(self, topic: str, delivery: Delivery) -> None:
        audience = self.subscribers.audience(topic)
        if audience is None:
            return
        for author in delivery.withheld:
            for subscriber in self.subscribers.of_user_on(author, topic):
                subscriber.leave_direct()  # it is sent only a part, or nothing
        count = len(audience)
        # Who subscribes during a pause asks for its right after this read: nothing here is theirs.
        for _ in audience.fan_out(delivery, self._fan_out_slice):
            await self._pause()
        self._counters.delivered(delivery.events, count)

    def _settle(self, seen: Cursor) -> None:
        """Everything that this cursor covers was delivered. No later read finds it again."""
        for subscriber in tuple(self._recent):
            is_live = subscriber.state is State.LIVE
            is_behind = self._position_before(subscriber.topic) is not None
            if not is_live or is_behind or subscriber.since is None:
                continue
            if seen.includes(subscriber.since):
                self._set_since(subscriber, None)
        if not self._recent:
            self._recent.clear()  # or it stays as large as it was, and is walked each time
        for subscriber, until in tuple(self._returning.items()):
            if seen.includes(until):
                del self._returning[subscriber]
                if subscriber.state is State.PAUSED:
                    self._let_back(subscriber, until)

    def _let_back(self, subscriber: Subscriber, until: Cursor) -> None:
        lost = subscriber.gap
        if lost is None and subscriber.was_locked_out(until):
            lost = GapReason.ACCESS_CHANGED
        if subscriber.topic == SOCKET_TOPIC:
            lost = None  # there is nothing to miss
        if subscriber.has_overflowed:
            self.dismiss(subscriber, *closing.HELD_TOO_MUCH)
        elif lost is None:
            self._go_live(subscriber, subscriber.since, until)
        elif subscriber.knows_cursors:
            subscriber.gap = None
            subscriber.tell(resync(lost, bot_of(subscriber.topic)))
            self._go_live(subscriber, until, until)
        else:
            self.dismiss(subscriber, *closing.EVENTS_MISSED)

    # Access changes.

    def lose_track(self, position: Position, reason: str) -> None:
        """Events were missed: check each socket again, then tell it `resync` or close it.

        The missed events may include a revoke. So no socket gets anything before the answer.

        Args:
            position: where the log is read from now on.
        """
        self._returning.clear()
        for subscriber in self.subscribers:
            is_reading = subscriber.state is State.JOINING or subscriber.is_behind
            if is_reading or not subscriber.knows_cursors:
                self.dismiss(subscriber, *closing.EVENTS_MISSED)
            elif subscriber.state is not State.STOPPED:
                self._ask_after_gap(subscriber, reason)
        self._growing.forget()
        self.backlog.clear()
        self.position = position

    def _ask_after_gap(self, subscriber: Subscriber, reason: str) -> None:
        # What it held, and since when it was here, is of before the gap.
        subscriber.gap = reason
        subscriber.hold_anew()
        subscriber.pause(self._position_of(subscriber))
        self._set_since(subscriber, None)
        is_chat = bot_of(subscriber.topic) is not None
        code = CloseCode.ACCESS_DENIED if is_chat else CloseCode.UNAUTHENTICATED
        self._ask_about(subscriber, GapRecheck(code))

    def _change_access_of(self, subscriber: Subscriber, change: AccessChange) -> None:
        """Stop a socket that the change is about, unless it was accepted after it."""
        if not subscriber.is_concerned_by(change):
            return
        if subscriber.is_holding:
            subscriber.hold(change)
        elif subscriber.state is State.LIVE and not (
            subscriber.since and subscriber.since.covers(change.xid)
        ):
            self._cut_off(subscriber, change)

    def _hold_grant(self, subscriber: Subscriber, grant: AccessChange) -> None:
        """Who is asked about may have been locked out before: a grant that names the user tells."""
        if subscriber.is_holding and subscriber.is_concerned_by(grant):
            subscriber.hold(grant)

    def _cut_off(self, subscriber: Subscriber, change: AccessChange) -> None:
        if change.is_recheck:
            subscriber.pause(self._position_of(subscriber))
        else:
            self._send_final_message(subscriber, change)
            self.stop(subscriber)
        self._ask_about(subscriber, change)

    def _ask_about(self, subscriber: Subscriber, pending: Pending) -> None:
        subscriber.pending = pending
        self._ask_again(subscriber, pending)

    def _send_final_message(self, subscriber: Subscriber, change: AccessChange) -> None:
        if change.final_message is not None:
            subscriber.tell(stamp(change.final_message, change.wire_id, None))
