"""Many clients of Python on one connection, against a real server."""

from __future__ import annotations

import asyncio

import pytest

from rowcast import Closed, RealtimeClient, SharedConnection
from tests.acceptance.test_python_client import QUICK, contents, next_of
from tests.commands import free_port
from tests.platform import Platform
from tests.serving import StartServer, World, token
from tests.waiting import eventually


async def write(platform: Platform, world: World, bot: str, *texts: str) -> None:
    session = await platform.session(bot, world.owner)
    for text in texts:
        await platform.message(session, bot, world.owner, text)


@pytest.mark.gen_test
async def test_each_resumes_as_if_it_were_alone(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Two bots and the notifications on one socket, over a restart; then one of them is revoked."""
    other = await platform.bot(world.owner)
    await platform.permit(other, world.guest, "viewer")
    port = str(free_port())
    first = await start_server(PORT=port)
    shared = SharedConnection(f"http://{first.base}", token=token(world.guest), timings=QUICK)
    async with (
        shared,
        shared.chat(world.bot) as one,
        shared.chat(other, presence=True) as two,
        shared.notifications() as notes,
    ):
        for client in (one, two, notes):
            await next_of(client, "connection_established")
        await next_of(two, "presence_state")
        assert len(first.server.hub.subscribers) == 1 + 3  # the socket, and its subscriptions
        await write(platform, world, world.bot, "live one")
        await write(platform, world, other, "live two")
        assert await contents(one, 1) == ["live one"]
        assert await contents(two, 1) == ["live two"]
        await first.stop()
        await write(platform, world, world.bot, "missed 1", "missed 2")
        await write(platform, world, other, "missed 3")
        second = await start_server(PORT=port)
        opened = await asyncio.gather(
            *(next_of(client, "connection_established") for client in (one, two, notes))
        )
        assert [event.data["recovered"] for event in opened] == [True] * 3
        assert await contents(one, 2) == ["missed 1", "missed 2"]
        assert await contents(two, 1) == ["missed 3"]
        await platform.revoke(world.bot, world.guest)
        await ends(one, 4003)
        assert (await next_of(notes, "notification")).raw["data"]["action"] == "revoked"
        await write(platform, world, other, "goes on")
        assert await contents(two, 1) == ["goes on"]
        assert two.ping()
        await eventually(lambda: two.latency is not None)
    assert shared.state == "closed"
    await eventually(lambda: len(second.server.hub.subscribers) == 0)


async def ends(client: RealtimeClient, code: int) -> None:
    with pytest.raises(Closed) as told:
        await next_of(client, "nothing of the kind")
    assert told.value.code == code
