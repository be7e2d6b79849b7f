"""Load the state with `relay.cursor`, then stream: what is loaded plus what comes is the table.

Writers of every isolation level, long and prepared transactions beside it. Loaders load in every
way: late in transactions that wrote themselves, in savepoints, in snapshots of long ago.
`RANDOMIZED_SECONDS` makes it longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import asyncpg
import pytest

from realtime.postgres.event_log import EventLog
from realtime.postgres.pool import connect
from realtime.relay.cursor import Anchor, Cursor, newer
from tests.platform import Platform
from tests.serving import World
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

SECONDS = float(os.environ.get("RANDOMIZED_SECONDS", "6"))
SEED = os.environ.get("RANDOMIZED_SEED") or f"{random.randrange(2**32):08x}"
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
IDS = "SELECT coalesce(array_agg(id::text), '{}') FROM messages WHERE bot_id = $1"
LOAD = f"SELECT relay.cursor('bot:' || $1::uuid), ({IDS})"


class Platforms:
    """Connections that write messages, until they are told to stop."""

    def __init__(self, dsn: str, world: World) -> None:
        self.dsn = dsn
        self.world = world
        self.is_over = False
        self.loads: list[tuple[str, set[str]]] = []
        """The cursor and the messages of each load."""
        self.refused = 0

    async def message(self, connection: Connection) -> str:
        world = self.world
        return await Platform(connection).message(world.session, world.bot, world.owner)

    async def write(self, number: int) -> None:
        """One transaction after another, of any kind."""
        rng = random.Random(f"{SEED}/writer {number}")
        connection = await asyncpg.connect(self.dsn, timeout=LIMIT)
        while not self.is_over:
            try:
                await self._transaction(connection, rng, f"{number}-{rng.random()}")
            except asyncpg.SerializationError:
                await connection.execute("ROLLBACK")
        await connection.close(timeout=LIMIT)

    async def _transaction(self, connection: Connection, rng: random.Random, name: str) -> None:
        await connection.execute(f"BEGIN ISOLATION LEVEL {rng.choice(LEVELS)}")
        is_prepared = rng.random() < 0.2
        if is_prepared:
            await connection.execute("SET LOCAL relay.two_phase = 'on'")
        for _ in range(rng.randrange(1, 4)):
            await self.message(connection)
            if rng.random() < 0.3:
                await connection.execute("SAVEPOINT s")
                await self.message(connection)
                await connection.execute(rng.choice(("ROLLBACK TO s", "RELEASE s")))
            await asyncio.sleep(rng.choice((0, 0, 0.01, 0.1)))
        if is_prepared:
            await connection.execute(f"PREPARE TRANSACTION '{name}'")
            await asyncio.sleep(rng.random() / 10)
            await connection.execute(f"{rng.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{name}'")
        else:
            await connection.execute(rng.choice(("COMMIT", "COMMIT", "ROLLBACK")))

    async def load(self, number: int) -> None:
        """Load in one way after another; what the loader itself wrote may be rolled back."""
        rng = random.Random(f"{SEED}/loader {number}")
        connection = await asyncpg.connect(self.dsn, timeout=LIMIT)
        while not self.is_over:
            try:
                await self._load(connection, rng)
            except asyncpg.SerializationError:
                self.refused += 1
                await connection.execute("ROLLBACK")
        await connection.close(timeout=LIMIT)

    async def _load(self, connection: Connection, rng: random.Random) -> None:
        level = rng.choice(LEVELS)
        own: set[str] = set()
        await connection.execute(f"BEGIN ISOLATION LEVEL {level}")
        if rng.random() < 0.5:
            own.add(await self.message(connection))
            await asyncio.sleep(rng.choice((0, 0.02)))
        if rng.random() < 0.3:
            await connection.execute("SAVEPOINT s")
            own.add(await self.message(connection))
        if level == "READ COMMITTED" or rng.random() < 0.5:
            row = await connection.fetchrow(LOAD, self.world.bot)
            assert row is not None
            text, found = row
        else:
            found = await connection.fetchval(IDS, self.world.bot)
            await asyncio.sleep(rng.choice((0, 0.02, 0.1)))
            text = await connection.fetchval(
                "SELECT relay.cursor('bot:' || $1::uuid)", self.world.bot
            )
        await connection.execute(rng.choice(("COMMIT", "ROLLBACK")))
        if text is not None:
            # Its own are not covered: they come as events, if they were committed.
            self.loads.append((text, set(found) - own))


async def stream(connection: Connection, cursor: Cursor) -> Counter[str]:
    """The messages that a client with that cursor is sent, how often each."""
    sent: Counter[str] = Counter()
    newest: Anchor | None = None
    log = EventLog(connection)
    async for page in log.read_all(cursor):
        newest = newer(newest, page.newest)
        events = await log.payloads([event.key for event in page.events], cursor)
        sent.update(json.loads(event.payload or "")["data"]["message_id"] for event in events)
    assert cursor.anchor is None or newest is None or newest != cursor.anchor
    return sent


@pytest.mark.gen_test(timeout=SECONDS + 120)
async def test_the_state_at_the_load_plus_the_events_is_the_table(
    database: str, platform: Platform, world: World
) -> None:
    """Nothing is missing, nothing comes twice, however it was loaded."""
    platforms = Platforms(database, world)
    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(platforms.write(number))
            if number < 3:
                tasks.create_task(platforms.load(number))
        enough_at = time.monotonic() + SECONDS
        await eventually(
            lambda: time.monotonic() > enough_at and len(platforms.loads) > 50,
            limit=SECONDS + LIMIT,
        )
        platforms.is_over = True
    table = set(await platform.connection.fetchval(IDS, world.bot))
    assert len(table) > 50
    reading = await connect(database, LIMIT)
    signer = await EventLog(reading).signer()
    try:
        for text, loaded in platforms.loads:
            cursor = signer.read(text, f"bot:{world.bot}")
            sent = await stream(reading, cursor)
            assert not loaded & set(sent), f"seed {SEED}: sent what was loaded, {text}"
            assert set(sent.values()) <= {1}, f"seed {SEED}: sent twice, {text}"
            assert loaded | set(sent) == table, f"seed {SEED}: missing, {text}"
    finally:
        await reading.close(timeout=LIMIT)
