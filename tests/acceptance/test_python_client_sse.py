"""The Python client over HTTP against a real server: the same promises, and nothing is said."""

from __future__ import annotations

import pytest

from rowcast import Closed, Reconnecting
from tests.acceptance.test_python_client import client_of, contents, next_of
from tests.commands import free_port
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token


@pytest.mark.gen_test
async def test_a_server_that_restarts_costs_nothing_over_http(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """What is live arrives, and what is written while there is no server, once each, in order."""
    port = str(free_port())
    first = await start_server(PORT=port)
    async with client_of(first, world, sse=True) as events:
        await next_of(events, "connection_established")
        assert (events.ping(), events.session_sync("s"), events.state) == (False, False, "open")
        await platform.message(world.session, world.bot, world.owner, "live")
        assert await contents(events, 1) == ["live"]
        await first.stop()
        for number in range(10):
            await platform.message(world.session, world.bot, world.owner, f"missed {number}")
        second = await start_server(PORT=port)
        opened = await next_of(events, "connection_established")
        assert opened.data["recovered"] is True
        assert await contents(events, 10) == [f"missed {number}" for number in range(10)]
        await second.stop()


@pytest.mark.gen_test
async def test_a_new_token_opens_a_new_stream(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """There is no `authenticate`. Nothing is missed, and the old stream is left."""
    server = await start_server()
    told: list[Reconnecting] = []

    async def get_token() -> str:
        return token(world.guest, ttl=600)

    client = client_of(
        server,
        world,
        sse=True,
        token=token(world.guest, ttl=2),
        get_token=get_token,
        on_reconnecting=told.append,
    )
    async with client as events:
        await next_of(events, "token_expiring")
        await platform.message(world.session, world.bot, world.owner, "meanwhile")
        assert await contents(events, 1) == ["meanwhile"]
        if len(told) == 0:
            await next_of(events, "connection_established")
    assert [(one.code, one.reason) for one in told] == [
        (1006, "another is opened with a new token")
    ]


@pytest.mark.gen_test
async def test_a_refusal_over_http_is_final(server: RunningServer, world: World) -> None:
    """403 is 4003, and 401 is 4001."""
    async with client_of(server, world, sse=True, bot_id=world.owner) as events:
        with pytest.raises(Closed, match="4003"):
            await next_of(events, "connection_established")
    async with client_of(server, world, sse=True, token="stale") as events:
        with pytest.raises(Closed, match="4001"):
            await next_of(events, "connection_established")


@pytest.mark.gen_test
async def test_who_is_revoked_over_http_hears_it(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The last message, and then the end."""
    async with client_of(server, world, sse=True) as events:
        await next_of(events, "connection_established")
        await platform.revoke(world.bot, world.guest)
        assert (await next_of(events, "permission_change")).data["action"] == "revoked"
        with pytest.raises(Closed, match="4003"):
            await next_of(events, "chat_message")
