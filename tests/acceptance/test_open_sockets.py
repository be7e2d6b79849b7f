"""Sockets that are open and idle: they are pinged, they hold little, and they fail alone."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Awaitable

import pytest

from realtime.config.intervals import Intervals
from realtime.web.conversation import Conversation
from realtime.web.sink import PING, SocketSink
from realtime.web.sockets import SocketHandler
from realtime.web.websocket import WebSocket
from tests.acceptance.test_close_codes import RawSocket, raw_frame
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

EMIT = "SELECT relay.emit($1, 'large', to_jsonb(repeat('x', $2)))"


@pytest.mark.gen_test
async def test_1013_who_does_not_answer_pings_is_closed(
    start_server: StartServer, world: World
) -> None:
    """Whoever answers stays, and so does one who sends pongs that were not asked for."""
    server = await start_server(intervals=Intervals(ping=0.5))
    good = await server.chat(world.bot, world.owner)
    silent = RawSocket(server, f"/api/ws/chat/{world.bot}?token={token(world.guest)}")
    await silent.is_established()
    silent.send(raw_frame(0xA, b"too early"))
    assert await silent.close_code() == 1013
    await good.caught_up()
    await eventually(lambda: len(server.server.hub.subscribers) == 1)


class SlowReader:
    """A client that takes what comes when it is told to, and keeps little of it in its kernel."""

    def __init__(self, server: RunningServer, path: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(LIMIT)
        self._socket.connect(("127.0.0.1", server.server.port))
        self._socket.setblocking(False)
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            "\r\n".encode()
        )
        self.last = b""

    async def take(self, size: int) -> None:
        """Read so many bytes, at most."""
        data = await asyncio.get_running_loop().sock_recv(self._socket, size)
        assert data
        self.last = (self.last + data)[-200:]

    def pong(self) -> None:
        self._socket.sendall(raw_frame(0xA, b""))

    def close(self) -> None:
        self._socket.close()


async def pinged_behind(
    server: RunningServer, platform: Platform, world: World, size: int
) -> tuple[SlowReader, Conversation, SocketSink]:
    """A client that was sent so much that the kernel still has some of it, and then a ping."""
    slow = SlowReader(server, f"/api/ws/chat/{world.bot}?token={token(world.guest)}")
    await eventually(lambda: [*server.server.hub.subscribers.joined()])
    (conversation,) = [one for ring in server.server.web.services.pings._slices for one in ring]
    assert isinstance(conversation, Conversation)
    sink = conversation._sink
    await eventually(lambda: not sink.unacknowledged_bytes)
    if not sink.acknowledged_bytes:
        pytest.skip("this system does not say what a client has acknowledged")
    await platform.execute(EMIT, f"bot:{world.bot}", size)
    await eventually(lambda: sink.unacknowledged_bytes)
    while not sink.is_idle:
        await slow.take(4096)
    await eventually(lambda: sink.unacknowledged_bytes)
    conversation.ping()
    return slow, conversation, sink


@pytest.mark.gen_test
async def test_a_ping_behind_much_on_a_slow_line_is_waited_for(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """As long as the client goes on to take what the kernel has for it."""
    slow, conversation, sink = await pinged_behind(server, platform, world, 400_000)
    for _ in range(3):
        before = sink.acknowledged_bytes
        while sink.acknowledged_bytes == before:
            await slow.take(4096)
        conversation.ping()
        assert not sink.is_closed
    while not slow.last.endswith(PING):
        await slow.take(4096)
    slow.pong()
    await eventually(lambda: conversation._ping is None)
    slow.close()


@pytest.mark.gen_test
async def test_who_takes_nothing_of_what_is_before_a_ping_is_closed(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The line is dead, however much the kernel still has."""
    slow, conversation, sink = await pinged_behind(server, platform, world, 100_000)
    while not sink.is_closed:  # what was acknowledged just before may count once
        conversation.ping()
    assert sink.close_code == 1013
    slow.close()


def handlers() -> set[int]:
    """The identities of those that are in memory."""
    return {id(one) for one in gc.get_objects() if isinstance(one, SocketHandler)}


@pytest.mark.gen_test
async def test_nothing_of_the_handshake_is_kept(server: RunningServer, world: World) -> None:
    """The request's objects are larger than all that an idle socket needs."""
    gc.disable()
    try:
        before = handlers()  # what earlier tests left behind
        guest = await server.chat(world.bot, world.guest)
        await server.notifications(world.guest)
        # Tornado reads this one, for the entrance leaves what is not plain to it.
        raw = RawSocket(server, f"/api/ws/chat/%20?token={token(world.guest)}")
        assert await raw.close_code() == 4003
        refused = await server.open(f"/api/ws/chat/{world.bot}", "nobody")
        assert await refused.closed() == 4001
        kept = handlers() - before
    finally:
        gc.enable()
    assert not kept
    await guest.caught_up()


@pytest.mark.gen_test
async def test_an_error_while_reading_ends_that_socket_alone(
    server: RunningServer,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, without the request, and nothing is left of the socket."""
    other = await server.chat(world.bot, world.owner)
    raw = RawSocket(server, f"/api/ws/chat/{world.bot}?token={token(world.guest)}")
    await raw.is_established()
    on_data = WebSocket._on_data

    def fail(self: WebSocket, is_final: bool, payload: bytes) -> Awaitable[None] | None:
        if payload == b"fail":
            raise RuntimeError("nobody foresaw this")
        return on_data(self, is_final, payload)

    monkeypatch.setattr(WebSocket, "_on_data", fail)
    with caplog.at_level(logging.ERROR):
        raw.send(raw_frame(0x1, b"fail"))
        await raw.ended()
        await eventually(lambda: len(server.server.hub.subscribers) == 1)
    (record,) = caplog.records
    assert record.getMessage().startswith("socket_failed connection=")
    assert "nobody foresaw this" in caplog.text
    await other.caught_up()
