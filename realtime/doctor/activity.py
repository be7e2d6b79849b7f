"""What goes on in the server that holds the relay back: old transactions, a filling NOTIFY queue.

A transaction that has written and does not end keeps the relay at its fence, awake for nothing,
and retention from emptying the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, listed, problem, span, warning
from realtime.postgres.holders import HOW_TO_END, holders_of
from realtime.postgres.shared_names import as_bytes, fetch_named

if TYPE_CHECKING:
    from realtime.doctor.deployment import Connection

LONG_SECONDS = 300.0
LOCKED_SECONDS = 5.0
LOOK_AGAIN_SECONDS = 1.0
QUEUE_WARNING, QUEUE_PROBLEM = 0.1, 0.5

# Of other roles' sessions the age is hidden from who is not in pg_read_all_stats.
_RUNNING = f"""
SELECT pid, {as_bytes("usename")} AS usename, application_name, state,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age
  FROM pg_stat_activity
 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
   AND xact_start < clock_timestamp() - make_interval(secs => $1)
 ORDER BY xact_start
"""
_PREPARED = f"""
SELECT gid, {as_bytes("owner")} AS owner,
       extract(epoch FROM clock_timestamp() - prepared)::float8 AS age
  FROM pg_prepared_xacts
 WHERE prepared < clock_timestamp() - make_interval(secs => $1)
 ORDER BY prepared
"""
# Whatever waits for these longer than a handshake does; a server's own locks last milliseconds.
_LOCKED = """
SELECT DISTINCT l.relation::regclass::text AS name
  FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
  LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
 WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND coalesce(a.xact_start < clock_timestamp() - make_interval(secs => $1), true)
   AND c.relkind IN ('r', 'p')
   AND (c.relnamespace = to_regnamespace('relay')
        OR EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
                    WHERE t.tgrelid = c.oid AND p.pronamespace = to_regnamespace('relay')))
 ORDER BY 1
"""
_SEES_ALL = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"
# What is LISTENed to is nobody else's to see, so: who might be holding the queue.
_HOLDERS = f"""
SELECT pid, {as_bytes("usename")} AS usename FROM pg_stat_activity
 WHERE state LIKE 'idle in transaction%' ORDER BY xact_start
"""


async def transactions(deployment: Deployment) -> Sequence[Finding]:
    """Name each transaction that has written and has been open for minutes."""
    async with deployment.connect() as connection:
        running = await fetch_named(connection, _RUNNING, LONG_SECONDS, column="usename")
        prepared = await fetch_named(connection, _PREPARED, LONG_SECONDS, column="owner")
        sees_all = await connection.fetchval(_SEES_ALL)
    found = [
        warning(
            f"process {row['pid']} ({row['usename']}, {row['application_name'] or 'unnamed'},"
            f" {row['state']}) has been in a transaction for {span(row['age'])}",
            f"end it where it comes from, or: SELECT pg_terminate_backend({row['pid']})",
        )
        for row in running
    ] + [
        warning(
            f"the prepared transaction {row['gid']!r} of {row['owner']} has waited for"
            f" {span(row['age'])}",
            f"COMMIT PREPARED or ROLLBACK PREPARED {_literal(row['gid'])}",
        )
        for row in prepared
    ]
    limits = "" if sees_all else " (those of other roles are hidden from this one)"
    return found or [fine(f"none has been open for {span(LONG_SECONDS)}{limits}")]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def notify_queue(deployment: Deployment) -> Sequence[Finding]:
    """How full the queue of notifications is: when it is, every commit that rings fails."""
    async with deployment.connect() as connection:
        usage = await connection.fetchval("SELECT pg_notification_queue_usage()")
        holders = await fetch_named(connection, _HOLDERS, column="usename")
    said = f"{100 * usage:.1f} % full"
    if usage <= QUEUE_WARNING:
        return [fine(said)]
    suspects = listed([f"{row['pid']} ({row['usename']})" for row in holders])
    cure = f"end the session that LISTENs inside an open transaction: {suspects or 'none in sight'}"
    return [problem(said, cure) if usage > QUEUE_PROBLEM else warning(said, cure)]


async def locks(deployment: Deployment) -> Sequence[Finding]:
    """Name whoever keeps a table of ours, or one with our triggers, from being read or written."""
    async with deployment.connect() as connection:
        names = await _locked(connection)
        if names:
            # Of another role's session it is hidden how long it has been: look again.
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            names = [one for one in await _locked(connection) if one in names]
        holders = await holders_of(connection, names, with_readers=False) if names else ""
    if not holders:
        return [fine("no table is locked for long")]
    return [
        problem(
            f"{listed(names)} stay locked by {holders}: events, writers or new sockets wait",
            f"end that transaction where it comes from; {HOW_TO_END}",
        )
    ]


async def _locked(connection: Connection) -> list[str]:
    return [row["name"] for row in await connection.fetch(_LOCKED, LOCKED_SECONDS)]
