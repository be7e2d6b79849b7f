"""Sends one client the events that it missed, at the pace at which it reads.

A portion at a time: memory is reserved, the payloads are read, the connection is given back, and
the next portion waits until the client has taken this one. A message that is larger than a portion
goes out in parts.

A crash may forget what the client is sent meanwhile. So the first event of each portion has a
cursor, too: it claims what the client's own did, and names the newest row of the portion. Who comes
back with it is sent everything once more; but if that row is gone, they are told.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from realtime.relay import closing
from realtime.relay.budget import MIN_SPEED
from realtime.relay.cursor import Anchor
from realtime.relay.errors import Refused
from realtime.relay.events import Event, Part, RowKey, newest_of
from realtime.relay.owed import Owed
from realtime.relay.position import Position
from realtime.relay.protocol import Message, stamp_all, stamp_start
from realtime.relay.resume import Missed, Unrecoverable
from realtime.relay.subscriber import Subscriber
from realtime.web.services import Services

FIRST_BYTES, MOST_BYTES = 65_536, 262_144
"""How many bytes the first portion has, and at most a later one. Who takes a portion quickly gets
twice as much next: clients that take nothing hold little."""
QUICK_SECONDS, SLOW_SECONDS = 0.5, 2.0
MAX_KEYS = 1000
"""How many events a portion has."""
MAX_PARTS, MAX_PART_BYTES = 16, 1_048_576
"""PostgreSQL reads all of a large text to cut a part from it. So a message is not cut into more
parts than that, unless they would be larger than this, or than the budget allows."""
TRIES = 3
"""How often a portion is read that does not come; each time half as much is asked for."""
LOOK_SECONDS = 0.5
"""How often it is looked whether a client goes on."""


class ReplaySink(Protocol):
    """The way to one client, that tells how fast it reads."""

    @staticmethod
    def frame(messages: Iterable[Message]) -> bytes: ...

    def send(self, frames: bytes) -> None: ...

    def send_part(self, part: Message, *, is_first: bool, is_last: bool) -> None:
        """Send a part of one message. Whatever else is sent meanwhile comes after its last part."""

    def break_off(self, code: int, reason: str) -> None:
        """Close in the middle of a message that is sent in parts."""

    @property
    def turn(self) -> asyncio.Lock:
        """Held by who sends missed events, for a portion, or for all parts of a message."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more, not even the rest of a message."""
        ...

    @property
    def is_within_message(self) -> bool:
        """Whether a message is begun of which parts are still to come."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether the kernel has taken all that was sent."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """How many bytes the kernel has not taken yet; 0 where they count elsewhere."""
        ...

    @property
    def taken_bytes(self) -> int:
        """How many bytes that had to wait the other side has taken, in all."""
        ...

    async def drained(self) -> None:
        """Return when the kernel has taken all that was sent (or the socket is gone)."""


class Replay:
    """Sends missed events to one subscriber, whose cursor names the newest row that was sent."""

    def __init__(self, services: Services, sink: ReplaySink, subscriber: Subscriber) -> None:
        assert subscriber.user_id is not None
        self._services = services
        self._log = services.history.log
        self._budget = services.read_budget
        self._sink = sink
        self._subscriber = subscriber
        self._user_id = subscriber.user_id
        self._portion_bytes = FIRST_BYTES

    async def send(self, missed: Missed, end: Position) -> None:
        """Send everything, and return when the client has taken it, or is gone.

        Args:
            end: how far the client is after it. Its cursor goes with the last event. No other may
                claim as much: up to there, what came before is not all sent.

        Raises:
            Refused: it was removed from the log, or the client takes nothing any more.
        """
        await self._taken_before()
        if missed.events:
            async with self._sink.turn:
                self._send(missed.events, *self._cursors(newest_of(missed.events), end))
                self._note_end(end)
                await self._taken()
        while not self._sink.is_closed and (first := missed.owed.next_key) is not None:
            if first.size > min(MOST_BYTES, self._budget.largest):
                await self._send_in_parts(missed.owed, first, end)
                missed.owed.drop(first)
            else:
                await self._send_portion(missed.owed, end)

    async def _taken_before(self) -> None:
        """Who was too slow is sent more only when it has taken what waits; that counts, too."""
        waiting = self._sink.waiting_bytes
        if waiting < FIRST_BYTES:
            return
        if not self._budget.has_room(waiting, self._user_id):
            raise Refused(*closing.TOO_SLOW)
        async with self._budget.reserve(waiting, self._user_id):
            await self._taken_in_time(waiting)

    async def _send_portion(self, owed: Owed, end: Position) -> None:
        portion = owed.portion(self._size(), MAX_KEYS)
        # Held until the client has taken it; its connection to the database is given back.
        async with self._sink.turn, self._budget.reserve(portion.size, self._user_id):
            events = await portion.events(self._payloads)
            last = events[-1].key
            end_here = end if owed.is_last(last) else None
            theirs = self._theirs(events)
            if len(theirs) == len(events):
                cursors = self._cursors(portion.newest(events), end_here)
                self._sink.send(portion.frames(events, *cursors, self._sink.frame))
            else:
                self._send(theirs, *self._cursors(newest_of(theirs), end_here))
            self._note_end(end_here)
            await self._taken_in_time(portion.size)
        owed.drop(last, len(events))

    def _theirs(self, events: Sequence[Event]) -> Sequence[Event]:
        if self._services.settings.echo_to_author:
            return events  # not to be looked at one by one, for each client
        return list(filter(self._is_theirs, events))

    def _is_theirs(self, event: Event | Part) -> bool:
        """Whether they are sent it, and did not write it themselves."""
        return self._services.settings.echo_to_author or event.author != self._user_id

    def _size(self) -> int:
        return min(self._portion_bytes, self._log.portion_bytes, self._budget.largest)

    async def _payloads(self, keys: Sequence[RowKey]) -> Sequence[Event]:
        """The first of them at least: where they do not come in time, half as many."""
        for number in range(TRIES):
            try:
                return await self._log.payloads(keys[: max(1, len(keys) >> number)])
            except Unrecoverable as lost:
                raise Refused(*closing.EVENTS_MISSED) from lost
            except Refused:
                if number == TRIES - 1:
                    raise
        raise AssertionError("it has been tried")

    def _cursors(
        self, newest: Anchor | None, end: Position | None
    ) -> tuple[str | None, str | None]:
        """The cursors of the first and of the last of the events that are sent now.

        Args:
            newest: the newest row among them, if there are any.
            end: how far the client is after them; None: it is owed more.
        """
        # With the first, for the client may have only a part of them when it is cut off.
        return None if newest is None else self._cursor_naming(newest), self._text(end)

    def _cursor_naming(self, newest: Anchor) -> str | None:
        """The cursor of one who is being sent that row; a pong that follows has it, too."""
        assert self._subscriber.cursor is not None
        self._subscriber.cursor = self._subscriber.cursor.naming(newest)
        return self._text(self._subscriber.cursor)

    def _note_end(self, end: Position | None) -> None:
        """Note that the last event is on its way: a pong comes behind it, and has its cursor.

        With an older one, the client would forget how far it has come.
        """
        if end is not None:
            self._subscriber.cursor = end

    def _text(self, position: Position | None) -> str | None:
        return None if position is None else position.text(self._subscriber.topic)

    async def _send_in_parts(self, owed: Owed, key: RowKey, end: Position) -> None:
        async with self._sink.turn:
            try:
                await self._send_parts(owed, key, end if owed.is_last(key) else None)
            except Refused as refused:
                self._break_off(refused.code, refused.reason)
                raise
            except asyncio.CancelledError:
                self._break_off(*closing.EVENTS_MISSED)
                raise

    def _break_off(self, code: int, reason: str) -> None:
        """What is begun can only be ended, though other topics may be on the socket, too."""
        if self._sink.is_within_message:
            self._sink.break_off(code, reason)

    async def _send_parts(self, owed: Owed, key: RowKey, end: Position | None) -> None:
        size, start, is_last = self._part_size(key), 0, False
        while not is_last and not self._sink.is_closed:
            async with self._budget.reserve(size, self._user_id):
                shared = owed.part(key, start, size)
                part = await shared.result(partial(self._part, key, start, size))
                is_last = part.is_last
                if not self._is_theirs(part):
                    return
                message = Message(part.data) if start else self._start(part, end)
                self._sink.send_part(message, is_first=not start, is_last=is_last)
                self._note_end(end)  # a pong comes behind the last part, too
                del part, message
                await self._taken_in_time(size)
                del shared  # others could have it until now
            start += size

    def _part_size(self, key: RowKey) -> int:
        """Of the parts of a message: the same for all clients, so that they can share them."""
        size = min(max(MOST_BYTES, key.size // MAX_PARTS), MAX_PART_BYTES)
        return min(size, self._budget.largest)

    def _start(self, part: Part, end: Position | None) -> Message:
        """The first part of a message, as it is sent."""
        cursor = self._cursor_naming(part.anchor)
        return stamp_start(part.data, part.wire_id, self._text(end) or cursor)

    async def _part(self, key: RowKey, start: int, size: int) -> Part:
        try:
            return await self._log.part(key, start, size)
        except Unrecoverable as lost:
            raise Refused(*closing.EVENTS_MISSED) from lost

    def _send(self, events: Sequence[Event], first: str | None, last: str | None) -> None:
        self._sink.send(self._sink.frame(stamp_all(events, first, last)))

    async def _taken_in_time(self, size: int) -> None:
        """As `_taken`, for what is held from the budget; and learn how quick the client is."""
        began = self._services.monotonic()
        await self._taken(size)
        took = self._services.monotonic() - began
        if took < QUICK_SECONDS:
            self._portion_bytes = min(MOST_BYTES, 2 * self._portion_bytes)
        elif took > SLOW_SECONDS:
            self._portion_bytes = max(FIRST_BYTES, self._portion_bytes // 2)

    async def _taken(self, held: int = 0) -> None:
        """Return when the client has taken what it was sent.

        Args:
            held: how many bytes of payloads are reserved meanwhile. While others wait for them, it
                has less patience, and asks for a speed.

        Raises:
            Refused: it takes nothing any more.
        """
        if self._sink.is_idle:
            await asyncio.sleep(0)  # the others' turn
            return
        intervals = self._services.intervals
        patience, hurried = intervals.replay, intervals.replay_wanted
        began = moved_at = self._services.monotonic()
        taken = self._sink.taken_bytes
        drained = asyncio.ensure_future(self._sink.drained())
        try:
            while not (await asyncio.wait({drained}, timeout=min(patience, LOOK_SECONDS)))[0]:
                now = self._services.monotonic()
                before, taken = taken, self._sink.taken_bytes
                if taken != before:
                    moved_at = now
                is_slow = now - moved_at >= hurried or now - began >= hurried + held / MIN_SPEED
                is_hurried = held and is_slow and self._budget.is_wanted(self._user_id)
                if now - moved_at >= patience or is_hurried:
                    raise Refused(*closing.REPLAY_TOO_SLOW)
        finally:
            drained.cancel()
