"""When a writer rings, and when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from realtime.postgres.doorbell import RING_CHANNEL
from tests.integration.sql_log import Log, insert_messages
from tests.platform import Platform
from tests.serving import World
from tests.waiting import LIMIT


class Listener:
    """A connection of its own that hears the doorbell."""

    def __init__(self, platform: Platform) -> None:
        self._connection = platform.connection
        self._platform = platform
        self._heard: list[str] = []

    async def listen(self) -> None:
        self._heard = await self._platform.hear(RING_CHANNEL)

    async def heard(self, writer: Platform) -> list[str]:
        """What has rung until now: notifications arrive in the order of their commits."""
        await writer.execute("SELECT relay.tell('ring', 'end')")
        async with asyncio.timeout(LIMIT):
            while "end" not in self._heard:
                await self._connection.fetchval("SELECT 1")
        heard = self._heard[:-1]
        self._heard.clear()
        return heard


@pytest.fixture
def listener(io_loop: IOLoop, database: str) -> Iterator[Listener]:
    platform = io_loop.run_sync(lambda: Platform.connect(database))
    listener = Listener(platform)
    io_loop.run_sync(listener.listen)
    yield listener
    io_loop.run_sync(platform.connection.close)


@pytest.mark.gen_test
async def test_a_transaction_rings_once_a_table(
    platform: Platform, world: World, listener: Listener
) -> None:
    """With the table's name, however many rows; and not at all when nothing was written."""
    async with platform.connection.transaction():
        await insert_messages(platform, world, 3)
        await insert_messages(platform, world, 3)
        await platform.execute("UPDATE bots SET name = 'Eve'")
        await platform.execute("DELETE FROM documents")
    assert await listener.heard(platform) == ["messages", "bots"]
    await insert_messages(platform, world, 0)
    await platform.execute("UPDATE bots SET name = name")
    await platform.execute("UPDATE users SET email = 'x'")
    assert await listener.heard(platform) == []


@pytest.mark.gen_test
async def test_a_silent_bell_does_not_ring(
    platform: Platform, world: World, listener: Listener
) -> None:
    """2 silences it for everyone at once, also for a transaction with an old snapshot."""
    async with platform.connection.transaction(isolation="repeatable_read"):
        await platform.execute("SELECT FROM users")
        await platform.execute("SELECT setval('relay.bell', 2)")
        await insert_messages(platform, world, 1)
    assert await listener.heard(platform) == []
    await platform.execute("SELECT setval('relay.bell', 1)")
    await insert_messages(platform, world, 1)
    assert await listener.heard(platform) == ["messages"]


@pytest.mark.gen_test
async def test_a_quiet_transaction_is_logged_but_does_not_ring(
    platform: Platform, world: World, listener: Listener
) -> None:
    """So a transaction can be prepared for two-phase commit, which refuses NOTIFY."""
    log = await Log.since_now(platform)
    await platform.execute("BEGIN")
    await platform.execute("SET LOCAL relay.quiet = 'on'")
    await insert_messages(platform, world, 1)
    await platform.execute("PREPARE TRANSACTION 'quiet'")
    await platform.execute("COMMIT PREPARED 'quiet'")
    assert len(await log.messages()) == 1
    assert await listener.heard(platform) == []
