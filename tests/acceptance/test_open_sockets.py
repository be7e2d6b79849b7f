"""Sockets that are open and idle: they are pinged, they hold little, and they fail alone."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable

import pytest

from realtime.config.intervals import Intervals
from realtime.web.sockets import SocketHandler
from realtime.web.websocket import WebSocket
from tests.acceptance.test_close_codes import RawSocket, raw_frame
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import eventually


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
