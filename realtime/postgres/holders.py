"""Who has tables in use: for a command that could not have a lock on one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

LOCKED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""What PostgreSQL raises where a lock could not be had in time."""
HOW_TO_END = "a process can be ended with pg_terminate_backend"

# A prepared transaction has no process, but a lock on its own id. What a role may not see of the
# session of another is null.
_HOLDERS = """
SELECT DISTINCT ON (begun_at, holder) holder
  FROM (SELECT coalesce(xact_start, prepared) AS begun_at,
               CASE WHEN a.pid IS NULL
                    THEN format('the prepared transaction %L (end it with COMMIT PREPARED or'
                        ' ROLLBACK PREPARED)', p.gid)
                    ELSE format('process %s (%s%s)%s%s', a.pid,
                                coalesce(a.usename, a.backend_type),
                                ', ' || nullif(a.application_name, ''), ', ' || a.state,
                                ', since ' || to_char(a.xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS')
                                    || ' UTC')
               END AS holder
          FROM pg_locks AS l
          LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
          LEFT JOIN pg_locks AS own
            ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
           AND own.mode = 'ExclusiveLock' AND own.virtualtransaction = l.virtualtransaction
          LEFT JOIN pg_prepared_xacts AS p ON p.transaction = own.transactionid
         WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.relation = ANY ($1::text[]::regclass[])
           AND (l.mode <> 'AccessShareLock' OR $2)) AS held
 ORDER BY begun_at, holder LIMIT 3
"""


async def holders_of(
    connection: Connection, tables: Sequence[str], *, with_readers: bool = True
) -> str:
    """Whoever has one of the tables in use, the oldest transaction first; empty: nobody any more.

    Args:
        tables: as SQL writes their names.
        with_readers: whether those count who only read.

    Raises:
        One of `pool.DATABASE_ERRORS`.
    """
    rows = await connection.fetch(_HOLDERS, tables, with_readers)
    return "; ".join(row["holder"] for row in rows)
