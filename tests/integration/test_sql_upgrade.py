"""From a 0.1.0 database with rows in its log to today's schema, while processes of 0.1.0 serve.

The statements here are those of 0.1.0, word for word: they must go on working, and stay fast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from tornado.ioloop import IOLoop

from realtime.embedded.server import EmbeddedPostgres
from realtime.installation import ALEMBIC_INI
from tests.postgres import copy_of

BOT = "11111111-1111-4111-8111-aaaaaaaaaaaa"
COLUMNS = """id, xid, topic, type, payload, user_id, code, subject,
       date_part('epoch', written_at) AS written_at"""
NEWER = f"""
SELECT {COLUMNS} FROM relay.events
 WHERE xid > $1::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot())"""
STILL_OPEN = f"SELECT {COLUMNS} FROM relay.events WHERE xid = ANY ($2::xid8[])"
READ = f"""
SELECT * FROM (({NEWER} ORDER BY xid LIMIT 1001)
UNION ALL ({STILL_OPEN} ORDER BY xid LIMIT 1001)) AS found ORDER BY id"""
EJECTIONS = """
SELECT count(*) FROM relay.events WHERE code IS NOT NULL AND (xid > $1 OR xid = ANY ($2))"""
RAISE_FLOOR = """
UPDATE relay.floor SET last = greatest(
           CASE WHEN last < pg_snapshot_xmax(pg_current_snapshot()) THEN last ELSE '0' END,
           $1::xid8),
       snapshot = $2::text::pg_snapshot"""
BEAT = """
INSERT INTO relay.nodes (id, started_at, heartbeat_at, awake, info)
VALUES (gen_random_uuid(), now(), now(), false, '{}')"""


@pytest.fixture
def old_database(postgres: EmbeddedPostgres) -> Iterator[tuple[str, Config]]:
    """A database as 0.1.0 migrated it, and how alembic reaches it."""
    with copy_of("template1", postgres) as dsn:
        config = Config(ALEMBIC_INI)
        config.attributes["dsn"] = dsn
        command.upgrade(config, "reference_0001")
        yield dsn, config


@pytest.fixture
def old(
    io_loop: IOLoop, old_database: tuple[str, Config]
) -> Iterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection that an old process opened."""
    dsn, _ = old_database
    connection = io_loop.run_sync(lambda: asyncpg.connect(dsn, timeout=10))
    yield connection
    io_loop.run_sync(lambda: connection.close(timeout=10))


async def plan_of(connection: asyncpg.Connection[asyncpg.Record], query: str) -> str:
    rows = await connection.fetch(f"EXPLAIN {query}")
    return "\n".join(row[0] for row in rows)


@pytest.mark.gen_test(timeout=60)
async def test_processes_of_0_1_0_go_on(
    old_database: tuple[str, Config], old: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Their open connections read, write, beat and retain as before, on indexes."""
    _, config = old_database
    await old.execute("SELECT relay.emit($1, 'x', '{}')", f"bot:{BOT}")
    await old.execute("SELECT relay.eject(NULL, NULL)")
    await old.execute("UPDATE relay.floor SET last = '3', snapshot = '4:4:'")
    read = await old.prepare(READ)
    before = await read.fetch(0, [])
    await asyncio.to_thread(command.upgrade, config, "heads")
    assert await read.fetch(0, []) == before
    assert await old.fetchval(EJECTIONS, 0, []) == 1
    await old.execute(BEAT)
    assert await old.fetchval("SELECT release FROM relay.nodes") == 1
    await old.execute("SELECT relay.emit($1, 'x', '{}', $2)", f"bot:{BOT}", BOT)
    newest = await old.fetchrow("SELECT * FROM relay.events ORDER BY id DESC LIMIT 1")
    assert newest is not None
    assert f'"actor":"{BOT}"' in newest["payload"]
    async with old.transaction():
        await old.execute(RAISE_FLOOR, newest["xid"], f"{newest['xid'] + 1}:{newest['xid'] + 1}:")
        await old.execute("TRUNCATE relay.events_0")
    floor = await old.fetchrow("SELECT last, last_id, last_written_at FROM relay.floor")
    assert floor is not None
    assert tuple(floor) == (newest["xid"], newest["id"], newest["written_at"])
    await old.execute("SET enable_seqscan = off")
    assert "events_0_xid_id_idx" in await plan_of(old, NEWER.replace("$1", "'9'"))
    ejections = EJECTIONS.replace("xid = ANY ($2)", "xid = '9'").replace("$1", "'9'")
    assert "events_0_xid_id_idx1" in await plan_of(old, ejections)


@pytest.mark.gen_test(timeout=60)
async def test_the_floor_of_0_1_0_is_named(
    old_database: tuple[str, Config], old: asyncpg.Connection[asyncpg.Record]
) -> None:
    """By values that no cursor of before can name; an empty log has the fixed ones."""
    _, config = old_database
    await old.execute("UPDATE relay.floor SET last = '3', snapshot = '4:4:'")
    await asyncio.to_thread(command.upgrade, config, "heads")
    row = await old.fetchrow(
        "SELECT last, last_written_at > now() - interval '1 hour' AS is_new  FROM relay.floor"
    )
    assert row is not None
    assert tuple(row) == (3, True)
    assert await old.fetchval("SELECT relay.cursor($1)", f"bot:{BOT}")
    await asyncio.to_thread(command.downgrade, config, "core_0001")
    await asyncio.to_thread(command.upgrade, config, "heads")
    assert await old.fetchval("SELECT count(DISTINCT inner_key) FROM relay.cursor_keys") == 1


@pytest.mark.gen_test(timeout=60)
async def test_a_servers_role_needs_no_new_grant(old_database: tuple[str, Config]) -> None:
    """Whoever might raise the floor may do what a server of today does; nobody else."""
    dsn, config = old_database
    owner = await asyncpg.connect(dsn, timeout=10)
    await owner.execute('CREATE ROLE "Old server"; CREATE ROLE bystander')
    try:
        await owner.execute('GRANT USAGE ON SCHEMA relay TO "Old server", bystander')
        await owner.execute('GRANT SELECT, UPDATE ON relay.floor TO "Old server"')
        await owner.execute("GRANT SELECT ON relay.floor TO bystander")
        await asyncio.to_thread(command.upgrade, config, "heads")
        await owner.execute('SET ROLE "Old server"')
        assert await owner.fetchval("SELECT count(*) FROM relay.cursor_keys") == 1
        assert await owner.fetchval("SELECT relay.forget_foreign_log()") is False
        assert await owner.fetchval("SELECT relay.timeline()") == 1
        await owner.execute("SET ROLE bystander")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.fetchval("SELECT count(*) FROM relay.cursor_keys")
    finally:
        await owner.execute("RESET ROLE")
        for role in ('"Old server"', "bystander"):
            await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await owner.close(timeout=10)
