"""What a client that comes back is owed, or why that cannot be said any more.

Pure rules; `history` asks the log and applies them. The client's cursor says what it has seen, the
place at which it was let in says up to where the log must answer; the rest comes live.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from realtime.relay.cursor import (
    Cursor,
    Database,
    InvalidCursor,
    Snapshot,
    decode_cursor,
)
from realtime.relay.events import AccessChange, Event
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
    if any(not one.may_stay or was_granted for one in changes):
        raise Unrecoverable(GapReason.ACCESS_CHANGED)
    if request.cursor.last < history.complete_after or len(events) > limit:
        raise Unrecoverable(GapReason.TOO_MANY)
    return newest_only(sorted(events))
