"""What a read of the log returns: events, changes, and the pages they come in."""

from collections.abc import Iterable, Sequence, Set
from enum import StrEnum
from typing import NamedTuple

from realtime.relay.cursor import Anchor, Snapshot, newer


class RowKey(NamedTuple):
    """Which row of the log has a payload that is still to be read, and how large that is."""

    xid: int
    id: int
    size: int
    """In bytes."""


def wire_id(number: int, written_at: int) -> str:
    """The id of a row for clients: no history has it twice, though numbers may come again."""
    return f"{number}-{written_at}"


class Event(NamedTuple):
    """One row of the log that is for sockets."""

    id: int
    xid: int
    topic: str
    payload: str | None
    """The finished message without `id` and `cursor`: the text of a JSON object. None: it is large,
    or one of many, and has not been read yet."""
    subject: str | None = None
    """The thing whose whole new state this is. No client needs its earlier states."""
    written_at: int = 0
    """Microseconds since 1970, by the database's clock."""
    size: int = 0
    """Of the payload, in bytes."""
    author: str | None = None
    """The user who wrote the message that it tells of, where that is known."""

    @property
    def key(self) -> RowKey:
        """What the payload is read by."""
        return RowKey(self.xid, self.id, self.size)

    @property
    def thing(self) -> tuple[str, str | None] | None:
        """What a later update with the same takes the place of; None: nothing does.

        Of each author one stays. An author may not be sent their own, and what somebody else wrote
        must not give way to that.
        """
        return None if self.subject is None else (self.subject, self.author)

    @property
    def anchor(self) -> Anchor:
        """The row as a cursor names it."""
        return Anchor(self.xid, self.id, self.written_at)

    @property
    def wire_id(self) -> str:
        """The id for clients."""
        return wire_id(self.id, self.written_at)


def newest_of(events: Iterable[Event]) -> Anchor | None:
    """The newest row among the events; None: there are none."""
    return max((event.anchor for event in events), default=None)


class Part(NamedTuple):
    """Some bytes of a payload that is too large to be held as a whole."""

    data: bytes
    """In UTF-8; it may end within a character."""
    anchor: Anchor
    """The row, as a cursor names it."""
    is_last: bool
    author: str | None
    """As an event's."""

    @property
    def wire_id(self) -> str:
        """The id for clients, as an event's."""
        return wire_id(self.anchor.id, self.anchor.written_at)


class AccessKind(StrEnum):
    """What a change of access does. The values are the `type` of the rows in the log.

    A row is read by its columns first: one with a `code` is a revoke, or, if its type says so, a
    recheck; one without a `payload`, or with a `user_id` besides, is a grant.
    """

    REVOKE = "eject"
    """Access ends: the sockets get nothing more. A user with access must connect again."""
    RECHECK = "recheck"
    """Access probably remains: the sockets are paused, and go on without a gap if it does."""
    GRANT = "grant"
    """A user may have gained access."""


class AccessChange(NamedTuple):
    """One row of the log that says: the access of these users to this topic may have changed."""

    id: int
    xid: int
    topic: str | None
    """The topic that it is about; None: all topics."""
    user_id: str | None
    """The user whom it is about; None: everyone."""
    kind: AccessKind
    code: int = 0
    """The close code of a socket whose access ends; 0: a grant ends none."""
    final_message: str | None = None
    """The final message: what a socket is still sent before its access ends."""
    written_at: int = 0
    """Microseconds since 1970, by the database's clock."""

    @property
    def wire_id(self) -> str:
        """The id of the final message for clients, as an event's."""
        return wire_id(self.id, self.written_at)

    @property
    def is_recheck(self) -> bool:
        """Whether access probably remains, so that the sockets are only paused."""
        return self.kind is AccessKind.RECHECK

    @property
    def asks_everybody(self) -> bool:
        """Whether it is about all users and topics: other tables or rows decide from now on."""
        return self.is_recheck and self.topic is None and self.user_id is None


def once_each(changes: Sequence[AccessChange]) -> Sequence[AccessChange]:
    """Leave out what the same transaction has said before.

    One statement may say as often as it has rows that a user's access ends, and each time all of
    that user's sockets would be looked at.
    """
    kept: dict[AccessChange, AccessChange] = {}
    for change in changes:
        kept.setdefault(change._replace(id=0, written_at=0), change)
    return list(kept.values())


def ends_first(changes: Sequence[AccessChange]) -> Sequence[AccessChange]:
    """Put the end of a topic before the revokes of single users by the same transaction.

    A transaction that deletes a bot may delete its permissions first. The users must be told of
    the bot, because that is the reason, and a socket is sent only one final message.
    """
    if not any(map(_ends_topic, changes)):
        return changes
    first: dict[tuple[int, str | None], int] = {}
    for change in changes:
        first.setdefault((change.xid, change.topic), change.id)

    def order(change: AccessChange) -> tuple[int, bool]:
        if _ends_topic(change):
            return first[change.xid, change.topic], False
        return change.id, True

    return sorted(changes, key=order)


def _ends_topic(change: AccessChange) -> bool:
    is_of_all = change.user_id is None and change.topic is not None
    return is_of_all and change.kind is AccessKind.REVOKE


class GapRecheck(NamedTuple):
    """Events were missed, perhaps revokes too: the database is asked for access again."""

    code: int
    """The close code of a socket whose access has ended."""

    @property
    def is_recheck(self) -> bool:
        """Whether access probably remains; it does."""
        return True


Pending = AccessChange | GapRecheck
"""Why the database is asked again for a socket's access."""


class Page(NamedTuple):
    """A part of what one read found: all its pages see one snapshot.

    A small read is one page, whose events come in the order of their ids, with their payloads. A
    large one has rows about access only, in the order of (xid, id). Its events are listed later,
    without payloads, in pages of their own.
    """

    snapshot: Snapshot
    changes: tuple[AccessChange, ...]
    """The revokes and rechecks that the page has."""
    events: tuple[Event, ...]
    is_last: bool
    grants: tuple[AccessChange, ...] = ()
    clock_offset: float = 0.0
    """This process's monotonic clock less the database's, when the read was asked for: what is
    measured with it is never too little, and too much by at most the time that the read took."""
    seconds: float = 0.0
    """How long it took, from the question to the answer: the way there and back, too."""
    end: Anchor | None = None
    """Of the last page of a large read, whose events are still to be listed: its newest row."""
    confirmed: Set[Anchor] = frozenset()
    """Events that were delivered ahead of the read. It found them, but does not bring them."""

    @property
    def xids(self) -> set[int]:
        """The transactions that wrote what was read."""
        return {row.xid for row in self._rows}

    @property
    def newest(self) -> Anchor | None:
        """The newest row of any kind that is in the page."""
        anchors = (Anchor(row.xid, row.id, row.written_at) for row in self._rows)
        return newer(max(anchors, default=None), self.end)

    @property
    def _rows(self) -> tuple[Event | AccessChange, ...]:
        return (*self.events, *self.changes, *self.grants)
