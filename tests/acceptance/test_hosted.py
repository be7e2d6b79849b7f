"""Hosts of PostgreSQL that refuse some of its functions to everybody but themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import migrate
from realtime.runtime.listening import StartError
from tests.acceptance.test_resume import contents, leave
from tests.platform import Platform
from tests.postgres import postgres_server
from tests.serving import RunningServer, World, make_settings


@pytest.fixture
def hosted(postgres_bin: Path | None) -> Iterator[tuple[EmbeddedPostgres, str]]:
    """A server of the test's own, and a database whose owner is no superuser."""
    with postgres_server(postgres_bin) as server:
        server.sql("CREATE ROLE customer LOGIN CREATEDB")
        server.sql("CREATE DATABASE hosted OWNER customer")
        dsn = server.dsn("hosted").replace("postgres@", "customer@")
        migrate(dsn)
        yield server, dsn


@pytest.mark.gen_test(timeout=60)
async def test_a_host_that_refuses_the_timeline(hosted: tuple[EmbeddedPostgres, str]) -> None:
    """Cursors are told apart by their newest row alone; SQL and the server agree."""
    server, dsn = hosted
    server.sql("REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn FROM PUBLIC", "hosted")
    running = RunningServer(make_settings(dsn))
    await running.start()
    platform = await Platform.connect(dsn)
    try:
        owner = await platform.user("olga")
        bot = await platform.bot(owner)
        world = World(owner, owner, bot, await platform.session(bot, owner))
        assert running.server.hub.position.signer.database.timeline == 0
        text = await platform.connection.fetchval("SELECT relay.cursor('bot:' || $1::uuid)", bot)
        await platform.message(world.session, bot, owner, "after the load")
        socket = await running.chat(bot, owner, cursor=text)
        await socket.next("chat_message")
        assert contents(socket) == ["after the load"]
        cursor = await leave(socket)
        back = await running.chat(bot, owner, cursor=cursor)
        assert (await back.established())["data"]["recovered"] is True
    finally:
        platform.connection.terminate()
        await running.stop()
        await asyncio.sleep(0)


@pytest.mark.gen_test(timeout=60)
async def test_what_else_is_refused_is_named(hosted: tuple[EmbeddedPostgres, str]) -> None:
    """The server says which function it may not call, and not that it reaches nobody."""
    server, dsn = hosted
    server.sql("REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC", "hosted")
    with pytest.raises(
        StartError, match=r"permission denied for function pg_control_system; grant it"
    ):
        await RunningServer(make_settings(dsn)).start()
    plain = await asyncpg.connect(dsn, timeout=10)
    await plain.close(timeout=10)
