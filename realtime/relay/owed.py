"""Which payloads are still to be read: for a topic that has much, or for one client that returns.

A row of the log does not change, so what is owed is known by its keys, and its payloads are read a
portion at a time when they can be sent. A key takes 24 bytes here, however large its payload is.
"""

import asyncio
import itertools
import operator
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from realtime.relay.cursor import Anchor, Cursor
from realtime.relay.events import Event, Part, RowKey, newest_of
from realtime.relay.position import Position
from realtime.relay.protocol import Framer, stamp_all

Answer = TypeVar("Answer")


class Reading(Generic[Answer]):
    """An answer of the log that is asked for once, by the first of those who need it.

    It is there for as long as one of them holds it, which each has reserved memory for.
    """

    __slots__ = ("__weakref__", "_answer")

    def __init__(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None

    async def result(self, read: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer; `read` is called for the first who asks, and for the first after an error."""
        if self._answer is None:
            self._answer = asyncio.ensure_future(read())
            # Who asked first may have left; then nobody else may be there to be told of an error.
            self._answer.add_done_callback(self._look_at)
        if self._answer.done():
            return self._answer.result()
        return await asyncio.shield(self._answer)

    def _look_at(self, answer: "asyncio.Future[Answer]") -> None:
        # An error is for those who wait. It is not kept: its traceback holds on to all of them.
        if answer.cancelled() or answer.exception() is not None:
            self._answer = None


class Portion(Reading[Sequence[Event]]):
    """Some events that one client is owed, and often others too: read and framed once for all."""

    __slots__ = ("_framed", "_newest", "keys", "size")

    def __init__(self, keys: Sequence[RowKey]) -> None:
        super().__init__()
        self.keys = keys
        self.size = sum(key.size for key in keys)
        """Of the payloads, in bytes."""
        self._newest: Anchor | None = None
        self._framed: dict[tuple[Framer, str | None, str | None], bytes] = {}

    async def events(
        self, read: Callable[[Sequence[RowKey]], Awaitable[Sequence[Event]]]
    ) -> Sequence[Event]:
        """The first of the events at least; `read` is called for the first client that asks."""
        return await self.result(lambda: read(self.keys))

    def newest(self, events: Sequence[Event]) -> Anchor | None:
        """The newest row among the events, which are all that were read."""
        if self._newest is None:
            self._newest = newest_of(events)
        return self._newest

    def frames(
        self, events: Sequence[Event], first: str | None, last: str | None, frame: Framer
    ) -> bytes:
        """The events as they are sent, with the cursors of the first and the last."""
        framed = self._framed.get((frame, first, last))
        if framed is None:
            framed = self._framed[frame, first, last] = frame(stamp_all(events, first, last))
        return framed


class Owed:
    """Keys in the order in which their events are to be sent."""

    __slots__ = ("_ids", "_next", "_parts", "_portions", "_sizes", "_superseded", "_xids")

    def __init__(self, keys: Iterable[RowKey] = ()) -> None:
        self._xids, self._ids, self._sizes = array("q"), array("q"), array("q")
        self._superseded: set[int] = set()
        """The ids of those that nobody needs any more."""
        self._next = 0
        """How many were dropped, from the first on."""
        self._portions: WeakValueDictionary[tuple[int, int, int], Portion] = WeakValueDictionary()
        """Those that somebody holds, by where they begin and how large they may be."""
        self._parts: WeakValueDictionary[tuple[int, int, int], Reading[Part]] = (
            WeakValueDictionary()
        )
        """Of messages, those that somebody holds: by the row's id, where they begin, their size."""
        for key in keys:
            self.add(key)

    def for_another(self) -> "Owed":
        """The same for another client, who takes it at a pace of its own. Nothing may be added."""
        other = Owed.__new__(Owed)
        for name in Owed.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def portion(self, size: int, number: int) -> Portion:
        """What `first` returns, which all share who are owed the same."""
        key = self._next, size, number
        portion = self._portions.get(key)
        if portion is None:
            portion = self._portions[key] = Portion(self.first(size, number))
        return portion

    def part(self, key: RowKey, start: int, size: int) -> Reading[Part]:
        """So many bytes of a message from that one on, which all share who are owed the same."""
        place = key.id, start, size
        part = self._parts.get(place)
        if part is None:
            part = self._parts[place] = Reading()
        return part

    def __bool__(self) -> bool:
        """Whether there is still anything."""
        return self.next_key is not None

    @property
    def next_key(self) -> RowKey | None:
        """The first that is still to be sent, if there is any."""
        self._skip()
        if self._next == len(self._ids):
            return None
        return RowKey(self._xids[self._next], self._ids[self._next], self._sizes[self._next])

    def __len__(self) -> int:
        """How many were added."""
        return len(self._ids)

    def add(self, key: RowKey) -> None:
        """Put a key at the end."""
        self._xids.append(key.xid)
        self._ids.append(key.id)
        self._sizes.append(key.size)

    def supersede(self, event_id: int) -> None:
        """Nobody needs that one any more."""
        self._superseded.add(event_id)

    def extend(self, read: "Owed") -> None:
        """Put those of a read behind, in the order of their ids, which is that of their writing."""
        order: Iterable[int] | None = None
        if any(map(operator.gt, read._ids, itertools.islice(read._ids, 1, None))):
            order = sorted(range(len(read)), key=read._ids.__getitem__)
        for name in ("_xids", "_ids", "_sizes"):
            column = getattr(read, name)
            getattr(self, name).extend(column if order is None else map(column.__getitem__, order))

    def first(self, size: int, number: int) -> list[RowKey]:
        """The next keys, whose payloads have so many bytes at most; but one, if there is any.

        Args:
            number: the most keys.
        """
        self._skip()
        found: list[RowKey] = []
        for place in range(self._next, len(self)):
            key = RowKey(self._xids[place], self._ids[place], self._sizes[place])
            if key.id in self._superseded:
                continue
            size -= key.size
            if found and (size < 0 or len(found) == number):
                break
            found.append(key)
        return found

    def _skip(self) -> None:
        """Those that nobody needs are behind, or each call walks them."""
        while self._next < len(self) and self._ids[self._next] in self._superseded:
            self._next += 1

    def rest(self, since: Cursor | None = None, ahead: Iterable[RowKey] = ()) -> "Owed":
        """What is still to be sent, for somebody who takes it at a pace of their own.

        Args:
            since: what this covers is not for them.
            ahead: keys that they are sent before it.
        """
        rest = Owed(key for key in ahead if since is None or not since.covers(key.xid))
        places: Iterable[int] | None = None
        if since is not None or self._superseded:
            places = [
                place
                for place in range(self._next, len(self))
                if self._ids[place] not in self._superseded
                and (since is None or not since.covers(self._xids[place]))
            ]
        for name in ("_xids", "_ids", "_sizes"):
            column = getattr(self, name)
            getattr(rest, name).extend(
                column[self._next :] if places is None else map(column.__getitem__, places)
            )
        return rest

    def is_last(self, key: RowKey) -> bool:
        """Whether nothing is to be sent after that key."""
        left = (self._ids[place] for place in reversed(range(self._next, len(self))))
        return next((one for one in left if one not in self._superseded), None) == key.id

    def drop(self, last: RowKey, number: int = 1) -> None:
        """Everything up to that key was sent.

        Args:
            number: how many keys were sent, at least: those need not be looked through.
        """
        self._next = self._ids.index(last.id, self._next + number - 1) + 1


class Backlog:
    """What a read found that was too much for one answer, by topic.

    The reader goes on reading the log, so no topic waits for all of another's. Until a topic has
    been sent all of it, no cursor may be given out there that covers it.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._topics: dict[str, _Topic] = {}
        """The topic whose turn it is comes first."""
        self._begun: set[str] = set()
        """The topics that were sent a portion, and wait for more."""

    def __bool__(self) -> bool:
        return bool(self._topics)

    def __contains__(self, topic: str) -> bool:
        return topic in self._topics

    def clear(self) -> None:
        """Drop everything: all sockets are told that they missed it."""
        self._topics.clear()
        self._begun.clear()

    def drop(self, topic: str) -> None:
        """Nobody is there any more who could be sent it."""
        self._topics.pop(topic, None)
        self._begun.discard(topic)

    def add(self, event: Event, before: Position) -> None:
        """Put an event behind what its topic has already.

        Args:
            before: the position from before the read that found it.
        """
        self._topic(event.topic, before).add(event)

    def end_read(self) -> None:
        """The read is over: what it added is sent in the order in which it was written."""
        for topic in self._topics.values():
            topic.end_read(None)

    def await_listing(self, topic: str, before: Position, number: int) -> None:
        """A large read found events of a topic, and they come later, by `listed`.

        What later reads find is put behind them.

        Args:
            before: the position from before the read.
            number: the read's.
        """
        self._topic(topic, before).await_listing(number)

    def listed(self, events: Iterable[Event], number: int) -> None:
        """Add events that a large read found, on those topics that wait for them."""
        for event in events:
            topic = self._topics.get(event.topic)
            if topic is not None:
                topic.add(event, number)

    def end_listing(self, number: int) -> None:
        """All events of a large read were listed."""
        for name, topic in tuple(self._topics.items()):
            topic.end_read(number)
            if not topic:
                self.drop(name)  # all that it was found to have, rings had carried

    def is_listed(self, topic: str) -> bool:
        """Whether all is known that a topic waits for."""
        return not self._topics[topic].batches

    def _topic(self, name: str, before: Position) -> "_Topic":
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic(before, self._monotonic())
        return topic

    def position_before(self, topic: str) -> Position | None:
        """The position from before what the topic waits for; None: it waits for nothing."""
        found = self._topics.get(topic)
        return None if found is None else found.before

    def topics(self) -> Iterator[str]:
        """Those that wait, with the one whose turn it is first. Nothing may change meanwhile."""
        return iter(self._topics)

    def begun(self) -> Iterable[str]:
        """Those of them that were sent a portion."""
        return self._begun

    def sent_at(self, topic: str) -> float:
        """When the latest portion was sent; before the first one: since when the topic waits."""
        return self._topics[topic].sent_at

    def sent_bytes(self, topic: str) -> int:
        """How many bytes of payloads the latest portion had."""
        return self._topics[topic].sent_bytes

    def rest(self, topic: str, since: Cursor | None, ahead: Iterable[RowKey]) -> Owed:
        """All that a topic still waits for (see `Owed.rest`)."""
        found = self._topics.get(topic)
        return (Owed() if found is None else found.owed).rest(since, ahead)

    def first(self, topic: str, size: int, number: int) -> list[RowKey]:
        """A topic's next portion (see `Owed.first`)."""
        return self._topics[topic].owed.first(size, number)

    def is_rest(self, topic: str, last: RowKey) -> bool:
        """Whether nothing is left of a topic behind that key."""
        return self.is_listed(topic) and self._topics[topic].owed.is_last(last)

    def sent(self, topic: str, keys: Sequence[RowKey]) -> None:
        """Those were sent; the other topics have their turn first."""
        found = self._topics.pop(topic)
        found.owed.drop(keys[-1])
        found.sent_at, found.sent_bytes = self._monotonic(), sum(key.size for key in keys)
        self._begun.discard(topic)
        if found:
            self._topics[topic] = found
            self._begun.add(topic)


class _Topic:
    """What one topic waits for."""

    __slots__ = ("_newest", "batches", "before", "owed", "sent_at", "sent_bytes")

    def __init__(self, before: Position, now: float) -> None:
        self.before = before
        self.owed = Owed()
        self.batches: deque[_Batch] = deque()
        """Of the first read that is not over and of those after it, in the order they are owed."""
        self.sent_at = now
        self.sent_bytes = 0
        self._newest: dict[tuple[str, str | None], int] = {}
        """By thing, the id of its last state."""

    def __bool__(self) -> bool:
        """Whether it waits for anything."""
        return bool(self.owed or self.batches)

    def add(self, event: Event, number: int | None = None) -> None:
        batch = self._batch_of(number)
        if batch is None:
            return
        if (thing := event.thing) is not None:
            other = self._newest.setdefault(thing, event.id)
            if other != event.id:
                self.owed.supersede(min(other, event.id))
                self._newest[thing] = max(other, event.id)
        batch.keys.add(event.key)

    def await_listing(self, number: int) -> None:
        self.batches.append(_Batch(number))

    def end_read(self, number: int | None) -> None:
        for batch in self.batches:
            batch.is_over = batch.is_over or batch.number == number
        while self.batches and self.batches[0].is_over:
            self.owed.extend(self.batches.popleft().keys)

    def _batch_of(self, number: int | None) -> "_Batch | None":
        """That of a large read, or (None) of the small one that is being delivered."""
        for batch in self.batches:
            if batch.number == number and not batch.is_over:
                return batch
        if number is not None:
            return None  # it found nothing of this topic when somebody was here
        self.batches.append(_Batch(None))
        return self.batches[-1]


class _Batch:
    """What one read found of a topic."""

    __slots__ = ("is_over", "keys", "number")

    def __init__(self, number: int | None) -> None:
        self.number = number
        """The large read's; None: it was a small one."""
        self.keys = Owed()
        self.is_over = False
