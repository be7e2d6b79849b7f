"""Nobody who may create functions in a schema of the path has them called by our programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.pool import open_pool
from tests.commands import SECRET, execute, run_script
from tests.pgbouncer import pgbouncer
from tests.platform import Platform
from tests.serving import StartServer, World
from tests.traps import SEEN, traps
from tests.waiting import LIMIT

WAYS = ("direct", "session", "transaction", "refusing")
COMMANDS = (
    ("migrate",),
    ("doctor",),
    ("doctor", "--explain", "1", str(uuid4())),
    ("rotate", "channels"),
    ("rotate", "cursor-key"),
)


@pytest.fixture(params=["default path", "public first"])
def trapped(
    request: pytest.FixtureRequest, database: str, postgres: EmbeddedPostgres
) -> Iterator[str]:
    """A database with the traps of a stranger, and a path that may have them first."""
    stranger, name = f"stranger_{uuid4().hex[:8]}", urlsplit(database).path[1:]
    postgres.sql(traps(stranger), name)
    if request.param == "public first":
        postgres.sql(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
    yield database
    postgres.sql(f"DROP OWNED BY {stranger}", name)
    postgres.sql(f"DROP ROLE {stranger}")


@contextmanager
def on_the_way(way: str, dsn: str) -> Iterator[str]:
    """The address of a database: its own, or a pooler's that keeps settings to itself."""
    if way == "direct":
        yield dsn
        return
    mode = "session" if way == "session" else "transaction"
    with pgbouncer(dsn, mode=mode, passes=way != "refusing") as pooled:
        yield pooled


async def seen(dsn: str) -> list[str]:
    """Which traps were called."""
    path = {"search_path": "pg_catalog"}
    connection = await asyncpg.connect(dsn, timeout=LIMIT, server_settings=path)
    try:
        return await connection.fetchval(SEEN) or []
    finally:
        await connection.close(timeout=LIMIT)


def test_the_traps_work(trapped: str, request: pytest.FixtureRequest) -> None:
    """As without our path: then each of the other tests says something."""
    execute(trapped, "SELECT 1 WHERE 'a'::name = 'b'::varchar")
    assert asyncio.run(seen(trapped)) == ["name = varchar"]
    execute(trapped, "SELECT pg_is_in_recovery()")
    is_first = "public first" in request.node.name
    assert ("pg_is_in_recovery()" in asyncio.run(seen(trapped))) is is_first


@pytest.mark.parametrize("way", WAYS)
def test_commands_find_postgresqls_own_names(trapped: str, way: str) -> None:
    """Directly, and behind poolers that ignore or refuse what a connection asks for."""
    for name, *arguments in COMMANDS:
        with on_the_way(way, trapped) as dsn:
            done = run_script(name, *arguments, DATABASE_URL=dsn, JWT_SECRET=SECRET)
        assert asyncio.run(seen(trapped)) == [], (name, arguments)
        assert name == "doctor" or done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_a_first_migration_finds_postgresqls_own_names(
    empty_database: str, postgres: EmbeddedPostgres, way: str
) -> None:
    """From the first query on, which is SQLAlchemy's."""
    stranger, name = f"stranger_{uuid4().hex[:8]}", urlsplit(empty_database).path[1:]
    postgres.sql(traps(stranger), name)
    with on_the_way(way, empty_database) as dsn:
        done = run_script("migrate", DATABASE_URL=dsn)
        assert done.returncode == 0, done.stderr
    assert asyncio.run(seen(empty_database)) == []
    postgres.sql(f"DROP OWNED BY {stranger}", name)
    postgres.sql(f"DROP ROLE {stranger}")


@pytest.mark.gen_test
@pytest.mark.parametrize("way", WAYS)
async def test_a_server_finds_postgresqls_own_names(
    world: World, platform: Platform, trapped: str, start_server: StartServer, way: str
) -> None:
    """While it starts, lets somebody in, reads the log and tidies up."""
    await platform.execute("SET search_path = pg_catalog")
    with on_the_way(way, trapped) as dsn:
        server = await start_server(DATABASE_URL=dsn, DATABASE_DIRECT_URL=dsn)
        socket = await server.chat(world.bot, world.owner)
        payload = json.dumps({"n": 1})
        await platform.execute("SELECT relay.emit('bot:' || $1, 'n', $2)", world.bot, payload)
        assert (await socket.next("n", 1))["data"] == {"n": 1}
        await server.stop()
    assert await seen(trapped) == []


@pytest.mark.gen_test
@pytest.mark.parametrize("way", WAYS)
async def test_every_statement_of_a_pool_finds_postgresqls_own_names(
    database: str, way: str
) -> None:
    """Also after one that failed, within a transaction, and beside what another client set."""
    asked = "SELECT current_setting('search_path')"
    with on_the_way(way, database) as dsn:
        other = await asyncpg.connect(dsn, timeout=LIMIT, statement_cache_size=0)
        async with open_pool(dsn, size=1, timeout=LIMIT, is_pooled=way != "direct") as pool:
            for _ in range(2):
                await other.execute("SET search_path = public")
                async with pool.acquire() as connection:
                    with pytest.raises(asyncpg.DivisionByZeroError):
                        await connection.fetchval("SELECT 1 / $1::int", 0)
                    assert await connection.fetchval(asked) == "pg_catalog, pg_temp"
                    assert await connection.execute(asked) == "SELECT 1"
                    async with connection.transaction(isolation="read_committed", readonly=True):
                        assert await connection.fetchval(asked) == "pg_catalog, pg_temp"
                assert await other.fetchval("SHOW search_path") != "pg_catalog, pg_temp"
        await other.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_a_function_without_a_path_finds_what_its_role_finds(
    start_server: StartServer, platform: Platform, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """By another path it would fail, or mean something else; the server says so at its start."""
    await platform.execute(
        "CREATE OR REPLACE FUNCTION relay.authorize(user_id uuid, bot_id uuid)"
        " RETURNS TABLE (bot_name text, role text, username text)"
        " LANGUAGE sql STABLE SECURITY DEFINER AS"
        " $$ SELECT b.name, 'guest', 'ada' FROM bots AS b WHERE b.id = authorize.bot_id $$"
    )
    server = await start_server()
    socket = await server.chat(world.bot, world.guest)
    assert (await socket.established())["data"]["role"] == "guest"
    assert "access_without_path functions=relay.authorize(uuid,uuid)" in caplog.text.replace(
        '"', ""
    )
