"""The log itself: how long it is, what came with a dump from another server, and its doorbell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, listed, problem, span, warning
from realtime.postgres.doorbell import IS_ALIVE
from realtime.postgres.retention import OVERDUE, SPARE_SECONDS
from realtime.postgres.schema import NEW_CURSOR_KEY, NO_CURSOR_KEY
from realtime.postgres.shared_names import as_bytes, fetch_named

if TYPE_CHECKING:
    import asyncpg

    from realtime.doctor.deployment import Connection

COUNTED = 1_000_000
HOLDER_SECONDS = 60.0
FUTURE_SECONDS = 10.0
"""A row that is so far ahead of PostgreSQL's clock was written before that clock was set back."""
SILENCE_LOOKS, SILENCE_SECONDS = 3, 0.5

_EXTENT = f"""
SELECT (SELECT count(*) FROM (SELECT FROM relay.events LIMIT {COUNTED}) AS few) AS rows,
       extract(epoch FROM clock_timestamp() - min(oldest.written_at))::float8 AS age,
       (SELECT count(*) FROM relay.nodes WHERE {IS_ALIVE}) AS nodes
  FROM (VALUES (0), (1), (2), (3)) AS slots (slot)
 CROSS JOIN LATERAL (
       SELECT e.written_at FROM relay.events AS e
        WHERE e.slot = slots.slot AND e.xid < pg_snapshot_xmax(pg_current_snapshot())
        ORDER BY e.xid LIMIT 1) AS oldest
"""
_FROM_THE_FUTURE = f"""
SELECT count(*) AS rows,
       extract(epoch FROM max(written_at) - clock_timestamp())::float8 AS seconds
  FROM (SELECT written_at FROM relay.events LIMIT {COUNTED}) AS few
 WHERE written_at > clock_timestamp() + make_interval(secs => {FUTURE_SECONDS})
"""
_HOLDERS = f"""
SELECT DISTINCT a.pid, {as_bytes("a.usename")} AS usename, a.application_name AS name
  FROM pg_locks AS l
  JOIN pg_class AS c ON c.oid = l.relation
  JOIN pg_stat_activity AS a ON a.pid = l.pid
 WHERE c.relnamespace = 'relay'::regnamespace AND l.granted
   AND (c.relname LIKE 'events%' OR c.relname = 'retention_turn')
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND a.pid <> pg_backend_pid()
   AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - make_interval(secs => $1))
 ORDER BY 1
"""
_IS_FOREIGN = """
SELECT (floor.system, floor.database) IS DISTINCT FROM (here.system, here.oid)
  FROM relay.floor AS floor, relay.this_database() AS here
"""
_HAS_KEY = "SELECT EXISTS (SELECT FROM relay.cursor_keys WHERE signs)"
_PARTS = """
SELECT c.relname AS name, right(c.relname, 1) AS slot, c.relpersistence = 'u' AS is_unlogged,
       EXISTS (SELECT FROM pg_inherits AS i JOIN pg_class AS log ON log.oid = i.inhparent
                WHERE i.inhrelid = c.oid AND log.relnamespace = c.relnamespace
                  AND log.relname = 'events') AS is_attached
  FROM pg_class AS c
 WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^events_[0-3]$'
 ORDER BY 1
"""
# What a statement sees was committed before it, so honest rows are older than its own snapshot.
_AHEAD = "xid >= pg_snapshot_xmax(pg_current_snapshot())"
_BELL = f"""
SELECT pg_sequence_last_value('relay.bell') IS NOT DISTINCT FROM 2 AS is_silent,
       count(*) AS nodes, count(*) FILTER (WHERE awake) AS awake
  FROM relay.nodes
 WHERE {IS_ALIVE}
"""
_UNREADY = f"""
SELECT concat_ws(':', info->>'hostname', info->>'port') AS name FROM relay.nodes
 WHERE {IS_ALIVE} AND info->>'ready' = 'false'
 ORDER BY 1
"""
# The session in which it listens is there.
_WITHOUT_HEARTBEAT = f"""
SELECT concat_ws(':', info->>'hostname', info->>'port') AS name FROM relay.nodes AS node
 WHERE NOT {IS_ALIVE} AND EXISTS (
       SELECT FROM pg_stat_activity AS a
        WHERE a.pid = node.backend AND a.datname = current_database()
          AND a.application_name = 'realtime')
 ORDER BY 1
"""


async def log(deployment: Deployment) -> Sequence[Finding]:
    """How many rows, how old, and whether it is emptied as the retention says."""
    retention = deployment.settings.retention_seconds
    async with deployment.connect() as connection:
        if broken := _broken_parts(await connection.fetch(_PARTS)):
            return broken
        row = await connection.fetchrow(_EXTENT)
        assert row is not None
        if row["age"] is None:
            return [fine("it is empty")]
        future = await connection.fetchrow(_FROM_THE_FUTURE)
        assert future is not None
        count = f"more than {COUNTED:,}" if row["rows"] == COUNTED else f"{row['rows']:,}"
        rows = "row" if row["rows"] == 1 else "rows"
        said = f"{count} {rows}, the oldest {span(max(row['age'], 0))} old"
        if future["rows"]:
            return [_judge_future(future["rows"], future["seconds"])]
        if row["age"] <= OVERDUE * retention + SPARE_SECONDS:
            return [fine(f"{said}; RETENTION_SECONDS is {retention:.0f}")]
        cure = await _what_keeps_it(connection, row["nodes"])
    return [warning(f"{said}, though RETENTION_SECONDS is {retention:.0f}", cure)]


def _judge_future(rows: int, seconds: float) -> Finding:
    return warning(
        f"rows from the future: {rows:,}, by up to {span(seconds)}. PostgreSQL's clock was set back"
        " after they were written, or is wrong now",
        "see that its machine has the right time, and steps no clock while PostgreSQL runs."
        " Retention removes these rows like others, once their partition's turn comes",
    )


def _broken_parts(parts: Sequence[asyncpg.Record]) -> Sequence[Finding]:
    detached = [
        problem(
            f"relay.{part['name']} is no partition of the log: every statement fails that writes an"
            " event while it is its turn",
            f"ALTER TABLE relay.events ATTACH PARTITION relay.{part['name']}"
            f" FOR VALUES IN ({part['slot']})",
        )
        for part in parts
        if not part["is_attached"]
    ]
    unlogged = [
        problem(
            f"relay.{part['name']} is UNLOGGED: a crash empties it, and nobody is told",
            f"ALTER TABLE relay.{part['name']} SET LOGGED",
        )
        for part in parts
        if part["is_unlogged"]
    ]
    return detached + unlogged


async def _what_keeps_it(connection: Connection, nodes: int) -> str:
    if not nodes:
        return "start a server (bin/serve): it is the servers that empty the log"
    holders = [
        f"{row['pid']} ({row['usename']}, {row['name'] or 'unnamed'})"
        for row in await fetch_named(connection, _HOLDERS, HOLDER_SECONDS, column="usename")
    ]
    if holders:
        return f"end what holds a lock on the log: process {', '.join(holders)}"
    return "end old transactions (see above); if there are none, read the server's log"


async def restored_dump(deployment: Deployment) -> Sequence[Finding]:
    """Whether the log came with a dump from another database, or rows of it did."""
    async with deployment.connect() as connection:
        if not await connection.fetchval(_IS_FOREIGN):
            if not await connection.fetchval(_HAS_KEY):
                return [problem(NO_CURSOR_KEY, NEW_CURSOR_KEY)]
            ahead = await connection.fetchval(f"SELECT count(*) FROM relay.events WHERE {_AHEAD}")
            return [_judge_rows_ahead(ahead)]
    return [
        warning(
            "the log came with a dump from another database: nothing of it is delivered",
            "nothing, for a server empties it when it finds it or starts;"
            " or now: SELECT relay.forget_foreign_log()",
        )
    ]


def _judge_rows_ahead(count: int) -> Finding:
    if not count:
        return fine("the log is this database's own")
    return warning(
        f"rows of transactions that are still to come here: {count:,}. They were copied from"
        " another server, and are delivered once this one has got so far",
        f"remove them, as the owner: DELETE FROM relay.events WHERE {_AHEAD}",
    )


async def doorbell(deployment: Deployment) -> Sequence[Finding]:
    """Whether the bell is silent while nobody is awake, several times over: it may be changing."""
    async with deployment.connect() as connection:
        for look in range(SILENCE_LOOKS):
            if look:
                await asyncio.sleep(SILENCE_SECONDS)
            (row,) = await connection.fetch(_BELL)
            if not row["is_silent"] or row["awake"]:
                state = "silent" if row["is_silent"] else "on"
                return [fine(f"{state}; live processes: {row['nodes']}, awake: {row['awake']}")]
    return [
        problem(
            "the bell is silent, and no live process is awake: events wait",
            "start a server, which switches it on; or now: SELECT setval('relay.bell', 1)",
        )
    ]


async def processes(deployment: Deployment) -> Sequence[Finding]:
    """Whether every live process reads the log: a read that cannot finish stops all its events.

    And whether every process that is connected counts as live.
    """
    async with deployment.connect() as connection:
        unready = [row["name"] for row in await connection.fetch(_UNREADY)]
        unheard = [row["name"] for row in await connection.fetch(_WITHOUT_HEARTBEAT)]
    found = []
    if unready:
        found += [
            warning(
                f"not ready: {listed(unready)}",
                "see /api/ready there, and its log: log_not_read is a read that cannot finish, so"
                " look at the line to the database. One that starts or drains is not ready either:"
                " look again in 10 s",
            )
        ]
    if unheard:
        found += [
            warning(
                f"connected, but without a heartbeat: {listed(unheard)}",
                "look for heartbeat_failed in its log: if the database's disk is full, other"
                " writers fail, too. If that is not there, look whether the process is stopped",
            )
        ]
    return found or [fine("all that live are ready")]
