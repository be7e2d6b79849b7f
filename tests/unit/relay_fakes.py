"""Fakes shared by the tests of `realtime.relay`: a sink that records, builders, a log in memory.

`FakeDatabase` behaves as `postgres.event_log` finds Postgres to behave: transactions get their ids
in the order they begin, rows theirs in the order they are written, and a snapshot covers whatever
has ended.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from hypothesis import strategies as st

from realtime.relay.cursor import (
    Anchor,
    Cursor,
    Database,
    Key,
    Signer,
    Snapshot,
)
from realtime.relay.events import AccessChange, AccessKind, Event, Page, Pending, RowKey
from realtime.relay.hub import Hub
from realtime.relay.large_read import LargeRead
from realtime.relay.pace import DEFAULT_LIMITS, PaceLimits
from realtime.relay.position import Lineage, Position
from realtime.relay.protocol import Message
from realtime.relay.reader import Reader
from realtime.relay.refusals import Refusals
from realtime.relay.resume import (
    GapReason,
    ResumeRequest,
    TopicHistory,
    Unrecoverable,
    answers,
)
from realtime.relay.subscriber import HoldLimit, SendNow, Subscriber
from tests.waiting import eventually

BOT = "bot:b1"
OTHER_BOT = "bot:b2"
ADA = "ada"
GRACE = "grace"
HISTORY = Database(system=7, oid=5, timeline=1)
SIGNER = Signer(HISTORY, (Key(b"i" * 64, b"o" * 64),))
FIRST_XID = 10
START = Cursor(1, (), Anchor(1, 0, 0))
_Result = TypeVar("_Result")


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run to the end on a fresh loop, but never for ever."""

    async def limited() -> _Result:
        return await asyncio.wait_for(coroutine, 10)

    return asyncio.run(limited())


async def while_running(
    endless: Coroutine[Any, Any, NoReturn], condition: Callable[[], object]
) -> None:
    """Keep something going until the condition holds; should it fail, so does the test."""
    task = asyncio.create_task(endless)
    try:
        await eventually(lambda: task.done() or condition())
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def frame(messages: Iterable[Message]) -> bytes:
    """A framing that is easy to undo: one message a line."""
    return b"".join(message.text + b"\n" for message in messages)


def unframe(frames: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in frames.splitlines()]


class LendingSink:
    """A socket, and its buffer in the kernel: `room` says how much of the next frames it takes.

    It asserts that what it lends is used by the rules. What it is sent, `take` is given.
    """

    @staticmethod
    def frame(messages: Iterable[Message]) -> bytes:
        return frame(messages)

    def __init__(self) -> None:
        self.room: int | None = None
        """None: the kernel takes everything."""
        self.is_waiting = False
        """Whether something waits for room in the kernel."""
        self.is_closed = False
        self.is_lent = False
        self._withdraw: Callable[[], None] = lambda: None
        self._owed = b""
        """What `send_now` did not take, and nobody has sent yet."""

    def take(self, frames: bytes) -> None:
        raise NotImplementedError

    def send(self, frames: bytes) -> None:
        if not self.is_closed:
            assert not self._owed, "sent before the rest of what was begun"
            if self.room is not None:
                self._wait()
            self.take(frames)

    def send_now(self, frames: bytes) -> int:
        assert self.is_lent, "used after it was taken back"
        assert not self._owed, "sent before the rest of what was begun"
        if self.room == 0:
            raise BlockingIOError
        sent = len(frames) if self.room is None else min(self.room, len(frames) - 1)
        self._owed = frames[sent:]
        self.take(frames)
        return sent

    def send_rest(self, frames: bytes, sent: int) -> None:
        assert frames[sent:] == self._owed, "not the rest of what was begun"
        self._owed = b""
        self._wait()

    def lend(self, withdraw: Callable[[], None]) -> SendNow | None:
        self.is_lent = not (self.is_waiting or self.is_closed)
        self._withdraw = withdraw
        return self.send_now if self.is_lent else None

    def drain(self) -> None:
        """The client has read everything."""
        self.room, self.is_waiting = None, False

    def take_back(self) -> None:
        if self.is_lent:
            self.is_lent = False
            self._withdraw()

    def _wait(self) -> None:
        self.is_waiting = True
        self.take_back()


class RecordingSink(LendingSink):
    """A socket that remembers what it was sent and with what it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None

    def take(self, frames: bytes) -> None:
        self.messages += unframe(frames)

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)
            self.is_closed = True
            self.take_back()

    @property
    def is_idle(self) -> bool:
        return not self.is_waiting

    @property
    def ids(self) -> list[int]:
        """The ids of the events it was sent, in that order."""
        return [int(message["id"].split("-")[0]) for message in self.messages if "id" in message]

    @property
    def cursors(self) -> list[str]:
        return [message["cursor"] for message in self.messages if "cursor" in message]


class Asked(list[tuple[Subscriber, Pending]]):
    """What the hub wanted to have asked again."""

    def __call__(self, subscriber: Subscriber, change: Pending) -> None:
        self.append((subscriber, change))


def raise_it(error: Exception) -> None:
    """An error that nobody foresaw: where none is expected, it ends the loop and so the test."""
    raise error


async def no_pause() -> None:
    """A pause in which nobody else does anything."""


def make_hub(
    asked: Callable[[Subscriber, Pending], None] | None = None,
    *,
    pause: Callable[[], Awaitable[None]] = no_pause,
    clock: Callable[[], float] = lambda: 0.0,
    echoes_to_author: bool = True,
    **slices: int,
) -> Hub:
    return Hub(
        NOWHERE,
        frame=frame,
        pause=pause,
        ask_again=Asked() if asked is None else asked,
        monotonic=clock,
        echoes_to_author=echoes_to_author,
        **slices,
    )


def make_relay(
    hub: Hub,
    cursor: Cursor,
    refusals: Refusals | None = None,
    limits: PaceLimits = DEFAULT_LIMITS,
    clock: Callable[[], float] = lambda: 0.0,
    **given: Any,
) -> Reader:
    refusals = Refusals(lambda: 0.0) if refusals is None else refusals
    hub.position = Position(cursor, SIGNER)
    return Reader(hub, refusals, Lineage(hub.position), monotonic=clock, limits=limits, **given)


def make_subscriber(
    topic: str = BOT,
    *,
    hold_bytes: int = 10_000,
    knows_cursors: bool = False,
    socket_id: str | None = None,
) -> tuple[Subscriber, RecordingSink]:
    sink = RecordingSink()
    subscriber = Subscriber(
        topic,
        "c1",
        sink,
        opened_at=0.0,
        hold=HoldLimit(hold_bytes),
        socket_id=socket_id,
        knows_cursors=knows_cursors,
    )
    return subscriber, sink


def join(
    hub: Hub,
    user_id: str = ADA,
    topic: str = BOT,
    *,
    since: Cursor = START,
    knows_cursors: bool = False,
    socket_id: str | None = None,
) -> tuple[Subscriber, RecordingSink]:
    """A socket all the way in."""
    subscriber, sink = make_subscriber(topic, knows_cursors=knows_cursors, socket_id=socket_id)
    hub.subscribe(subscriber)
    hub.identify(subscriber, user_id, f"{user_id}'s name")
    subscriber.cursor = Named(since, "told")
    hub.go_live(subscriber, since)
    return subscriber, sink


def seen(xmax: int, *in_progress: int) -> Snapshot:
    return Snapshot(xmax, frozenset(in_progress))


def at(last: int, *still_open: int) -> Cursor:
    return Cursor(last, still_open, Anchor(last, 0, 0) if last else None)


class Named(Position):
    """A position whose text is a name, whatever the topic; another claim's has a plus."""

    def __init__(self, cursor: Cursor, name: str) -> None:
        super().__init__(cursor, SIGNER)
        self.name = name

    def text(self, topic: str) -> str:
        return self.name

    def naming(self, newest: Anchor | None) -> Position:
        return self.claiming(self.cursor, newest)

    def claiming(self, cursor: Cursor, newest: Anchor | None = None) -> Position:
        is_same = (cursor.last, cursor.open) == (self.cursor.last, self.cursor.open)
        return Named(cursor.naming(newest), self.name if is_same else f"{self.name}+")


NOWHERE = Named(Cursor(0), "")
"""Where a hub is before anything was read."""


def read(hub: Hub, cursor: Cursor, text: str, *rows: Event | AccessChange) -> None:
    """Have the hub deliver what a read found, all at once, that came as far as the cursor."""
    run(hub.deliver(page(seen(0), *rows), Named(cursor, text)))


def read_part(hub: Hub, *rows: Event | AccessChange) -> None:
    """Have the hub deliver a page of a read that is not its last."""
    run(hub.deliver(page(seen(0), *rows, is_last=False), hub.position))


def event(
    event_id: int,
    xid: int,
    topic: str = BOT,
    payload: str = '{"type":"x"}',
    subject: str | None = None,
    author: str | None = None,
) -> Event:
    return Event(event_id, xid, topic, payload, subject, author=author)


def access_change(
    change_id: int,
    xid: int,
    topic: str | None = BOT,
    user_id: str | None = ADA,
    *,
    final_message: str | None = None,
    is_recheck: bool = False,
) -> AccessChange:
    kind = AccessKind.RECHECK if is_recheck else AccessKind.REVOKE
    return AccessChange(change_id, xid, topic, user_id, kind, 4003, final_message)


def missed_events(request: ResumeRequest, history: TopicHistory, limit: int) -> Sequence[Event]:
    """What one client alone is answered."""
    [answer] = answers([request], {request.topic: history}, limit)
    if isinstance(answer, Unrecoverable):
        raise answer
    return answer.events


def grant_row(xid: int, topic: str | None, user_id: str | None) -> AccessChange:
    return AccessChange(0, xid, topic, user_id, AccessKind.GRANT)


def page(snapshot: Snapshot, *rows: Event | AccessChange, is_last: bool = True) -> Page:
    """One page; the last of its read, if nothing else is said."""
    events = tuple(row for row in rows if isinstance(row, Event))
    changes = [row for row in rows if isinstance(row, AccessChange)]
    grants = tuple(row for row in changes if row.kind is AccessKind.GRANT)
    losses = tuple(row for row in changes if row.kind is not AccessKind.GRANT)
    return Page(snapshot, losses, events, is_last, grants)


@dataclass
class FakeDatabase:
    """The log and its transactions. `page_rows` is how many rows one answer holds."""

    page_rows: int = 1000
    page_bytes: float = math.inf
    """How many bytes of payloads one answer holds."""
    breaks_after: int | None = None
    """After how many more answers the connection breaks."""
    meanwhile: Callable[[], object] = lambda: None
    """What happens while the database is asked."""
    committed: list[Event | AccessChange] = field(default_factory=list)
    running: dict[int, list[Event | AccessChange]] = field(default_factory=dict)
    highest_ended: int = FIRST_XID - 1
    next_xid: int = FIRST_XID
    next_id: int = 1
    now: int = 0
    """Counts whatever happens, so that two moments can be compared."""
    written_at: dict[int, int] = field(default_factory=dict)
    """By row id."""
    committed_at: dict[int, int] = field(default_factory=dict)
    """By transaction id."""
    granted_to: dict[int, str] = field(default_factory=dict)
    """Which users events give access to, by row id."""

    def begin(self) -> int:
        self.now += 1
        xid, self.next_xid = self.next_xid, self.next_xid + 1
        self.running[xid] = []
        return xid

    def write(self, xid: int, topic: str = BOT) -> Event:
        row = event(self._new_id(), xid, topic)
        self.running[xid].append(row)
        return row

    def grant(self, xid: int, topic: str, user_id: str) -> None:
        """Write an event that gives access: a read finds it as both."""
        self.granted_to[self.write(xid, topic).id] = user_id

    def grants_of(self, rows: Iterable[Event | AccessChange]) -> list[AccessChange]:
        """What the log says of access beside the events that give it."""
        return [
            grant_row(row.xid, row.topic, self.granted_to[row.id])._replace(id=row.id)
            for row in rows
            if row.id in self.granted_to
        ]

    def change_access(
        self, xid: int, topic: str | None, user_id: str | None, **how: Any
    ) -> AccessChange:
        row = access_change(self._new_id(), xid, topic, user_id, **how)
        self.running[xid].append(row)
        return row

    def commit(self, xid: int) -> None:
        self.now += 1
        self.committed_at[xid] = self.now
        self.committed += self.running[xid]
        self.abort(xid)

    def abort(self, xid: int) -> None:
        self.now += 1
        del self.running[xid]
        self.highest_ended = max(self.highest_ended, xid)

    def snapshot(self) -> Snapshot:
        xmax = self.highest_ended + 1
        return Snapshot(xmax, frozenset(xid for xid in self.running if xid < xmax))

    def newest(self) -> Anchor | None:
        return max((Anchor(row.xid, row.id, 0) for row in self.committed), default=None)

    def place(self) -> Cursor:
        """The cursor of one who begins now, as in `EventLog.end`."""
        return Cursor.at(self.snapshot(), self.newest())

    async def read(
        self, cursor: Cursor, newest: Anchor | None, ahead: Set[Anchor]
    ) -> AsyncGenerator[Page, None]:
        self._require(cursor.anchor)
        self._require(newest)
        for one in self._pages(cursor):
            self._break()
            yield one

    async def listing(self, large: LargeRead, newest: Anchor | None) -> Page:
        heads = self._heads(large, newest)
        rest = [row for row in heads if (row.xid, row.id) > large.last]
        return page(large.snapshot, *rest[: self.page_rows], is_last=False)

    async def first_of(
        self, topics: Sequence[str], number: int, large: LargeRead, newest: Anchor | None
    ) -> list[Event]:
        heads = self._heads(large, newest)
        return [
            row for topic in topics for row in [one for one in heads if one.topic == topic][:number]
        ]

    def _heads(self, large: LargeRead, newest: Anchor | None) -> list[Event]:
        self._break()
        self.meanwhile()
        self._require(large.cursor.anchor)
        self._require(newest)
        heads = [
            row._replace(payload=None)
            for row in self.unseen(large.cursor)
            if isinstance(row, Event) and large.snapshot.covers(row.xid)
        ]
        self.meanwhile()
        return sorted(heads, key=lambda row: (row.xid, row.id))

    def _break(self) -> None:
        """Break the connection when its time has come."""
        if self.breaks_after is not None:
            self.breaks_after -= 1
            if self.breaks_after < 0:
                self.breaks_after = None
                raise ConnectionError("cut")

    def _require(self, row: Anchor | None) -> None:
        rows = {Anchor(one.xid, one.id, 0) for one in self.committed} | {START.anchor, None}
        if row not in rows:
            raise Unrecoverable(GapReason.FOREIGN)

    async def start(self) -> Position:
        return Position(self.place(), SIGNER)

    def unseen(self, cursor: Cursor) -> list[Event | AccessChange]:
        """What the statement finds: `xid > last OR xid = ANY(open)`, in the order of ids."""
        found = [row for row in self.committed if row.xid > cursor.last or row.xid in cursor.open]
        return sorted(found, key=lambda row: row.id)

    async def payloads(
        self, keys: Sequence[RowKey], cursor: Cursor, newest: Anchor | None
    ) -> list[Event]:
        self._require(cursor.anchor)
        self._require(newest)
        rows = {row.id: row for row in self.committed if isinstance(row, Event)}
        return [rows[key.id] for key in keys]

    @property
    def portion_bytes(self) -> int:
        return 0

    def _pages(self, cursor: Cursor) -> list[Page]:
        snapshot, rows = self.snapshot(), self.unseen(cursor)
        size = sum(row.size for row in rows if isinstance(row, Event))
        if len(rows) < self.page_rows and size <= self.page_bytes:
            return [page(snapshot, *rows, *self.grants_of(rows))]
        changes = [row for row in rows if isinstance(row, AccessChange)]
        end = max(Anchor(row.xid, row.id, 0) for row in rows)
        access = page(snapshot, *changes, *self.grants_of(rows), is_last=False)
        has_access = access.changes or access.grants
        return [*([access] if has_access else []), page(snapshot)._replace(end=end)]

    def _new_id(self) -> int:
        self.now += 1
        row_id, self.next_id = self.next_id, self.next_id + 1
        self.written_at[row_id] = self.now
        return row_id


def cursors(highest: int = 12) -> st.SearchStrategy[Cursor]:
    """Any place in a short log."""
    open_xids = st.frozensets(st.integers(1, highest), max_size=8)
    return st.builds(
        lambda last, xids: at(last, *sorted(xid for xid in xids if xid < last)),
        st.integers(0, highest),
        open_xids,
    )
