"""Connections: their limits, what they say of themselves, and which server they lead to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.pool import (
    DATABASE_ERRORS,
    WrongServer,
    connect,
    connect_command,
    identify,
    open_pool,
)
from tests.pgbouncer import pgbouncer
from tests.platform import Platform
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@pytest.fixture
def connection(io_loop: IOLoop, database: str) -> Iterator[Connection]:
    one = io_loop.run_sync(lambda: connect(database, 10))
    yield one
    io_loop.run_sync(lambda: one.close(timeout=LIMIT))


async def ours(platform: Platform) -> list[Any]:
    """The server's side of this program's connections."""
    return await platform.connection.fetch(
        "SELECT pid, wait_event FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'realtime'"
    )


# One of its own.


@pytest.mark.gen_test
async def test_a_connection_says_whose_it_is(connection: Connection, platform: Platform) -> None:
    """So that an operator who looks at the server knows."""
    (row,) = await ours(platform)
    assert row["pid"] == connection.get_server_pid()


@pytest.mark.gen_test
async def test_a_pooler_that_refuses_settings_is_told_of_once(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A process connects again and again, and in session mode nothing is wrong."""
    for _ in range(2):
        with pgbouncer(database, mode="session", passes=False) as through:
            for _ in range(3):
                one = await connect(through, 10)
                await one.close(timeout=LIMIT)
    told = [line for line in caplog.messages if line.startswith("connection_settings_refused")]
    assert len(told) == 2


@pytest.mark.gen_test
async def test_the_log_is_read_by_one_plan(connection: Connection) -> None:
    """Planned once, and never as a scan of all of it, however empty the log was at that time."""
    await connection.execute("PREPARE newer(xid8) AS SELECT * FROM relay.events WHERE xid > $1")
    lines = [row[0] for row in await connection.fetch("EXPLAIN EXECUTE newer('10')")]
    assert any("$1" in line for line in lines), lines
    assert not any("Seq Scan" in line for line in lines), lines


@pytest.mark.gen_test
async def test_nothing_is_compiled(database: str, connection: Connection) -> None:
    """It would take half a second for a read, and two for sixty handshakes."""
    async with open_pool(database, size=1, timeout=10, is_pooled=False) as pool:
        for one in (connection, pool):
            assert await one.fetchval("SHOW jit") == "off"


@pytest.mark.gen_test
async def test_row_security_is_on_whatever_the_default_is(
    database: str, postgres: EmbeddedPostgres
) -> None:
    """Off, a table whose rows a policy shows would be an error."""
    postgres.sql(f"ALTER DATABASE {urlsplit(database).path[1:]} SET row_security = off")
    one, other = await connect(database, 10), await connect_command(database, 10, "a command")
    async with open_pool(database, size=1, timeout=10, is_pooled=False) as pool:
        assert [await each.fetchval("SHOW row_security") for each in (one, other, pool)] == [
            "on",
            "on",
            "on",
        ]
    for each in (one, other):
        await each.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_every_statement_has_a_limit(database: str) -> None:
    """And the connection can be used after one that took too long."""
    connection = await connect(database, 0.2)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(1000)")
        assert await connection.fetchval("SELECT 1", timeout=10) == 1
    await connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_connecting_has_a_limit() -> None:
    """Also where somebody answers who does not speak."""
    ended = asyncio.Event()

    async def hear_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(hear_out, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(DATABASE_ERRORS):
        await connect(f"postgresql://postgres@127.0.0.1:{port}/none", 0.2)
    await eventually(ended.is_set)
    server.close()
    await server.wait_closed()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://postgres@/none?host=/nonexistent",
        "postgresql://postgres@127.0.0.1:1/none",
        "postgresql://postgres@nowhere.invalid/none",
    ],
)
async def test_whatever_is_wrong_counts_as_lost(dsn: str) -> None:
    """So that everybody who asks is ready for it."""
    with pytest.raises(DATABASE_ERRORS):
        await connect(dsn, 5)


@pytest.mark.gen_test
async def test_a_wrong_database_counts_as_lost(database: str) -> None:
    """It may be there the next time."""
    with pytest.raises(DATABASE_ERRORS):
        await connect(database.replace("/test_", "/other_"), 5)


# A pool.


@pytest.mark.gen_test
async def test_a_pool_opens_what_is_needed(database: str, platform: Platform) -> None:
    """Nothing at the start, no more than its size, and nothing is left of it."""
    async with open_pool(database, size=2, timeout=10, is_pooled=False) as pool:
        assert await ours(platform) == []
        assert await pool.fetchval("SELECT 1") == 1
        assert len(await ours(platform)) == 1
        await asyncio.gather(*(pool.fetchval("SELECT pg_backend_pid()") for _ in range(10)))
        assert len(await ours(platform)) == 2

    async def are_gone() -> Any:
        return not await ours(platform)

    await eventually(are_gone)


@pytest.mark.gen_test
async def test_a_pool_ends_though_it_is_in_use(database: str, platform: Platform) -> None:
    """Whoever still waits for an answer is told."""
    async with open_pool(database, size=1, timeout=60, is_pooled=False) as pool:
        question = asyncio.create_task(pool.fetchval("SELECT pg_sleep(1000)"))

        async def is_asked() -> Any:
            return [row["wait_event"] for row in await ours(platform)] == ["PgSleep"]

        await eventually(is_asked)
    with pytest.raises(DATABASE_ERRORS):
        await question


@pytest.mark.gen_test
async def test_a_pool_takes_back_what_was_left_open(database: str) -> None:
    """A transaction is rolled back, though nothing else is reset: each question is one trip."""
    async with open_pool(database, size=1, timeout=10, is_pooled=False) as pool:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN; CREATE TABLE public.left_open ()")
        assert await pool.fetchval("SELECT to_regclass('left_open')") is None
        async with pool.acquire() as connection:
            pid = connection.get_server_pid()
            await connection.fetchval("SELECT 'the last'")
        other = await connect(database, 10)
        last = "SELECT query FROM pg_stat_activity WHERE pid = $1"
        assert await other.fetchval(last, pid) == "SELECT 'the last'"
        await other.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_a_pool_before_there_is_a_database() -> None:
    """It can be made; each question is refused, and may succeed later."""
    nowhere = "postgresql://postgres@/none?host=/nonexistent"
    async with open_pool(nowhere, size=1, timeout=5, is_pooled=False) as pool:
        for _ in range(2):
            with pytest.raises(DATABASE_ERRORS):
                await pool.fetchval("SELECT 1")


@pytest.mark.gen_test
@pytest.mark.parametrize(("is_pooled", "kept"), [(True, 0), (False, 1)])
async def test_prepared_statements_behind_a_pooler(
    database: str, is_pooled: bool, kept: int
) -> None:
    """None may outlive its transaction, for the next may run on another connection."""
    async with open_pool(database, size=1, timeout=10, is_pooled=is_pooled) as pool:
        await pool.fetch("SELECT $1::int", 1)
        query = "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%::int'"
        async with pool.acquire() as connection:
            assert len(await connection.fetch(query)) == kept


# Which server it is.


@pytest.mark.gen_test
async def test_a_database_is_told_from_others(
    connection: Connection, empty_database: str, postgres: EmbeddedPostgres
) -> None:
    """By its server, its number there, and the server's history."""
    other = await connect(empty_database, 10)
    here, there = await identify(connection), await identify(other)
    await other.close(timeout=LIMIT)
    assert here.oid != there.oid
    # Only a migrated database tells its timeline.
    assert here._replace(oid=0, timeline=0) == there._replace(oid=0)
    assert str(here.system) == postgres.sql("SELECT system_identifier FROM pg_control_system()")
    assert here.timeline == 1


@pytest.mark.gen_test
async def test_a_server_with_a_high_number(connection: Connection) -> None:
    """The catalogue prints it with a sign, everything else without."""
    await connection.execute(
        "CREATE SCHEMA fake; SET search_path = fake, pg_catalog;"
        "CREATE FUNCTION pg_control_system(OUT system_identifier int8)"
        " LANGUAGE sql AS 'SELECT (-1)::int8'"
    )
    assert (await identify(connection)).system == 2**64 - 1


@pytest.mark.gen_test
async def test_a_standby_is_refused(connection: Connection) -> None:
    """Its snapshots do not list what is open; test_listener tries a real one."""
    await connection.execute(
        "CREATE SCHEMA fake; SET search_path = fake, pg_catalog;"
        "CREATE FUNCTION pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'"
    )
    with pytest.raises(WrongServer, match="standby"):
        await identify(connection)


@pytest.mark.gen_test
async def test_an_ordinary_user_may_identify(connection: Connection, database: str) -> None:
    """Nothing here needs more than that."""
    name = f"plain_{connection.get_server_pid()}"
    await connection.execute(f"CREATE ROLE {name}")
    await connection.execute(f"GRANT USAGE ON SCHEMA relay TO {name}")
    await connection.execute(f"GRANT EXECUTE ON FUNCTION relay.timeline TO {name}")
    await connection.execute(f"SET ROLE {name}")
    found = await identify(connection)
    await connection.execute("RESET ROLE")
    await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    assert found == await identify(connection)
    assert database
