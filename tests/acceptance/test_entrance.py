"""However a handshake arrives: it is let in alike, and other requests share its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from realtime.web import entrance
from tests.acceptance.test_rfc6455 import BYE, GOOD, chat_path, handshake
from tests.serving import RunningServer, World
from tests.waiting import LIMIT, eventually

HEALTH = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def connected(
    server: RunningServer,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
    try:
        async with asyncio.timeout(LIMIT):
            yield reader, writer
    finally:
        writer.close()


async def answers(server: RunningServer, pieces: Sequence[bytes]) -> bytes:
    """Send pieces, each in a packet of its own; all that is answered until the end."""
    async with connected(server) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        return await reader.read()


def several(request: bytes) -> list[tuple[str, list[bytes]]]:
    """A handshake and two frames, as they may arrive."""
    middle = len(request) // 2
    again = request.replace(b"Host: x\r\n", b"Host: x\r\nX-Way: 1\r\nX-Way: 2\r\n")
    return [
        ("in one piece", [request, GOOD + BYE]),
        ("the frames with it", [request + GOOD + BYE]),
        ("in halves", [request[:middle], request[middle:] + GOOD, BYE]),
        ("behind another request", [HEALTH, request, GOOD + BYE]),
        ("with another request", [HEALTH + request + GOOD + BYE]),
        ("not plain", [again, GOOD + BYE]),
        ("not plain, the frames with it", [again + GOOD + BYE]),
        ("from an address of this host's own", [request.replace(b"Host: x", b"Host: [::1]:80")]),
    ]


@pytest.mark.gen_test
async def test_a_handshake_is_the_same_however_it_arrives(
    server: RunningServer, world: World
) -> None:
    """The plain ones are read by the entrance, the others by Tornado; frames are never lost."""
    for name, pieces in several(handshake(chat_path(world))):
        pieces = pieces if GOOD in b"".join(pieces) else [*pieces, GOOD + BYE]
        received = await answers(server, pieces)
        assert received.count(b"HTTP/1.1 101 Switching Protocols\r\n") == 1, name
        assert received.count(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == 1, name
        assert received.count(b'"ok"') == b"".join(pieces).count(HEALTH), name
        assert received.count(b"connection_established") == received.count(b'"good"') == 1, name
        assert received.endswith(b"\x88\x02\x03\xe8"), name


@pytest.mark.gen_test
async def test_who_is_silent_at_first_is_served(
    server: RunningServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is Tornado's by then, with its time limits."""
    given: list[object] = []
    monkeypatch.setattr(
        entrance, "IOStream", lambda one, make=entrance.IOStream: given.append(one) or make(one)
    )
    async with connected(server) as (reader, writer):
        await eventually(lambda: given)
        writer.write(handshake(chat_path(world)) + BYE)
        assert (await reader.read()).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")


@pytest.mark.gen_test
async def test_requests_share_a_connection(server: RunningServer) -> None:
    """One after another, and sent together."""
    close = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    received = await answers(server, [HEALTH, HEALTH + HEALTH, close])
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 4
