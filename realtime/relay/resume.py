"""Which events a returning client missed, or why that is not known any more.

The client's cursor says what it has seen. The missed events come from the log, up to the cursor as
of which the client was authorized. Later events come live. `missed_events` is the rule.
`ResumeBatcher` asks the log for many clients at once: a thousand that return together do not ask a
thousand times.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, NoReturn, Protocol

from realtime.relay.batcher import Batcher, Report
from realtime.relay.cursor import (
    Anchor,
    Cursor,
    ForeignCursor,
    InvalidCursor,
    Signer,
    Snapshot,
)
from realtime.relay.events import AccessChange, AccessKind, Event
from realtime.relay.streams import newest_only


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


def missed_events(request: ResumeRequest, history: TopicHistory, limit: int) -> list[Event]:
    """The events that the client missed, in order. Of several updates of a thing, only the newest.

    Raises:
        Unrecoverable: too old, too many, or access was lost in between.
    """

    history.state.require(request.cursor)
    history.state.require(request.until)

    def is_owed(xid: int) -> bool:
        return request.until.covers(xid) and not request.cursor.covers(xid)

    if any(_changes_access(one, request) and is_owed(one.xid) for one in history.changes):
        raise Unrecoverable(GapReason.ACCESS_CHANGED)
    events = [event for event in history.events if is_owed(event.xid)]
    if request.cursor.last < history.complete_after or len(events) > limit:
        raise Unrecoverable(GapReason.TOO_MANY)
    return newest_only(sorted(events))


def _changes_access(change: AccessChange, request: ResumeRequest) -> bool:
    """Whether the user gained or lost access to the topic by it.

    A recheck alone is neither, nor is a grant that names nobody: or every new user would be a
    reason to refuse everybody who returns.
    """
    if change.topic not in (None, request.topic):
        return False
    if change.kind is AccessKind.REVOKE:
        return change.user_id in (None, request.user_id)
    return change.kind is AccessKind.GRANT and change.user_id == request.user_id


TOPICS_PER_READ = 32
"""Bounds what one read may return: that many times the setting RESUME_MAX_EVENTS."""
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


class ResumeBatcher:
    """The clients that come back and wait for the events that they missed.

    Args:
        limit: the most events that one client is sent (the setting RESUME_MAX_EVENTS).
        report: called with an unexpected error.
        topics_per_read: how many topics one read may have.
        gather_seconds: seconds that the first client waits for others.
    """

    def __init__(
        self,
        history_log: HistorySource,
        report: Report,
        *,
        limit: int,
        topics_per_read: int = TOPICS_PER_READ,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._history_log = history_log
        self._limit = limit
        self._batcher = Batcher[ResumeRequest, list[Event]](
            self._answer,
            size=topics_per_read,
            report=report,
            key=_topic_of,
            gather_seconds=gather_seconds,
        )
        self.reads = 0
        """How often the log was read."""

    async def since(self, request: ResumeRequest) -> list[Event]:
        """The events that the client missed, in order.

        Raises:
            Unrecoverable: it cannot be brought up to date.
            Refused: the database cannot be asked (1013).
        """
        return await self._batcher.ask(request)

    async def run(self) -> NoReturn:
        """Answer until cancelled."""
        await self._batcher.run()

    async def _answer(self, requests: Sequence[ResumeRequest]) -> Sequence[list[Event] | Exception]:
        cursors: defaultdict[str, list[Cursor]] = defaultdict(list)
        for request in requests:
            cursors[request.topic].append(request.cursor)
        ranges = {topic: range_for(those) for topic, those in cursors.items()}
        users = sorted({request.user_id for request in requests})
        anchors = {one.anchor for request in requests for one in (request.cursor, request.until)}
        seen = sorted(row for row in anchors if row)
        self.reads += 1
        histories = await self._history_log.read(ranges, users, self._limit, seen)
        return [self._missed_by(request, histories[request.topic]) for request in requests]

    def _missed_by(self, request: ResumeRequest, history: TopicHistory) -> list[Event] | Exception:
        try:
            return missed_events(request, history, self._limit)
        except Unrecoverable as unrecoverable:
            return unrecoverable


def _topic_of(request: ResumeRequest) -> str:
    return request.topic
