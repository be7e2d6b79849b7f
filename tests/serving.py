"""Fixtures for tests that run the whole server: real Postgres, real sockets, one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.ioloop import IOLoop

from realtime.auth.tokens import mint_token
from realtime.config.intervals import DEFAULTS, Intervals
from realtime.config.settings import Settings
from realtime.runtime.server import Server, Stop, serve
from realtime.web.demo_platform import DemoPlatform
from tests.asyncapi import channel_of, misfits_of
from tests.clients import Socket
from tests.event_stream import EventStream
from tests.platform import Platform
from tests.waiting import LIMIT, eventually

SECRET = "a secret for tests only, of at least 32 bytes"


def make_settings(dsn: str, **more: str) -> Settings:
    environ = {
        "DATABASE_URL": dsn,
        # On a busy machine an answer may take long, and is still one.
        "DATABASE_TIMEOUT_SECONDS": "5",
        "JWT_SECRET": SECRET,
        "PORT": "0",
        "DRAIN_SECONDS": "0",
    }
    return Settings.from_environ(environ | more)


def token(subject: str, *, ttl: float = 600, **more: Any) -> str:
    return mint_token(SECRET, subject, ttl=ttl, now=time.time(), **more)


class RunningServer:
    """A server in this process and the ways to reach it."""

    def __init__(
        self,
        settings: Settings,
        intervals: Intervals = DEFAULTS,
        demo: DemoPlatform | None = None,
    ) -> None:
        self._stop = Stop()
        self._demo = demo
        self._intervals = intervals
        self.settings = settings
        self.server: Server
        self.sockets: list[Socket | EventStream] = []

    async def start(self) -> None:
        announced: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        serving = serve(
            self.settings,
            self._stop,
            announced.set_result,
            intervals=self._intervals,
            demo=self._demo,
        )
        self._task = asyncio.create_task(serving)
        await asyncio.wait([self._task, announced], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
        self.server = announced.result()

    def request_stop(self) -> None:
        """As SIGTERM does; `stop` waits for the end."""
        self._stop.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._task
        await eventually(lambda: all(socket.is_closed for socket in self.sockets))
        assert self._misfits() == []

    def _misfits(self) -> list[str]:
        """What clients were sent that docs/asyncapi.yaml does not have."""
        return [
            why
            for one in self.sockets
            for why in misfits_of(channel_of(one.url), one.texts, one.said)
        ]

    @property
    def base(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def url(self, path: str, **query: str) -> str:
        return f"http://{self.base}{path}?{urlencode(query)}"

    def ws_url(self, path: str, **query: str) -> str:
        return f"ws://{self.base}{path}?{urlencode(query)}"

    async def chat(self, bot_id: str, user_id: str, **query: str) -> Socket:
        """A socket on a bot's chat, let in."""
        socket = await self.open(f"/api/ws/chat/{bot_id}", user_id, **query)
        await socket.established()
        return socket

    async def notifications(self, user_id: str, **query: str) -> Socket:
        socket = await self.open("/api/ws/notifications", user_id, **query)
        await socket.established()
        return socket

    async def multi(self, user_id: str, **query: str) -> Socket:
        """A socket for many subscriptions, let in."""
        socket = await self.open("/api/ws", user_id, **query)
        await socket.established()
        return socket

    async def open(self, path: str, user_id: str, **query: str) -> Socket:
        """A socket that may yet be refused."""
        return await self.connect(self.ws_url(path, token=token(user_id), **query))

    async def events(
        self,
        path: str,
        user_id: str,
        *,
        headers: Mapping[str, str] | None = None,
        version: str = "1.1",
        **query: str,
    ) -> EventStream:
        """Events over HTTP from one of the addresses below `/api/sse`, or a refusal."""
        address = f"/api/sse/{path}?{urlencode({'token': token(user_id)} | query)}"
        stream = await EventStream.open(self.server.port, address, headers or {}, version)
        self.sockets.append(stream)
        return stream

    async def connect(self, url: str, **options: Any) -> Socket:
        """A socket at any address of this server."""
        socket = await Socket.open(url, **options)
        self.sockets.append(socket)
        return socket


StartServer = Callable[..., Awaitable[RunningServer]]


@pytest.fixture
def start_server(io_loop: IOLoop, database: str) -> Iterator[StartServer]:
    """Starts servers on the test's database, with other settings and intervals where given."""
    started: list[RunningServer] = []

    async def start(
        *,
        intervals: Intervals = DEFAULTS,
        demo: Callable[[Settings], DemoPlatform] | None = None,
        **more: str,
    ) -> RunningServer:
        settings = make_settings(database, **more)
        running = RunningServer(settings, intervals, demo(settings) if demo else None)
        await running.start()
        started.append(running)
        return running

    yield start
    for running in started:
        io_loop.run_sync(running.stop, timeout=LIMIT)


@pytest.fixture
def server(io_loop: IOLoop, start_server: StartServer) -> RunningServer:
    async def start() -> RunningServer:
        return await start_server()

    return io_loop.run_sync(start, timeout=LIMIT)


@pytest.fixture
def platform(io_loop: IOLoop, database: str) -> Iterator[Platform]:
    """A connection of the platform's own."""
    connected = io_loop.run_sync(lambda: Platform.connect(database))
    yield connected
    io_loop.run_sync(lambda: connected.connection.close(timeout=LIMIT))


class World:
    """A bot, its owner, somebody with a permission, and a session to write messages in."""

    def __init__(self, owner: str, guest: str, bot: str, session: str) -> None:
        self.owner = owner
        self.guest = guest
        self.bot = bot
        self.session = session


@pytest.fixture
def world(io_loop: IOLoop, platform: Platform) -> World:
    async def make() -> World:
        owner, guest = await platform.user("olga"), await platform.user("gus")
        bot = await platform.bot(owner)
        await platform.permit(bot, guest, "viewer")
        return World(owner, guest, bot, await platform.session(bot, owner))

    return io_loop.run_sync(make)
