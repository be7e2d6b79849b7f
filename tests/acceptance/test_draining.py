"""A process that ends, and the clients that it has not answered yet."""

from __future__ import annotations

import asyncio

import pytest

from realtime.config.intervals import Intervals
from realtime.postgres.access import Access
from realtime.runtime.listening import bind
from realtime.runtime.server import Server, Stop, serve
from tests.platform import Platform
from tests.serving import StartServer, World, make_settings
from tests.waiting import LIMIT, eventually

NOBODY = "00000000-0000-4000-8000-00000000dead"
LATE = Intervals(refusal_step=3600.0)
"""A refusal waits for so long that the end of the process comes first."""


@pytest.mark.gen_test
async def test_who_waits_for_an_answer_is_told_to_come_back(
    start_server: StartServer, world: World
) -> None:
    """A socket with a close code, a client over HTTP with a status. Nobody finds the line cut."""
    server = await start_server(intervals=LATE)
    sockets = [await server.open(f"/api/ws/chat/{world.bot}", NOBODY) for _ in range(3)]
    sockets.append(await server.open("/api/ws/notifications", NOBODY))
    asking = asyncio.create_task(server.events(f"chat/{world.bot}", NOBODY))
    openings = server.server.web.services.openings
    await eventually(lambda: len(openings) == 5)
    server.request_stop()
    assert [await one.closed() for one in sockets] == [1001] * 4
    events = await asking
    assert events.status == 503
    assert int(events.headers["retry-after"]) > 0
    await server.stop()


@pytest.mark.gen_test
async def test_who_is_let_in_while_it_drains_is_told_to_come_back(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """The database has answered only then."""
    server = await start_server(DRAIN_SECONDS="5")
    openings = server.server.web.services.openings
    async with platform.connection.transaction():
        await platform.execute("LOCK TABLE permissions IN ACCESS EXCLUSIVE MODE")
        socket = await server.open(f"/api/ws/chat/{world.bot}", world.guest)
        await eventually(lambda: len(openings) == 1)
        await asyncio.sleep(0)
        server.request_stop()
    assert await socket.closed() == 1001
    await server.stop()


@pytest.mark.gen_test
async def test_who_is_told_to_end_while_it_warms_up_ends_as_always(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It announces nothing any more, and does not begin to accept: nobody listens there."""
    is_asked, goes_on = asyncio.Event(), asyncio.Event()

    async def warm_up(_access: Access, _connections: int) -> None:
        is_asked.set()
        await goes_on.wait()

    monkeypatch.setattr(Access, "warm_up", warm_up)
    stop, announced = Stop(), list[Server]()
    settings, sockets = make_settings(database, DRAIN_SECONDS="5"), bind("127.0.0.1", 0)
    serving = asyncio.create_task(serve(settings, stop, announced.append, sockets, waits=True))
    await asyncio.wait_for(is_asked.wait(), LIMIT)
    stop.set()
    await eventually(lambda: sockets[0].fileno() == -1)
    goes_on.set()
    await asyncio.wait_for(serving, LIMIT)
    assert announced == []


@pytest.mark.gen_test
async def test_a_request_that_was_on_its_way_is_answered(start_server: StartServer) -> None:
    """The connection was accepted before the process was told to stop."""
    server = await start_server(DRAIN_SECONDS="5")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
    await asyncio.sleep(0)
    server.request_stop()
    await eventually(lambda: server.server.web.status.is_draining)
    writer.write(b"GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), LIMIT)).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await server.stop()
