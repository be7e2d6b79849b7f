"""The triggers in the session of every kind of writer: few rights, odd settings, odd actors."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from tests.integration.sql_log import Log, act_as, insert_messages
from tests.platform import Platform
from tests.serving import World


@pytest.mark.gen_test
async def test_a_writer_needs_no_rights_on_the_log(platform: Platform, world: World) -> None:
    """Rights on the tables are enough; the schema relay stays closed, its functions too."""
    await platform.execute(
        "CREATE ROLE writer; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE"
        " ON ALL TABLES IN SCHEMA public TO writer"
    )
    log = await Log.since_now(platform)
    await platform.execute("SET ROLE writer")
    try:
        await insert_messages(platform, world, 1)
        await platform.execute("UPDATE bots SET name = 'Eve'")
        await platform.execute("DELETE FROM permissions")
        for forbidden in (
            "SELECT 1 FROM relay.events",
            "SELECT relay.emit('bot:' || gen_random_uuid(), 'poll', '{}')",
            "SELECT relay.ring('messages')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await platform.execute(forbidden)
    finally:
        await platform.execute("RESET ROLE; DROP OWNED BY writer; DROP ROLE writer")
    types = [entry.type for entry in await log.entries()]
    assert types == ["chat_message", "bot_update", "permission_change", "notification", "eject"]


@pytest.mark.gen_test
async def test_a_writers_settings_do_not_show(platform: Platform, world: World) -> None:
    """The same rows make the same payloads in the oddest session, and its search_path is safe."""
    await platform.execute(
        "ALTER TABLE bots ADD COLUMN weight float8, ADD COLUMN since timestamptz"
    )
    await platform.execute("CREATE SCHEMA evil")
    await platform.execute(
        'CREATE FUNCTION evil.concat(VARIADIC "any") RETURNS text'
        " LANGUAGE internal AS 'text_concat'"
    )

    async def write(weight: str) -> list[Any]:
        log = await Log.since_now(platform)
        await platform.execute(
            f"""INSERT INTO public.messages (session_id, bot_id, user_id, role, content, created_at)
            VALUES ('{world.session}', '{world.bot}', '{world.guest}', 'user', 'a"c',
                '2023-06-01T00:00:00Z'::pg_catalog.timestamptz);
            UPDATE public.bots SET weight = {weight}, since = '2023-06-01T00:00:00Z'"""
        )
        parsed = [json.loads(text) for text in await log.texts()]
        for message in parsed:
            message.pop("timestamp")
            message["data"].pop("message_id", None)
        return parsed

    plain = await write("0.1")
    await platform.execute("UPDATE bots SET weight = NULL, since = NULL")
    await platform.execute(
        """SET extra_float_digits = -15; SET TimeZone = 'America/St_Johns';
        SET DateStyle = 'German, DMY'; SET IntervalStyle = 'sql_standard';
        SET bytea_output = 'escape'; SET standard_conforming_strings = off;
        SET escape_string_warning = off; SET quote_all_identifiers = on;
        SET xmloption = document; SET search_path = evil, pg_catalog"""
    )
    assert await write("0.1") == plain
    await platform.execute("SET search_path = ''")
    await platform.execute("UPDATE public.bots SET weight = NULL, since = NULL")
    assert await write("0.1") == plain


@pytest.mark.gen_test
@pytest.mark.parametrize("actor", ["", "nobody", "0", "{}", "' OR 1", "null", "x" * 10_000])
async def test_a_malformed_actor_is_no_actor(platform: Platform, world: World, actor: str) -> None:
    """It never fails the writer, whatever stands there."""
    await act_as(platform, actor)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE bots SET name = 'Eve'")
    await platform.execute("DELETE FROM permissions")
    update, change, *_ = await log.entries()
    assert update.message is not None
    assert update.message["data"]["updated_by"] is None
    assert change.message is not None
    assert change.message["data"]["details"]["granted_by"] is None
    assert world.bot


@pytest.mark.gen_test
async def test_an_actor_is_forgotten_with_its_transaction(platform: Platform, world: World) -> None:
    """Then the setting reads as an empty string, which counts as unset."""
    async with platform.connection.transaction():
        await platform.execute("SELECT set_config('relay.actor', $1, true)", world.guest)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE bots SET name = 'Eve'")
    assert ((await log.only()).message or {})["data"]["updated_by"] is None
