"""Tests of `realtime.web.conversation`: clients that leave in the middle of their handshake."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from realtime.auth.tokens import Identity
from realtime.config.intervals import DEFAULTS
from realtime.config.settings import Settings
from realtime.relay import closing
from realtime.relay.admission import Admission
from realtime.relay.budget import MIN_SPEED, ReadBudget
from realtime.relay.counters import Counters
from realtime.relay.errors import Refused
from realtime.relay.events import Event, RowKey
from realtime.relay.owed import Owed
from realtime.relay.refusals import Refusals
from realtime.relay.resume import Missed
from realtime.relay.room import Room
from realtime.relay.subscriber import State
from realtime.web.conversation import MOST_IN_PROXIES, Conversation, HandshakeRequest
from realtime.web.openings import Openings
from realtime.web.sink import PING
from realtime.web.sockets import ChatConversation, NotificationsConversation, Sockets
from realtime.web.stream import ClientStream
from realtime.web.upgrade import Upgrade
from tests.unit.relay_fakes import ADA, GRACE, SIGNER, START, make_hub
from tests.waiting import eventually

BOT_ID = "00000000-0000-4000-8000-0000000000b1"
TOPIC = f"bot:{BOT_ID}"
SETTINGS = Settings.from_environ({"DATABASE_URL": "postgres://a/b", "JWT_SECRET": "x" * 32})


class Slow:
    """The verifier, the database and the log; each is held up where it is told to be."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.is_asked = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def _wait(self, at: str) -> None:
        if at == self.at:
            self.is_asked.set()
            await self.goes_on.wait()

    async def verify(self, _token: str, *, leeway: bool = True) -> Identity:
        await self._wait("token")
        return Identity("ada", time.time() + 3600, is_admin=False)

    async def authorize(self, _subject: str, _bot_id: str | None) -> Admission:
        await self._wait("access")
        return Admission(ADA, "ada", "Bot", "viewer", START)

    async def since(self, _request: object) -> Missed:
        await self._wait("missed events")
        return Missed()

    async def refuse_evenly(self, _began: float) -> None:
        await self._wait("refusal")


class Pings:
    """Who is pinged."""

    def __init__(self) -> None:
        self.added: set[object] = set()

    def add(self, one: object) -> int:
        self.added.add(one)
        return 0

    def remove(self, one: object, _slice: int) -> None:
        self.added.discard(one)


def make_services(slow: Slow) -> Any:
    loop = asyncio.get_running_loop()
    return SimpleNamespace(
        settings=SETTINGS,
        intervals=DEFAULTS,
        hub=make_hub(),
        access=slow,
        verifier=slow,
        history=SimpleNamespace(since=slow.since, log=None),
        typing=SimpleNamespace(left=lambda *_: None),
        refusals=Refusals(time.monotonic),
        room=Room(100),
        openings=Openings(loop),
        read_budget=None,
        pings=Pings(),
        counters=Counters(time.monotonic),
        clock=time.time,
        monotonic=time.monotonic,
        random=random.random,
        new_id=lambda: str(uuid4()),
        loop=loop,
        status=SimpleNamespace(is_draining=False),
        cursor_text=SIGNER.write,
        refuse_evenly=slow.refuse_evenly,
    )


def connect() -> tuple[socket.socket, socket.socket]:
    """A connection over TCP: our end, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    ours.setblocking(False)
    return ours, theirs


def upgrade() -> Upgrade:
    query = {"token": "t", "cursor": SIGNER.write(START, TOPIC) or ""}
    return Upgrade("/", query, {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="})


@pytest.mark.gen_test
@pytest.mark.parametrize("at", ["token", "access", "missed events"])
async def test_of_who_leaves_during_the_handshake_nothing_stays(at: str) -> None:
    """Whatever was asked then: nobody would remove the socket, ping it or watch its token."""
    slow = Slow(at)
    services = make_services(slow)
    ours, theirs = connect()
    Sockets(services).open(ours, upgrade(), ChatConversation, (BOT_ID,))
    await asyncio.wait_for(slow.is_asked.wait(), 10)
    theirs.close()
    await eventually(lambda: services.counters.closes)
    slow.goes_on.set()
    await eventually(lambda: not services.openings)
    assert len(services.hub.subscribers) == 0
    assert services.counters.opens == 0
    assert services.pings.added == set()


@pytest.mark.gen_test
async def test_who_came_a_moment_ago_can_be_refused() -> None:
    """Before its task has begun, as where the process ends in that moment."""
    services = make_services(Slow("token"))
    ours, theirs = connect()
    sockets = Sockets(services)
    ending: list[Callable[[], object]] = []
    services.openings.start = lambda opening, work: ending.append(
        lambda: (opening.close(*closing.RESTARTING), work.close())
    )
    sockets.open(ours, upgrade(), ChatConversation, (BOT_ID,))
    ending[0]()
    with theirs:
        answer = await asyncio.to_thread(theirs.recv, 4096)
    assert answer.startswith(b"HTTP/1.1 101 ")


class Line:
    """The way to a client of which only pings matter."""

    def __init__(self) -> None:
        self.is_idle = self.is_closed = False
        self.taken_bytes = 0
        self.acknowledged_bytes = self.sent_bytes = 0
        self.sent: list[bytes] = []
        self.closed: list[int] = []

    @property
    def unacknowledged_bytes(self) -> int:
        return self.sent_bytes - self.acknowledged_bytes

    @staticmethod
    def frame(_messages: object) -> bytes:
        return b"an error"

    def send(self, frames: bytes) -> None:
        """What else there is to say."""

    def send_control(self, frames: bytes) -> None:
        self.sent.append(frames)

    def close(self, code: int, _reason: str) -> None:
        self.closed.append(code)


def pinged() -> tuple[ChatConversation, Line, Any]:
    """A conversation, the way to its client, and its services, whose clock is the `now` of them."""
    services = make_services(Slow("nowhere"))
    services.now = 0.0
    services.monotonic = lambda: services.now
    conversation, line = ChatConversation(services), Line()
    conversation._sink = line  # type: ignore[assignment]
    return conversation, line, services


@pytest.mark.gen_test
async def test_who_is_taking_what_waits_is_not_pinged() -> None:
    """The ping would come last. Who takes nothing of it has to answer one."""
    conversation, line, _ = pinged()
    for taken in (100, 200, 300):
        line.taken_bytes = taken
        conversation.ping()
    assert (line.sent, line.closed) == ([], [])
    conversation.ping()
    assert (line.sent, line.closed) == ([PING], [])
    line.taken_bytes = 400
    conversation.ping()
    assert line.closed == []
    conversation.ping()
    assert (line.sent, line.closed) == ([PING], [closing.PING_TIMED_OUT.code])


@pytest.mark.gen_test
async def test_who_has_taken_all_that_waited_is_pinged() -> None:
    """Nothing is before the ping."""
    conversation, line, _ = pinged()
    line.taken_bytes, line.is_idle = 100, True
    conversation.ping()
    assert line.sent == [PING]


@pytest.mark.gen_test
async def test_a_ping_may_be_on_its_way_for_long() -> None:
    """Behind much that the client takes slowly; once it has the ping, it has one more turn."""
    conversation, line, services = pinged()
    line.acknowledged_bytes, line.sent_bytes = 100, 500
    for acknowledged in (100, 300, 499, 500):
        line.acknowledged_bytes = acknowledged
        services.now += 25
        conversation.ping()
    assert (line.sent, line.closed) == ([PING], [])
    line.acknowledged_bytes = 600
    services.now += 25
    conversation.ping()
    assert line.closed == [closing.PING_TIMED_OUT.code]


@pytest.mark.gen_test
async def test_what_a_proxy_has_taken_may_not_be_with_the_client_yet() -> None:
    """It acknowledges megabytes. A ping behind them is waited for as long as they may take."""
    conversation, line, services = pinged()
    line.acknowledged_bytes = line.sent_bytes = 50 * MIN_SPEED
    conversation.ping()
    line.acknowledged_bytes += len(PING)
    for services.now in (25, 49):
        conversation.ping()
    conversation.on_pong(b"")
    assert (line.sent, line.closed) == ([PING], [])
    line.sent_bytes = line.acknowledged_bytes
    conversation.ping()
    line.acknowledged_bytes += len(PING)
    services.now += 1
    conversation.ping()
    assert line.closed == [closing.PING_TIMED_OUT.code]


@pytest.mark.gen_test
async def test_no_more_than_proxies_hold_is_waited_for() -> None:
    """Who was sent very much and then fell silent does not count as there for hours."""
    conversation, line, services = pinged()
    line.acknowledged_bytes = line.sent_bytes = 100 * MOST_IN_PROXIES
    conversation.ping()
    line.acknowledged_bytes += len(PING)
    services.now = MOST_IN_PROXIES / MIN_SPEED
    conversation.ping()
    assert line.closed == [closing.PING_TIMED_OUT.code]


@pytest.mark.gen_test
async def test_where_nobody_has_the_ping_it_is_not_waited_for() -> None:
    """However much was sent before: who takes it in acknowledges the ping, too."""
    conversation, line, _ = pinged()
    line.acknowledged_bytes = line.sent_bytes = 50 * MIN_SPEED
    conversation.ping()
    conversation.ping()
    assert line.closed == [closing.PING_TIMED_OUT.code]


@pytest.mark.gen_test
async def test_a_line_that_stands_still_is_not_on_its_way() -> None:
    """However much of what was before the ping it had taken until then."""
    conversation, line, _ = pinged()
    line.acknowledged_bytes, line.sent_bytes = 100, 500
    for acknowledged in (100, 300, 300):
        line.acknowledged_bytes = acknowledged
        conversation.ping()
    assert (line.sent, line.closed) == ([PING], [closing.PING_TIMED_OUT.code])


@pytest.mark.gen_test
async def test_pongs_that_nobody_asked_for_count_as_messages() -> None:
    """The one that answers a ping does not, and another ping may follow it."""
    services = make_services(Slow("nowhere"))
    services.monotonic = lambda: 0.0
    conversation, line = ChatConversation(services), Line()
    conversation._sink = line  # type: ignore[assignment]
    burst = SETTINGS.message_burst
    for _ in range(2 * burst + 1):
        conversation.ping()
        conversation.on_pong(b"")
    assert (len(line.sent), line.closed) == (2 * burst + 1, [])
    for _ in range(2 * burst):
        conversation.on_pong(b"")
    assert line.closed == []
    conversation.on_pong(b"")
    assert line.closed == [closing.RATE_LIMITED.code]


class StuckLog:
    """A log in which an event was missed, whose payload does not come."""

    portion_bytes = 65_536

    def __init__(self) -> None:
        self.log = self
        self.is_asked = asyncio.Event()
        self.is_over = asyncio.Event()

    async def since(self, _request: object) -> Missed:
        return Missed(owed=Owed([RowKey(1, 1, 10)]))

    async def payloads(self, _keys: object) -> list[Event]:
        self.is_asked.set()
        await self.is_over.wait()
        return []


@pytest.mark.gen_test
async def test_of_who_leaves_while_missed_events_are_read_nothing_stays() -> None:
    """Neither the task that reads them nor the watch over the token; and nobody closes it then."""
    services = make_services(Slow("nowhere"))
    services.history = log = StuckLog()
    services.read_budget = ReadBudget(1_000_000)
    ours, theirs = connect()
    Sockets(services).open(ours, upgrade(), ChatConversation, (BOT_ID,))
    await asyncio.wait_for(log.is_asked.wait(), 10)
    [conversation] = services.pings.added
    replaying, timer = conversation._replaying, conversation._token_life._timer
    theirs.close()
    await eventually(lambda: services.counters.closes)
    await asyncio.wait([replaying], timeout=10)
    conversation.close(*closing.TOO_SLOW)
    assert (replaying.cancelled(), timer.cancelled()) == (True, True)
    assert conversation._sink.close_code is None
    log.is_over.set()
    await asyncio.sleep(0)


class Client:
    """The connection of one whose handshake is answered at once."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.stream = ClientStream(self.ours, None, asyncio.get_running_loop())
        self.codes: list[int] = []

    def start(self) -> None:
        """It says nothing."""

    def send_close(self, code: int, _reason: str) -> None:
        self.codes.append(code)

    async def connect(self, conversation: Conversation) -> list[int]:
        """The codes with which it is closed."""
        with self.theirs:
            await conversation.open(self, HandshakeRequest((BOT_ID,), "t", None, False, False))
            self.stream.close()
        return self.codes


@pytest.mark.gen_test
async def test_who_is_refused_counts_as_gone_while_the_answer_waits() -> None:
    """It waits so that its time tells nothing; room for others is there at once."""
    services, client = make_services(slow := Slow("nowhere")), Client()
    waited: list[tuple[int, list[int]]] = []

    async def authorize(_subject: str, _bot_id: str | None) -> Admission:
        raise Refused(*closing.DATABASE_AWAY)

    async def refuse_evenly(_began: float) -> None:
        waited.append((services.hub.subscribers.open_count, [*client.codes]))

    slow.authorize = authorize  # type: ignore[method-assign]
    services.refuse_evenly = refuse_evenly
    services.intervals = replace(DEFAULTS, refusal=0.0)
    codes = await client.connect(ChatConversation(services))
    assert (waited, codes) == ([(0, [])], [closing.DATABASE_AWAY.code])


@pytest.mark.gen_test
async def test_who_is_closed_counts_as_gone_before_the_connection_is_over() -> None:
    """Nothing more is sent to it, and there is room for another."""
    services, client = make_services(Slow("nowhere")), Client()
    conversation = ChatConversation(services)
    with client.theirs:
        await conversation.open(client, HandshakeRequest((BOT_ID,), "t", None, False, False))
        assert services.hub.subscribers.open_count == 1
        conversation.close(*closing.TOO_SLOW)
        assert conversation._subscriber.state is State.STOPPED
        assert (services.hub.subscribers.open_count, len(services.hub.subscribers)) == (0, 1)
        client.stream.close()
    conversation.on_ws_connection_close()
    assert len(services.hub.subscribers) == 0


class Renamed(NotificationsConversation):
    """The token's name was another user's when the topic was looked up."""

    __slots__ = ()

    async def _topic_and_bot(self, _subject: str, *_path: str) -> tuple[str, None]:
        return f"user:{GRACE}", None


@pytest.mark.gen_test
async def test_who_was_renamed_between_two_questions_is_refused() -> None:
    """What is on the topic is for the user whose name it was."""
    services = make_services(Slow("nowhere"))
    assert await Client().connect(Renamed(services)) == [closing.USER_RENAMED.code]
