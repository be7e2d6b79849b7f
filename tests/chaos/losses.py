"""Faults after which the database has another history than clients have seen.

- Asynchronous writers (`synchronous_commit = off`) commit, clients are shown it, and a crash
  forgets it. Transactions that come after, durable ones, get the ids of the forgotten ones.
- The data directory is replaced by a copy of it that was taken while everything ran, and the copy
  is started without `recovery.signal`: the same system, the same timeline.

Both note what was forgotten, for the verdict. Everybody else waits at the gate for that moment:
what a transaction wrote that nobody noted could not be told from an event that nobody wrote.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from tests.chaos.access import Access
from tests.chaos.arena import Arena
from tests.chaos.faults import SHORT_SECONDS, Fault
from tests.chaos.ledger import ARCHIVE, LogRow, Loss, to_rows
from tests.chaos.scribe import connect
from tests.chaos.writers import Writer

WRITERS = 2
WRITING_SECONDS = (0.3, 1.0)
ATTEMPTS = 5
CRASH_LIMIT = 10.0
COPY_LIMIT = 60.0
LONGEST_SECONDS = 120.0
"""What was prepared may be committed as late as that."""
FIRST_NUMBER = 100
"""Of asynchronous writers, so that their tags are nobody else's."""
_LAST = "SELECT xid FROM chaos.archive ORDER BY xid DESC LIMIT 1"
_UNFLUSHED = """
SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn() AS bytes
"""
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"


class Losses:
    """The losses of one run."""

    def __init__(self, arena: Arena, access: Access) -> None:
        self._arena = arena
        self._access = access
        self._numbers = count(FIRST_NUMBER)

    def kinds(self) -> dict[str, Fault]:
        """Every kind, by its name in the table."""
        return {
            "Postgres crashed, asynchronous commits forgotten": self._crash,
            "data directory replaced by a copy": self._replace,
        }

    async def _crash(self, chance: random.Random) -> None:
        """The first durable transaction after it may be a revoke, which must take effect."""
        arena, since = self._arena, _microseconds()
        async with arena.access_lock, arena.postgres_lock:
            async with arena.gate.closed():
                kept = await self._write_to_lose(chance, since)
                at = arena.clock()
                await asyncio.to_thread(self._crash_at_once)
                await asyncio.sleep(chance.uniform(*SHORT_SECONDS))
                await asyncio.to_thread(arena.stage.postgres.start)
                await self._note_loss("a crash", at, since, kept, arena.book.asynchronous)
            await self._access.revoke_and_grant(chance)

    async def _replace(self, chance: random.Random) -> None:
        arena, postgres, since = self._arena, self._arena.stage.postgres, _microseconds()
        async with arena.access_lock, arena.postgres_lock:
            copy = await asyncio.to_thread(self._copy)
            await asyncio.sleep(chance.uniform(*SHORT_SECONDS))
            async with arena.gate.closed():
                kept = await self._look(since)
                at = arena.clock()
                await asyncio.to_thread(postgres.stop, chance.choice(["fast", "immediate"]))
                await asyncio.to_thread(shutil.rmtree, postgres.data_directory)
                copy.rename(postgres.data_directory)
                await asyncio.to_thread(postgres.start)
                await self._roll_back_prepared()
                await self._note_loss("a copy", at, since, kept, arena.book.known_to_be_committed())

    async def _write_to_lose(self, chance: random.Random, since: int) -> Mapping[str, LogRow]:
        """Write until some of it is not flushed; returns what there is."""
        for _ in range(ATTEMPTS):
            await self._write_asynchronously(chance)
            kept = await self._look(since)
            (unflushed,) = await self._arena.scribe.fetch(_UNFLUSHED)
            if unflushed["bytes"] > 0:
                break
        return kept

    def _crash_at_once(self) -> None:
        """Before anybody flushes the log: not even pg_ctl is waited for."""
        postgres = self._arena.stage.postgres
        lines = (postgres.data_directory / "postmaster.pid").read_text().splitlines()
        os.kill(int(lines[0]), signal.SIGQUIT)
        deadline = time.monotonic() + CRASH_LIMIT
        while Path(f"/proc/{lines[0]}/fd/0").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        postgres.stop("immediate")

    async def _write_asynchronously(self, chance: random.Random) -> None:
        arena, stop = self._arena, asyncio.Event()
        writers = [
            Writer(
                arena.dsn,
                next(self._numbers),
                seed=arena.seed,
                population=arena.population,
                book=arena.book,
                is_durable=False,
            )
            for _ in range(WRITERS)
        ]
        writing = [asyncio.create_task(writer.run(stop)) for writer in writers]
        await asyncio.sleep(chance.uniform(*WRITING_SECONDS))
        stop.set()
        await asyncio.gather(*writing)

    def _copy(self) -> Path:
        """As a backup or a snapshot of the volume makes it, with the files' owner and rights."""
        postgres = self._arena.stage.postgres
        copy = self._arena.stage.home / "copy"
        program, database = postgres.bin_dir / "pg_basebackup", f"--dbname={self._arena.dsn}"
        options = [f"--pgdata={copy}", "--checkpoint=fast", "--wal-method=stream", "--no-sync"]
        command = [str(program), database, *options]
        subprocess.run(command, check=True, capture_output=True, timeout=COPY_LIMIT)
        owner = postgres.data_directory.stat()
        for path in (copy, *copy.rglob("*")):
            shutil.chown(path, owner.st_uid, owner.st_gid)
        return copy

    async def _roll_back_prepared(self) -> None:
        """What was prepared when the copy was taken: in the other history all of it has ended."""
        connection = await connect(self._arena.dsn)
        for row in await connection.fetch(_PREPARED):
            await connection.execute(f"ROLLBACK PREPARED '{row['gid']}'")
        await connection.close(timeout=5)

    async def _look(self, since: int) -> Mapping[str, LogRow]:
        """What was written to the log since then, as far as the database remembers it."""
        return to_rows(await self._arena.scribe.fetch(ARCHIVE, since))

    async def _note_loss(
        self, what: str, at: float, since: int, kept: Mapping[str, LogRow], may_go: set[str]
    ) -> None:
        """Compare what was there with what is there now."""
        arena, over_at = self._arena, self._arena.clock()
        found = await self._look(since)
        lost = {row: kept[row] for row in kept.keys() - found.keys()}
        tags = {row["tag"] for row in await arena.scribe.fetch("SELECT tag FROM chaos.ledger")}
        forgotten = (arena.book.known_to_be_committed() & may_go) - tags
        last = next((row["xid"] for row in await arena.scribe.fetch(_LAST)), 0)
        loss = Loss(at, over_at, lost, last)
        arena.book.lose(loss, forgotten)
        below = sum(not loss.is_found_out(row) for row in lost.values())
        arena.figures.append(
            f"{what} forgot {len(forgotten)} transactions and {len(lost)} rows of the log"
            f" ({below} below a surviving transaction);"
            f" {sum(client.has_seen(lost) for client in arena.clients)} clients had seen of them"
        )


def _microseconds() -> int:
    """When the oldest row may have been written that a transaction of now commits."""
    return int((time.time() - LONGEST_SECONDS) * 1e6)
