"""One socket for fifty bots and fifty sockets for one each: their clients see the same."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    websocket_connect,
)

from tests.clients import Message
from tests.commands import ROOT, environment, free_port, running, status_of
from tests.platform import Platform
from tests.serving import SECRET, StartServer, token
from tests.waiting import LIMIT, eventually

BOTS = 50
REVOKED = 10
"""On so many of them the client loses its access, and gets it back."""


class Seen:
    """What a client was shown of each bot, and how it comes back to it."""

    def __init__(self) -> None:
        self.ids: defaultdict[str, list[str]] = defaultdict(list)
        self.contents: defaultdict[str, list[str]] = defaultdict(list)
        self.reasons: defaultdict[str, list[str | None]] = defaultdict(list)
        """Of each time that it came with a cursor: why it was not sent what it had missed."""
        self.cursors: dict[str, str] = {}

    def begins(self, bot: str, data: dict[str, Any]) -> None:
        if "recovered" in data:
            self.reasons[bot].append(data.get("reason"))
        if not data.get("recovered"):
            self.cursors[bot] = data["cursor"]

    def event(self, bot: str, message: Message) -> None:
        if message["id"] not in self.ids[bot]:
            self.ids[bot].append(message["id"])
            self.contents[bot].append(message["data"].get("content", message["type"]))
        self.cursors[bot] = message.get("cursor", self.cursors[bot])


class Client:
    """Comes back for ever to the first of some addresses that lets it in."""

    def __init__(self, user: str, bases: list[str]) -> None:
        self.seen = Seen()
        self.on: set[str] = set()
        """The bots that it is on, or comes back to."""
        self._user = user
        self._bases = bases
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: set[WebSocketClientConnection] = set()
        self._is_over = False

    def follow(self, path: str, cursor_of: Callable[[], dict[str, str]], on: OnConnection) -> None:
        self._tasks.append(asyncio.create_task(self._follow(path, cursor_of, on)))

    async def _follow(
        self, path: str, cursor_of: Callable[[], dict[str, str]], on: OnConnection
    ) -> None:
        for number in count():
            if self._is_over:
                return
            query = "&".join(f"{key}={value}" for key, value in cursor_of().items())
            base = self._bases[number % len(self._bases)]
            url = f"ws://{base}{path}?token={token(self._user)}&{query}"
            try:
                connection = await websocket_connect(url, connect_timeout=LIMIT)
            except (OSError, HTTPClientError):
                await asyncio.sleep(0.01)
                continue
            if self._is_over:
                connection.close()
                return
            self._connections.add(connection)
            comes_back = await on(connection)
            self._connections.remove(connection)
            connection.close()  # it warns when it is forgotten, though it is closed
            if not comes_back:
                return

    async def stop(self) -> None:
        self._is_over = True
        for connection in self._connections:
            connection.close()
        await asyncio.gather(*self._tasks)


OnConnection = Callable[[WebSocketClientConnection], Any]
"""Reads a connection to its end, and says whether to come back."""


class ManySockets(Client):
    """A socket for each bot."""

    async def join(self, bots: Iterable[str]) -> None:
        for bot in bots:
            self.on.add(bot)
            self.follow(
                f"/api/ws/chat/{bot}",
                lambda bot=bot: {"cursor": self.seen.cursors.get(bot, "")},  # type: ignore[misc]
                lambda connection, bot=bot: self._read(bot, connection),  # type: ignore[misc]
            )

    async def _read(self, bot: str, connection: WebSocketClientConnection) -> bool:
        while (text := await connection.read_message()) is not None:
            message = json.loads(text)
            if message["type"] == "connection_established":
                self.seen.begins(bot, message["data"])
            elif "id" in message:
                self.seen.event(bot, message)
        if connection.close_code == 4003:
            self.on.remove(bot)
        return bot in self.on


class OneSocket(Client):
    """One socket for all of them."""

    _connection: WebSocketClientConnection | None = None

    async def join(self, bots: Iterable[str]) -> None:
        self.on |= set(bots)
        if self._connection is None:
            self.follow("/api/ws", dict, self._read)
        else:
            await self._subscribe(bots)

    async def _subscribe(self, bots: Iterable[str]) -> None:
        assert self._connection is not None
        for bot in bots:
            data = {"bot_id": bot, "cursor": self.seen.cursors.get(bot, "")}
            with suppress(WebSocketClosedError):  # then it comes back and subscribes to all
                message = json.dumps({"type": "subscribe", "data": data})
                await self._connection.write_message(message)

    async def _read(self, connection: WebSocketClientConnection) -> bool:
        self._connection = connection
        while (text := await connection.read_message()) is not None:
            message = json.loads(text)
            match message["type"]:
                case "connection_established":
                    await self._subscribe(sorted(self.on))
                case "subscribed":
                    self.seen.begins(message["bot_id"], message["data"])
                case "unsubscribed" if message["data"]["code"] == 4003:
                    self.on.remove(message["bot_id"])
                case "unsubscribed":
                    await self._subscribe([message["bot_id"]])
                case _ if "id" in message:
                    self.seen.event(message["bot_id"], message)
        return True


class Scene:
    """Bots, somebody who watches all of them in two ways, and what is written there."""

    def __init__(self, platform: Platform, owner: str, guest: str) -> None:
        self.platform = platform
        self.owner = owner
        self.guest = guest
        self.sessions: dict[str, str] = {}
        self._random = random.Random(1)
        self._marks = count()

    @classmethod
    async def make(cls, platform: Platform) -> Scene:
        scene = cls(platform, await platform.user("olga"), await platform.user("gus"))
        for _ in range(BOTS):
            bot = await platform.bot(scene.owner)
            await platform.permit(bot, scene.guest)
            scene.sessions[bot] = await platform.session(bot, scene.owner)
        return scene

    @property
    def bots(self) -> list[str]:
        return list(self.sessions)

    async def write(self, number: int) -> None:
        for _ in range(number):
            await self.say(self._random.choice(self.bots), "something")

    async def say(self, bot: str, text: str) -> None:
        await self.platform.message(self.sessions[bot], bot, self.owner, text)

    async def all_seen(self, *clients: Client) -> None:
        """Write to every bot, and wait until each client has been shown it."""
        mark = f"mark {next(self._marks)}"
        for bot in self.bots:
            await self.say(bot, mark)
        await eventually(
            lambda: all(
                client.seen.contents[bot][-1:] == [mark] for client in clients for bot in client.on
            )
        )


@pytest.mark.gen_test(timeout=90)
async def test_one_socket_for_fifty_bots_sees_what_fifty_sockets_see(
    start_server: StartServer, platform: Platform, database: str
) -> None:
    """The same events in the same order, through revocations, `kill -9` and a restart."""
    scene = await Scene.make(platform)
    port = free_port()
    environ = environment(DATABASE_URL=database, PORT=str(port), JWT_SECRET=SECRET)
    with running([str(ROOT / "bin" / "serve")], cwd="/", env=environ) as mortal:
        ready = f"http://127.0.0.1:{port}/api/ready"

        async def is_ready() -> bool:
            return await asyncio.to_thread(status_of, ready) == 200

        await eventually(is_ready)
        bases = [f"127.0.0.1:{port}"]
        clients = [OneSocket(scene.guest, bases), ManySockets(scene.guest, bases)]
        for client in clients:
            await client.join(scene.bots)
        await eventually(lambda: all(len(one.seen.cursors) == BOTS for one in clients))
        await scene.write(50)
        await scene.all_seen(*clients)
        await lose_and_regain(scene, clients)
        # Both go on where there is another process; what is written meanwhile is missed.
        bases.append((other := await start_server()).base)
        os.kill(mortal.process.pid, signal.SIGKILL)
        await scene.write(50)
        await scene.all_seen(*clients)
    bases[:] = [(await start_server()).base]
    other.request_stop()
    await scene.write(50)
    await scene.all_seen(*clients)
    await asyncio.gather(*(client.stop() for client in clients))
    one, many = (client.seen for client in clients)
    assert one.ids == many.ids
    assert one.contents == many.contents
    for seen in (one, many):
        told = [reason for reasons in seen.reasons.values() for reason in reasons]
        assert sorted(filter(None, told)) == ["access_changed"] * REVOKED


async def lose_and_regain(scene: Scene, clients: list[Any]) -> None:
    """Nobody is shown what is written in between."""
    lost = scene.bots[:REVOKED]
    for bot in lost:
        await scene.platform.revoke(bot, scene.guest)
        await scene.say(bot, "secret")
    await eventually(lambda: all(len(client.on) == BOTS - REVOKED for client in clients))
    for bot in lost:
        await scene.platform.permit(bot, scene.guest)
    for client in clients:
        await client.join(lost)
        await eventually(lambda client=client: all(client.seen.reasons[one] for one in lost))
    await scene.all_seen(*clients)
    assert not any("secret" in client.seen.contents[bot] for client in clients for bot in lost)
