"""`bin/rotate`: new secrets, while servers run and clients stay."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.doorbell import RENAMING, RING_CHANNEL
from realtime.postgres.rotation import RotateError, rotate_channels, rotate_cursor_key
from tests.commands import run_script
from tests.platform import Platform
from tests.serving import StartServer, World
from tests.waiting import eventually

KEYS = "SELECT number, signs FROM relay.cursor_keys ORDER BY number"


async def keys(platform: Platform) -> list[tuple[int, bool]]:
    """The number of each key, and whether it signs."""
    return [tuple(row) for row in await platform.connection.fetch(KEYS)]


@pytest.mark.gen_test
async def test_a_new_key_signs_and_the_old_one_stays_good(
    database: str, start_server: StartServer, platform: Platform, world: World
) -> None:
    """For sockets that stay and for clients that return; after two rotations no more."""
    servers = [await start_server(), await start_server()]
    stays = await servers[0].chat(world.bot, world.owner, cursor="")
    old = (await stays.established())["data"]["cursor"]

    async def are_known() -> bool:
        query = "SELECT count(backend) FROM relay.nodes"
        return bool(await platform.connection.fetchval(query) == 2)

    await eventually(are_known)
    assert await rotate_cursor_key(database) == 2
    assert await keys(platform) == [(1, False), (2, True)]
    await platform.message(world.session, world.bot, world.owner, "after the rotation")
    await eventually(lambda: stays.of_type("chat_message"))
    for server in servers:
        returned = await server.chat(world.bot, world.owner, cursor=old)
        await eventually(lambda returned=returned: returned.of_type("chat_message"))
        assert (await returned.established())["data"]["recovered"] is True
    new = await platform.connection.fetchval("SELECT relay.cursor($1)", f"bot:{world.bot}")
    assert await rotate_cursor_key(database) == 2
    assert await keys(platform) == [(2, False), (3, True)]
    for server in servers:
        known = await server.chat(world.bot, world.owner, cursor=new)
        assert (await known.established())["data"]["recovered"] is True
        unknown = await server.chat(world.bot, world.owner, cursor=old)
        assert (await unknown.established())["data"]["reason"] == "invalid"


@pytest.mark.gen_test
async def test_a_server_that_does_not_connect_again_keeps_the_old_key_signing(
    database: str, platform: Platform
) -> None:
    """It could not read what the new key has signed. The next run goes on from there."""
    await platform.execute(
        "INSERT INTO relay.nodes (id, backend) VALUES (gen_random_uuid(), pg_backend_pid())"
    )
    for _ in range(2):
        with pytest.raises(RotateError, match="did not connect to the database again"):
            await rotate_cursor_key(database, max_seconds=0.4)
        assert await keys(platform) == [(1, True), (2, False)]
    await platform.execute("DELETE FROM relay.nodes")
    assert await rotate_cursor_key(database) == 0
    assert await keys(platform) == [(1, False), (2, True)]


@pytest.mark.gen_test
async def test_the_command(database: str, platform: Platform) -> None:
    """Both of its parts, and a word of what they did."""
    ring = "SELECT last_value FROM relay.ring_channel"
    before = await platform.connection.fetchval(ring)
    done = await asyncio.to_thread(run_script, "rotate", "channels", DATABASE_URL=database)
    assert done.returncode == 0, done.stderr
    assert "new names" in done.stdout
    assert await platform.connection.fetchval(ring) != before
    done = await asyncio.to_thread(run_script, "rotate", "cursor-key", DATABASE_URL=database)
    assert done.returncode == 0, done.stderr
    assert "servers that have read it: 0" in done.stdout


@pytest.mark.gen_test
async def test_who_may_not_is_told_who_may(
    database: str, empty_database: str, postgres: EmbeddedPostgres
) -> None:
    """And where nothing is migrated, that comes first."""
    with pytest.raises(RotateError, match="bin/migrate first"):
        await rotate_cursor_key(empty_database)
    with pytest.raises(RotateError, match="DATABASE_URL"):
        await rotate_channels("postgresql://nobody@127.0.0.1:1/none")
    postgres.sql("CREATE ROLE somebody LOGIN")
    try:
        dsn = database.replace("postgres@", "somebody@", 1)
        assert dsn != database
        with pytest.raises(RotateError, match="the role that runs bin/migrate"):
            await rotate_channels(dsn)
        with pytest.raises(RotateError, match="pg_signal_backend"):
            await rotate_cursor_key(dsn)
    finally:
        postgres.sql("DROP ROLE somebody")


@pytest.mark.gen_test
async def test_who_may_not_says_nothing(
    database: str, postgres: EmbeddedPostgres, platform: Platform
) -> None:
    """To servers that would expect new names. A role may tell, and not change them: a server's."""
    name = f"somebody_{uuid4().hex[:8]}"
    await platform.execute(
        f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA relay TO {name};"
        f" GRANT SELECT ON relay.cursor_keys TO {name};"
        f" GRANT EXECUTE ON FUNCTION relay.tell(text, text) TO {name}"
    )
    payloads = await platform.hear(RING_CHANNEL)
    try:
        dsn = database.replace("postgres@", f"{name}@", 1)
        with pytest.raises(RotateError, match=r"the role that runs bin/migrate$"):
            await rotate_channels(dsn)
        await platform.execute("SELECT relay.tell('ring', 'last')")
        await eventually(lambda: payloads)
        assert payloads == ["last"]
    finally:
        await platform.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.gen_test
async def test_channels_are_renamed_after_a_word(database: str, platform: Platform) -> None:
    """On the old names."""
    payloads = await platform.hear(RING_CHANNEL)
    await rotate_channels(database)
    await eventually(lambda: payloads)
    assert payloads == [RENAMING]
    assert not await platform.connection.fetchval("SELECT relay.is_listening()")


@pytest.mark.gen_test
async def test_two_rotations_at_once(database: str, platform: Platform) -> None:
    """One signs with its key; the other says that nothing was changed, or comes after it."""
    done = await asyncio.gather(
        rotate_cursor_key(database), rotate_cursor_key(database), return_exceptions=True
    )
    assert 0 in done
    assert all(one == 0 or isinstance(one, RotateError) for one in done)
    assert [signs for _, signs in await keys(platform)].count(True) == 1
    assert isinstance(platform.connection, asyncpg.Connection)
