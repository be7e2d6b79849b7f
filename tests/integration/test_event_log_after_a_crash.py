"""The database falls down in the middle of its writers: a reader that keeps its cursor loses none.

A server of this module's own, so that its crashes disturb nobody. It flushes its log late: the
transactions that were rolled back last leave no trace, and their ids are handed out again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.event_log import EventLog
from realtime.postgres.schema import migrate
from realtime.relay.cursor import Anchor, Cursor, Snapshot
from tests.integration.writers import Ledger, Reader, Writer, check, make_places
from tests.platform import Platform
from tests.postgres import postgres_server, restart
from tests.waiting import LIMIT, eventually

CRASHES = 8
WRITERS = 5
NOTHING_WRITTEN = 60
"""Transactions rolled back before a crash."""


@pytest.fixture(scope="module")
def late_flushing_postgres(postgres_bin: Path | None) -> Iterator[EmbeddedPostgres]:
    """A migrated server that may be stopped at any time."""
    with postgres_server(postgres_bin, wal_writer_delay="10s") as server:
        migrate(server.dsn())
        yield server


async def roll_back(dsn: str, times: int) -> Snapshot:
    """Use up transaction ids for nothing; returns what may be seen after that."""
    connection = await asyncpg.connect(dsn, timeout=LIMIT)
    for _ in range(times):
        await connection.execute("BEGIN")
        await connection.execute("SELECT pg_current_xact_id()")
        await connection.execute("ROLLBACK")
    snapshot = await snapshot_of(connection)
    connection.terminate()
    return snapshot


async def snapshot_of(connection: asyncpg.Connection[asyncpg.Record]) -> Snapshot:
    return Snapshot.parse(await connection.fetchval("SELECT pg_current_snapshot()::text"))


async def marks_from(connection: asyncpg.Connection[asyncpg.Record], cursor: Cursor) -> list[str]:
    """The payloads of what a cursor has not seen."""
    pages = [page async for page in EventLog(connection).read_all(cursor)]
    return [event.payload for page in pages for event in page.events]


async def more_committed(ledger: Ledger, seed: str) -> None:
    """Wait until the writers have got somewhere."""
    enough = len(ledger.committed) + 200
    await eventually(lambda: len(ledger.committed) > enough, what=f"seed {seed}: writers to go on")


@pytest.mark.gen_test
async def test_crashes_lose_nothing_and_repeat_nothing(
    late_flushing_postgres: EmbeddedPostgres,
) -> None:
    """Though ids of transactions before the crash belong to others after it."""
    seed, dsn = f"{random.randrange(2**32):08x}", late_flushing_postgres.dsn()
    platform = await Platform.connect(dsn)
    places = await make_places(platform, 2)
    platform.connection.terminate()
    readers = [
        Reader(dsn, "steady", seed, is_restless=False),
        Reader(dsn, "restless", seed, is_restless=True),
    ]
    for reader in readers:
        await reader.read()
    ledger, is_over = Ledger(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(reader.run()) for reader in readers]
        writing = []
        for number in range(WRITERS):
            writer = Writer(
                dsn, number, seed, places=places, ledger=ledger, reads=lambda: readers[0].reads
            )
            writing.append(tasks.create_task(writer.run(is_over.is_set)))
        await more_committed(ledger, seed)
        for _ in range(CRASHES):
            await roll_back(dsn, NOTHING_WRITTEN)
            await restart(late_flushing_postgres)
            await more_committed(ledger, seed)
        is_over.set()
        await asyncio.wait(writing)
        for task in reading:
            task.cancel()
    for reader in readers:
        await reader.finish()
    assert ledger.endings["lost"] >= CRASHES, f"seed {seed}: nobody noticed: {ledger.endings}"
    await check(dsn, ledger, readers, seed)


@pytest.mark.gen_test
async def test_what_a_plain_snapshot_would_lose(late_flushing_postgres: EmbeddedPostgres) -> None:
    """Ids below a snapshot's xmax are handed out again; a cursor does not claim them."""
    dsn = late_flushing_postgres.dsn()

    async def send(text: str) -> asyncpg.Connection[asyncpg.Record]:
        connection = await asyncpg.connect(dsn, timeout=LIMIT)
        await connection.execute(
            "INSERT INTO relay.events (topic, type, payload) VALUES ('t', 'x', $1)", text
        )
        return connection

    for _ in range(CRASHES):
        connection = await send("before")
        cursor = await EventLog(connection).current_cursor()
        connection.terminate()
        seen = await roll_back(dsn, NOTHING_WRITTEN)
        await restart(late_flushing_postgres)
        connection = await send("after")
        # The server's own work (its background writer, a vacuum) may have flushed the log in time.
        if (await snapshot_of(connection)).xmax < seen.xmax:
            break
        await connection.close(timeout=LIMIT)
    else:
        pytest.fail("no id was handed out again: this shows nothing")
    try:
        plain = replace(Cursor.at(seen, Anchor(seen.xmax - 1, 0, 0)), anchor=cursor.anchor)
        assert await marks_from(connection, plain) == []
        assert await marks_from(connection, cursor) == ["after"]
    finally:
        await connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_what_was_prepared_before_a_crash_comes_after_it(
    late_flushing_postgres: EmbeddedPostgres,
) -> None:
    """It stays in progress throughout, and below the cursor; so does one that was only open not."""
    dsn = late_flushing_postgres.dsn()
    insert = "INSERT INTO relay.events (topic, type, payload) VALUES ('t', 'x', $1)"
    prepared = await asyncpg.connect(dsn, timeout=LIMIT)
    await prepared.execute("BEGIN")
    await prepared.execute(insert, "prepared")
    await prepared.execute("PREPARE TRANSACTION 'survivor'")
    await prepared.execute("BEGIN")
    await prepared.execute(insert, "open")
    other = await asyncpg.connect(dsn, timeout=LIMIT)
    await other.execute(insert, "committed")
    cursor = await EventLog(other).current_cursor()
    assert len(cursor.open) == 2
    prepared.terminate()
    other.terminate()
    await restart(late_flushing_postgres)
    connection = await asyncpg.connect(dsn, timeout=LIMIT)
    try:
        assert await marks_from(connection, cursor) == []
        await connection.execute("COMMIT PREPARED 'survivor'")
        assert await marks_from(connection, cursor) == ["prepared"]
    finally:
        await connection.close(timeout=LIMIT)
