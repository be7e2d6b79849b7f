"""A platform's own web client, as it behaves before anybody changes it for this server.

It asks `/health` before it connects. Its token is renewed elsewhere: it never says `authenticate`,
and 4001 is final to it. It shows its user's message as soon as it is written, before its POST has
answered, and does not compare it with what the socket brings. It knows no cursors: after any other
close it comes back and loads the history.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from tests.clients import Message, Socket
from tests.event_stream import EventStream
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT, PAUSE, eventually

FINAL = {1000, 4001, 4003}
SETTINGS = {"TOKEN_EXPIRY": "handshake", "ECHO_TO_AUTHOR": "false"}


class PlatformClient:
    """One open page.

    Args:
        server: the one that answers now.
        fresh: what the page's other code keeps: the newest token.
    """

    def __init__(
        self,
        server: Callable[[], RunningServer],
        platform: Platform,
        world: World,
        user_id: str,
        fresh: Callable[[], str],
    ) -> None:
        self._server, self._platform, self._world = server, platform, world
        self._user_id, self._fresh = user_id, fresh
        self.shown: list[str] = []
        self.role: str | None = None
        self.revoked: tuple[str, str | None] | None = None
        self.ended: int | None = None
        self.socket: Socket
        self.connects = 0

    async def run(self) -> None:
        while self.ended is None:
            await self._connect()
            await self._load()
            code = await self._follow()
            self.ended = code if code in FINAL else None

    async def _connect(self) -> None:
        server = self._server()
        for method in ("HEAD", "GET"):
            request = HTTPRequest(server.url("/health"), method=method, request_timeout=LIMIT)
            assert (await AsyncHTTPClient().fetch(request)).code == 200
        path = f"/api/ws/chat/{self._world.bot}"
        self.socket = await server.connect(server.ws_url(path, token=self._fresh()))
        await eventually(lambda: self.socket.messages or self.socket.is_closed)

    async def _load(self) -> None:
        rows = await self._platform.connection.fetch(
            "SELECT content FROM messages WHERE bot_id = $1 ORDER BY created_at, id",
            self._world.bot,
        )
        self.shown = [row["content"] for row in rows]
        self.connects += 1

    async def _follow(self) -> int | None:
        read = 0
        while not self.socket.is_closed or read < len(self.socket.messages):
            for message in self.socket.messages[read:]:
                read += 1
                self._show(message)
            await asyncio.sleep(PAUSE)
        return self.socket.code

    def _show(self, message: Message) -> None:
        data = message.get("data", {})
        if message["type"] == "connection_established":
            self.role = data["role"]
        if message["type"] == "chat_message":
            self.shown.append(data["content"])
        if message["type"] == "permission_change" and data["target_user_id"] == self._user_id:
            details: dict[str, Any] = data["details"]
            if data["action"] == "updated":
                self.role = details["new_role"]
            if data["action"] == "revoked":
                self.revoked = details["revoked_role"], details["revoked_by"]

    async def write(self, content: str) -> None:
        """Show it, and POST it."""
        self.shown.append(content)
        world = self._world
        await self._platform.message(world.session, world.bot, self._user_id, content)


@pytest.mark.gen_test(timeout=2 * LIMIT)
async def test_a_client_that_was_there_before_shows_each_message_once(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Over its token's end and over a restart, until its access ends."""
    servers = [await start_server(**SETTINGS)]
    began = time.time()
    client = PlatformClient(
        lambda: servers[-1], platform, world, world.guest, lambda: token(world.guest, ttl=1)
    )
    running = asyncio.create_task(client.run())

    async def until(condition: Callable[[], bool]) -> None:
        await eventually(lambda: running.done() or condition())
        assert not running.done() or (running.result() is None and condition())

    await until(lambda: client.connects == 1)

    await client.write("my own")
    await platform.message(world.session, world.bot, world.guest, "an answer", role="assistant")
    await platform.message(world.session, world.bot, world.owner, "another's")
    expected = ["my own", "an answer", "another's"]
    await until(lambda: len(client.shown) >= len(expected))
    assert client.shown == expected

    await until(lambda: time.time() > began + 2)  # its token has ended
    await platform.message(world.session, world.bot, world.owner, "after its token")
    await until(lambda: client.shown[-1] == "after its token")
    assert (client.connects, client.socket.said) == (1, [])

    servers.append(await start_server(**SETTINGS))
    servers[0].request_stop()
    await until(lambda: client.connects == 2)
    await client.write("my own, after the restart")
    await platform.message(world.session, world.bot, world.owner, "the last")
    expected += ["after its token", "my own, after the restart", "the last"]
    await until(lambda: client.shown[-1] == "the last")
    assert client.shown == expected

    await platform.execute("UPDATE permissions SET role = 'editor' WHERE user_id = $1", world.guest)
    await until(lambda: client.role == "editor")
    await platform.revoke(world.bot, world.guest)
    await asyncio.wait_for(running, LIMIT)
    assert (client.ended, client.revoked) == (4003, ("editor", None))
    assert client.shown == expected


def shown_by(socket: Socket | EventStream) -> list[str]:
    return [one["data"]["content"].rstrip("x") for one in socket.of_type("chat_message")]


@pytest.mark.gen_test(timeout=2 * LIMIT)
async def test_no_way_in_brings_back_what_its_user_wrote(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Live, and missed: in portions, and one message in parts."""
    server = await start_server(ECHO_TO_AUTHOR="false")
    first = await server.chat(world.bot, world.guest)
    cursor = (await first.established())["data"]["cursor"]
    for author in (world.guest, world.owner):
        for size in (*[3_000] * 60, 3_000_000, 1):
            content = f"{author[:8]} {size} ".ljust(size, "x")
            await platform.message(world.session, world.bot, author, content)
    await first.next("chat_message", 62)
    expected = shown_by(first)
    assert {text[:8] for text in expected} == {world.owner[:8]}

    multi = await server.multi(world.guest)
    await multi.send({"type": "subscribe", "data": {"bot_id": world.bot, "cursor": cursor}})
    ways: list[Socket | EventStream] = [
        await server.chat(world.bot, world.guest, cursor=cursor),
        await server.events(f"chat/{world.bot}", world.guest, cursor=cursor),
        multi,
    ]
    for one in ways:
        await one.next("chat_message", 62)
    await platform.message(world.session, world.bot, world.guest, "my own")
    await platform.message(world.session, world.bot, world.owner, "the last")
    for one in ways:
        await one.next("chat_message", 63)
        assert shown_by(one) == [*expected, "the last"]
