"""The model that `test_hub_model` holds the hub to: who has access when, and what a socket is owed.

`Watched` checks each message that a socket is sent against what was committed when.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from realtime.relay import closing
from realtime.relay.cursor import Anchor, Cursor
from realtime.relay.events import AccessChange, Event
from realtime.relay.hub import Hub
from realtime.relay.owed import Owed
from realtime.relay.protocol import Message
from realtime.relay.recheck import RecheckAnswer
from realtime.relay.resume import Floor, LogState, TopicHistory
from realtime.relay.subscriber import HoldLimit, State, Subscriber
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    OTHER_BOT,
    SIGNER,
    FakeDatabase,
    LendingSink,
    frame,
    seen,
    unframe,
)

FINAL_MESSAGE = '{"type":"permission_change"}'


class ModelLog(FakeDatabase):
    """The log, and who has access to what at which time."""

    def __init__(self) -> None:
        super().__init__()
        self.access = {(user, topic): True for user in (ADA, GRACE) for topic in (BOT, OTHER_BOT)}
        self.losses: list[tuple[int, str, str]] = []
        """When, whose, where; a revoke counts also where the same transaction grants again."""
        self.changes: list[tuple[int, str, str]] = []
        """Losses, grants and rechecks."""
        self.deeds: dict[int, list[tuple[str, str, str]]] = {}

    def do(self, xid: int, deed: str, user: str, topic: str) -> None:
        """Write what the triggers would write, and remember what it means."""
        self.deeds.setdefault(xid, []).append((deed, user, topic))
        if deed in ("recheck all", "remap"):
            self.change_access(xid, None, None, is_recheck=True)
        elif deed == "grant":
            self.grant(xid, topic, user)
        else:
            self.write(xid, topic)
        if deed in ("revoke", "drop", "recheck"):
            self.change_access(
                xid, topic, user, final_message=FINAL_MESSAGE, is_recheck=deed != "revoke"
            )

    def commit(self, xid: int) -> None:
        super().commit(xid)
        before = dict(self.access)
        deeds = self.deeds.pop(xid, [])
        for deed, user, topic in deeds:
            if deed in ("revoke", "drop", "grant"):
                self.access[user, topic] = deed == "grant"
            elif deed == "remap":  # other tables decide: nothing else tells of it
                self.access[user, topic] = not self.access[user, topic]
        time = self.committed_at[xid]
        self.changes += [(time, user, topic) for _, user, topic in deeds]
        if any(deed in ("recheck all", "remap") for deed, _, _ in deeds):
            self.changes += [(time, user, topic) for user, topic in self.access]
        self.losses += [(time, user, topic) for deed, user, topic in deeds if deed == "revoke"]
        lost = [key for key, had in before.items() if had and not self.access[key]]
        self.losses += [(time, user, topic) for user, topic in lost]

    def time(self, row: Event | AccessChange) -> int:
        return self.committed_at[row.xid]

    def past(self, topic: str) -> TopicHistory:
        """The whole of it: nothing was removed."""
        events = [row for row in self.committed if isinstance(row, Event) and row.topic == topic]
        changes = [row for row in self.committed if isinstance(row, AccessChange)]
        known = {Anchor(row.xid, row.id, 0) for row in self.committed}
        state = LogState(Floor(0, seen(1)), known)
        return TopicHistory(state, [*changes, *self.grants_of(events)], events, 0)


def frame_with_blanks(messages: Iterable[Message]) -> bytes:
    """Another framing than `frame`, as clients have that are no WebSockets."""
    return b"".join(message.text + b" \n" for message in messages)


class Numbered(Subscriber):
    """Stands in sets where its number puts it, so that hypothesis can run a history again."""

    def __hash__(self) -> int:
        return int(self.connection_id)


class Watched(LendingSink):
    """A socket, and what it may be sent: `base` is the time since when it is entitled."""

    def __init__(
        self, log: ModelLog, number: int, user: str, topic: str, hold_bytes: int, knows: bool
    ) -> None:
        super().__init__()
        self.log, self.user, self.topic = log, user, topic
        self.has_blanks = number % 2 == 1
        self.frame = frame_with_blanks if self.has_blanks else frame
        self.subscriber = Numbered(
            topic, str(number), self, opened_at=0, hold=HoldLimit(hold_bytes), knows_cursors=knows
        )
        self.subscriber.catch_up = self._catch_up
        self.behind: tuple[Owed, Cursor] | None = None
        """What it is still to be sent by itself, for it was too slow."""
        self.answer: tuple[bool, Cursor] | None = None
        self.asked_at = 0
        self.owed_from: Cursor | None = None
        self.before: Watched | None = None
        """The same client's earlier socket, from which it goes on."""
        self.is_welcome = False
        self.is_in = False
        self.base = 0
        self.until = 0
        """When it was last found to be still allowed."""
        self.sent: set[int] = set()
        self.newest_written = 0
        self.said_final_message = False
        self.closed: str | None = None

    # The way to the socket.

    def take(self, frames: bytes) -> None:
        assert self.closed is None, "sent after its close"
        assert self.is_welcome, "sent before it was welcomed"
        ends = {line.endswith(b" ") for line in frames.splitlines()}
        assert ends <= {self.has_blanks}, "sent the frames of another kind"
        rows = {row.id: row for row in self.log.committed}
        for message in unframe(frames):
            assert not self.said_final_message, "sent after its final_message"
            if message["type"] == "resync":
                self._resync()
            else:
                self._take(rows[int(message["id"].split("-")[0])])
            if "cursor" in message:
                self.check_place(message["cursor"])

    def _catch_up(self, owed: Owed, since: Cursor) -> None:
        assert self.is_in
        assert self.behind is None, "behind twice"
        assert self.subscriber.state is State.PAUSED
        self.behind = owed, since

    @property
    def is_idle(self) -> bool:
        return not self.is_waiting

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
            self.is_closed = True
            self.take_back()
            assert code == (4003 if reason == closing.ACCESS_ENDED.reason else 1013)
            if self.is_in and reason != closing.HELD_TOO_MUCH.reason:
                assert self._happened(self.log.changes, self.base), "closed without a cause"

    def _take(self, row: Event | AccessChange) -> None:
        time = self.log.time(row)
        assert time > self.base, "sent what was committed before it was entitled"
        assert row.id not in self.sent, "sent twice"
        self.sent.add(row.id)
        if isinstance(row, AccessChange):
            assert (row.topic, row.user_id) == (self.topic, self.user), "another's final_message"
            self.said_final_message = True
            return
        assert row.topic == self.topic, "sent another topic's event"
        assert not self._happened(self.log.losses, self.base, time), "sent after a revocation"
        assert self.newest_written < time, "sent before what it had seen committed"
        self.newest_written = max(self.newest_written, self.log.written_at[row.id])

    def _resync(self) -> None:
        assert self.subscriber.knows_cursors, "told resync, which it does not understand"
        assert self._happened(self.log.changes, self.base, self.until), "told without a cause"
        self.base = self.until

    def _happened(
        self, what: list[tuple[int, str, str]], after: int, until: float = float("inf")
    ) -> bool:
        """Whether any of it happened to this user here, after one time and up to another."""
        mine = [time for time, user, topic in what if (user, topic) == (self.user, self.topic)]
        return any(after < time <= until for time in mine)

    # What holds at any time, and what holds once all is said.

    def check_place(self, text: str) -> None:
        """All that the place claims was sent, or the socket was told that it was not."""
        place = SIGNER.read(text, self.topic)
        for row in self._due():
            assert self.has_seen(row) or not place.covers(row.xid), "a place ahead of what was sent"

    def check_direct(self) -> None:
        """It is sent to without a look only while it is live for all, and nothing waits."""
        if self.subscriber.send_now is not None:
            assert self.subscriber.state is State.LIVE
            assert self.subscriber.since is None
            assert self.is_lent

    def check_complete(self) -> None:
        """It was sent everything since `base`, is where the others are, and may be there."""
        assert self.subscriber.state is State.LIVE
        assert self.subscriber.since is None
        assert self.log.access[self.user, self.topic], "still there after a revocation"
        assert all(map(self.has_seen, self._due())), "an event is missing"
        assert not self._owed, "a part of a frame is missing"

    def has_seen(self, row: Event) -> bool:
        return row.id in self.sent or (self.before is not None and self.before.has_seen(row))

    def _due(self) -> list[Event]:
        return [
            row
            for row in self.log.committed
            if isinstance(row, Event) and row.topic == self.topic and self.log.time(row) > self.base
        ]


class SlowAccess:
    """Asks at one time, and has the answer arrive at another: at each gate it waits."""

    def __init__(self, log: ModelLog) -> None:
        self._log = log
        self.gates: list[asyncio.Future[None]] = []
        self.times: dict[Cursor, int] = {}
        """When an answer was given that has this place."""

    async def recheck(self, questions: Sequence[tuple[str, str]]) -> list[RecheckAnswer]:
        await self._gate()
        allowed = [self._log.access[question] for question in questions]
        place = self._log.place()
        self.times[place] = self._log.now
        await self._gate()
        return [RecheckAnswer(is_allowed, place) for is_allowed in allowed]

    async def _gate(self) -> None:
        self.gates.append(asyncio.get_running_loop().create_future())
        await self.gates[-1]

    def open_gate(self) -> None:
        if self.gates:
            self.gates.pop().set_result(None)


class WatchedHub(Hub):
    """Notes as of when a socket was found to be still allowed."""

    def __init__(self, access: SlowAccess, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._access = access

    def stay(self, subscriber: Subscriber, pending: AccessChange, until: Cursor) -> None:
        assert isinstance(subscriber.sink, Watched)
        subscriber.sink.until = self._access.times[until]
        super().stay(subscriber, pending, until)
