"""Collations, languages and settings of a platform: what is told does not depend on them."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import migrate
from tests.integration.sql_log import Log, act_as
from tests.platform import Platform
from tests.serving import World

COLLATE = """
CREATE COLLATION bare (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
ALTER TABLE permissions ALTER role TYPE text COLLATE bare;
ALTER TABLE users ALTER username TYPE text COLLATE bare;
ALTER TABLE bots ALTER name TYPE text COLLATE bare;
ALTER TABLE messages ALTER role TYPE text COLLATE bare, ALTER content TYPE text COLLATE bare;
ALTER TABLE documents ALTER filename TYPE text COLLATE bare, ALTER status TYPE text COLLATE bare
"""


async def make_collations(platform: Platform) -> None:
    """Text columns that ignore case and accents."""
    try:
        await platform.execute(COLLATE)
    except asyncpg.FeatureNotSupportedError as error:
        pytest.skip(f"this PostgreSQL was built without ICU: {error}")


@pytest.mark.gen_test
async def test_a_time_is_told_digit_for_digit(platform: Platform) -> None:
    """Zeros at the end stay, whatever the session's settings of time are."""
    await platform.execute("SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kathmandu'")
    wrong = await platform.connection.fetch(
        """
        SELECT t, relay.json_time(t) AS told
          FROM unnest(ARRAY[0, 1, 10, 999999, 999990, 500000, 100000, 120000, 59999999]) AS us,
               unnest(ARRAY['0001-01-01 00:00+00', '0099-12-31 00:00+00', '1969-12-31 23:59+00',
                            '2000-02-29 12:00+00', '9999-12-31 23:59+00']::timestamptz[]) AS day,
               LATERAL (SELECT day + us * interval '1 microsecond' AS t) AS x
         WHERE relay.json_time(t) <> to_char(t AT TIME ZONE 'UTC',
                   E'\\\\"YYYY-MM-DD"T"HH24:MI:SS.US"Z"\\\\"')
        """
    )
    assert wrong == []
    now = await platform.connection.fetchval("SELECT relay.json_now()::json #>> '{}'")
    assert len(now) == len("2026-01-01T00:00:00.000000Z")


def test_days_whose_names_the_encoding_lacks_fail_no_writer(
    io_loop: IOLoop, postgres: EmbeddedPostgres
) -> None:
    """LATIN1 has no Cyrillic letters, and to_char asks for them also where it writes digits."""
    name = f"test_{uuid4().hex[:12]}"
    postgres.sql(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    migrate(postgres.dsn(name))

    async def write() -> None:
        platform = await Platform.connect(postgres.dsn(name))
        try:
            await platform.execute("SET lc_time = 'ru_RU.UTF-8'")
        except asyncpg.InvalidParameterValueError as error:
            await platform.connection.close()
            pytest.skip(f"this machine has no Russian: {error}")
        log = await Log.since_now(platform)
        owner = await platform.user()
        bot = await platform.bot(owner)
        session = await platform.session(bot, owner)
        await platform.message(session, bot, owner)
        await platform.execute("SELECT relay.emit($1, 'poll')", f"bot:{bot}")
        await platform.execute("UPDATE bots SET created_at = created_at - interval '1 day'")
        await platform.permit(bot, await platform.user())
        types = [entry.type for entry in await log.entries() if entry.type != "grant"]
        assert types == ["chat_message", "poll", "bot_update", "permission_change", "notification"]
        await platform.connection.close()

    try:
        io_loop.run_sync(write)
    finally:
        postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.gen_test
async def test_text_that_ignores_case_and_accents_is_told_as_it_is(
    platform: Platform, world: World
) -> None:
    """With such a collation PostgreSQL finds no text in another, and what differs is the same."""
    await make_collations(platform)
    await act_as(platform, world.owner)
    message = await platform.message(world.session, world.bot, world.guest, "Strasse")
    document = await platform.connection.fetchval(
        "INSERT INTO documents (bot_id, filename, status) VALUES ($1, 'a', 'failed') RETURNING id",
        world.bot,
    )
    log = await Log.since_now(platform)
    await platform.execute("UPDATE messages SET content = 'stra\u00dfe' WHERE id = $1", message)
    await platform.execute("UPDATE documents SET status = 'F\u00e1iled' WHERE id = $1", document)
    await platform.execute("UPDATE bots SET name = upper(name)")
    edited, updated, renamed = await log.messages()
    assert edited["data"]["content"] == "stra\u00dfe"
    # What has not failed by its letters has no error.
    assert updated["data"]["document"] == {
        "id": str(document),
        "filename": "a",
        "status": "F\u00e1iled",
    }
    assert renamed["data"]["details"].keys() == {"name"}


@pytest.mark.gen_test
async def test_access_by_text_that_ignores_case_and_accents(
    platform: Platform, world: World
) -> None:
    """Roles are told whatever their collation, and only the letters of 'owner' make an owner."""
    await make_collations(platform)
    role = "UPDATE permissions SET role = $1 WHERE user_id = $2"
    guest = await platform.connection.fetchval(
        "SELECT role FROM permissions WHERE user_id = $1", world.guest
    )
    log = await Log.since_now(platform)
    for wanted in (guest.upper(), "OWNER", "owner"):
        await platform.execute(role, wanted, world.guest)
    told = [
        one["data"]["details"]["role"]
        for one in await log.messages()
        if one["type"] == "permission_change"
    ]
    assert told == [guest.upper(), "OWNER", "owner"]
    # A transfer in one statement: each trigger asks what was told last.
    await platform.execute(
        "WITH p AS (UPDATE permissions SET role = 'editor' WHERE user_id = $1)"
        " UPDATE bots SET owner_id = $1::uuid",
        world.guest,
    )
    await platform.execute("UPDATE bots SET owner_id = $1", world.owner)
    assert await log.entries()


@pytest.mark.gen_test
async def test_what_any_sql_may_call_takes_text_of_any_collation(
    platform: Platform, world: World
) -> None:
    """As an argument from a column: its collation comes along."""
    await make_collations(platform)
    topic, user = f"'bot:{world.bot}' COLLATE bare", f"'{world.guest}'"
    log = await Log.since_now(platform)
    await platform.execute(f"SELECT relay.emit({topic}, '\u00f6pen' COLLATE bare)")
    await platform.execute(f"SELECT relay.notify_user({user}, 'p\u00f6ll' COLLATE bare)")
    await platform.execute(f"SELECT relay.grant({user}, {topic})")
    await platform.execute(f"SELECT relay.eject({user}, {topic})")
    assert [entry.type for entry in await log.entries()] == [
        "\u00f6pen",
        "notification",
        "grant",
        "eject",
    ]
    assert await platform.connection.fetchval(f"SELECT relay.cursor({topic})")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="belongs to the protocol"):
        await platform.execute(f"SELECT relay.emit({topic}, 'Ping' COLLATE bare)")
    for wrong in ("no such", world.bot):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="no such kind of topic"):
            await platform.execute(f"SELECT relay.cursor('{wrong}' COLLATE bare)")
    assert await platform.connection.fetchval("SELECT relay.uuid_or_null('x' COLLATE bare)") is None
