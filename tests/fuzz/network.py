"""Attacks of who can reach the port: HTTP, handshakes, raw frames, messages."""

from __future__ import annotations

import asyncio
import random
import struct

from tests.fuzz.mutation import INTERESTING, any_message, mutate
from tests.fuzz.target import Target, token
from tests.fuzz.wire import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Line,
    exchange,
    frame,
    handshake,
    refuse_errors,
    request,
)

PATHS = (
    *("/", "/api/health", "/api/ready", "/api/ws/stats", "/api/ws/connections", "/metrics"),
    *("/static/realtime.js", "/api/ws/figures", "/api/ws/presence/x", "/demo"),
    *("/api/sse/notifications", "/api/sse/chat/x"),
    *("/api/ws/notifications", "/api/ws/chat/x", "/api/ws", "*"),
)
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "",
)
HEADERS = (
    *(
        "Content-Length: 5",
        "Content-Length: -1",
        "Content-Length: 99999999999",
        "Content-Length: 0x5",
    ),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: chunked, chunked", "Expect: 100-continue"),
    *("Connection: close", "Connection: Upgrade", "Upgrade: h2c", "Upgrade: websocket", "Host: b"),
    *(
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: short",
        "Origin: null",
        "Origin: http://\xff",
    ),
    *("Authorization: Bearer x", "Authorization: Basic \xff", "Range: bytes=9-1", "Cookie: a=\0"),
    *('If-None-Match: "\xff', "Accept-Encoding: gzip", " folded: line", "no colon", ": no name"),
    *("Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: bearer,,\xff"),
    *("Last-Event-ID: \xff", "Last-Event-ID: 1", "Accept: text/event-stream"),
    *("X-Forwarded-For: \xff, 1", "A: " + "b" * 9000, "\0: \0"),
)
CLOSE_CODES = (
    0,
    1,
    999,
    1000,
    1001,
    1004,
    1005,
    1006,
    1011,
    1015,
    1016,
    2999,
    3000,
    4999,
    5000,
    65535,
)


async def requests(target: Target, chance: random.Random) -> None:
    """HTTP of any kind: methods, headers, bodies that are too long, unfinished or none."""
    user = target.guest(chance)
    good = handshake(target.chat(), token=token(user))
    pick = chance.randrange(4)
    if pick == 0:
        data = mutate(good, chance)
    elif pick == 1:
        data = good[: chance.randrange(len(good))]
    else:
        data = b"".join(_request(chance) for _ in range(chance.randint(1, 3)))
    await exchange(target.port, data, chance.choice((0.05, 0.5)))


def _request(chance: random.Random) -> bytes:
    headers = [chance.choice(HEADERS) for _ in range(chance.randint(0, 6))]
    version = chance.choice(("1.1", "1.1", "1.0", "2", "9.9"))
    line = f"{chance.choice(METHODS)} {chance.choice(PATHS)} HTTP/{version}"
    head = "\r\n".join([line, "Host: a", *headers]).encode("latin-1") + b"\r\n\r\n"
    bodies = (b"", b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"fffffffff\r\n", b"x" * 200_000)
    return head + chance.choice(bodies)


async def events(target: Target, chance: random.Random) -> None:
    """Events over HTTP, asked for rightly or nearly, and what is said after the request."""
    lines = [chance.choice(HEADERS) for _ in range(chance.choice((0, 0, 2)))]
    path = chance.choice((f"/api/sse/chat/{target.world.bot}", "/api/sse/notifications"))
    asked = request(path, *lines, token=token(target.guest(chance)), presence="true", cursor="")
    if chance.random() < 0.3:
        asked = mutate(asked, chance)
    line = await Line.open(target.port)
    try:
        await line.send(asked)
        if chance.random() < 0.5:
            refuse_errors(await line.receive(chance.choice((0.05, 0.2))))
        more = (b"", b"\r\n", asked, chance.randbytes(1000), b"x" * 200_000)
        await line.send(chance.choice(more))
        refuse_errors(await line.receive(chance.choice((0.0, 0.05, 0.2))))
    except ConnectionError:
        pass  # closed already, as it should be
    finally:
        await line.hang_up()


async def frames(target: Target, chance: random.Random) -> None:
    """Frames of any kind on an open socket, whole and in pieces."""
    await _on_a_socket(target, chance, [_any_frame(chance) for _ in range(chance.randint(1, 20))])


def _any_frame(chance: random.Random) -> bytes:
    pick = chance.randrange(10)
    payload = chance.randbytes(chance.choice((0, 1, 5, 125, 126, 1000)))
    if pick == 0:
        return frame(CLOSE, struct.pack("!H", chance.choice(CLOSE_CODES)) + payload[:123])
    if pick == 1:
        return frame(CLOSE, payload)
    if pick == 2:
        return frame(chance.choice((PING, PONG)), payload) * chance.choice((1, 500))
    if pick == 3:
        return frame(
            chance.randrange(16), payload, first=chance.choice((0, 0x80, 0xC0, 0xF0, 0x40))
        )
    if pick == 4:
        return frame(TEXT, payload, size=chance.choice((0, 1, 2**16, 2**31, 2**63 - 1, 2**64 - 1)))
    if pick == 5:
        return frame(TEXT, payload, masked=False)
    if pick == 6:
        return frame(TEXT, b"x" * 60_000, first=0) + frame(0, b"x" * 60_000, first=0) * 3
    if pick == 7:
        return frame(BINARY, payload)
    if pick == 8:
        parts = [frame(TEXT, b'{"type":', first=0), frame(PING), frame(0, b'"ping"}')]
        return b"".join(chance.sample(parts, len(parts)))
    return mutate(frame(TEXT, any_message(chance).encode("utf-8", "surrogatepass")), chance)


async def messages(target: Target, chance: random.Random) -> None:
    """Text frames with JSON, or nearly, that a client might say."""
    bot = target.world.bot
    said = [any_message(chance, bot) for _ in range(chance.choice((1, 5, 20, 200)))]
    if chance.random() < 0.1:
        said.append(chance.choice(INTERESTING).decode("latin-1") * chance.randint(1, 20))
    data = [frame(TEXT, text.encode("utf-8", "replace")) for text in said]
    await _on_a_socket(target, chance, data)


async def _on_a_socket(target: Target, chance: random.Random, parts: list[bytes]) -> None:
    """Come in as a good client does, then send that, and leave without a word."""
    line = await Line.open(target.port)
    try:
        path = chance.choice((target.chat(), "/api/ws"))
        await line.come_in(path, token=token(target.guest(chance)))
        for part in parts:
            await line.send(part)
            if chance.random() < 0.05:
                await asyncio.sleep(chance.random() / 20)
        refuse_errors(await line.receive(chance.choice((0.0, 0.05, 0.2))))
    except ConnectionError:
        pass  # closed already, as it should be
    finally:
        await line.hang_up()
