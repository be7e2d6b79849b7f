"""Clients as the protocol wants them: they drop, come back to any process, and miss nothing.

A client resumes with its newest cursor (sometimes with one a little older, as a page does that
stored it late), drops what it knows by id, forgets the ids when told that nothing was recovered,
and treats close codes as docs/protocol.md says. Temperaments differ, by the seed: patient ones stay
on a silent socket, others leave; stubborn ones come back from 4001 and 4003 every now and then, as
the guide's example does, others stay away until they are called. All of it goes into a `Record`.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.chaos.record import Ending, Greeting, Record, Seen, event_id
from tests.chaos.websocket import Closed, WebSocket
from tests.chaos.world import Seat

CONNECT_SECONDS = 2.0
PING_SECONDS = 1.0
SILENCE_SECONDS = 3.0
"""What an impatient client puts up with."""
STAY_SECONDS = 12.0
"""How long a client stays before it drops the connection itself, on average."""
BACKOFF_SECONDS = (0.05, 0.8)
STUBBORN_SECONDS = (0.3, 1.0)
OLDER_CURSOR_SECONDS = 4.0
COME_BACK_CODES = {1001, 1006, 1013}
REFUSED_CODES = {4001, 4003}
GONE: Final = -1
"""In place of a close code: the client left by itself."""


class Client:
    """One user agent at one seat.

    Args:
        ports: of the processes to choose from.
        token: makes a token for a user.
        clock: monotonic seconds, the same as the book's.
    """

    def __init__(
        self,
        seat: Seat,
        number: int,
        *,
        seed: int,
        ports: Sequence[int],
        token: Callable[[str], str],
        clock: Callable[[], float],
    ) -> None:
        self._random = random.Random(f"{seed}/client {number}")
        self._ports = ports
        self._token = token
        self._clock = clock
        self._is_patient = self._random.random() < 0.5
        self._is_stubborn = self._random.random() < 0.4
        self._known: set[int] = set()
        self._cursors: deque[tuple[float, str]] = deque(maxlen=200)
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._reads = asyncio.Event()
        self._reads.set()
        self._socket: WebSocket | None = None
        self._connection = 0
        self._opened_at = 0.0
        self._asked_with: str | None = None
        self._arrived: set[int] = set()
        self._drops = True
        self._task: asyncio.Task[None] | None = None
        self.connection_id = ""
        self.port = 0
        self.seat = seat
        self.probes: dict[str, float] = {}
        """When which probe arrived."""
        kind = "chat" if seat.bot else "notifications"
        self.record = Record(f"client {number} ({kind})", seat)

    # What the suite does to it.

    @property
    def is_live(self) -> bool:
        """Whether it has a socket that was let in."""
        return self._socket is not None and bool(self.connection_id)

    @property
    def is_reading(self) -> bool:
        return self._reads.is_set()

    def has_recovered(self, probe: str, since: float) -> bool:
        """Whether it has the probe, or begins anew after that moment and so has no right to it."""
        if probe in self.probes:
            return True
        episodes = self.record.episodes
        return self.is_live and bool(episodes) and episodes[-1].began_at > since

    def stop_reading(self) -> None:
        """Take nothing off the socket any more, until `read_again`."""
        self.record.note(self._clock(), "stops reading")
        self._reads.clear()

    def read_again(self) -> None:
        self.record.note(self._clock(), "reads again")
        self._reads.set()

    def come_back(self) -> None:
        """The user has access again, and knows it."""
        self._wanted.set()

    def settle(self) -> None:
        """The run is ending: drop no more connections."""
        self._drops = False

    async def finish(self, *, is_away: bool = False) -> None:
        """Leave for good. Nothing more is due to who is away than what they were told."""
        self.record.was_open_at_the_end = self.is_live
        if is_away:
            self.record.end_episode(self._cursor)
        if self._socket is not None:
            self._socket.abort()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # Its life.

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Connect, and connect again."""
        while True:
            await self._wanted.wait()
            self._socket = await self._connect()
            if self._socket is not None:
                code = await self._stay(self._socket)
                self._socket, self.connection_id = None, ""
                if code in REFUSED_CODES:
                    await self._be_refused()
                    continue
            await asyncio.sleep(self._random.uniform(*BACKOFF_SECONDS))

    async def _be_refused(self) -> None:
        if self._is_stubborn:
            await asyncio.sleep(self._random.uniform(*STUBBORN_SECONDS))
        else:
            self._wanted.clear()

    async def _connect(self) -> WebSocket | None:
        self._connection += 1
        self._arrived = set()
        self.port = self._random.choice(self._ports)
        self._opened_at = self._clock()
        self._asked_with = self._choose_cursor()
        query = f"?token={self._token(self.seat.user)}"
        query += f"&cursor={self._asked_with}" if self._asked_with else ""
        try:
            return await WebSocket.open(self.port, self.seat.path + query, limit=CONNECT_SECONDS)
        except OSError as error:  # TimeoutError is one
            self._note(f"cannot connect to {self.port}: {type(error).__name__}")
            return None

    @property
    def _cursor(self) -> str | None:
        return self._cursors[-1][1] if self._cursors else None

    def _choose_cursor(self) -> str | None:
        if not self._cursors or self._random.random() < 0.6:
            return self._cursor
        newer_than = self._clock() - OLDER_CURSOR_SECONDS
        young = [cursor for at, cursor in self._cursors if at >= newer_than]
        return self._random.choice(young or [self._cursors[-1][1]])

    async def _stay(self, socket: WebSocket) -> int:
        """Read until the end; returns the close code, or `GONE`."""
        leave_at = self._clock() + self._random.expovariate(1 / STAY_SECONDS)
        heard_at = pinged_at = self._clock()
        while True:
            try:
                message = await socket.receive(PING_SECONDS / 2)
            except Closed as closed:
                return self._end(closed.code, closed.reason)
            now = self._clock()
            if message is not None:
                heard_at = now
                self._take(message, now)
            if not self._reads.is_set():
                await self._reads.wait()
                heard_at = self._clock()
            elif self.connection_id and now - pinged_at >= PING_SECONDS:
                pinged_at = now
                socket.send({"type": "ping"})
            if self._drops and now >= leave_at:
                return self._leave(socket, "dropped", self._random.random() < 0.5)
            if now - heard_at > SILENCE_SECONDS and not self._is_patient:
                return self._leave(socket, "left a silent socket", False)

    def _leave(self, socket: WebSocket, why: str, politely: bool) -> int:
        self._note(why)
        self.record.dropped[why] += 1
        if politely:
            socket.leave(1000)
        else:
            socket.abort()
        return GONE

    def _end(self, code: int, reason: str) -> int:
        now = self._clock()
        self.record.endings.append(Ending(self._connection, self._opened_at, now, code, reason))
        self._note(f"closed {code} {reason}")
        if code not in COME_BACK_CODES | REFUSED_CODES:
            self.record.strange.append((now, f"closed with {code} {reason}"))
        return code

    # What it is told.

    def _take(self, message: dict[str, Any], now: float) -> None:
        kind = message["type"]
        identifier = event_id(message)
        if kind == "connection_established":
            self._greet(message["data"], now)
        elif kind == "resync":
            self._lose(
                Greeting(
                    self._connection,
                    self._opened_at,
                    now,
                    self._cursor,
                    False,
                    message["data"]["reason"],
                )
            )
            self.record.begin_episode(now, None)
        elif identifier is not None:
            self._take_event(identifier, message, now)
        elif kind != "pong":
            self.record.strange.append((now, f"{message}"))
        if "cursor" in message:
            self._cursors.append((now, message["cursor"]))

    def _greet(self, data: dict[str, Any], now: float) -> None:
        self.connection_id = data["connection_id"]
        greeting = Greeting(
            self._connection,
            self._opened_at,
            now,
            self._asked_with,
            data.get("recovered"),
            data.get("reason"),
        )
        self._note(f"open on {self.port}, recovered: {greeting.recovered} {greeting.reason or ''}")
        if greeting.recovered:
            # A replay may be cut short: until its own cursors arrive, the old one is what holds.
            self.record.greetings.append(greeting)
            return
        if greeting.cursor is not None and greeting.recovered is None:
            self.record.strange.append((now, "nothing was said of the cursor that was sent"))
        self._lose(greeting)
        self.record.begin_episode(now, data["cursor"])
        self._cursors.append((now, data["cursor"]))

    def _lose(self, greeting: Greeting) -> None:
        self.record.greetings.append(greeting)
        self.record.end_episode(self._cursor)
        self._cursors.clear()
        self._known.clear()

    def _take_event(self, identifier: int, message: dict[str, Any], now: float) -> None:
        seen = Seen(identifier, now, self._connection)
        if identifier in self._arrived:
            self.record.repeated_on_a_connection.append(seen)
        self._arrived.add(identifier)
        if identifier in self._known:
            self.record.repeats += 1
            return
        self._known.add(identifier)
        self.record.seen.append(seen)
        if message["type"] == "probe" or message.get("notification_type") == "probe":
            self.probes[message["data"]["probe"]] = now

    def _note(self, text: str) -> None:
        self.record.note(self._clock(), f"[{self._connection}] {text}")
