"""The log itself: how long it is, what came with a dump from another server, and its doorbell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, span, warning
from realtime.postgres.doorbell import ALIVE_SECONDS
from realtime.postgres.retention import OVERDUE, SPARE_SECONDS

if TYPE_CHECKING:
    from realtime.doctor.deployment import Connection

COUNTED = 1_000_000
HOLDER_SECONDS = 60.0
SILENCE_LOOKS, SILENCE_SECONDS = 3, 0.5

_EXTENT = f"""
SELECT (SELECT count(*) FROM (SELECT FROM relay.events LIMIT {COUNTED}) AS few) AS rows,
       extract(epoch FROM clock_timestamp() - min(oldest.written_at))::float8 AS age,
       (SELECT count(*) FROM relay.nodes
         WHERE heartbeat_at > now() - make_interval(secs => $1)) AS nodes
  FROM (VALUES (0), (1), (2), (3)) AS slots (slot)
 CROSS JOIN LATERAL (
       SELECT e.written_at FROM relay.events AS e
        WHERE e.slot = slots.slot AND e.xid < pg_snapshot_xmax(pg_current_snapshot())
        ORDER BY e.xid LIMIT 1) AS oldest
"""
_HOLDERS = """
SELECT DISTINCT a.pid, a.usename, a.application_name AS name
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
_FOREIGN = """
SELECT (SELECT count(*) FROM relay.events
         WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())) AS rows,
       (SELECT last >= pg_snapshot_xmax(pg_current_snapshot()) FROM relay.floor) AS floor
"""
_BELL = """
SELECT pg_sequence_last_value('relay.bell') IS NOT DISTINCT FROM 2 AS is_silent,
       count(*) AS nodes, count(*) FILTER (WHERE awake) AS awake
  FROM relay.nodes
 WHERE heartbeat_at > now() - make_interval(secs => $1)
"""


async def log(deployment: Deployment) -> Sequence[Finding]:
    """How many rows, how old, and whether it is emptied as the retention says."""
    retention = deployment.settings.retention_seconds
    async with deployment.connect() as connection:
        row = await connection.fetchrow(_EXTENT, ALIVE_SECONDS)
        assert row is not None
        if row["age"] is None:
            return [fine("it is empty")]
        count = f"more than {COUNTED:,}" if row["rows"] == COUNTED else f"{row['rows']:,}"
        rows = "row" if row["rows"] == 1 else "rows"
        said = f"{count} {rows}, the oldest {span(max(row['age'], 0))} old"
        if row["age"] <= OVERDUE * retention + SPARE_SECONDS:
            return [fine(f"{said}; RETENTION_SECONDS is {retention:.0f}")]
        cure = await _what_keeps_it(connection, row["nodes"])
    return [warning(f"{said}, though RETENTION_SECONDS is {retention:.0f}", cure)]


async def _what_keeps_it(connection: Connection, nodes: int) -> str:
    if not nodes:
        return "start a server (bin/serve): it is the servers that empty the log"
    holders = [
        f"{row['pid']} ({row['usename']}, {row['name'] or 'unnamed'})"
        for row in await connection.fetch(_HOLDERS, HOLDER_SECONDS)
    ]
    if holders:
        return f"end what holds a lock on the log: process {', '.join(holders)}"
    return "end old transactions (see above); if there are none, read the server's log"


async def restored_dump(deployment: Deployment) -> Sequence[Finding]:
    """Whether rows or the floor have numbers that this server has not come to yet."""
    async with deployment.connect() as connection:
        row = await connection.fetchrow(_FOREIGN)
    assert row is not None
    found = []
    if row["rows"]:
        found.append(
            warning(
                f"{row['rows']} of the log's rows came with a dump from another server (their"
                " transactions lie in the future): they are not delivered",
                "nothing, for retention removes them; or now: DELETE FROM relay.events"
                " WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())",
            )
        )
    if row["floor"]:
        found.append(
            warning(
                "the floor of the log came with a dump from another server: it is not minded",
                "nothing, for retention replaces it; or now: UPDATE relay.floor SET last = '0',"
                " snapshot = '1:1:'",
            )
        )
    return found or [fine("nothing in the log comes from another server")]


async def doorbell(deployment: Deployment) -> Sequence[Finding]:
    """Whether the bell is silent while nobody is awake, several times over: it may be changing."""
    async with deployment.connect() as connection:
        for look in range(SILENCE_LOOKS):
            if look:
                await asyncio.sleep(SILENCE_SECONDS)
            (row,) = await connection.fetch(_BELL, ALIVE_SECONDS)
            if not row["is_silent"] or row["awake"]:
                state = "silent" if row["is_silent"] else "on"
                return [fine(f"{state}; live processes: {row['nodes']}, awake: {row['awake']}")]
    return [
        problem(
            "the bell is silent, and no live process is awake: events wait",
            "start a server, which switches it on; or now: SELECT setval('relay.bell', 1)",
        )
    ]
