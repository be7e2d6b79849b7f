"""A socket's lines in the log: its connection's id finds them, and none has a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

from realtime.runtime.logging import JsonFormatter
from tests.clients import Socket
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import eventually

NOBODY = "00000000-0000-0000-0000-000000000000"


async def lines_of(
    socket: Socket, caplog: pytest.LogCaptureFixture, *, lines: int
) -> list[dict[str, Any]]:
    """What `grep` finds in JSON logs for the connection's id."""
    connection_id = (await socket.established())["data"]["connection_id"]
    write = JsonFormatter(None).format

    def found() -> list[dict[str, Any]]:
        written = [write(record) for record in caplog.records]
        return [json.loads(line) for line in written if connection_id in line]

    await eventually(lambda: len(found()) >= lines)
    assert all(entry["connection"] == connection_id for entry in found())
    return found()


def without(entries: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    dropped = {"time", "level", "logger", "connection", *names}
    return [{key: one[key] for key in one if key not in dropped} for one in entries]


@pytest.mark.gen_test
async def test_a_sockets_lines_tell_what_became_of_it(
    server: RunningServer, platform: Platform, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose it was, on what, whether it was brought up to date, who ended it and when."""
    caplog.set_level(logging.INFO)
    whose = {"user": world.guest, "topic": f"bot:{world.bot}"}
    left = await server.chat(world.bot, world.guest, cursor="nonsense")
    left.close(1000)
    found = await lines_of(left, caplog, lines=2)
    assert without(found, "seconds") == [
        {"message": "socket_opened", **whose, "recovered": False, "reason": "invalid"},
        {"message": "socket_ended", **whose, "code": 1000},
    ]
    assert found[1]["seconds"] >= 0
    sent_off = await server.chat(world.bot, world.guest)
    await platform.revoke(world.bot, world.guest)
    assert await sent_off.closed() == 4003
    assert without(await lines_of(sent_off, caplog, lines=3), "seconds") == [
        {"message": "socket_opened", **whose},
        {"message": "socket_close_sent", **whose, "code": 4003, "reason": "access ended"},
        {"message": "socket_ended", **whose, "code": 4003},
    ]


@pytest.mark.gen_test
@pytest.mark.parametrize(("frame", "code"), [(b"\x88\x80\0\0\0\0", 1005), (b"", 1006)])
async def test_who_leaves_without_a_code(
    server: RunningServer, world: World, caplog: pytest.LogCaptureFixture, frame: bytes, code: int
) -> None:
    """A close frame without one is a close as any other; without a frame, the connection broke."""
    caplog.set_level(logging.INFO)
    path = f"/api/ws/chat/{world.bot}?token={token(world.guest)}"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    await reader.readuntil(b"connection_established")
    writer.write(frame)
    if frame:
        while await reader.read(1000):
            pass
    writer.close()
    await eventually(lambda: "socket_ended" in caplog.text)
    assert f" code={code} " in caplog.text
    assert dict(server.server.relaying.counters.closes) == {str(code): 1}


@pytest.mark.gen_test
async def test_events_over_http_that_are_cut(
    server: RunningServer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A reset is no goodbye."""
    caplog.set_level(logging.INFO)
    cut = await server.events(f"chat/{world.bot}", world.guest)
    await eventually(lambda: "socket_opened" in caplog.text)
    connection = cut.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    cut.writer.transport.abort()
    await eventually(lambda: "socket_ended" in caplog.text)
    assert dict(server.server.relaying.counters.closes) == {"1006": 1}


@pytest.mark.gen_test
async def test_a_refused_socket_is_told_of_too(
    server: RunningServer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is known then; and what came as a token is not repeated."""
    caplog.set_level(logging.INFO)
    refused = await server.connect(server.ws_url(f"/api/ws/chat/{world.bot}", token="s3cret"))
    assert await refused.closed() == 4001

    def lines() -> list[dict[str, Any]]:
        written = [JsonFormatter(None).format(record) for record in caplog.records]
        return [entry for entry in map(json.loads, written) if "connection" in entry]

    await eventually(lambda: len(lines()) == 2)
    close, gone = lines()
    assert close["connection"] == gone["connection"]
    assert without([close, gone]) == [
        {"message": "socket_close_sent", "code": 4001, "reason": "token invalid"},
        {"message": "socket_ended", "code": 4001},
    ]
    assert "s3cret" not in caplog.text


@pytest.mark.gen_test
async def test_a_subject_of_the_other_kind_names_the_setting(
    start_server: StartServer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """In either direction; a subject of the right kind that means nobody does not."""
    caplog.set_level(logging.INFO)
    ids, usernames = await start_server(), await start_server(JWT_SUBJECT="username")
    for server, subject in ((ids, "olga"), (ids, NOBODY), (usernames, NOBODY), (usernames, "x")):
        refused = await server.open(f"/api/ws/chat/{world.bot}", subject)
        assert await refused.closed() == 4001
    lines = [one.getMessage() for one in caplog.records if "subject_unfit" in one.getMessage()]
    assert [line.partition(" jwt_subject=")[2] for line in lines] == [
        'id sub="no UUID"',
        'username sub="a UUID"',
    ]


@pytest.mark.gen_test
async def test_a_token_in_the_path_is_not_told(
    server: RunningServer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Who leaves out the question mark is refused, and asks for a bot of that name."""
    caplog.set_level(logging.INFO)
    address = f"http://{server.base}/api/ws/presence/{world.bot}&token={token(world.guest)}"
    answer = await AsyncHTTPClient().fetch(address, raise_error=False)
    assert answer.code == 401
    assert f"/api/ws/presence/{world.bot}&token=..." in caplog.text
    assert "eyJ" not in caplog.text
