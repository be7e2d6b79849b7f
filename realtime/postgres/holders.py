"""Who has tables in use: for a command that could not have a lock on one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg

from realtime.postgres.pool import DATABASE_ERRORS, connect
from realtime.postgres.shared_names import as_bytes, fetch_named

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

LOCKED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""What PostgreSQL raises where a lock could not be had in time."""
HOW_TO_END = "a process can be ended with pg_terminate_backend"
LOOK_SECONDS = 0.05
"""How often it is looked whom a process waits for: it gives up its waits after a moment."""
CONNECT_SECONDS = 10.0

# A prepared transaction has no process, but a lock on its own id. What a role may not see of the
# session of another is null.
_HOLDERS = f"""
SELECT DISTINCT ON (begun_at, holder) {as_bytes("holder")} AS holder
  FROM (SELECT coalesce(xact_start, prepared) AS begun_at,
               CASE WHEN a.pid IS NULL
                    THEN format('the prepared transaction %L (end it with COMMIT PREPARED or'
                        ' ROLLBACK PREPARED)', p.gid)
                    ELSE format('process %s (%s%s)%s%s', a.pid,
                                coalesce(a.usename, a.backend_type),
                                ', ' || nullif(a.application_name, ''), ', ' || a.state,
                                ', since ' || date_trunc('second',
                                    a.xact_start AT TIME ZONE 'UTC')::time || ' UTC')
               END AS holder
          FROM pg_locks AS l
          LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
          LEFT JOIN pg_locks AS own
            ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
           AND own.mode = 'ExclusiveLock' AND own.virtualtransaction = l.virtualtransaction
          LEFT JOIN pg_prepared_xacts AS p ON p.transaction = own.transactionid
         WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
           AND ($3::integer IS NULL OR l.pid IS DISTINCT FROM $3)
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.relation = ANY ($1::text[]::regclass[])
           AND (l.mode <> 'AccessShareLock' OR $2)) AS held
 ORDER BY begun_at, holder LIMIT 3
"""
_WAITED_FOR = """
SELECT relation::regclass::text AS name, mode = 'AccessExclusiveLock' AS with_readers
  FROM pg_locks WHERE pid = $1 AND NOT granted AND relation IS NOT NULL
"""


async def holders_of(
    connection: Connection,
    tables: Sequence[str],
    *,
    with_readers: bool = True,
    waiting: int | None = None,
) -> str:
    """Whoever has one of the tables in use, the oldest transaction first; empty: nobody any more.

    Args:
        tables: as SQL writes their names.
        with_readers: whether those count who only read.
        waiting: the process that waits for them, which may hold another lock on them.

    Raises:
        One of `pool.DATABASE_ERRORS`.
    """
    rows = await fetch_named(connection, _HOLDERS, tables, with_readers, waiting, column="holder")
    return "; ".join(row["holder"] for row in rows)


class Watch:
    """Looks whom a process waits for, while it waits: afterwards others have the tables in use."""

    def __init__(self) -> None:
        self.pid = 0
        """The process that waits."""
        self.found = ""
        """The table that it waited for last, and who held it; empty: it waited for none."""

    async def run(self, dsn: str) -> None:
        """Look, again and again. Cancel to end. Without a connection nothing is found."""
        with suppress(*DATABASE_ERRORS):
            connection = await connect(dsn, CONNECT_SECONDS)
            try:
                while True:
                    await self._look(connection)
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                connection.terminate()

    async def _look(self, connection: Connection) -> None:
        for name, with_readers in await connection.fetch(_WAITED_FOR, self.pid):
            holders = await holders_of(
                connection, [name], with_readers=with_readers, waiting=self.pid
            )
            if holders:
                self.found = f"{name}, which was held by {holders}"
