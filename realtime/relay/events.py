"""What a read of the log returns: events, changes, and the pages they come in.

Made by `postgres.event_log`, consumed by `relay` and `hub`.
"""

from typing import NamedTuple

from realtime.relay.cursor import Snapshot


class Event(NamedTuple):
    """One row of the log that is for sockets."""

    id: int
    xid: int
    topic: str
    payload: str
    """The finished wire message but for `id` and `cursor`: a JSON object's text."""
    granted_to: str | None = None
    """The user to whom this event says that the topic was opened."""
    subject: str | None = None
    """The thing whose whole new state this is: nobody is owed an earlier one's."""
    written_at: float = 0.0
    """Epoch seconds, by the database's clock."""


class AccessChange(NamedTuple):
    """One row of the log that says: these sockets must be authorized again, and may have to go."""

    id: int
    xid: int
    topic: str | None
    """None: all topics."""
    user_id: str | None
    """None: everyone."""
    code: int
    """What a socket is closed with that may not stay."""
    final_message: str | None
    """A payload that sockets which must go are still sent."""
    may_stay: bool
    """Whether access probably remains, so that who is still allowed goes on where it is. Else they
    are cut off at once, and who is allowed (again) has to come back."""


class Grant(NamedTuple):
    """Somebody may have gained access."""

    xid: int
    topic: str | None
    """None: to whatever topic."""
    user_id: str | None
    """None: whoever it was."""


class Page(NamedTuple):
    """A part of what one read found, all pages in one snapshot, events in the order of their ids.

    The first page carries all changes of the read: they come before any of its events.
    """

    snapshot: Snapshot
    changes: tuple[AccessChange, ...]
    events: tuple[Event, ...]
    is_last: bool
    grants: tuple[Grant, ...] = ()
    clock_offset: float = 0.0
    """This process's monotonic clock less the database's, when the read was asked for: what is
    measured with it is never too little, and too much by at most the time that the read took."""
    seconds: float = 0.0
    """How long the database took for it."""

    @property
    def xids(self) -> set[int]:
        """The transactions that wrote what was read."""
        rows: tuple[Event | AccessChange | Grant, ...] = (*self.events, *self.changes, *self.grants)
        return {row.xid for row in rows}
