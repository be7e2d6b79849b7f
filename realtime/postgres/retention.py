"""Keeps the log as long as it must be kept, and no longer: a ring of partitions, emptied in turn.

A partition is emptied (TRUNCATE, not row by row) only when every transaction in it had ended in a
snapshot that is one retention old. Clocks cannot say whether everybody could have seen a row, but a
recorded snapshot can. What was removed is recorded as the floor, in the same transaction. So a
client with a cursor from before it is told `too_old`. Only one process at a time does this, and
each checks that it is done.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from asyncpg import LockNotAvailableError

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.log_line import LogLine
from realtime.postgres.pool import ACQUIRE_SECONDS, DATABASE_ERRORS

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection, Pool

log = logging.getLogger(__name__)

PARTITIONS = 4
STEPS_PER_RETENTION = 12
"""How often is checked in that time, so that the log is never much longer than it must be."""
OVERDUE, SPARE_SECONDS = 3, 120
"""The log is kept for about twice the retention; this many times, and a bit, is too long."""
MAX_TURN_SECONDS = 30
"""How long a process may keep the turn while it says nothing."""

# Not an advisory lock, which any role that can connect could take. What limits the connection has
# does not get through every pooler, so it is said here, too.
_TAKE_TURN = f"""
SET TRANSACTION READ WRITE;
SET LOCAL idle_in_transaction_session_timeout = '{MAX_TURN_SECONDS}s';
SET LOCAL statement_timeout = '{MAX_TURN_SECONDS}s';
LOCK TABLE relay.retention_turn IN EXCLUSIVE MODE NOWAIT
"""
# Rows of a restored dump, which lie in the future, are not waited for.
_AGE = f"""
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(oldest.written_at)), 0)::float8
  FROM generate_series(0, {PARTITIONS - 1}) AS slots (slot)
 CROSS JOIN LATERAL (
       SELECT e.written_at FROM relay.events AS e
        WHERE e.slot = slots.slot AND e.xid < pg_snapshot_xmax(pg_current_snapshot())
        ORDER BY e.xid LIMIT 1) AS oldest
"""

_RECORD_SNAPSHOT = "INSERT INTO relay.snapshots DEFAULT VALUES"
# The newest that is old enough is still needed; those before it say less. What came with a dump
# from another server lies in the future here and says nothing.
_FORGET_SNAPSHOTS = """
DELETE FROM relay.snapshots
 WHERE pg_snapshot_xmax(snapshot) > pg_snapshot_xmax(pg_current_snapshot())
    OR recorded_at < (SELECT max(recorded_at) FROM relay.snapshots
                       WHERE recorded_at < clock_timestamp() - make_interval(secs => $1))
"""
_OLD_SNAPSHOT = """
SELECT snapshot::text FROM relay.snapshots
 WHERE recorded_at < clock_timestamp() - make_interval(secs => $1)
   AND pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
 ORDER BY recorded_at DESC LIMIT 1
"""
_SLOT = "SELECT coalesce(pg_sequence_last_value('relay.current_slot'), 0)"
# Both use the index on xid. A row from a restored dump, with an id in the future, keeps nothing.
_HIGHEST = """
SELECT xid FROM relay.events_{slot} WHERE xid < pg_snapshot_xmax(pg_current_snapshot())
 ORDER BY xid DESC LIMIT 1
"""
_HAS_UNSEEN = """
SELECT EXISTS (SELECT FROM relay.events_{slot}
                WHERE xid >= pg_snapshot_xmax($1::text::pg_snapshot)
                  AND xid < pg_snapshot_xmax(pg_current_snapshot()))
    OR EXISTS (SELECT FROM relay.events_{slot}
                WHERE xid IN (SELECT pg_snapshot_xip($1::text::pg_snapshot)))
"""
_IS_EMPTY = "SELECT NOT EXISTS (SELECT FROM relay.events_{slot})"
_OLDEST_AGE = """
SELECT extract(epoch FROM clock_timestamp() - written_at)::float8 FROM relay.events_{slot}
 ORDER BY xid LIMIT 1
"""
_RAISE_FLOOR = """
UPDATE relay.floor SET last = greatest(
           CASE WHEN last < pg_snapshot_xmax(pg_current_snapshot()) THEN last ELSE '0' END,
           $1::xid8),
       snapshot = $2::text::pg_snapshot
"""


class Retention:
    """Removes events that are old enough from the log.

    Args:
        seconds: how long an event is kept at least.
    """

    def __init__(self, pool: "Pool", *, seconds: float, intervals: Intervals = DEFAULTS) -> None:
        self._max_step = intervals.retention
        self._pool = pool
        self._seconds = seconds

    async def run(self) -> NoReturn:
        """Check again and again, until cancelled."""
        while True:
            try:
                await self.step()
            except DATABASE_ERRORS as error:
                log.warning(LogLine("retention_failed", error=error))
            await asyncio.sleep(min(self._seconds / STEPS_PER_RETENTION, self._max_step))

    async def step(self) -> None:
        """Record a snapshot, empty what may be, and write elsewhere if it is time."""
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            with suppress(LockNotAvailableError):  # another process is at it
                await self._work(connection)
            await self._complain_if_overdue(connection)

    async def _work(self, connection: "AnyConnection") -> None:
        async with _turn(connection):
            await connection.execute(_FORGET_SNAPSHOTS, self._seconds)
            await connection.execute(_RECORD_SNAPSHOT)
            current = await connection.fetchval(_SLOT)
        for distance in range(1, PARTITIONS):
            # From the oldest to the newest of those that are not being written.
            await self._empty(connection, (current + distance) % PARTITIONS)
        async with _turn(connection):
            await self._move_on(connection)

    async def _complain_if_overdue(self, connection: "AnyConnection") -> None:
        age = await connection.fetchval(_AGE)
        if age > OVERDUE * self._seconds + SPARE_SECONDS:
            log.warning(LogLine("retention_overdue", oldest_seconds=round(age)))

    async def _empty(self, connection: "AnyConnection", slot: int) -> None:
        """Empty one partition, unless somebody may still need a row of it."""
        if await connection.fetchval(_IS_EMPTY.format(slot=slot)):
            return
        try:
            async with _turn(connection):
                # Never wait for the lock: every later session would wait behind it.
                await connection.execute(
                    f"LOCK TABLE relay.events_{slot} IN ACCESS EXCLUSIVE MODE NOWAIT"
                )
                await self._truncate_if_seen(connection, slot)
        except LockNotAvailableError:
            log.debug(LogLine("partition_busy", partition=slot))

    async def _truncate_if_seen(self, connection: "AnyConnection", slot: int) -> None:
        snapshot = await connection.fetchval(_OLD_SNAPSHOT, self._seconds)
        if snapshot is None:
            return
        if await connection.fetchval(_HAS_UNSEEN.format(slot=slot), snapshot):
            return
        highest = await connection.fetchval(_HIGHEST.format(slot=slot))
        if highest is not None:
            await connection.execute(_RAISE_FLOOR, highest, snapshot)
        await connection.execute(f"TRUNCATE relay.events_{slot}")
        log.info(LogLine("partition_emptied", partition=slot, last_xid=str(highest)))

    async def _move_on(self, connection: "AnyConnection") -> None:
        """Write to the next partition when the current one is old enough and the next is empty."""
        current = await connection.fetchval(_SLOT)
        age = await connection.fetchval(_OLDEST_AGE.format(slot=current))
        following = (current + 1) % PARTITIONS
        if age is None or age < self._seconds / (PARTITIONS - 2):
            return
        if await connection.fetchval(_IS_EMPTY.format(slot=following)):
            await connection.execute("SELECT setval('relay.current_slot', $1)", following)


@asynccontextmanager
async def _turn(connection: "AnyConnection") -> AsyncIterator[None]:
    """A transaction in which no other process is at it.

    Raises:
        LockNotAvailableError: another one is.
    """
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(_TAKE_TURN)
        yield
