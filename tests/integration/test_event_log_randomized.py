"""Writers of every kind at once, two readers beside them: each committed event once, in order.

`RANDOMIZED_SECONDS` makes the run longer, `RANDOMIZED_SEED` repeats one (as far as chance in the
server allows).
"""

from __future__ import annotations

import asyncio
import os
import random
import time

import asyncpg
import pytest

from tests.integration.writers import Ledger, Reader, Writer, check, make_places
from tests.platform import Platform
from tests.waiting import LIMIT

SECONDS = float(os.environ.get("RANDOMIZED_SECONDS", "8"))
SEED = os.environ.get("RANDOMIZED_SEED") or f"{random.randrange(2**32):08x}"
WRITERS = 8
KINDS = ("short", "savepoints", "contended", "long", "bulk", "copy", "conflict")
OTHER_ENDINGS = ("COMMIT PREPARED", "ROLLBACK PREPARED", "short, rolled back")


@pytest.mark.gen_test(timeout=SECONDS + 120)
async def test_every_committed_event_is_read_exactly_once(
    platform: Platform, database: str
) -> None:
    """By each reader, none that was rolled back, and none before one that its writer had seen."""
    places = await make_places(platform, 3)
    readers = [
        Reader(database, "steady", SEED, is_restless=False),
        Reader(database, "restless", SEED, is_restless=True),
    ]
    for reader in readers:
        await reader.read()
    ledger = Ledger()
    writers = [
        Writer(
            database,
            number,
            SEED,
            places=places,
            ledger=ledger,
            reads=lambda: min(reader.reads for reader in readers),
        )
        for number in range(WRITERS)
    ]
    try:
        await _let_run(writers, readers, ledger)
        await check(database, ledger, readers, SEED)
    finally:
        await _forget_prepared(database)


async def _let_run(writers: list[Writer], readers: list[Reader], ledger: Ledger) -> None:
    """At least until each kind of transaction, and each thing that a reader does, has occurred."""
    enough_at = time.monotonic() + SECONDS
    latest = enough_at + 60

    def is_over() -> bool:
        occurred = all(ledger.endings[ending] for ending in (*KINDS, *OTHER_ENDINGS))
        read = all(reader.paged_reads for reader in readers) and readers[1].moves > 2
        now = time.monotonic()
        return now > latest or (occurred and read and now > enough_at)

    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(reader.run()) for reader in readers]
        writing = [tasks.create_task(writer.run(is_over)) for writer in writers]
        await asyncio.wait(writing)
        for task in reading:
            task.cancel()
    for reader in readers:
        await reader.finish()
    assert time.monotonic() < latest, f"seed {SEED}: not everything occurred: {ledger.endings}"
    assert not ledger.endings["lost"], f"seed {SEED}: a connection broke: {ledger.endings}"


async def _forget_prepared(dsn: str) -> None:
    """A database with prepared transactions cannot be dropped."""
    connection = await asyncpg.connect(dsn, timeout=LIMIT)
    try:
        for row in await connection.fetch(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ):
            await connection.execute(f"ROLLBACK PREPARED '{row['gid']}'")
    finally:
        await connection.close(timeout=LIMIT)
