"""Keeps the log as long as it must be kept, and no longer: a ring of partitions, emptied in turn.

A partition is emptied (TRUNCATE, not row by row) only when every transaction in it had ended in a
snapshot that is one retention old. Clocks cannot say whether everybody could have seen a row, but a
recorded snapshot can. What was removed is recorded as the floor, in the same transaction. So a
client with a cursor from before it is told `too_old`. Only one process at a time does this, and
each checks that it is done.

PostgreSQL's clock may have been set back. Then there are rows and snapshots from the future: how
old these are nobody knows. Such a snapshot is forgotten, and such a row counts as old enough to
write elsewhere, so that they go like the others.
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
    OR recorded_at > clock_timestamp()
    OR recorded_at < (SELECT max(recorded_at) FROM relay.snapshots
                       WHERE recorded_at < clock_timestamp() - make_interval(secs => $1))
"""
_OLD_SNAPSHOT = """
SELECT snapshot FROM relay.snapshots
 WHERE recorded_at < clock_timestamp() - make_interval(secs => {seconds})
   AND pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
 ORDER BY recorded_at DESC LIMIT 1
"""
_SLOT = "SELECT coalesce(pg_sequence_last_value('relay.current_slot'), 0)"
_IS_EMPTY = "SELECT NOT EXISTS (SELECT FROM relay.events_{slot})"
_OLDEST_AGE = """
SELECT extract(epoch FROM clock_timestamp() - written_at)::float8 FROM relay.events_{slot}
 ORDER BY xid LIMIT 1
"""
# One message to PostgreSQL, with its own commit: a process that stops for a while, or its line,
# never does so while it holds the lock that all writers and readers wait for. That lock itself is
# not waited for, or every later session would wait behind it. The queries use the index on xid. A
# row from a restored dump, with an id in the future, keeps nothing. Where the floor has no row,
# what is removed could not be recorded.
_EMPTY = """
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
{take_turn};
LOCK TABLE relay.events_{slot} IN ACCESS EXCLUSIVE MODE NOWAIT;
DO $do$
DECLARE
    old pg_snapshot := ({old_snapshot});
    highest xid8;
BEGIN
    IF old IS NULL
        OR EXISTS (SELECT FROM relay.events_{slot}
                    WHERE xid >= pg_snapshot_xmax(old)
                      AND xid < pg_snapshot_xmax(pg_current_snapshot()))
        OR EXISTS (SELECT FROM relay.events_{slot}
                    WHERE xid IN (SELECT pg_snapshot_xip(old))) THEN
        RETURN;
    END IF;
    SELECT xid INTO highest
      FROM relay.events_{slot} WHERE xid < pg_snapshot_xmax(pg_current_snapshot())
     ORDER BY xid DESC LIMIT 1;
    IF FOUND THEN
        UPDATE relay.floor SET last = greatest(
                   CASE WHEN last < pg_snapshot_xmax(pg_current_snapshot()) THEN last ELSE '0' END,
                   highest),
               snapshot = old;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    TRUNCATE relay.events_{slot};
END
$do$
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
        is_empty = _IS_EMPTY.format(slot=slot)
        if await connection.fetchval(is_empty):
            return
        old = _OLD_SNAPSHOT.format(seconds=self._seconds)
        try:
            await connection.execute(
                _EMPTY.format(take_turn=_TAKE_TURN, slot=slot, old_snapshot=old)
            )
        except LockNotAvailableError:
            log.debug(LogLine("partition_busy", partition=slot))
            return
        if await connection.fetchval(is_empty):
            floor = await connection.fetchval("SELECT last::text FROM relay.floor")
            log.info(LogLine("partition_emptied", partition=slot, last_xid=floor))

    async def _move_on(self, connection: "AnyConnection") -> None:
        """Write to the next partition when the current one is old enough and the next is empty."""
        current = await connection.fetchval(_SLOT)
        age = await connection.fetchval(_OLDEST_AGE.format(slot=current))
        following = (current + 1) % PARTITIONS
        if age is None or 0 <= age < self._seconds / (PARTITIONS - 2):
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
