"""Which events a returning client missed, or why that is not known any more.

The client's cursor says what it has seen. The missed events come from the log, up to the cursor as
of which the client was authorized. Later events come live. `answers` is the rule.
`ResumeBatcher` asks the log for many clients at once: a thousand that return together do not ask a
thousand times. A few events come with their payloads; of many only the keys come, and each client
reads its payloads by portions.
"""

import asyncio
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import NamedTuple, Protocol

from realtime.relay.batcher import Batcher, Report
from realtime.relay.cursor import (
    Anchor,
    Cursor,
    ForeignCursor,
    InvalidCursor,
    Signer,
    Snapshot,
)
from realtime.relay.events import (
    AccessChange,
    AccessKind,
    Event,
    Part,
    RowKey,
    once_each,
)
from realtime.relay.growing import newest_only
from realtime.relay.owed import Owed


class GapReason(StrEnum):
    """Why a client cannot be sent what it missed. It must fetch its state again."""

    INVALID = "invalid"
    FOREIGN = "foreign"
    TOO_OLD = "too_old"
    TOO_MANY = "too_many"
    ACCESS_CHANGED = "access_changed"


class Unrecoverable(Exception):
    """The client cannot be sent what it missed."""

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
    """A snapshot in which every removed event was visible."""
    newest: Anchor = Anchor(0, 0, 0)
    """The newest row that was removed."""
    is_ours: bool = True
    """Whether this log is the database's own, and did not come with a dump from another."""

    def is_above(self, cursor: Cursor) -> bool:
        """Whether something that the cursor has not seen may have been removed."""
        return cursor.last < self.last or any(map(self.snapshot.covers, cursor.open))


class LogState(NamedTuple):
    """What an answer says of the log that it is from: whether a cursor is of it."""

    floor: Floor
    known: Container[Anchor]
    """Of the rows that were asked about, those that are in the log."""

    def require(self, cursor: Cursor) -> None:
        """Find a cursor good: what it has not seen is there, and its newest row is, too.

        Raises:
            Unrecoverable: the rows that it has not seen were removed, or it is of another history.
        """
        if not self.floor.is_ours:
            raise Unrecoverable(GapReason.FOREIGN)
        if self.floor.is_above(cursor):
            raise Unrecoverable(GapReason.TOO_OLD)
        if (cursor.last and cursor.anchor is None) or not self.holds(cursor.anchor):
            raise Unrecoverable(GapReason.FOREIGN)

    def holds(self, row: Anchor | None) -> bool:
        """Whether the row is there, or was the newest to be removed; None: there is none."""
        return row is None or row in self.known or row == self.floor.newest


class TopicHistory(NamedTuple):
    """What the log still has about one topic."""

    state: LogState
    changes: Sequence[AccessChange]
    """Revokes and grants of any topic; those about the asking users are all here."""
    events: Sequence[Event]
    """The topic's events in the range that was asked for; none comes twice."""
    complete_after: int
    """Every event of a higher transaction id is there (as are those of the open ones)."""


def read_cursor(text: str, topic: str, signer: Signer) -> Cursor:
    """What a client has seen of a topic, by its cursor.

    Raises:
        Unrecoverable: it is no cursor of this topic, or one of another database or timeline.
    """
    try:
        return signer.read(text, topic)
    except ForeignCursor:
        raise Unrecoverable(GapReason.FOREIGN) from None
    except InvalidCursor:
        raise Unrecoverable(GapReason.INVALID) from None


class ReadRange(NamedTuple):
    """What to read for several cursors at once: all after `last`, and these transactions."""

    last: int
    open: Sequence[int]


def range_for(cursors: Iterable[Cursor]) -> ReadRange:
    """The cursor that has seen only what all of them have seen."""
    given = list(cursors)
    return ReadRange(
        min(cursor.last for cursor in given),
        sorted({xid for cursor in given for xid in cursor.open}),
    )


_ChangesOf = Mapping[str | None, Sequence[AccessChange]]
"""Changes of one topic by whom they are about; None: everyone."""


def _changes_of(topic: str, history: TopicHistory) -> _ChangesOf:
    """Sort them once for all who return: of a large bot, thousands were changed and all come."""
    found: defaultdict[str | None, list[AccessChange]] = defaultdict(list)
    # Sorted out first: other topics of the same read may have thousands.
    ours = [change for change in history.changes if change.topic in (None, topic)]
    for change in once_each(ours):
        found[change.user_id].append(change)
    return found


def _require_access(request: ResumeRequest, state: LogState, changes: _ChangesOf) -> None:
    """See that both cursors are of this log, and that the user had access from one to the other."""
    state.require(request.cursor)
    state.require(request.until)
    for change in (*changes.get(request.user_id, ()), *changes.get(None, ())):
        is_between = request.until.covers(change.xid) and not request.cursor.covers(change.xid)
        if is_between and _changes_access(change, request):
            raise Unrecoverable(GapReason.ACCESS_CHANGED)


def _events_between(
    cursor: Cursor, until: Cursor, history: TopicHistory, limit: int
) -> list[Event]:
    events = [one for one in history.events if until.covers(one.xid) and not cursor.covers(one.xid)]
    if cursor.last < history.complete_after or len(events) > limit:
        raise Unrecoverable(GapReason.TOO_MANY)
    return newest_only(sorted(events))  # of several updates of a thing


def _changes_access(change: AccessChange, request: ResumeRequest) -> bool:
    """Whether the user gained or lost access to the topic by it.

    A recheck alone is neither, nor is a grant that names nobody: or every new user would be a
    reason to refuse everybody who returns. But where everybody is asked again, other tables or rows
    decide from then on, and nothing has said who gained or lost access by that.
    """
    if change.asks_everybody:
        return True
    if change.kind is AccessKind.REVOKE:
        return change.user_id in (None, request.user_id)
    return change.kind is AccessKind.GRANT and change.user_id == request.user_id


class Missed:
    """What one client is to be sent before it goes live.

    Args:
        events: in order.
        owed: instead, the keys of what it is to be sent.
    """

    __slots__ = ("events", "owed")

    def __init__(self, events: Sequence[Event] = (), owed: Owed | None = None) -> None:
        is_whole = all(event.payload is not None for event in events)
        self.events = events if is_whole else ()
        """All of it, where it is little."""
        keys = () if is_whole else (event.key for event in events)
        self.owed = Owed(keys) if owed is None else owed
        """The keys of all of it, where it is much."""

    def __bool__(self) -> bool:
        return bool(self.events or self.owed)

    def for_another(self) -> "Missed":
        """The same for another client."""
        return Missed(self.events, self.owed.for_another())


class SharedMissed:
    """What all who have the same cursor have missed up to the same moment.

    Args:
        events: in order; of several updates of a thing, only the newest.
    """

    __slots__ = ("events", "missed")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.missed = Missed(events)

    def without(self, author: str) -> Missed:
        """What is left without what that user wrote."""
        events = [event for event in self.events if event.author != author]
        return Missed(events) if len(events) < len(self.events) else self.missed.for_another()


TOPICS_PER_READ = 32
"""How many topics one read is for."""
SHARED_EVENTS = 500
"""How many events of one topic such a read looks for. Who missed more is served by a read of the
topic alone, so that the others do not wait for it."""
GATHER_SECONDS = 0.02
"""Seconds that the first client waits for others."""


class HistorySource(Protocol):
    """Reads missed events; implemented by `postgres.history_log`."""

    async def read(
        self,
        ranges: Mapping[str, ReadRange],
        user_ids: Sequence[str],
        limit: int,
        seen: Sequence[Anchor],
    ) -> Mapping[str, TopicHistory]:
        """Read topics, each over its own range, at most `limit + 1` events of each.

        Args:
            seen: rows of which the answer says whether they are still there.

        Raises:
            Refused: the database cannot be asked (1013).
        """
        ...

    async def payloads(self, keys: Sequence[RowKey]) -> list[Event]:
        """Events with their payloads, in the order of the keys.

        Raises:
            Unrecoverable: one of them has been removed, or this is another log.
            Refused: the database cannot be asked (1013).
        """
        ...

    async def part(self, key: RowKey, start: int, size: int) -> Part:
        """So many bytes of one payload, from that one on.

        Raises:
            Unrecoverable, Refused: as `payloads`.
        """
        ...

    @property
    def portion_bytes(self) -> int:
        """How many bytes of payloads to ask for at once."""
        ...


class ResumeBatcher:
    """The clients that come back and wait for the events that they missed.

    Args:
        limit: the most events that one client is sent (the setting RESUME_MAX_EVENTS).
        echoes_to_author: whether users are sent what they wrote themselves.
        report: called with an unexpected error.
        topics_per_read: how many topics one read may have.
        shared_events: how many events of each.
        gather_seconds: seconds that the first client waits for others.
    """

    def __init__(
        self,
        history_log: HistorySource,
        report: Report,
        *,
        limit: int,
        echoes_to_author: bool = True,
        topics_per_read: int = TOPICS_PER_READ,
        shared_events: int = SHARED_EVENTS,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self.log = history_log
        """Where payloads are read from."""
        self._limit = limit
        self._echoes_to_author = echoes_to_author
        self._shared_limit = min(limit, shared_events)
        self._shared = Batcher[ResumeRequest, SharedMissed](
            partial(self._answer, self._shared_limit),
            size=topics_per_read,
            report=report,
            key=_topic_of,
            gather_seconds=gather_seconds,
        )
        self._alone = Batcher[ResumeRequest, SharedMissed](
            partial(self._answer, limit), size=1, report=report, key=_topic_of
        )
        self.reads = 0
        """How often the log was read."""

    async def since(self, request: ResumeRequest) -> Missed:
        """The events that the client missed, in order.

        Raises:
            Unrecoverable: it cannot be brought up to date.
            Refused: the database cannot be asked (1013).
        """
        answer = await self._found(request)
        if self._echoes_to_author:
            return answer.missed.for_another()
        return answer.without(request.user_id)

    async def _found(self, request: ResumeRequest) -> SharedMissed:
        try:
            return await self._shared.ask(request)
        except Unrecoverable as lost:
            if lost.reason is not GapReason.TOO_MANY or self._shared_limit == self._limit:
                raise
        return await self._alone.ask(request)

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._shared.run())
            tasks.create_task(self._alone.run())

    async def _answer(
        self, limit: int, requests: Sequence[ResumeRequest]
    ) -> Sequence[SharedMissed | Exception]:
        cursors: defaultdict[str, list[Cursor]] = defaultdict(list)
        for request in requests:
            cursors[request.topic].append(request.cursor)
        ranges = {topic: range_for(those) for topic, those in cursors.items()}
        users = sorted({request.user_id for request in requests})
        anchors = {one.anchor for request in requests for one in (request.cursor, request.until)}
        seen = sorted(row for row in anchors if row)
        self.reads += 1
        histories = await self.log.read(ranges, users, limit, seen)
        return answers(requests, histories, limit)


def answers(
    requests: Iterable[ResumeRequest], histories: Mapping[str, TopicHistory], limit: int
) -> list[SharedMissed | Unrecoverable]:
    """What each of them missed, or why it cannot be said: too old, too many, access changed.

    There is one answer for all who left and came together; after a restart that is everybody.
    """
    changes = {topic: _changes_of(topic, history) for topic, history in histories.items()}
    found: dict[tuple[str, Cursor, Cursor], SharedMissed] = {}
    given: list[SharedMissed | Unrecoverable] = []
    for request in requests:
        history, range_ = histories[request.topic], (request.topic, request.cursor, request.until)
        try:
            _require_access(request, history.state, changes[request.topic])
            if range_ not in found:
                found[range_] = SharedMissed(_events_between(*range_[1:], history, limit))
            given.append(found[range_])
        except Unrecoverable as unrecoverable:
            given.append(unrecoverable)
    return given


def _topic_of(request: ResumeRequest) -> str:
    return request.topic
