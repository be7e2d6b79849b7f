"""When a writer rings, and when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from tests.integration.sql_log import Log, insert_messages
from tests.platform import Platform
from tests.serving import World
from tests.waiting import LIMIT


class Listener:
    """A connection of its own that hears the doorbell."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self._heard: list[str] = []

    async def listen(self) -> None:
        await self._connection.add_listener("relay", self._hear)

    def _hear(self, *notification: Any) -> None:
        self._heard.append(notification[-1])

    async def heard(self, writer: Platform) -> list[str]:
        """What has rung until now: notifications arrive in the order of their commits."""
        await writer.execute("NOTIFY relay, 'end'")
        async with asyncio.timeout(LIMIT):
            while "end" not in self._heard:
                await self._connection.fetchval("SELECT 1")
        heard, self._heard = self._heard, []
        return heard[:-1]


@pytest.fixture
def listener(io_loop: IOLoop, database: str) -> Iterator[Listener]:
    connection = io_loop.run_sync(lambda: asyncpg.connect(database))
    listener = Listener(connection)
    io_loop.run_sync(listener.listen)
    yield listener
    io_loop.run_sync(connection.close)


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
