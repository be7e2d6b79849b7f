"""Whatever bytes arrive, the others are served, and nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlencode

import pytest

from realtime.config.intervals import Intervals
from realtime.runtime.logging import TextFormatter
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import eventually

Bytes = Callable[[random.Random], bytes]
ROUNDS = 40


def handshake(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(opcode: int, payload: bytes, first: int = 0x80) -> bytes:
    """A masked frame; the mask is zero, so that the payload stands as it is."""
    if len(payload) < 126:
        length = struct.pack("!B", 0x80 | len(payload))
    else:
        length = struct.pack("!BQ", 0xFF, len(payload))
    return bytes([first | opcode]) + length + bytes(4) + payload


def text(content: str) -> bytes:
    return frame(1, content.encode("utf-8", "surrogatepass"))


NOISE: dict[str, Bytes] = {
    "raw bytes": lambda r: r.randbytes(r.randrange(1, 5000)),
    "frames of any kind": lambda r: b"".join(
        frame(r.randrange(16), r.randbytes(r.randrange(100)), r.choice([0, 0x80, 0xC0, 0xF0]))
        for _ in range(20)
    ),
    "a length without its payload": lambda r: b"\x81\xff" + struct.pack("!Q", r.getrandbits(63)),
    "deep JSON": lambda r: text("[" * r.randrange(1, 60000)),
    "deep objects": lambda r: text('{"data":' * r.randrange(1, 7000) + "1"),
    "huge numbers": lambda r: text(
        '{"type":"ping","timestamp":' + "9" * r.randrange(1, 60000) + "}"
    ),
    "exponents": lambda r: text('{"type":"ping","timestamp":1e' + str(r.getrandbits(40)) + "}"),
    "invalid UTF-8": lambda r: frame(1, bytes([0x22, r.randrange(0x80, 0x100), 0x22])),
    "lone surrogates": lambda r: text('{"type":"ping","timestamp":"\\ud800' + "x" * r.randrange(9)),
    "a flood of pings": lambda r: frame(9, b"x" * r.randrange(126)) * 2000,
    "a flood of messages": lambda r: text('{"type":"ping"}') * r.randrange(1000, 3000),
    "a fragmented message without end": lambda _: (
        frame(1, b"x" * 60000, 0) + b"".join(frame(0, b"x" * 60000, 0) for _ in range(5))
    ),
    "a close with an odd payload": lambda r: frame(8, r.randbytes(r.choice([1, 2, 3, 50, 125]))),
    "session ids of any kind": lambda r: text(
        '{"type":"session_sync","data":{"session_id":"' + "\\u0000" * r.randrange(50) + '"}}'
    ),
}


async def throw(port: int, data: bytes) -> None:
    """Send what there is, read nothing, and hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError, TimeoutError):
        writer.write(data)
        async with asyncio.timeout(5):
            await writer.drain()
            await reader.read(65536)
    await hang_up(writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("noise", list(NOISE))
@pytest.mark.gen_test
async def test_noise_on_an_open_socket_harms_nobody_else(
    server: RunningServer,
    platform: Platform,
    world: World,
    caplog: pytest.LogCaptureFixture,
    noise: str,
) -> None:
    """Many such clients at once, on one bot with somebody who behaves."""
    caplog.set_level(logging.WARNING)
    good = await server.chat(world.bot, world.owner)
    chance = random.Random(noise)
    path = f"/api/ws/chat/{world.bot}?token={token(world.guest)}"
    await asyncio.gather(
        *(throw(server.server.port, handshake(path) + NOISE[noise](chance)) for _ in range(ROUNDS))
    )
    await platform.message(world.session, world.bot, world.owner, "still here")
    assert (await good.next("chat_message"))["data"]["content"] == "still here"
    await eventually(lambda: len(server.server.hub.subscribers) == 1)
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.gen_test
async def test_handshakes_that_are_none_harm_nobody(
    server: RunningServer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of one, one with too much in it, other methods, other protocols."""
    good = await server.chat(world.bot, world.owner)
    chance = random.Random(7)
    whole = handshake(f"/api/ws/chat/{world.bot}?token={token(world.guest)}")
    attempts = [whole[: chance.randrange(len(whole))] for _ in range(ROUNDS)] + [
        b"\x16\x03\x01" + chance.randbytes(200),
        b"POST /api/ws/stats HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20000 + b"\r\n",
        b"GET /" + b"a" * 200000,
        whole.replace(b"Version: 13", b"Version: 99"),
        whole.replace(b"?token=", b"?token=%ff%00&token=&cursor=%ff%fe&x="),
        whole.replace(b"/api/ws/chat/", b"/api/ws/chat/%00%ff"),
    ]
    await asyncio.gather(*(throw(server.server.port, data) for data in attempts))
    await good.caught_up()
    await eventually(lambda: len(server.server.hub.subscribers) == 1)
    assert not [r for r in caplog.records if r.exc_info], caplog.text


@pytest.mark.gen_test
async def test_a_token_in_what_cannot_be_read_is_not_logged(
    server: RunningServer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """In a header or in the address, beside a character that HTTP does not have."""
    caplog.set_level(logging.INFO)
    secret = token(world.guest)
    head = "GET /api/ws/stats?token={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n"
    for request in (head.format("x", f"{secret}\0"), head.format(f"{secret}\0", "x")):
        await throw(server.server.port, request.encode())
    logged = "\n".join(TextFormatter(None).format(one) for one in caplog.records)
    assert logged.count("Malformed HTTP message from 127.0.0.1: ") == 2
    assert secret not in logged


@pytest.mark.parametrize("code", [0, -1, 999, 1005, 5000, 65536, 2**31 - 1])
@pytest.mark.gen_test
async def test_a_row_with_a_code_that_is_none_ends_access_all_the_same(
    server: RunningServer, platform: Platform, world: World, code: int
) -> None:
    """It was written by hand; the socket is closed with 4003, and the others are served."""
    good, guest = (
        await server.chat(world.bot, world.owner),
        await server.chat(world.bot, world.guest),
    )
    await platform.execute("SET session_replication_role = replica")  # no trigger tells of it
    await platform.revoke(world.bot, world.guest)
    await platform.execute("SET session_replication_role = origin")
    await platform.execute(
        "INSERT INTO relay.events (topic, type, user_id, code) VALUES ($1, 'eject', $2, $3)",
        f"bot:{world.bot}",
        world.guest,
        code,
    )
    await platform.message(world.session, world.bot, world.owner, "still here")
    assert await guest.closed() == 4003
    assert (await good.next("chat_message"))["data"]["content"] == "still here"


@pytest.mark.gen_test
async def test_a_client_that_does_not_read_its_missed_events_is_closed(
    start_server: StartServer,
    platform: Platform,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are sent in portions, and it has so much time for each of them."""
    caplog.set_level(logging.INFO)
    server = await start_server(intervals=Intervals(replay=0.2))
    guest = await server.chat(world.bot, world.guest)
    cursor = (await guest.established())["data"]["cursor"]
    guest.close(1000)
    await platform.execute(
        "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
        " SELECT $1, $2, $3, 'user', repeat('x', 10000) FROM generate_series(1, 2000)",
        world.session,
        world.bot,
        world.owner,
    )
    path = f"/api/ws/chat/{world.bot}?{urlencode({'token': token(world.guest), 'cursor': cursor})}"
    _, writer = await asyncio.open_connection("127.0.0.1", server.server.port, limit=1024)
    writer.write(handshake(path))
    await eventually(lambda: "the client reads missed events too slowly" in caplog.text)
    await hang_up(writer)
    await eventually(lambda: len(server.server.hub.subscribers) == 0)


@pytest.mark.gen_test
async def test_users_in_collusion_do_not_hold_up_who_returns(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Their clients return and take nothing, and together they hold all that may be held."""
    server = await start_server(
        READ_BUFFER_BYTES="4194304", intervals=Intervals(ping=1000, replay=1000, replay_wanted=0.1)
    )
    users = [await platform.user() for _ in range(8)]
    for user in users:
        await platform.permit(world.bot, user, "viewer")
    guest = await server.chat(world.bot, world.guest)
    cursor = (await guest.established())["data"]["cursor"]
    guest.close(1000)
    await platform.execute(
        "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
        " SELECT $1, $2, $3, 'user', repeat('x', 100000) FROM generate_series(1, 200)",
        world.session,
        world.bot,
        world.owner,
    )
    takers = []
    for user in users * 6:
        path = f"/api/ws/chat/{world.bot}?{urlencode({'token': token(user), 'cursor': cursor})}"
        _, writer = await asyncio.open_connection("127.0.0.1", server.server.port, limit=1024)
        writer.write(handshake(path))
        takers.append(writer)
    budget = server.server.web.services.read_budget
    await eventually(lambda: budget.is_wanted(world.guest), what="there is no room for anybody")
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    await back.next("chat_message", 200)
    for writer in takers:
        await hang_up(writer)


@pytest.mark.gen_test
async def test_a_client_that_does_not_read_is_closed_and_the_others_go_on(
    start_server: StartServer,
    platform: Platform,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its buffer is bounded in bytes: that is what ends it, not its silence.

    Unless a read finds several of these at once. Then it is left to catch up alone, and is closed
    because it does not.
    """
    caplog.set_level(logging.INFO)
    server = await start_server(SEND_BUFFER_BYTES="65536")
    good = await server.chat(world.bot, world.owner)
    path = f"/api/ws/chat/{world.bot}?token={token(world.guest)}"
    _, writer = await asyncio.open_connection("127.0.0.1", server.server.port, limit=1024)
    writer.write(handshake(path))
    await eventually(lambda: len(server.server.hub.subscribers) == 2)
    insert = (
        "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
        " SELECT $1, $2, $3, 'user', repeat('x', 10000) FROM generate_series(1, 20)"
    )
    rounds = 0
    while len(server.server.hub.subscribers) == 2:
        await platform.execute(insert, world.session, world.bot, world.owner)
        rounds += 1
        await good.next("chat_message", rounds * 20)
    assert not good.is_closed
    await hang_up(writer)
    assert re.search(r'code=1013 reason="the client reads (missed events )?too slow', caplog.text)
