"""The world of `test_multiplex_model`: the sockets of one process, their clients, and the database.

Real are the reader, the hub, the conversations of every kind with all that they use (joining,
replay, budget, sinks, streams), the rechecks, presence and typing. Faked are the database and what
is asked of it: each answer is found at one time and arrives at another, when its gate is opened. A
client has a real connection, of which the kernel holds little, and reads from it when it likes.

A client is known by what it remembers. At any moment it may be cut off and come back with any
cursor that it was ever told, and what it had then: that is a `Memory`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple, NoReturn, Protocol

from realtime.auth.tokens import Identity
from realtime.config.intervals import DEFAULTS
from realtime.relay import closing
from realtime.relay.admission import Admission
from realtime.relay.budget import ReadBudget
from realtime.relay.counters import Counters
from realtime.relay.cursor import Anchor, Cursor, Snapshot
from realtime.relay.errors import Refused
from realtime.relay.events import AccessChange, Event, Part, RowKey
from realtime.relay.large_read import LargeLimits
from realtime.relay.pace import PaceState
from realtime.relay.position import Position
from realtime.relay.presence import People, Presence, PresenceBroadcaster
from realtime.relay.protocol import SOCKET_TOPIC, bot_of, bot_topic
from realtime.relay.recheck import RecheckAnswer, RecheckBatcher
from realtime.relay.resume import (
    Floor,
    GapReason,
    LogState,
    Missed,
    ResumeRequest,
    SharedMissed,
    TopicHistory,
    answers,
)
from realtime.relay.typing import TypingBroadcaster, TypingIndicators
from realtime.web.conversation import Conversation, HandshakeRequest
from realtime.web.multiplex import MultiConversation
from realtime.web.sockets import ChatConversation
from realtime.web.sse import ChatEvents
from realtime.web.stream import ClientStream
from tests.unit.relay_fakes import (
    ADA,
    GRACE,
    SIGNER,
    START,
    FakeDatabase,
    make_hub,
    make_relay,
    raise_it,
)
from tests.unit.test_conversation import SETTINGS, Slow, make_services

BOTS = ("00000000-0000-4000-8000-0000000000b1", "00000000-0000-4000-8000-0000000000b2")
TOPICS = tuple(map(bot_topic, BOTS))
USERS = (ADA, GRACE)
KINDS: Mapping[str, type[Conversation]] = {
    "multi": MultiConversation,
    "chat": ChatConversation,
    "events": ChatEvents,
}
KERNEL_BYTES, SEND_BUFFER_BYTES, READ_BUFFER_BYTES = 4096, 20_000, 32_000
PAGE_ROWS, PAGE_BYTES, PORTION_BYTES, LIVE_BYTES, SHORT_BYTES = 8, 4000, 3000, 6000, 2000
"""Of one read of the log; of a portion; of what is live; of missed events that come at once."""
BETWEEN = "between two sockets"
FIRST = Anchor(1, 0, 0)
"""The row that `START` names."""
EPOCH = "1"
ROUNDS = 5000
"""How long it may take until everything comes to an end. With small portions that is long."""
FINAL_MESSAGE = '{"type":"revoked"}'


class Gates:
    """What waits for the database: most answers arrive only when their gate is opened."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._shut: list[tuple[str, asyncio.Future[None]]] = []

    def __bool__(self) -> bool:
        return bool(self._shut)

    async def wait(self, what: str) -> None:
        """Return when the gate is opened, or at once."""
        if self._random.random() < 0.6:
            opened = asyncio.get_running_loop().create_future()
            self._shut.append((what, opened))
            await opened

    def open_one(self) -> str:
        """Open any of them, and say what waited there."""
        if not self._shut:
            return "none"
        what, opened = self._shut.pop(self._random.randrange(len(self._shut)))
        if not opened.done():
            opened.set_result(None)
        return what

    def open_all(self) -> None:
        while self._shut:
            self.open_one()


class ModelDatabase(FakeDatabase):
    """The log, and who has access to what when.

    A thing that is updated often is locked by its writer until the end, as its row would be.
    """

    def __init__(self) -> None:
        super().__init__(page_rows=PAGE_ROWS, page_bytes=PAGE_BYTES)
        self.access = {(user, topic) for user in USERS for topic in TOPICS}
        self.access_at: dict[int, Set[tuple[str, str]]] = {}
        """Who had access when a transaction had committed, by its id."""
        self.changing: dict[tuple[str, str], int] = {}
        """Whose access an open transaction changes, and which one."""
        self._writing: dict[str, int] = {}
        """Of which topic an open transaction updates the growing message."""

    @property
    def portion_bytes(self) -> int:
        return PORTION_BYTES

    def place(self) -> Cursor:
        return super().place() if self.committed else START

    def say(self, xid: int, topic: str, size: int, author: str | None, *, grows: bool) -> Event:
        """Write a message, or the next state of the one of its topic that grows."""
        text = json.dumps({"type": "x", "text": "y" * size})
        row = self.write(xid, topic)._replace(payload=text, size=len(text), author=author)
        if grows and self._writing.setdefault(topic, xid) == xid:
            row = row._replace(subject="grows")
        self.running[xid][-1] = row
        return row

    def change(self, user: str, topic: str, *, is_recheck: bool) -> int | None:
        """Begin to take a user's access away, or to give it back; None: somebody else does."""
        if (user, topic) in self.changing:
            return None
        xid = self.changing[user, topic] = self.begin()
        if (user, topic) not in self.access:
            self.grant(xid, topic, user)
        elif is_recheck:
            self.change_access(xid, topic, user, is_recheck=True)
        else:
            self.change_access(xid, topic, user, final_message=FINAL_MESSAGE)
        return xid

    def commit(self, xid: int) -> None:
        self.access ^= {one for one, changing in self.changing.items() if changing == xid}
        self.access_at[xid] = frozenset(self.access)
        super().commit(xid)

    def abort(self, xid: int) -> None:
        super().abort(xid)
        self.changing = {one: by for one, by in self.changing.items() if by != xid}
        self._writing = {topic: by for topic, by in self._writing.items() if by != xid}

    def row(self, row_id: int) -> Event | AccessChange:
        """A committed row."""
        return next(row for row in self.committed if row.id == row_id)

    def events_of(self, topic: str) -> list[Event]:
        """The committed events of a topic."""
        return [row for row in self.committed if isinstance(row, Event) and row.topic == topic]

    def changes_of(self, user: str, topic: str) -> list[AccessChange]:
        """What has given a user access, has taken it away, or has everybody asked again."""
        changes = [row for row in self.committed if isinstance(row, AccessChange)]
        return [
            row
            for row in (*changes, *self.grants_of(self.committed))
            if (not row.is_recheck or row.asks_everybody)
            and row.topic in (None, topic)
            and row.user_id in (None, user)
        ]

    def past(self, topic: str) -> TopicHistory:
        """The whole of it: nothing was removed."""
        events = self.events_of(topic)
        if sum(event.size for event in events) > SHORT_BYTES:
            events = [event._replace(payload=None) for event in events]
        changes = [row for row in self.committed if isinstance(row, AccessChange)]
        known = {Anchor(row.xid, row.id, 0) for row in self.committed} | {FIRST}
        state = LogState(Floor(0, Snapshot(0, frozenset())), known)
        return TopicHistory(state, [*changes, *self.grants_of(self.committed)], events, 0)


class Access:
    """Answers who may be where."""

    def __init__(self, database: ModelDatabase, gates: Gates) -> None:
        self._database = database
        self._gates = gates

    async def verify(self, token: str, *, leeway: bool = True) -> Identity:
        """A token is the name of its user."""
        return Identity(token, 1e9, is_admin=False)

    async def authorize(self, subject: str, bot_id: str | None) -> Admission:
        await self._gates.wait("authorize")
        is_allowed = bot_id is None or (subject, bot_topic(bot_id)) in self._database.access
        admission = Admission(subject, subject, "Bot", "viewer", self._database.place())
        await self._gates.wait("authorized")
        if not is_allowed:
            raise Refused(*closing.ACCESS_DENIED)
        return admission

    async def recheck(self, questions: Sequence[tuple[str, str]]) -> list[RecheckAnswer]:
        await self._gates.wait("recheck")
        allowed = [one in self._database.access or one[1] == SOCKET_TOPIC for one in questions]
        place = self._database.place()
        await self._gates.wait("rechecked")
        return [RecheckAnswer(is_allowed, place) for is_allowed in allowed]


class History:
    """Answers what was missed, and reads payloads."""

    portion_bytes = PORTION_BYTES

    def __init__(self, database: ModelDatabase, gates: Gates, *, echoes: bool) -> None:
        self.log = self
        self._database = database
        self._gates = gates
        self._echoes = echoes

    async def since(self, request: ResumeRequest) -> Missed:
        await self._gates.wait("since")
        [answer] = answers([request], {request.topic: self._database.past(request.topic)}, 1000)
        await self._gates.wait("since answered")
        if isinstance(answer, SharedMissed):
            return answer.missed.for_another() if self._echoes else answer.without(request.user_id)
        raise answer

    async def payloads(self, keys: Sequence[RowKey]) -> list[Event]:
        await self._gates.wait("payloads")
        return [self._event(key) for key in keys]

    async def part(self, key: RowKey, start: int, size: int) -> Part:
        await self._gates.wait("part")
        event = self._event(key)
        rest = (event.payload or "").encode()[start:]
        return Part(rest[:size], event.anchor, len(rest) <= size, event.author)

    def _event(self, key: RowKey) -> Event:
        row = self._database.row(key.id)
        assert isinstance(row, Event)
        return row


class Asleep:
    """The pace of a relay that sleeps: it may deliver what rings carry."""

    state = PaceState.ASLEEP

    def waited(self, _age: float) -> float:
        return 0.0

    def after_carried(self, _transactions: int, _waited: float) -> None:
        """A read is due at some time; the scenario says when."""


class Memory(NamedTuple):
    """What a client knows of a topic when it is told a cursor, and comes back with."""

    cursor: Cursor
    start: Cursor
    """What this covers, it has loaded from the API; it is owed all that came later."""
    has: frozenset[int]
    """The ids of the events that it was sent."""


class Rules(Protocol):
    """What must hold when a client reads something."""

    def on_welcome(self, stay: Stay, told: Mapping[str, Any]) -> None: ...

    def on_event(self, stay: Stay, event: Event) -> None: ...

    def on_cursor(self, stay: Stay, cursor: Cursor, *, is_between: bool) -> None:
        """It is told a cursor.

        Args:
            is_between: by a pong between two sockets that were served.
        """

    def on_end(self, stay: Stay) -> None:
        """It is told that its access has ended."""


class Stay:
    """A client on one topic: from the moment it asks for it until its end.

    Args:
        memory: what it comes back with; None: it begins.
    """

    def __init__(self, world: World, user: str, topic: str, memory: Memory | None) -> None:
        self.world = world
        self.user = user
        self.topic = topic
        self.is_welcome = False
        self.is_over = False
        self.since: Cursor | None = None
        """What this covers, it is not sent."""
        self.came_with = memory.cursor if memory else None
        self.cursor = self.came_with
        """The newest that it was told."""
        self.start = memory.start if memory else None
        self.has = set(memory.has) if memory else set()
        self.sent: set[int] = set()
        """The events that it was sent on this connection."""

    def welcome(self, told: Mapping[str, Any]) -> None:
        """It is let in, with or without what it missed."""
        self.is_welcome = True
        if told.get("recovered"):
            self.since = self.came_with
        else:
            self.since = self.cursor = self.start = SIGNER.read(told["cursor"], self.topic)
            self.has.clear()
        self._remember()

    def load_again(self) -> None:
        """It was told `resync`: it loads from the API what is there by now."""
        self.start = self.world.database.place()
        self.has.clear()

    def take(self, event: Event) -> None:
        self.sent.add(event.id)
        self.has.add(event.id)

    def tell(self, cursor: Cursor) -> None:
        """It was told a cursor."""
        self.cursor = cursor
        if self.start is None:
            self.start = cursor  # of a pong, before it is let in: it loads everything then
        self._remember()

    def _remember(self) -> None:
        assert self.cursor is not None
        assert self.start is not None
        memory = Memory(self.cursor, self.start, frozenset(self.has))
        self.world.memories[self.user, self.topic].append(memory)

    def lacks(self, claimed: Cursor | None = None) -> list[Event]:
        """What it is owed and does not have, of what the cursor claims (None: of everything).

        It does not need an earlier state of a thing of which it has a later one, or will have.
        """
        start = self.start or claimed
        assert start is not None
        owed = [
            event
            for event in self.world.database.events_of(self.topic)
            if not start.covers(event.xid) and self.is_for(event)
        ]
        will_have = {
            event.id for event in owed if claimed is not None and not claimed.covers(event.xid)
        }
        newest = {event.thing: event.id for event in owed if event.id in self.has | will_have}
        return [
            event
            for event in owed
            if event.id not in self.has | will_have
            and (event.thing is None or newest.get(event.thing, 0) < event.id)
        ]

    def is_for(self, event: Event) -> bool:
        """Whether the user is sent it: not where they wrote it themselves, unless that is set."""
        return self.world.echoes or event.author != self.user


class Line:
    """A connection, of which the kernel holds little."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        ours.setblocking(False)
        self.theirs.setblocking(False)
        self.stream = ClientStream(ours, SEND_BUFFER_BYTES, loop)
        self.closed: str | None = None
        """Why the server ended it."""

    def start(self) -> None:
        """What the client says is said by its model."""

    def head(self) -> bytes:
        """The head of an answer with events; a comment will do."""
        return b":\n\n"

    def send_close(self, code: int, reason: str) -> None:
        self.closed = f"{code} {reason}"

    def read(self, size: int) -> bytes:
        """What the client takes, if anything is there."""
        try:
            return self.theirs.recv(size)
        except BlockingIOError:
            return b""

    def cut(self) -> None:
        self.stream.close()
        self.theirs.close()


class Told(NamedTuple):
    """A message, and the cursor that came with it."""

    message: Mapping[str, Any]
    cursor: str | None


class Frames:
    """Reads the messages of a WebSocket from its bytes (RFC 6455 section 5)."""

    def __init__(self) -> None:
        self._bytes = b""
        self._message: bytes | None = None
        """What has come of a message that is sent in parts; None: there is none."""

    def feed(self, data: bytes) -> Iterator[Told]:
        self._bytes += data
        while (frame := self._next_frame()) is not None:
            code, body = frame
            if code & 0x0F >= 8:
                continue
            assert (code & 0x0F == 0) == (self._message is not None), "a part of no message"
            text = (self._message or b"") + body
            self._message = None if code & 0x80 else text
            if self._message is None:
                message = json.loads(text)
                yield Told(message, message.get("cursor"))

    def _next_frame(self) -> tuple[int, bytes] | None:
        data = self._bytes
        if len(data) < 2:
            return None
        length, start = data[1], 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            return None
        self._bytes = data[start + length :]
        return data[0], data[start : start + length]


class EventBlocks:
    """Reads server-sent events from their bytes."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> Iterator[Told]:
        *blocks, self._bytes = (self._bytes + data).split(b"\n\n")
        for block in blocks:
            fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
            cursor = fields.get(b"id")
            message = json.loads(fields.get(b"data", b'{"type": "comment"}'))
            yield Told(message, None if cursor is None else cursor.decode())


class Client:
    """One client, from its handshake to its end.

    Args:
        topic: of its one subscription; None: it says which ones.
        memory: what it comes back with to its one topic.
    """

    def __init__(
        self,
        world: World,
        kind: str,
        user: str,
        topic: str | None = None,
        memory: Memory | None = None,
        *,
        knows_cursors: bool = True,
    ) -> None:
        self.kind = kind
        self.user = user
        self.line = Line(world.loop)
        self.is_open = False
        self._world = world
        self._topic = topic
        self._bytes = EventBlocks() if kind == "events" else Frames()
        self._stays: dict[str, Stay] = {}
        if topic is not None:
            self._stays[topic] = Stay(world, user, topic, memory)
        self.conversation = KINDS[kind](world.services)
        request = HandshakeRequest(
            () if topic is None else (bot_of(topic) or "",),
            user,
            memory and SIGNER.write(memory.cursor, topic or ""),
            knows_cursors,
            wants_presence=True,
        )
        opening = self.conversation.open(self.line, request)
        self.opening = asyncio.create_task(opening)

    @property
    def stays(self) -> Collection[Stay]:
        return self._stays.values()

    # What it says.

    def subscribe(self, topic: str, memory: Memory | None, *, knows_cursors: bool = True) -> bool:
        if not self.is_open or self._topic is not None or topic in self._stays:
            return False
        self._stays[topic] = Stay(self._world, self.user, topic, memory)
        data: dict[str, object] = {"presence": True}
        if memory is not None:
            data["cursor"] = SIGNER.write(memory.cursor, topic)
        elif knows_cursors:
            data["cursor"] = ""
        self._say("subscribe", topic, data)
        return True

    def unsubscribe(self, topic: str) -> None:
        if self._topic is None:
            self._say("unsubscribe", topic)

    def ping(self, topic: str) -> None:
        """Ask for a pong; of clients over HTTP, the server asks by itself."""
        is_between = self._world.is_between
        if self.kind != "events":
            self._say("ping", topic, timestamp=BETWEEN if is_between else "")
        elif self.conversation in self._world.services.pings.added and not is_between:
            self.conversation.ping()

    def type(self, topic: str) -> None:
        self._say("typing", topic, {"is_typing": True})

    def _say(
        self,
        kind: str,
        topic: str,
        data: Mapping[str, object] | None = None,
        **fields: object,
    ) -> None:
        if self.is_open and self.kind != "events" and topic in self._stays:
            about = {} if self._topic else {"bot_id": bot_of(topic)}
            message = {"type": kind, "data": {**about, **(data or {})}, **fields}
            self.conversation.on_message(json.dumps(message))

    # What it is told.

    def read(self, size: int) -> int:
        """Take so many bytes at most, and all messages that are whole by then."""
        data = self.line.read(size)
        for told in self._bytes.feed(data):
            self._hear(*told)
        return len(data)

    def _hear(self, message: Mapping[str, Any], cursor: str | None) -> None:
        kind = message["type"]
        self._world.note("  ", self.kind, self.user, "is told", str(message)[:150], cursor)
        topic = self._topic or bot_topic(message.get("bot_id", ""))
        if kind == "x":
            event = self._world.database.row(int(message["id"].split("-")[0]))
            assert isinstance(event, Event)
            topic = event.topic
            assert topic in self._stays, "an event of a topic on which the client is not"
            self._world.rules.on_event(self._stays[topic], event)
            self._stays[topic].take(event)
        elif kind == "connection_established":
            self.is_open = True
        elif kind == "unsubscribed":
            self._stays.pop(topic)
        elif kind == "resync":
            self._stays[topic].load_again()
        elif kind == "revoked":
            self._end(self._world.database.row(int(message["id"].split("-")[0])))
        if (kind == "connection_established" and self._topic) or kind == "subscribed":
            self._world.rules.on_welcome(self._stays[topic], message["data"])
            self._stays[topic].welcome(message["data"])
        if cursor is not None and topic in self._stays:
            stay, place = self._stays[topic], SIGNER.read(cursor, topic)
            self._world.rules.on_cursor(stay, place, is_between=message.get("timestamp") == BETWEEN)
            stay.tell(place)

    def _end(self, row: Event | AccessChange) -> None:
        stay = self._stays[row.topic or ""]
        self._world.rules.on_end(stay)
        stay.is_over = True

    # The end.

    def cut(self) -> None:
        """Its connection is over, and whatever it has not read is lost."""
        self.line.cut()
        self.conversation.on_ws_connection_close()

    def close(self) -> None:
        """The server closes it, for a reason of its own."""
        self.conversation.close(*closing.RESTARTING)


class World:
    """One process, its database and its clients.

    Args:
        steps: what has happened is noted here.
    """

    def __init__(self, random: Random, rules: Rules, steps: list[str]) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = random
        self.rules = rules
        self.now = 1000.0
        self.steps = steps
        self.echoes = random.random() < 0.3
        self.gives_way = random.random() < 0.5
        """Whether others have a turn between two sockets that are served."""
        self.clients: list[Client] = []
        self.memories: dict[tuple[str, str], list[Memory]] = {
            (user, topic): [] for user in USERS for topic in TOPICS
        }
        """All that clients ever had."""
        self.database = ModelDatabase()
        self.gates = Gates(random)
        access = Access(self.database, self.gates)
        rechecks = RecheckBatcher(access, raise_it)
        self.hub = make_hub(
            rechecks.ask,
            pause=self._pause,
            clock=self.clock,
            echoes_to_author=self.echoes,
            live_bytes=LIVE_BYTES,
            fan_out_slice=1 if self.gives_way else 500,
        )
        self.budget = ReadBudget(READ_BUFFER_BYTES)
        self.presence = PresenceBroadcaster(
            Presence(self.clock, grace=5),
            self.hub,
            read_remote=_nobody,
            pause=self._pause,
            monotonic=self.clock,
            clock=self.clock,
            tick=0.0,
            read_seconds=0.0,
        )
        self.services = self._make_services(access)
        self.reader = make_relay(
            self.hub,
            START,
            self.services.refusals,
            clock=self.clock,
            large=LargeLimits(random.randrange(3), random.randrange(1, 3), random.randrange(1, 3)),
        )
        self._lull()
        self._reading: asyncio.Task[None] | None = None
        endless = (
            rechecks.run(self.hub, lambda: None),
            self.presence.run(),
            self.services.typing.run(),
        )
        self.tasks: list[asyncio.Task[NoReturn]] = list(map(asyncio.create_task, endless))

    def _make_services(self, access: Access) -> Any:
        services = make_services(Slow("nowhere"))
        services.hub = self.hub
        services.access = services.verifier = access
        services.history = History(self.database, self.gates, echoes=self.echoes)
        services.read_budget = self.budget
        services.intervals = replace(DEFAULTS, refusal=0.0, replay=1e6, replay_wanted=1e6)
        services.clock = services.monotonic = self.clock
        services.counters = Counters(self.clock)
        services.random = self.random.random
        numbers = itertools.count(1)
        services.new_id = lambda: str(next(numbers))
        services.settings = SETTINGS.model_copy(
            update={
                "max_subscriptions": len(BOTS),
                "message_burst": 10**6,
                "messages_per_second": 10**6,
                "send_buffer_bytes": SEND_BUFFER_BYTES,
                "echo_to_author": self.echoes,
            }
        )
        services.typing = TypingBroadcaster(
            TypingIndicators(self.clock),
            self.hub,
            tell=lambda _indicators: None,
            pause=self._pause,
            clock=self.clock,
            tick=0.0,
        )
        return services

    def clock(self) -> float:
        return self.now

    def note(self, *what: object) -> None:
        self.steps.append(" ".join(map(str, what)))

    async def _pause(self) -> None:
        await asyncio.sleep(0)

    async def spin(self, times: int) -> None:
        """Let everything go on a little."""
        for _ in range(times):
            await asyncio.sleep(0)

    # The relay.

    def _lull(self) -> None:
        """Have the reader sleep, and its bell on."""
        self.reader._pace = Asleep()  # type: ignore[assignment]
        self.reader._inbox.open(EPOCH)

    def commit(self, xid: int) -> None:
        """Commit, and ring; one plain event is carried by its ring."""
        rows = self.database.running[xid]
        self.database.commit(xid)
        ring = "a table"
        if len(rows) == 1 and isinstance(event := rows[0], Event):
            is_plain = event.subject is None and event.id not in self.database.granted_to
            if is_plain:
                author = event.author or "-"
                ring = f"{EPOCH} {event.id} {xid} 0 {author} {event.topic} {event.payload}"
        self.reader._inbox.hear(ring)

    def read(self, *, ahead: bool = False, breaks_after: int | None = None) -> bool:
        """Begin to read the log, or to deliver what rings carried; False: it reads already."""
        if self.is_reading:
            return False
        self.check_tasks()
        self.database.breaks_after = breaks_after
        self._reading = asyncio.create_task(self._read(ahead=ahead))
        return True

    @property
    def is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    @property
    def is_between(self) -> bool:
        """Whether some sockets may have been served, and others not."""
        return self.gives_way and self.is_reading

    async def _read(self, *, ahead: bool) -> None:
        if ahead:
            await self.reader._deliver_ahead()
            return
        with suppress(ConnectionError):
            await self.reader.catch_up(self.database)
            await self.reader.list_some(self.database)
            await self.reader.send_portion(self.database)
        self.database.breaks_after = None

    def lose_track(self) -> bool:
        """The log goes not far enough back any more; False: it is being read."""
        if self.is_reading:
            return False
        self.reader.start_over(Position(self.database.place(), SIGNER), GapReason.TOO_OLD)
        self.reader._inbox.open(EPOCH)
        return True

    def check_tasks(self) -> None:
        """See that nothing has ended that must go on."""
        if self._reading is not None and self._reading.done():
            self._reading.result()
        for task in self.tasks:
            assert not task.done(), task

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is on its way any more, as far as can be seen."""
        return not any(self._on_the_way())

    def _on_the_way(self) -> tuple[object, ...]:
        hub, reader = self.hub, self.reader
        return reader.is_listing, hub.backlog, self.is_reading, hub._returning, bool(self.gates)

    async def settle(self) -> None:
        """Let everything come to an end: clients read, answers arrive, the log is read."""
        still = 0
        for _ in range(ROUNDS):
            self.now += 3.0
            self.gates.open_all()
            self.read()
            taken = sum(client.read(10**6) for client in self.clients)
            await self.spin(6)
            still = still + 1 if self.is_at_rest and not taken else 0
            if still == 8:
                self.check_tasks()
                return
        raise AssertionError(f"it does not come to an end: {self._on_the_way()}")

    async def stop(self) -> None:
        """End what runs for ever, and what a failure has left."""
        reading = [] if self._reading is None else [self._reading]
        openings = [client.opening for client in self.clients]
        for client in self.clients:
            client.line.cut()
        self.gates.open_all()
        for task in (*self.tasks, *reading, *openings):
            task.cancel()
        await asyncio.gather(*self.tasks, *reading, *openings, return_exceptions=True)


async def _nobody(topics: Collection[str]) -> Mapping[str, People]:
    """Who has sockets in other processes."""
    await asyncio.sleep(0)
    return {topic: {} for topic in topics}
