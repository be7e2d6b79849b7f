"""One socket as the relay sees it: whether it may be sent events yet, and from where on.

A subscriber is *joining* while its right to the topic is being asked for: what arrives is held.
The answer comes with the snapshot it was given in, `since`; what that snapshot covers is not for
this socket, the rest is, and it is *live*. An ejection makes it *stopped* (nothing more is sent),
or joining again where it will probably stay. The hub calls everything here.

    joining ──let_in──▶ live ──stop──▶ stopped
       ▲                 │
       └──────pause──────┘
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Protocol

from realtime.relay.cursor import Snapshot
from realtime.relay.errors import CloseCode
from realtime.relay.events import Ejection, Event
from realtime.relay.protocol import stamp

Framer = Callable[[Iterable[bytes]], bytes]
"""Joins wire messages into the bytes that a socket is sent."""


class Sink(Protocol):
    """The way to one socket. Neither method raises or waits; after a close, both do nothing."""

    def send(self, frames: bytes) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class Delivery:
    """One page's events of one topic, framed once for all the sockets on it."""

    __slots__ = ("_cursor", "_frame", "events", "frames", "snapshot")

    def __init__(
        self, snapshot: Snapshot, events: list[Event], cursor: str | None, frame: Framer
    ) -> None:
        self.snapshot = snapshot
        self.events = events
        self._cursor = cursor
        self._frame = frame
        self.frames = self._framed(events, cursor)

    def frames_since(self, since: Snapshot) -> bytes:
        """The frames for a socket to which only what came after `since` belongs.

        The cursor is left out where this read knew less than `since`: it would lead the client
        back to before the moment it was let in.
        """
        cursor = self._cursor if self.snapshot.includes(since) else None
        events = [event for event in self.events if not since.covers(event.xid)]
        if cursor == self._cursor and len(events) == len(self.events):
            return self.frames
        return self._framed(events, cursor)

    def _framed(self, events: list[Event], cursor: str | None) -> bytes:
        last = len(events) - 1
        return self._frame(
            stamp(event.payload, event.id, cursor if index == last else None)
            for index, event in enumerate(events)
        )


class State(Enum):
    JOINING = "joining"
    LIVE = "live"
    STOPPED = "stopped"


class Subscriber:
    """A socket's subscription to its one topic.

    Args:
        topic: `bot:<uuid>` or `user:<uuid>`.
        connection_id: unique per socket.
        opened_at: epoch seconds.
        sink: the way to the socket.
        hold_bytes: how many bytes may be held while joining; past that it is closed (1013).
        knows_cursors: whether the client has shown that it can resume, and understands `resync`.
    """

    __slots__ = (
        "_held",
        "_held_bytes",
        "_hold_bytes",
        "connection_id",
        "cursor",
        "knows_cursors",
        "opened_at",
        "since",
        "sink",
        "state",
        "topic",
        "user_id",
        "username",
    )

    def __init__(
        self,
        topic: str,
        connection_id: str,
        sink: Sink,
        *,
        opened_at: float,
        hold_bytes: int,
        knows_cursors: bool = False,
    ) -> None:
        self.topic = topic
        self.connection_id = connection_id
        self.sink = sink
        self.opened_at = opened_at
        self.knows_cursors = knows_cursors
        self.state = State.JOINING
        self.user_id: str | None = None
        self.username: str | None = None
        self.since: Snapshot | None = None
        self.cursor = ""
        """Its place as told in `connection_established`; in use while `since` is."""
        self._hold_bytes = hold_bytes
        self._held: list[Delivery | Ejection] = []
        self._held_bytes = 0

    def deliver(self, delivery: Delivery) -> None:
        """Send what belongs to this socket, or hold it while joining."""
        if self.state is State.JOINING:
            self._hold(delivery, len(delivery.frames))
        elif self.state is State.LIVE:
            frames = delivery.frames_since(self.since) if self.since else delivery.frames
            if frames:
                self.sink.send(frames)

    def hold(self, ejection: Ejection) -> None:
        """Keep an ejection until it is known who this is and since when they may be here."""
        self._hold(ejection, len(ejection.farewell or ""))

    def _hold(self, item: Delivery | Ejection, size: int) -> None:
        self._held.append(item)
        self._held_bytes += size
        if self._held_bytes > self._hold_bytes:
            self.stop()
            self.sink.close(CloseCode.TRY_AGAIN_LATER, "too much happened while joining")

    def let_in(self, since: Snapshot | None) -> list[Delivery | Ejection]:
        """Become live from that snapshot on; returns what was held, in order, for the hub."""
        held, self._held, self._held_bytes = self._held, [], 0
        self.since = since
        self.state = State.LIVE
        return held

    def pause(self, cursor: str) -> None:
        """Hold from here on: the right to be here is being asked for again.

        Args:
            cursor: the place of what was sent up to now.
        """
        self.state = State.JOINING
        self.cursor = cursor

    def stop(self) -> None:
        """Send nothing more, whatever still refers to this subscriber."""
        self.state = State.STOPPED
        self._held = []

    def was_locked_out(self, until: Snapshot) -> bool:
        """Whether, of what was held, something up to that snapshot took or gave the user access.

        If not, then a user who is allowed as of that snapshot was allowed all the while.
        """
        for item in self._held:
            if isinstance(item, Ejection):
                if self.is_concerned_by(item) and until.covers(item.xid) and not item.may_stay:
                    return True
            elif any(e.granted_to == self.user_id and until.covers(e.xid) for e in item.events):
                return True
        return False

    def is_concerned_by(self, ejection: Ejection) -> bool:
        """Whether the ejection is about this socket (or may be, while its user is unknown)."""
        return (ejection.topic is None or ejection.topic == self.topic) and (
            ejection.user_id is None or self.user_id is None or ejection.user_id == self.user_id
        )
