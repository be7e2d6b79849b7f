"""The Python client with a server that is played by the test, and time that the test moves."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rowcast import Closed, Event, RealtimeClient, Reconnecting
from rowcast.rules import CUT

URL = "https://relay.example/prefix/"
TURNS = 20


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    def after(self, seconds: float) -> str:
        """That moment, as a server writes it."""
        return datetime.fromtimestamp(self.now + seconds, UTC).isoformat()

    async def sleep(self, seconds: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), waiting))
        await waiting

    async def move(self, seconds: float) -> None:
        """Let that much time pass, waking whoever sleeps in the order of their alarms."""
        await settle()
        until = self.now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            self.now, _, waiting = heapq.heappop(self._sleepers)
            if not waiting.done():
                waiting.set_result(None)
            await settle()
        self.now = until


class FakeSocket:
    """A connection whose other end is the test."""

    hears_only = False

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.headers = headers
        self.sent: list[dict[str, Any]] = []
        self.closed_with: int | None = None
        self._frames: asyncio.Queue[str | bytes | Closed] = asyncio.Queue()

    def say(self, kind: str, data: Any = None, **more: Any) -> None:
        self.frame(json.dumps({"type": kind, "data": data, **more}))

    def frame(self, frame: str | bytes) -> None:
        self._frames.put_nowait(frame)

    def greet(self, **data: Any) -> None:
        self.say("connection_established", {"cursor": "c0", **data})

    def end(self, code: int, reason: str = "") -> None:
        self._frames.put_nowait(Closed(code, reason))

    @property
    def unread(self) -> int:
        return self._frames.qsize()

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if message["type"] == kind]

    # What the client calls.

    async def receive(self) -> str | bytes:
        frame = await self._frames.get()
        if isinstance(frame, Closed):
            raise frame
        return frame

    def send(self, text: str) -> bool:
        if self.hears_only:
            return False
        self.sent.append(json.loads(text))
        return True

    async def close(self, code: int) -> None:
        self.closed_with = code

    def abort(self, code: int = CUT, reason: str = "") -> None:
        self.end(code, reason)


class FakeServer:
    """Where the client connects."""

    def __init__(self) -> None:
        self.sockets: list[FakeSocket] = []
        self.is_down = False

    async def open(self, url: str, headers: Mapping[str, str], _within: float) -> FakeSocket:
        if self.is_down:
            raise Closed(CUT, "refused")
        self.sockets.append(FakeSocket(url, headers))
        return self.sockets[-1]

    @property
    def socket(self) -> FakeSocket:
        """The newest."""
        return self.sockets[-1]


class Played:
    """A client, what it told, and what it handed over."""

    def __init__(self, **options: Any) -> None:
        self.time = Time()
        self.server = FakeServer()
        self.told: list[Reconnecting] = []
        self.events: list[Event] = []
        self.raised: Exception | None = None
        given = {"token": "one", "bot_id": "b1"} | options
        self.client = RealtimeClient(
            URL,
            on_reconnecting=self.told.append,
            open_socket=self.server.open,
            sleep=self.time.sleep,
            clock=self.time.clock,
            now=self.time.clock,
            random=lambda: 0.5,
            **given,
        )
        self.reading: asyncio.Task[None] | None = None

    @property
    def socket(self) -> FakeSocket:
        return self.server.socket

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def ids(self) -> list[str | None]:
        return [event.id for event in self.events if event.id]

    @property
    def asked(self) -> list[str]:
        """The cursors with which it has come."""
        queries = [parse_qs(urlsplit(s.url).query, True) for s in self.server.sockets]
        return [query["cursor"][0] for query in queries]

    async def __aenter__(self) -> Played:
        await self.client.__aenter__()
        self.read()
        await settle()
        return self

    def read(self) -> None:
        self.reading = asyncio.create_task(self._read())

    async def stop_reading(self) -> None:
        assert self.reading is not None
        self.reading.cancel()
        await asyncio.wait([self.reading])

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        assert self.reading is not None
        await asyncio.wait([self.reading])
        if not self.reading.cancelled():
            self.reading.result()

    async def _read(self) -> None:
        try:
            async for event in self.client:
                self.events.append(event)
        except Closed as closed:
            self.raised = closed

    async def lose(self, code: int, reason: str = "", wait: float = 5) -> None:
        """The connection ends, and as much time passes."""
        self.socket.end(code, reason)
        await self.time.move(wait)
