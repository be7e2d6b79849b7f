"""Which server it is, and how it is set: version, primary, clock, connections, durability."""

from __future__ import annotations

from collections.abc import Sequence

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, warning
from realtime.postgres.doorbell import IS_ALIVE
from realtime.postgres.pool import identify
from realtime.postgres.shared_names import as_bytes, fetch_named

OLDEST = 15
CLOCK_SECONDS = 2.0
LISTENERS = 1
"""Connections of a process besides its pool: the one that listens. When this connects, another is
opened for a moment, to ring it. That one is not counted: where it is refused, the process goes on.
"""

# From who is not in pg_read_all_stats it is hidden what another role's session is: one that has a
# database counts as a client's.
_RESERVES = """
SELECT current_setting('max_connections')::int
       - current_setting('superuser_reserved_connections')::int AS most,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS of_role,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS of_database,
       (SELECT count(*) FROM pg_stat_activity
         WHERE coalesce(backend_type = 'client backend', datid IS NOT NULL)
           AND coalesce(application_name, '') NOT LIKE 'realtime%') AS others
"""
_NODES = f"SELECT count(*) FROM relay.nodes WHERE {IS_ALIVE}"
_HAS_NODES = """
SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'nodes'
                  AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'relay')
                  AND has_table_privilege(oid, 'SELECT')
                  AND has_schema_privilege(relnamespace, 'USAGE'))
"""
_ASYNCHRONOUS = f"""
SELECT {as_bytes("coalesce(r.rolname, 'every role')")} AS who
  FROM pg_db_role_setting AS s
  LEFT JOIN pg_roles AS r ON r.oid = s.setrole
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
   AND 'synchronous_commit=off' = ANY (s.setconfig)
"""


async def version(deployment: Deployment) -> Sequence[Finding]:
    """Check that PostgreSQL is new enough."""
    async with deployment.connect() as connection:
        number = int(await connection.fetchval("SHOW server_version_num"))
    return [judge_version(number)]


def judge_version(number: int) -> Finding:
    """Judge a `server_version_num`, such as 150014."""
    said = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number // 10_000 < OLDEST:
        return problem(f"{said} is too old", f"upgrade the server to {OLDEST} or newer")
    return fine(said)


async def primary(deployment: Deployment) -> Sequence[Finding]:
    """Whether both addresses lead to a server that takes writes."""
    found = []
    for name, direct in (("DATABASE_URL", False), ("DATABASE_DIRECT_URL", True)):
        if direct and not deployment.has_direct:
            continue
        async with deployment.connect(direct=direct) as connection:
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                found.append(
                    problem(
                        f"{name} leads to a standby, from which events would be lost",
                        f"point {name} at the primary, or promote this server",
                    )
                )
            elif await connection.fetchval("SHOW default_transaction_read_only") == "on":
                found.append(
                    problem(
                        f"{name}: default_transaction_read_only is on, so writers fail and nothing"
                        " happens that could be sent",
                        "some hosts set it when the disk is full: make room; else find who set it"
                        " (ALTER ROLE, ALTER DATABASE, ALTER SYSTEM)",
                    )
                )
    return found or [fine("the server is a primary")]


async def one_database(deployment: Deployment) -> Sequence[Finding]:
    """Whether both addresses lead to the same database."""
    if not deployment.has_direct:
        return [fine("DATABASE_DIRECT_URL is the same as DATABASE_URL")]
    async with deployment.connect() as one, deployment.connect(direct=True) as other:
        if await identify(one) != await identify(other):
            return [
                problem(
                    "DATABASE_URL and DATABASE_DIRECT_URL lead to different databases",
                    "make DATABASE_DIRECT_URL the same database, without the pooler",
                )
            ]
    return [fine("DATABASE_DIRECT_URL leads to the same database as DATABASE_URL")]


async def connections(deployment: Deployment) -> Sequence[Finding]:
    """Whether the server has connections enough for all processes."""
    settings = deployment.settings
    async with deployment.connect(direct=True) as connection:
        row = await connection.fetchrow(_RESERVES)
        assert row is not None
        running = 0
        if await connection.fetchval(_HAS_NODES):
            running = await connection.fetchval(_NODES)
    processes = max(settings.web_concurrency, running)
    each = LISTENERS + (0 if deployment.has_direct else settings.database_pool_size)
    most = min([row["most"], *(n for n in (row["of_role"], row["of_database"]) if n >= 0)])
    who = "1 process wants" if processes == 1 else f"{processes} processes want"
    said = f"{who} up to {processes * each} connections, the server grants"
    said += f" {most} in all, of which others hold {row['others']}"
    if processes * each > most - row["others"]:
        return [
            problem(
                said,
                "lower DATABASE_POOL_SIZE or WEB_CONCURRENCY, raise max_connections, or use a"
                " pooler for DATABASE_URL",
            )
        ]
    return [fine(said)]


async def clock(deployment: Deployment) -> Sequence[Finding]:
    """How far this host's clock and the database's are apart."""
    async with deployment.connect() as connection:
        before = deployment.clock()
        there = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        after = deployment.clock()
    # Anywhere between is possible: that much is the way there and back.
    apart = max(before - there, there - after, 0.0)
    if apart > CLOCK_SECONDS:
        side = "ahead of" if before > there else "behind"
        return [
            warning(
                f"this host's clock is {apart:.1f} s {side} the database's",
                "set both by NTP: tokens expire by this host's clock, the log by the database's",
            )
        ]
    return [fine(f"this host and the database differ by less than {CLOCK_SECONDS:.0f} s")]


async def durability(deployment: Deployment) -> Sequence[Finding]:
    """Whether a commit may be lost after a crash, and an event that was delivered with it."""
    async with deployment.connect() as connection:
        own = await connection.fetchval("SHOW synchronous_commit")
        rows = await fetch_named(connection, _ASYNCHRONOUS, column="who")
        who = [row["who"] for row in rows]
    if own == "off" or who:
        return [
            warning(
                f"synchronous_commit is off for {', '.join(who) or 'every role'}: after a crash of"
                " the server, events that were delivered may belong to rows that are gone",
                "accept that, or set synchronous_commit = on for those who write",
            )
        ]
    return [fine(f"synchronous_commit is {own}")]
