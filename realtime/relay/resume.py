"""What a client that comes back is owed, or why that cannot be said any more.

The client's cursor says what it has seen; the cursor as of which it was authorized says up to where
the log must answer; the rest comes live. `missed_events` is the rule. `ResumeBatcher` asks the log
for many clients at once: a thousand that return together do not ask a thousand times.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, NoReturn, Protocol

from realtime.relay.cursor import Cursor, Database, InvalidCursor, Snapshot, decode_cursor
from realtime.relay.errors import Refused
from realtime.relay.events import AccessChange, AccessKind, Event
from realtime.relay.streams import newest_only


class GapReason(StrEnum):
    """Why a client cannot be brought up to date; it has to fetch what it shows anew."""

    INVALID = "invalid"
    FOREIGN = "foreign"
    TOO_OLD = "too_old"
    TOO_MANY = "too_many"
    ACCESS_CHANGED = "access_changed"


class Unrecoverable(Exception):
    """The gap cannot be closed."""

    def __init__(self, reason: GapReason) -> None:
        super().__init__(reason)
        self.reason = reason


class ResumeRequest(NamedTuple):
    """What happened on a topic after `cursor` and up to `until`, for this user?"""

    topic: str
    user_id: str
    cursor: Cursor
    until: Cursor


class Floor(NamedTuple):
    """How much of the log retention has removed."""

    last: int
    """The highest transaction id of any removed event."""
    snapshot: Snapshot
    """Every removed event was visible in it."""

    def is_above(self, cursor: Cursor) -> bool:
        """Whether something that the cursor has not seen may have been removed."""
        return cursor.last < self.last or any(map(self.snapshot.covers, cursor.open))


class TopicHistory(NamedTuple):
    """What the log still says of one topic."""

    floor: Floor
    changes: Sequence[AccessChange]
    """Of any topic, but including all that concern those who asked."""
    events: Sequence[Event]
    """The topic's events from the place on that was asked for; none comes twice."""
    complete_after: int
    """Every event of a higher transaction id is there (as are those of the open ones)."""


def read_cursor(text: str, database: Database) -> Cursor:
    """The place that a client names.

    Raises:
        Unrecoverable: it is no cursor, or one of another database or timeline.
    """
    try:
        theirs, cursor = decode_cursor(text)
    except InvalidCursor:
        raise Unrecoverable(GapReason.INVALID) from None
    if theirs != database:
        raise Unrecoverable(GapReason.FOREIGN)
    return cursor


class ReadRange(NamedTuple):
    """What to read for several cursors at once: all after `last`, and these transactions."""

    last: int
    open: Sequence[int]


def range_for(cursors: Iterable[Cursor]) -> ReadRange:
    """The place from which everything is read that any of the cursors has not seen."""
    given = list(cursors)
    return ReadRange(
        min(cursor.last for cursor in given),
        sorted({xid for cursor in given for xid in cursor.open}),
    )


def missed_events(request: ResumeRequest, history: TopicHistory, limit: int) -> list[Event]:
    """The events that the request's client is owed, in order; of a thing's updates the newest.

    Raises:
        Unrecoverable: too old, too many, or access was lost in between.
    """

    def is_owed(xid: int) -> bool:
        return request.until.covers(xid) and not request.cursor.covers(xid)

    if history.floor.is_above(request.cursor):
        raise Unrecoverable(GapReason.TOO_OLD)
    events = [event for event in history.events if is_owed(event.xid)]
    changes = [
        one
        for one in history.changes
        if one.topic in (None, request.topic) and one.user_id in (None, request.user_id)
        if is_owed(one.xid)
    ]
    was_granted = any(event.granted_to == request.user_id for event in events)
    if any(one.kind is AccessKind.REVOKE or was_granted for one in changes):
        raise Unrecoverable(GapReason.ACCESS_CHANGED)
    if request.cursor.last < history.complete_after or len(events) > limit:
        raise Unrecoverable(GapReason.TOO_MANY)
    return newest_only(sorted(events))


TOPICS_PER_READ = 32
"""Bounds what one read may return: that many times the setting RESUME_MAX_EVENTS."""
GATHER_SECONDS = 0.02
"""How long the first to come waits for others."""


class HistorySource(Protocol):
    """Where the past is read from; implemented by `postgres.history_log`."""

    async def read(
        self, ranges: Mapping[str, ReadRange], user_ids: Sequence[str], limit: int
    ) -> Mapping[str, TopicHistory]:
        """Read topics, each from its place on, at most `limit + 1` events of each.

        Raises:
            Refused: the database cannot be asked (1013).
        """
        ...


class _Waiting(NamedTuple):
    request: ResumeRequest
    answered: "asyncio.Future[list[Event]]"


class ResumeBatcher:
    """The past of this process's topics, for those who ask.

    Args:
        limit: events that one client may be owed (the setting RESUME_MAX_EVENTS).
    """

    def __init__(self, history_log: HistorySource, *, limit: int) -> None:
        self._history_log = history_log
        self._limit = limit
        self._waiting: list[_Waiting] = []
        self._some = asyncio.Event()
        self.reads = 0
        """How many questions the log was asked."""

    async def since(self, request: ResumeRequest) -> list[Event]:
        """The events that the client is owed, in order.

        Raises:
            Unrecoverable: it cannot be brought up to date.
            Refused: the database cannot be asked (1013).
        """
        answered: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, answered))
        self._some.set()
        return await answered

    async def run(self) -> NoReturn:
        """Answer for ever. Cancel to end."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._some.clear()
            by_topic: defaultdict[str, list[_Waiting]] = defaultdict(list)
            for one in self._waiting:
                by_topic[one.request.topic].append(one)
            self._waiting = []
            topics = list(by_topic)
            for start in range(0, len(topics), TOPICS_PER_READ):
                some = topics[start : start + TOPICS_PER_READ]
                await self._answer({topic: by_topic[topic] for topic in some})

    async def _answer(self, by_topic: Mapping[str, list[_Waiting]]) -> None:
        ranges = {
            topic: range_for(one.request.cursor for one in waiting)
            for topic, waiting in by_topic.items()
        }
        everyone = [one for waiting in by_topic.values() for one in waiting]
        users = sorted({one.request.user_id for one in everyone})
        self.reads += 1
        try:
            histories = await self._history_log.read(ranges, users, self._limit)
        except Refused as refused:
            for one in everyone:
                _fail(one, refused)
            return
        for one in everyone:
            self._answer_one(one, histories[one.request.topic])

    def _answer_one(self, waiting: _Waiting, history: TopicHistory) -> None:
        try:
            events = missed_events(waiting.request, history, self._limit)
        except Unrecoverable as lost:
            _fail(waiting, lost)
            return
        if not waiting.answered.done():  # else whoever asked has left
            waiting.answered.set_result(events)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answered.done():
        waiting.answered.set_exception(error)
