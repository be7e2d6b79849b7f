"""A process that ends, and the clients that it has not answered yet."""

from __future__ import annotations

import asyncio

import pytest

from realtime.config.intervals import Intervals
from tests.serving import StartServer, World
from tests.waiting import eventually

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
