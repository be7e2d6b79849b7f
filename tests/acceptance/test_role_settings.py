"""The server's own transactions say what they need, whatever the database's defaults are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tornado.ioloop import IOLoop

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.pool import connect
from realtime.postgres.schema import migrate
from tests.acceptance.test_resume import contents
from tests.platform import Platform
from tests.postgres import postgres_server
from tests.serving import RunningServer, StartServer, World, make_settings
from tests.waiting import LIMIT, eventually

MANY = 1100
"""More than one answer of the log holds."""
INSERT = f"""INSERT INTO messages (session_id, bot_id, user_id, role, content)
SELECT $1, $2, $3, 'user', n::text FROM generate_series(1, {MANY}) AS n"""
BEAT = """SELECT EXISTS (
SELECT FROM relay.nodes AS n JOIN relay.connections AS c ON c.node_id = n.id
 WHERE n.heartbeat_at > $1)"""


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'repeatable read'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "synchronous_commit = remote_apply",
        "idle_in_transaction_session_timeout = '1ms'",
        "idle_session_timeout = '1s'",
        "lock_timeout = '1ms'",
        "statement_timeout = '1ms'",
        "transaction_timeout = '100ms'",
    ],
)
async def test_defaults_change_nothing(
    setting: str,
    database: str,
    postgres: EmbeddedPostgres,
    platform: Platform,
    world: World,
    start_server: StartServer,
) -> None:
    """Events in pages, heartbeats, sockets that are written down, and revocations."""
    if setting.startswith("transaction_timeout") and not await has_transaction_timeout(platform):
        pytest.skip("PostgreSQL 17 has it")
    postgres.sql(f"ALTER DATABASE {urlsplit(database).path[1:]} SET {setting}")
    server = await start_server()
    owner = await server.chat(world.bot, world.owner, cursor="")
    guest = await server.chat(world.bot, world.guest)
    await platform.execute(INSERT, world.session, world.bot, world.owner)
    await owner.next("chat_message", MANY)
    assert contents(owner) == [str(n) for n in range(1, MANY + 1)]
    now = await platform.connection.fetchval("SELECT clock_timestamp()")
    await eventually(lambda: platform.connection.fetchval(BEAT, now))
    await platform.revoke(world.bot, world.guest)
    assert await guest.closed() == 4003
    await server.server.database.retention.step()
    assert not owner.of_type("resync")


async def has_transaction_timeout(platform: Platform) -> bool:
    known = "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'transaction_timeout')"
    return bool(await platform.connection.fetchval(known))


@pytest.mark.gen_test(timeout=60)
async def test_a_transaction_that_takes_longer_than_the_default_allows(
    database: str, postgres: EmbeddedPostgres, platform: Platform, start_server: StartServer
) -> None:
    """Every connection of the server may have one open for as long as it takes."""
    if not await has_transaction_timeout(platform):
        pytest.skip("PostgreSQL 17 has it")
    name = urlsplit(database).path[1:]
    postgres.sql(f"ALTER DATABASE {name} SET transaction_timeout = '100ms'")
    server = await start_server()
    pool = server.server.database.nodes._pool
    async with pool.acquire() as one, pool.acquire() as other:
        listening = await connect(database, 10)
        for connection in (one, other, listening):
            assert await connection.fetchval("SHOW transaction_timeout") == "0"
        await listening.close(timeout=LIMIT)


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize(
    "setting",
    [
        "idle_in_transaction_session_timeout = '1ms'",
        "idle_session_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "statement_timeout = '1ms'",
        "transaction_timeout = '30ms'",
    ],
)
async def test_a_migration_takes_longer_than_the_default_allows(
    setting: str, empty_database: str, postgres: EmbeddedPostgres, io_loop: IOLoop
) -> None:
    """By whatever limit of the database's."""
    known = f"SELECT count(*) FROM pg_settings WHERE name = '{setting.split()[0]}'"
    if postgres.sql(known) == "0":
        pytest.skip("PostgreSQL 17 has it")
    postgres.sql(f"ALTER DATABASE {urlsplit(empty_database).path[1:]} SET {setting}")
    assert await io_loop.run_in_executor(None, migrate, empty_database)


@pytest.mark.gen_test(timeout=60)
async def test_a_standby_that_is_away(postgres_bin: Path | None) -> None:
    """Writers that do not wait for it are delivered at once: nor does the server wait for it."""
    with postgres_server(postgres_bin) as postgres:
        dsn = postgres.dsn()
        await asyncio.to_thread(migrate, dsn)
        platform = await Platform.connect(dsn)
        await platform.execute("SET synchronous_commit = local")
        owner = await platform.user("olga")
        bot = await platform.bot(owner)
        session = await platform.session(bot, owner)
        postgres.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        postgres.sql("SELECT pg_reload_conf()")
        running = RunningServer(make_settings(dsn))
        await running.start()
        try:
            socket = await running.chat(bot, owner)
            for number in range(100):
                await platform.message(session, bot, owner, str(number))
            await eventually(lambda: len(contents(socket)) == 100, limit=LIMIT)
            assert contents(socket) == [str(number) for number in range(100)]
        finally:
            platform.connection.terminate()
            await running.stop()
            await asyncio.sleep(0)
