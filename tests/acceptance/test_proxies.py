"""The proxies of docs/deploying.md between clients and the server, each as the page sets it up."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any, TypeVar

import pytest
from tornado.httpclient import HTTPClientError

from realtime.auth.tokens import mint_token
from tests.clients import Socket
from tests.commands import SECRET, free_port
from tests.event_stream import EventStream
from tests.platform import Platform
from tests.proxies import BASE, Caddy, HAProxy, Nginx, Proxy, proxy
from tests.serving import World
from tests.supervised import served
from tests.waiting import eventually

One = TypeVar("One", Socket, EventStream)


class Writer:
    """Somebody who writes messages, and remembers them."""

    def __init__(self, platform: Platform, world: World) -> None:
        self._platform, self._world = platform, world
        self.written: list[str] = []

    async def write(self, content: str) -> None:
        self.written.append(content)
        world = self._world
        await self._platform.message(world.session, world.bot, world.owner, content)


class Visitors:
    """The bot's guest behind a proxy, by a socket and by a stream of events."""

    def __init__(self, front: Proxy, world: World) -> None:
        self._front = front
        self._place = f"chat/{world.bot}"
        self.all: list[Socket | EventStream] = []
        self.token = mint_token(SECRET, world.guest, ttl=600, now=time.time())

    async def chat(self, cursor: str = "") -> Socket:
        return await self._socket(f"?token={self.token}&cursor={cursor}")

    async def from_a_page(self) -> Socket:
        """With the token where pages have it."""
        return await self._socket("", ["bearer", self.token])

    async def _socket(self, query: str, subprotocols: list[str] | None = None) -> Socket:
        url = f"wss://127.0.0.1:{self._front.port}{BASE}/api/ws/{self._place}{query}"
        found = await Socket.open(url, subprotocols=subprotocols, tls=self._front.tls)
        self.all.append(found)
        return found

    async def stream(self, cursor: str = "") -> EventStream:
        """As a browser asks, which takes compressed answers."""
        headers = {"Accept-Encoding": "gzip", "Accept": "text/event-stream"}
        headers |= {"Last-Event-ID": cursor} if cursor else {}
        address = f"{BASE}/api/sse/{self._place}?token={self.token}"
        port, tls = self._front.port, self._front.tls
        found = await EventStream.open(port, address, headers, "1.0", tls)
        self.all.append(found)
        return found

    async def are_refused(self) -> bool:
        """Whether the proxy says that nobody is there."""
        try:
            (await self.chat()).close()
        except HTTPClientError as error:
            return error.code in (502, 503)
        return False


async def let_in(open_one: Callable[[], Awaitable[One]]) -> One:
    """Ask until somebody answers, as clients do."""

    async def ask() -> One | None:
        try:
            found = await open_one()
        except (HTTPClientError, OSError):
            return None
        if isinstance(found, EventStream) and found.status != 200:
            found.close()
            return None
        await found.next("connection_established")
        return found

    found = await eventually(ask)
    assert found is not None
    return found


def contents(one: Socket | EventStream) -> list[str]:
    return [message["data"]["content"] for message in one.of_type("chat_message")]


async def arrives(content: str, *to: Socket | EventStream) -> None:
    for one in to:
        await eventually(lambda one=one: contents(one)[-1:] == [content])


def newest(chat: Socket) -> str:
    return str(chat.of_type("chat_message")[-1]["cursor"])


@pytest.mark.gen_test(timeout=120)
@pytest.mark.parametrize("kind", [Nginx, HAProxy, Caddy], ids=lambda kind: kind.name)
async def test_clients_behind_a_proxy_miss_nothing(
    kind: type[Proxy], database: str, platform: Platform, world: World, tmp_path: Path
) -> None:
    """Each event arrives at once; after a reload, and after a crash, no gap; no log has a token."""
    port = free_port()
    settings: dict[str, Any] = {"port": port, "WEB_CONCURRENCY": "1", "BASE_PATH": BASE}
    with proxy(kind, tmp_path, port) as front:
        visitors = Visitors(front, world)
        writer = Writer(platform, world)
        with served(database, **settings) as server:
            cursors = await see_a_reload(visitors, writer, front)
            server.running.stop(SIGKILL)
            await eventually(lambda: all(one.is_closed for one in visitors.all))
        await eventually(visitors.are_refused)
        (await visitors.stream()).close()
        await writer.write("four")
        with served(database, **settings) as server:
            await see_no_gap(visitors, writer, *cursors)
            server.running.stop()
        # They write their lines when connections end.
        for path in ("ws", "sse"):
            await eventually(lambda path=path: f"{BASE}/api/{path}/chat/" in front.logs())
        for secret in (visitors.token, "token=", "cursor="):
            assert secret not in front.logs()


async def see_a_reload(visitors: Visitors, writer: Writer, front: Proxy) -> tuple[str, str]:
    """Events arrive while the connections are open, and after a reload; the newest cursors."""
    chat, page = await let_in(visitors.chat), await let_in(visitors.from_a_page)
    stream = await let_in(visitors.stream)
    assert "content-encoding" not in stream.headers
    for content in ("one", "two"):
        await writer.write(content)
        await arrives(content, chat, page, stream)
    front.reload()
    if not front.keeps_sockets:
        await chat.closed()
    await writer.write("three")
    if not front.keeps_sockets:
        chat = await let_in(lambda: visitors.chat(newest(chat)))
    await arrives("three", chat)
    return newest(chat), stream.last_event_id


async def see_no_gap(visitors: Visitors, writer: Writer, cursor: str, last_id: str) -> None:
    """What was written in between, and at most what was seen before."""
    chat = await let_in(lambda: visitors.chat(cursor))
    stream = await let_in(lambda: visitors.stream(last_id))
    await arrives(writer.written[-1], chat, stream)
    for one in (chat, stream):
        assert one.messages[0]["data"]["recovered"] is True
        assert contents(one) == writer.written[-len(contents(one)) :]
        one.close()
    await eventually(lambda: chat.is_closed)
