"""One subscription to a topic: whether it may be sent events, and from which position on.

Nearly always a socket has one. Of a socket at `/api/ws`, each of its subscriptions is a subscriber,
and so is the socket itself: on a topic that has no events, for what ends the socket ends it there.

A subscriber is *joining* while the database is asked for its user's access: it holds what arrives.
The answer has a cursor, `since`. What `since` covers is not for this socket, everything else is.
Then the subscriber is *live*. A revoke makes it *stopped*: it is sent nothing more. A recheck makes
it *paused*: access is checked again, and it holds what arrives. The hub calls everything here.

    joining ──go_live──▶ live ◀──go_live── paused
       │                  │ ────pause────▶   │
       └───────stop───────┼───────stop───────┘
                          ▼
                       stopped
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Protocol

from realtime.relay.cursor import Cursor
from realtime.relay.events import AccessChange, Event, Pending
from realtime.relay.owed import Owed
from realtime.relay.position import Position
from realtime.relay.protocol import Framer, Message, stamp_all

ACCESS_CHANGE_BYTES = 200
"""About the size of an access change without a final message, in bytes."""


SendNow = Callable[[bytes], int]
"""Sends what it can at once, and returns how many bytes that was. It raises OSError where that is
nothing. Two that a socket lends are equal, and can be keys."""


class Sink(Protocol):
    """The way to one client. No method raises or waits; after a close, none does anything."""

    @staticmethod
    def frame(messages: Iterable[Message]) -> bytes:
        """Make the bytes for this kind of sink; those of one kind share the function."""
        ...

    def send(self, frames: bytes) -> None:
        """Send what `frame` made."""

    def send_rest(self, frames: bytes, sent: int) -> None:
        """Send what is left of the frames, of which a lent callable sent so many bytes."""

    def lend(self, withdraw: Callable[[], None]) -> SendNow | None:
        """A callable that may be used until `withdraw` is called; None: not now.

        The sink withdraws it before anything waits on the way to the socket, and before a close:
        the order stays, and nothing follows a close.
        """

    def close(self, code: int, reason: str) -> None: ...

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be taken by the other side."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be taken; 0 where those count as another sink's."""
        ...


class HoldLimit:
    """How many bytes may be held for one socket, by all its subscribers together."""

    __slots__ = ("_free",)

    def __init__(self, size: int) -> None:
        self._free = size

    def take(self, size: int) -> bool:
        """Count bytes that are held; False: they are too many, and must be given back."""
        self._free -= size
        return self._free >= 0

    def give_back(self, size: int) -> None:
        """They are held no longer."""
        self._free += size


CatchUp = Callable[[Owed, Cursor], None]
"""Sends one client, at its own pace, what it is owed, and then all that the cursor does not cover;
calls `Hub.go_live` at the end."""


class DirectList(Protocol):
    """Has the sockets that are sent to without being looked at (see `audience`)."""

    def leave(self, subscriber: "Subscriber") -> None: ...


class Framed:
    """Messages for many, framed once for each kind of sink."""

    __slots__ = ("_made", "_messages")

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = tuple(messages)
        self._made: dict[Framer, bytes] = {}

    def by(self, frame: Framer) -> bytes:
        """The frames for sinks of one kind."""
        made = self._made.get(frame)
        if made is None:
            made = self._made[frame] = frame(self._messages)
        return made


class Delivery:
    """One page's events of one topic, framed once for all the sockets on it.

    Of several, the last has the cursor of who was sent all. The first has that of before, which
    names the newest row of them: a client may be cut off before the last.

    Args:
        before: how far who is sent it had come.
        position: how far they have come with it.
        frame: of the kind of sinks that most sockets have.
        withheld: users who are not sent what they wrote themselves.
    """

    __slots__ = ("_before", "_framed", "_position", "events", "frames", "topic", "withheld")

    def __init__(
        self,
        topic: str,
        events: list[Event],
        before: Position,
        position: Position,
        frame: Framer,
        withheld: frozenset[str] = frozenset(),
    ) -> None:
        self.topic = topic
        self.events = events
        self.withheld = withheld
        self._before = before
        self._position = position
        self._framed = Framed(self._messages(events, None))
        self.frames = self._framed.by(frame)

    def framed(self, frame: Framer) -> bytes:
        """The frames for all sockets of one kind that nothing is withheld from."""
        return self._framed.by(frame)

    def frames_for(self, frame: Framer, user_id: str | None, since: Cursor | None) -> bytes:
        """The frames for one socket.

        Args:
            frame: of its sink.
            user_id: its user, if that is known.
            since: what this covers is not for the socket.

        A cursor that covers less than `since` carries `since`, with the newest row that it names:
        its own claim would take the client back to before it was accepted.
        """
        events = self.events
        if since is not None:
            events = [event for event in events if not since.covers(event.xid)]
        if user_id in self.withheld:
            events = [event for event in events if event.author != user_id]
        earliest = self._position if len(events) == 1 else self._before
        is_for_all = since is None or earliest.cursor.includes(since)
        if is_for_all and len(events) == len(self.events):
            return self._framed.by(frame)
        return frame(self._messages(events, since))

    def position_for(self, since: Cursor | None) -> Position:
        """How far one has come with it, for whom what `since` covers is not."""
        return at_least(self._position, since)

    def _messages(self, events: list[Event], since: Cursor | None) -> list[Message]:
        first = None
        if len(events) > 1:
            newest = max(event.anchor for event in events)
            first = at_least(self._before.naming(newest), since).text(self.topic)
        last = at_least(self._position, since).text(self.topic) if events else None
        return stamp_all(events, first, last)


def at_least(position: Position, since: Cursor | None) -> Position:
    """The position, or, if it covers less than `since`, that of one who has seen as much."""
    if since is None or position.cursor.includes(since):
        return position
    return position.claiming(since)


class State(Enum):
    JOINING = "joining"
    LIVE = "live"
    PAUSED = "paused"
    STOPPED = "stopped"


class Subscriber:
    """A socket's subscription to one topic.

    Args:
        topic: `bot:<uuid>` or `user:<uuid>`, or `protocol.SOCKET_TOPIC`.
        connection_id: unique per subscriber.
        opened_at: epoch seconds.
        sink: the way to the socket.
        hold: how many bytes may be held while joining or paused.
        socket_id: the connection's id of the socket, where this is one of its subscriptions. None:
            this is the socket.
        knows_cursors: whether the client has shown that it can resume, and understands `resync`.
        wants_presence: whether it asks to be told who else is there.
        is_over_http: whether it is no WebSocket, but takes events over HTTP.
        catch_up: called when it is too slow for the others on its topic. Then it is paused, until
            it has caught up by itself; None: the others do not wait for it, and it is closed when
            too much waits.
    """

    __slots__ = (
        "_held",
        "_held_bytes",
        "_hold_limit",
        "audience",
        "catch_up",
        "connection_id",
        "cursor",
        "gap",
        "has_overflowed",
        "is_behind",
        "is_over_http",
        "knows_cursors",
        "opened_at",
        "pending",
        "send_now",
        "since",
        "sink",
        "socket_id",
        "state",
        "topic",
        "user_id",
        "username",
        "wants_presence",
    )

    def __init__(
        self,
        topic: str,
        connection_id: str,
        sink: Sink,
        *,
        opened_at: float,
        hold: HoldLimit,
        socket_id: str | None = None,
        knows_cursors: bool = False,
        wants_presence: bool = False,
        is_over_http: bool = False,
        catch_up: CatchUp | None = None,
    ) -> None:
        self.topic = topic
        self.connection_id = connection_id
        self.socket_id = socket_id
        self.sink = sink
        self.opened_at = opened_at
        self.knows_cursors = knows_cursors
        self.wants_presence = wants_presence
        self.is_over_http = is_over_http
        self.catch_up = catch_up
        self.is_behind = False
        """Whether it catches up by itself: it is paused, though nobody is asked about it."""
        self.state = State.JOINING
        self.user_id: str | None = None
        self.username: str | None = None
        self.since: Cursor | None = None
        self.cursor: Position | None = None
        """How far it has come, while it is not live. It names the newest row that it was sent."""
        self.gap: str | None = None
        """Why it missed events, if it did. It has not been told yet."""
        self.pending: Pending | None = None
        """The access change that is being checked. An answer to an earlier one does not count."""
        self.audience: DirectList | None = None
        """The audience of its topic, once it has subscribed."""
        self.send_now: SendNow | None = None
        """What its sink lent, while it is in the list of those that are sent to directly."""
        self.has_overflowed = False
        """Whether too much had to be held. Then everything that was held is dropped."""
        self._hold_limit = hold
        self._held: list[Delivery | AccessChange] = []
        """What is held: deliveries, and access changes that name its user."""
        self._held_bytes = 0

    @property
    def is_socket(self) -> bool:
        """Whether it counts as a socket, and not as one of several subscriptions of one."""
        return self.socket_id is None

    @property
    def is_present(self) -> bool:
        """Whether its user is shown as there. Who takes events over HTTP may be a program."""
        return self.wants_presence or not self.is_over_http

    @property
    def is_joined(self) -> bool:
        """Whether it was accepted and is not closing."""
        return self.state is State.LIVE or self.state is State.PAUSED

    @property
    def is_holding(self) -> bool:
        return self.state is State.JOINING or self.state is State.PAUSED

    def deliver(self, delivery: Delivery) -> None:
        """Send the events for this socket, or hold them."""
        if self.is_holding:
            self._hold(delivery, len(delivery.frames))
        elif self.state is State.LIVE:
            frames = delivery.frames_for(self.sink.frame, self.user_id, self.since)
            if frames:
                self.sink.send(frames)

    def tell(self, message: Message) -> None:
        """Send a message of its own."""
        self.sink.send(self.sink.frame([message]))

    def hold(self, change: AccessChange) -> None:
        """Hold an access change until the database has answered: `was_locked_out` looks at it."""
        self._hold(change, ACCESS_CHANGE_BYTES + len(change.final_message or ""))

    def _hold(self, item: Delivery | AccessChange, size: int) -> None:
        if self.has_overflowed:
            return
        self._held_bytes += size
        if self._hold_limit.take(size):
            self._held.append(item)
        else:
            self.overflow()

    def overflow(self) -> None:
        """Drop what is held: it could not have been held with what follows."""
        self.hold_anew()
        self.has_overflowed = True

    def hold_anew(self) -> None:
        """Forget what was held: it will be read from the log."""
        self._held.clear()
        self._hold_limit.give_back(self._held_bytes)
        self._held_bytes = 0
        self.has_overflowed = False

    def go_live(self) -> list[Delivery | AccessChange]:
        """Become live from `since` on. Returns what was held, in order, for the hub."""
        held, self._held = self._held, []
        self.hold_anew()
        self.state = State.LIVE
        self.is_behind = False
        return held

    def pause(self, cursor: Position | None) -> None:
        """Hold events from here on: until the database has said that the user still has access, or,
        if it is behind, until it has caught up.

        Args:
            cursor: covers what was sent up to now.
        """
        self.state = State.PAUSED
        self.cursor = cursor
        self.leave_direct()

    def stop(self) -> None:
        """Send nothing more, even if something still refers to this subscriber."""
        self.state = State.STOPPED
        self.is_behind = False
        self.hold_anew()
        self.leave_direct()

    def leave_direct(self) -> None:
        """Have it looked at before it is sent anything more."""
        if self.audience is not None:
            self.audience.leave(self)

    def was_locked_out(self, until: Cursor) -> bool:
        """Whether something held, up to that cursor, revoked or granted the user access.

        If not, a user who has access as of that cursor had it all the time.
        """
        changes = [item for item in self._held if isinstance(item, AccessChange)]
        return any(
            (not one.is_recheck or self._is_another(one))
            and self.is_concerned_by(one)
            and self._is_since(one, until)
            for one in changes
        )

    def _is_another(self, change: AccessChange) -> bool:
        """Whether everybody is asked again by another transaction than the one that is pending.

        So the user may have lost access by the first, and got it back by the second.
        """
        pending = self.pending
        is_same = isinstance(pending, AccessChange) and pending.xid == change.xid
        return change.asks_everybody and not is_same

    def _is_since(self, row: AccessChange, until: Cursor) -> bool:
        """Whether the row came after the socket was accepted, and before the answer."""
        came_before = self.since is not None and self.since.covers(row.xid)
        return until.covers(row.xid) and not came_before

    def is_concerned_by(self, change: AccessChange) -> bool:
        """Whether the change is about this socket (or may be, while its user is unknown)."""
        return (change.topic is None or change.topic == self.topic) and (
            change.user_id is None or self.user_id is None or change.user_id == self.user_id
        )
