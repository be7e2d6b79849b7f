"""Requests that do not end, and a process that may open no more files."""

from __future__ import annotations

import asyncio
import json
import resource
import socket as sockets
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import ClassVar

import pytest
from tornado.iostream import IOStream

from realtime.config.intervals import Intervals
from realtime.web import entrance
from tests.clients import Socket
from tests.commands import ROOT, environment, free_port, running, status_of
from tests.platform import Platform
from tests.serving import SECRET, RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

POST = b"POST /api/ws/stats HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /api/health HTTP/1.1\r\nHost: x\r\n"
CHAT = b"GET /api/ws/chat/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
FILES = 72
"""How many files the small process may open."""


async def answer_to(server: RunningServer, data: bytes, then: bytes = b"") -> bytes:
    """Send, then one byte of `then` after another; all that is answered until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)

    async def trickle() -> None:
        for byte in then:
            await asyncio.sleep(0.02)
            writer.write(bytes([byte]))

    async with asyncio.timeout(LIMIT):
        writer.write(data)
        trickling = asyncio.create_task(trickle())
        answer = b""
        try:
            while part := await reader.read(65536):
                answer += part
        except ConnectionError:
            pass
    trickling.cancel()
    writer.transport.abort()
    return answer


@pytest.mark.parametrize("start", [POST, GET, CHAT], ids=["post", "get", "websocket"])
@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 65537\r\n\r\n",
        b"Content-Length: 99999999999999\r\n\r\n",
        b"Expect: 100-continue\r\nContent-Length: 65537\r\n\r\n",
        CHUNKED + b"10001\r\n",
        CHUNKED + b"ffffffffffff\r\n",
        CHUNKED + b"8000\r\n" + b"x" * 0x8000 + b"\r\n8001\r\n",
    ],
    ids=[
        "a byte too long",
        "endless",
        "expected",
        "a long chunk",
        "an endless chunk",
        "two chunks",
    ],
)
@pytest.mark.gen_test
async def test_a_body_that_is_too_long_is_not_read(
    server: RunningServer, start: bytes, rest: bytes
) -> None:
    """It is refused as soon as its length is known."""
    answer = await answer_to(server, start + rest)
    assert answer.removeprefix(b"HTTP/1.1 100 (Continue)\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("start", [POST, GET, CHAT], ids=["post", "get", "websocket"])
@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 60000\r\n\r\n",
        b"Expect: 100-continue\r\nContent-Length: 60000\r\n\r\n",
        CHUNKED,
        CHUNKED + b"5000\r\nab",
    ],
    ids=["none of it", "expected", "no chunk", "half a chunk"],
)
@pytest.mark.gen_test
async def test_a_body_that_does_not_end_ends_the_connection(
    start_server: StartServer, start: bytes, rest: bytes
) -> None:
    """A little at a time does not keep it open: the limit is for all of it."""
    server = await start_server(intervals=Intervals(body=0.3))
    answer = await answer_to(server, start + rest, then=b"0" * 10_000)
    assert answer in (b"", b"HTTP/1.1 100 (Continue)\r\n\r\n")


@pytest.mark.parametrize(
    ("start", "then"),
    [(b"", b""), (b"GET", b""), (GET, b""), (b"", b"x" * 10_000), (GET, b"a: b\r\n" * 2000)],
    ids=["silent", "a word", "half a request", "a slow line", "slow headers"],
)
@pytest.mark.gen_test
async def test_headers_that_do_not_end_end_the_connection(
    start_server: StartServer, start: bytes, then: bytes
) -> None:
    """A little at a time does not keep it open."""
    server = await start_server(intervals=Intervals(idle_request=0.3))
    assert await answer_to(server, start, then) == b""


class FollowedStream(IOStream):
    """Tornado's end of a connection, by the port of the other end."""

    by_port: ClassVar[dict[int, IOStream]] = {}

    def __init__(self, connection: sockets.socket) -> None:
        super().__init__(connection)
        self.by_port[connection.getpeername()[1]] = self


def asking(server: RunningServer, requests: bytes, receive_bytes: int) -> sockets.socket:
    """A client that has sent requests, and has read nothing."""
    client = sockets.socket()
    client.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, receive_bytes)
    client.connect(("127.0.0.1", server.server.port))
    client.sendall(requests)
    client.setblocking(False)
    return client


@pytest.mark.skipif(not hasattr(sockets, "TCP_USER_TIMEOUT"), reason="only Linux can do this")
@pytest.mark.gen_test
async def test_who_takes_nothing_of_the_answers_is_cut_off(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are; who takes them slowly is sent all."""
    monkeypatch.setattr(entrance, "IOStream", FollowedStream)
    server = await start_server(intervals=Intervals(idle_request=2.0))
    script, count = b"GET /static/client/client.js HTTP/1.1\r\nHost: x\r\n", 400
    requests = (script + b"\r\n") * (count - 1) + script + b"Connection: close\r\n\r\n"
    stalled, slow = [asking(server, requests, size) for size in (2048, 65_536)]
    with stalled, slow:
        ports = [one.getsockname()[1] for one in (stalled, slow)]
        await eventually(lambda: FollowedStream.by_port.keys() >= set(ports))
        stalled_end, slow_end = (FollowedStream.by_port[port] for port in ports)
        answers = bytearray()

        def has_been_cut_off() -> bool:
            with suppress(BlockingIOError):
                answers.extend(slow.recv(16_384))
            return stalled_end.closed()

        await eventually(has_been_cut_off)
        assert not slow_end.closed()
        loop = asyncio.get_running_loop()
        while part := await loop.sock_recv(slow, 65_536):
            answers.extend(part)
    assert answers.count(b"HTTP/1.1 200 OK") == count


def ready(port: int) -> tuple[int, str]:
    """What a new connection is answered at /api/ready: the status and the reason."""
    with sockets.create_connection(("127.0.0.1", port), timeout=LIMIT) as connection:
        connection.sendall(b"GET /api/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body[body.index(b"{") : body.rindex(b"}") + 1]).get(
        "reason", ""
    )


async def is_eventually(condition: Callable[[], bool]) -> None:
    """As `eventually`, for what blocks."""
    await eventually(partial(asyncio.to_thread, condition))


@pytest.mark.gen_test(timeout=120)
async def test_a_process_without_free_files_serves_whom_it_has(
    database: str, platform: Platform, world: World
) -> None:
    """It says so, keeps what it needs to connect to the database again, and recovers."""
    port = free_port()
    settings = environment(
        DATABASE_URL=database, JWT_SECRET=SECRET, PORT=str(port), DRAIN_SECONDS="0"
    )
    command = [str(ROOT / "bin" / "serve")]
    allow = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (FILES, FILES))
    with running(command, env=settings, preexec_fn=allow) as serving, ExitStack() as idle:
        url = f"http://127.0.0.1:{port}/api/ready"
        await is_eventually(lambda: status_of(url) == 200)
        path = f"/api/ws/chat/{world.bot}?token={token(world.guest)}"
        guest = await Socket.open(f"ws://127.0.0.1:{port}{path}")
        await guest.established()
        for _ in range(2 * FILES):
            idle.enter_context(sockets.create_connection(("127.0.0.1", port), timeout=LIMIT))
        status, reason = await asyncio.to_thread(ready, port)
        assert (status, reason) == (503, "no file descriptor is left for new connections")
        await platform.message(world.session, world.bot, world.owner, "still here")
        await guest.next("chat_message")

        await platform.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await eventually(lambda: serving.output.count("database_connected") == 2)
        await platform.message(world.session, world.bot, world.owner, "and again")
        await guest.next("chat_message", 2)

        assert serving.output.count("connections_refused") == 1
        assert "Traceback" not in serving.output
        idle.close()
        await is_eventually(lambda: status_of(url) == 200)
        await guest.caught_up()
        guest.close()
        await guest.closed()
