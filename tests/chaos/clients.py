"""Clients as an application has them: `rowcast`, and what each was handed over.

The client resumes, drops what it knows, and comes back or not by itself; here it is only used, as
an application uses it, and started again where the user has access again. The wire under it (see
`websocket`) leads each connection to any process, now and then with a cursor that is a little older
(as a page has that stored it late), and breaks. Temperaments differ, by the seed: patient ones stay
on a silent socket, others leave; stubborn ones come back from 4001 and 4003 every now and then, as
the guide's example does, others stay away until they are called. A third of them takes events over
HTTP, and a third from a socket that is for several topics at once. `witness` writes it all down.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from urllib.parse import parse_qs, urlencode, urlsplit

from rowcast import Closed, RealtimeClient, Reconnecting, Timings
from rowcast.rules import HEARD_NOTHING
from rowcast.sse import EventSocket, open_events
from rowcast.transport import TornadoSocket, open_socket
from tests.chaos.loader import Loader
from tests.chaos.many import ManySocket
from tests.chaos.population import Seat
from tests.chaos.record import Ending, Record
from tests.chaos.websocket import Dial, Inner, Wire
from tests.chaos.witness import Witness

STAY_SECONDS = 12.0
"""How long a client stays before it drops the connection itself, on average."""
RELOADS = 4
"""How many times as often those come anew that load their state."""
STUBBORN_SECONDS = (0.3, 1.0)
OLDER_CURSOR_SECONDS = 4.0
COME_BACK_CODES = {1001, 1006, 1013}
REFUSED_CODES = {4001, 4003}


def _timings(is_patient: bool, is_over_http: bool) -> Timings:
    return Timings(
        # Over HTTP nobody can ask: the server speaks up at least every 25 s.
        ping_every=28.0 if is_over_http else 1.0,
        pong_within=60.0 if is_patient else 2.0,
        connect_within=10.0 if is_patient else 3.0,
        backoff_first=0.4,
        backoff_most=0.8,
        queue_events=16,  # few, so that who does not look stops the reading soon
    )


class Client:
    """One user agent at one seat.

    Args:
        ports: of the processes to choose from.
        token: makes a token for a user.
        clock: monotonic seconds, the same as the book's.
        bots: all that there are.
        loader: loads the state and its cursor before each beginning; None: it begins with nothing.
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
        bots: Sequence[str],
        loader: Loader | None = None,
    ) -> None:
        self._random = random.Random(f"{seed}/client {number}")
        self._ports = ports
        self._clock = clock
        is_patient = self._random.random() < 0.5
        self._is_stubborn = self._random.random() < 0.4
        self._is_over_http = number % 3 == 2
        self._is_among_many = number % 3 == 1
        self._bots = bots
        self._make_token = partial(token, seat.user)
        self._make_client = partial(
            RealtimeClient,
            "http://any-process",
            token=self._make_token(),
            bot_id=seat.bot,
            notifications=seat.bot is None,
            on_reconnecting=self._on_reconnecting,
            timings=_timings(is_patient, self._is_over_http),
            sse=self._is_over_http,
            open_socket=self._open,
            random=self._random.random,
        )
        self._client = self._make_client()
        self._loader = loader
        self._reload: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._reads = asyncio.Event()
        self._reads.set()
        self._dials = 0
        self._dial: Dial | None = None
        self._wire: Wire | None = None
        self._called_at = 0.0
        self._drops = True
        self._task: asyncio.Task[None] | None = None
        self.seat = seat
        kind = "loader" if loader else "chat" if seat.bot else "notifications"
        way = " over HTTP" if self._is_over_http else " among many" * self._is_among_many
        self.record = Record(f"client {number} ({kind}{way})", seat)
        self._witness = Witness(self.record, clock)

    # What the suite does to it.

    @property
    def probes(self) -> Mapping[str, float]:
        """When which probe was handed over."""
        return self._witness.probes

    @property
    def said_last(self) -> str:
        """Its name, and the last that happened to it."""
        return f"{self.record.name}, {self.state}: {self.record.timeline[-3:]}"

    @property
    def state(self) -> str:
        return self._client.state

    @property
    def is_live(self) -> bool:
        """Whether it has a socket that was let in."""
        return self._client.state == "open"

    @property
    def cursor(self) -> str | None:
        """The newest that the application has."""
        return self._client.cursor

    @property
    def connection_id(self) -> str:
        return self._dial.connection_id if self._dial else ""

    @property
    def port(self) -> int:
        return self._dial.port if self._dial else 0

    @property
    def _began_at(self) -> float:
        return self._dial.began_at if self._dial else 0.0

    @property
    def is_reading(self) -> bool:
        return self._reads.is_set()

    def has_seen(self, rows: Container[str]) -> bool:
        return any(event.id in rows for event in self.record.seen)

    def has_recovered(self, probe: str, since: float) -> bool:
        """Whether it has the probe, or begins anew after that moment and so has no right to it."""
        if probe in self.probes:
            return True
        episodes = self.record.episodes
        return self.is_live and bool(episodes) and episodes[-1].began_at > since

    def stop_reading(self) -> None:
        """The application takes nothing from the client any more, until `read_again`."""
        self.record.note(self._clock(), "stops reading")
        self._reads.clear()

    def read_again(self) -> None:
        self.record.note(self._clock(), "reads again")
        self._reads.set()

    def come_back(self) -> None:
        """The user has access again, and knows it."""
        self._called_at = self._clock()
        self._wanted.set()

    def settle(self) -> None:
        """The run is ending: drop no more connections."""
        self._drops = False

    async def finish(self, *, is_away: bool = False) -> None:
        """Leave for good. Nothing more is due to who is away than what they were told."""
        task, self._task = self._task, None
        if task is None:
            return
        self.record.was_open_at_the_end = self.is_live
        if is_away:
            self.record.end_episode(self._client.cursor)
        task.cancel()
        await asyncio.wait([task])
        if self._wire is not None:
            await self._wire.gone()
        if not task.cancelled() and (error := task.exception()):
            self.record.strange.append((self._clock(), f"the client failed: {error!r}"))

    # Its life.

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Iterate, and start again."""
        while True:
            await self._wanted.wait()
            if self._loader is not None:
                await self._load(self._loader)
            try:
                await self._iterate()
                continue
            except Closed as closed:
                self._end(closed.code, closed.reason)
                # As the person signs in again; the client does not send a refused token twice.
                self._client.refresh(self._make_token())
            await asyncio.sleep(self._random.uniform(*STUBBORN_SECONDS))
            # A call that came while the connection still seemed good is not forgotten.
            if not self._is_stubborn and self._called_at < self._began_at:
                self._wanted.clear()

    async def _iterate(self) -> None:
        """Take what comes until something was missed, or the page is loaded again."""
        async with self._client as events:
            async for event in events:
                self._witness.take(event, events.cursor)
                await self._reads.wait()
                if self._loader is not None and not self.record.model.is_whole:
                    return

    async def _load(self, loader: Loader) -> None:
        loaded = await loader.load()
        self._witness.load(self._client.cursor, loaded)
        self._client = self._make_client(cursor=loaded.cursor)
        self._note(f"has loaded the state with {loaded.cursor}")

    async def _open(self, url: str, headers: Mapping[str, str], within: float) -> Wire:
        """In place of the client's own: to any process, and watched."""
        self._dials += 1
        claimed = parse_qs(urlsplit(url).query).get("cursor", [None])[0]
        port, asked = self._random.choice(self._ports), self._choose_cursor(claimed)
        self._dial = dial = Dial(self._dials, port, self._clock(), claimed, asked)
        self._witness.dialled(dial)
        query = urlencode({"cursor": asked or ""})
        try:
            server = f"127.0.0.1:{port}"
            if self._is_among_many:
                many = await open_socket(f"ws://{server}/api/ws", headers, within)
                others = (
                    self._random.choice(self._bots),
                    None,
                )  # more would keep this process busy
                inner: Inner = ManySocket(many, self.seat.bot, asked or "", others)
            else:
                inner = await self._connect(server, query, headers, within)
        except Closed as closed:
            dial.has_failed = True
            self._note(f"cannot connect to {port}: {closed.reason}")
            raise
        self._wire = wire = Wire(inner, dial, self._witness.watch)
        stay = self._random.expovariate((1 if self._loader is None else RELOADS) / STAY_SECONDS)
        politely = self._random.random() < 0.5
        asyncio.get_running_loop().call_later(stay, self._drop, wire, politely)
        return wire

    async def _connect(
        self, server: str, query: str, headers: Mapping[str, str], within: float
    ) -> TornadoSocket | EventSocket:
        if self._is_over_http:
            path = self.seat.path.replace("/api/ws/", "/api/sse/")
            return await open_events(f"http://{server}{path}?{query}", headers, within)
        return await open_socket(f"ws://{server}{self.seat.path}?{query}", headers, within)

    def _choose_cursor(self, claimed: str | None) -> str | None:
        if not claimed or self._random.random() < 0.6:
            return claimed
        young = self._witness.cursors_since(self._clock() - OLDER_CURSOR_SECONDS)
        return self._random.choice(young or [claimed])

    def _drop(self, wire: Wire, politely: bool) -> None:
        if wire is self._wire and self.is_live and self._drops and self.is_reading:
            self._note("dropped")
            if self._loader is not None and politely:
                self._reload = asyncio.create_task(self._client.close())
                return
            self.record.dropped["dropped"] += 1
            wire.leave(politely)

    def _on_reconnecting(self, told: Reconnecting) -> None:
        """A connection has ended for the client, and another will be tried."""
        assert self._dial is not None
        has_left = self._wire is not None and self._wire.dial is self._dial and self._wire.has_left
        if has_left or self._dial.has_failed:
            return  # that is on record
        if told.code == HEARD_NOTHING:
            self._note(told.reason)
            self.record.dropped["left a silent socket"] += 1
        else:
            self._end(told.code or 0, told.reason)

    def _end(self, code: int, reason: str) -> None:
        now, dial = self._clock(), self._dial
        assert dial is not None
        self.record.endings.append(Ending(dial.number, dial.began_at, now, code, reason))
        self._note(f"closed {code} {reason}")
        if code not in COME_BACK_CODES | REFUSED_CODES:
            self.record.strange.append((now, f"closed with {code} {reason}"))

    def _note(self, text: str) -> None:
        self.record.note(self._clock(), f"[{self._dials}] {text}")
