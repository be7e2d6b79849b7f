"""The triggers under every kind of statement that can reach them."""

from __future__ import annotations

import time

import asyncpg
import pytest

from tests.integration.sql_log import Log, insert_messages
from tests.platform import Platform
from tests.serving import World
from tests.waiting import LIMIT


@pytest.mark.gen_test
async def test_a_thousand_rows_are_a_thousand_events_in_order(
    platform: Platform, world: World
) -> None:
    """One each, in the order in which the statement wrote them."""
    log = await Log.since_now(platform)
    await insert_messages(platform, world, 1000)
    contents = [message["data"]["content"] for message in await log.messages()]
    assert contents == [f"number {n}" for n in range(1, 1001)]


@pytest.mark.gen_test
async def test_on_conflict_counts_like_what_it_does(platform: Platform, world: World) -> None:
    """Inserted rows are granted, updated ones updated, those left alone nothing."""
    user = await platform.user()
    upsert = """INSERT INTO permissions (bot_id, user_id, role)
        VALUES ($1, $2, 'editor'), ($1, $3, 'editor')
        ON CONFLICT (bot_id, user_id) DO """
    log = await Log.since_now(platform)
    arguments = (world.bot, world.guest, user)
    await platform.execute(upsert + "UPDATE SET role = excluded.role", *arguments)
    assert sorted(await log.actions()) == [
        ("notification", "granted"),
        ("notification", "updated"),
        ("permission_change", "granted"),
        ("permission_change", "updated"),
    ]
    await platform.execute(upsert + "NOTHING", *arguments)
    assert await log.entries() == []


@pytest.mark.gen_test
async def test_merge_counts_like_what_it_does(platform: Platform, world: World) -> None:
    """One statement that inserts, updates and deletes."""
    added, removed = await platform.user(), await platform.user()
    await platform.permit(world.bot, removed)
    log = await Log.since_now(platform)
    await platform.execute(
        """MERGE INTO permissions AS p
        USING (VALUES ($1::uuid, 'admin'), ($2::uuid, 'viewer'), ($3::uuid, NULL)) AS v (id, role)
        ON p.bot_id = $4 AND p.user_id = v.id
        WHEN MATCHED AND v.role IS NULL THEN DELETE
        WHEN MATCHED THEN UPDATE SET role = v.role
        WHEN NOT MATCHED THEN INSERT (bot_id, user_id, role) VALUES ($4, v.id, v.role)""",
        world.guest,
        added,
        removed,
        world.bot,
    )
    assert sorted(await log.actions()) == [
        ("eject", "revoked"),
        *[("notification", action) for action in ("granted", "revoked", "updated")],
        *[("permission_change", action) for action in ("granted", "revoked", "updated")],
    ]


@pytest.mark.gen_test
async def test_copy_counts_like_inserts(platform: Platform, world: World) -> None:
    """One event a row."""
    log = await Log.since_now(platform)
    await platform.connection.copy_records_to_table(
        "messages",
        records=[(world.session, world.bot, world.guest, "user", text) for text in "abc"],
        columns=["session_id", "bot_id", "user_id", "role", "content"],
    )
    assert [message["data"]["content"] for message in await log.messages()] == ["a", "b", "c"]


@pytest.mark.gen_test
async def test_one_statement_over_several_tables_sends_for_each(
    platform: Platform, world: World
) -> None:
    """The message finds the name of a user whom the same statement makes."""
    log = await Log.since_now(platform)
    await platform.execute(
        """WITH u AS (INSERT INTO users (username) VALUES ('new') RETURNING id),
        p AS (INSERT INTO permissions (bot_id, user_id, role) SELECT $1, id, 'viewer' FROM u),
        d AS (DELETE FROM permissions WHERE user_id = $2),
        e AS (DELETE FROM permissions WHERE role = 'nobody'),
        b AS (UPDATE bots SET name = 'Eve' RETURNING id)
        INSERT INTO messages (session_id, bot_id, user_id, role, content)
        SELECT $3, b.id, u.id, 'user', '' FROM u, b""",
        world.bot,
        world.guest,
        world.session,
    )
    entries = await log.entries()
    names = [e.message["data"].get("username") for e in entries if e.message and not e.code]
    assert "new" in names
    assert sorted(entry.type for entry in entries) == sorted(
        ["notification", "permission_change"] * 2 + ["eject", "bot_update", "chat_message", "grant"]
    )


@pytest.mark.gen_test
async def test_a_rolled_back_savepoint_sends_nothing(platform: Platform, world: World) -> None:
    """The rest of its transaction is sent; a rolled-back transaction leaves no trace."""
    log = await Log.since_now(platform)
    async with platform.connection.transaction():
        await insert_messages(platform, world, 1)
        await platform.execute("SAVEPOINT s")
        await insert_messages(platform, world, 5)
        await platform.execute("ROLLBACK TO s")
    assert len(await log.messages()) == 1
    await platform.execute("BEGIN")
    await insert_messages(platform, world, 1)
    await platform.execute("ROLLBACK")
    assert await log.entries() == []


@pytest.mark.gen_test
async def test_a_large_statement_after_small_ones_is_no_slower_than_its_rows(
    platform: Platform, world: World
) -> None:
    """A plan kept from a single row must not compare twenty thousand rows pairwise."""
    await platform.execute(
        "INSERT INTO bots (name, owner_id) SELECT n::text, $1 FROM generate_series(1, 20000) AS n",
        world.owner,
    )
    await platform.execute(
        "INSERT INTO users (username) SELECT n::text FROM generate_series(1, 20000) n"
    )
    for n in range(7):
        await platform.execute("UPDATE bots SET name = $1 WHERE id = $2", f"{n}", world.bot)
        await platform.execute("UPDATE users SET email = $1 WHERE id = $2", f"{n}", world.guest)
    log = await Log.since_now(platform)
    started = time.monotonic()
    await platform.execute("UPDATE bots SET name = name || '!'")
    await platform.execute("UPDATE users SET is_active = false")
    assert time.monotonic() - started < 10  # a nested loop takes minutes
    assert len(await log.texts()) == 20_001


@pytest.mark.gen_test
async def test_a_trigger_locks_no_other_row(
    platform: Platform, world: World, database: str
) -> None:
    """While the writer's transaction is open, others may lock the bot and its users."""
    other = await asyncpg.connect(database)
    try:
        async with platform.connection.transaction():
            await platform.execute("DELETE FROM permissions")
            await platform.execute("DELETE FROM messages")
            for table in ("users", "bots"):
                await other.execute(f"SELECT 1 FROM {table} FOR UPDATE NOWAIT")
    finally:
        await other.close()
    assert world.bot


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("bots", "DELETE FROM messages"),
        ("bots", "DELETE FROM documents"),
        ("permissions", "UPDATE bots SET name = name || '!'"),
    ],
)
async def test_a_writer_waits_for_no_table_that_its_trigger_does_not_read(
    platform: Platform, world: World, database: str, table: str, statement: str
) -> None:
    """A migration may have locked it, and may come to the writer's table next."""
    await insert_messages(platform, world, 2)
    await platform.execute("INSERT INTO documents (bot_id, filename) VALUES ($1, 'a')", world.bot)
    migration = await asyncpg.connect(database)
    try:
        async with migration.transaction():
            await migration.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await platform.execute("SET lock_timeout = '100ms'")
            log = await Log.since_now(platform)
            await platform.execute(statement)
            assert await log.entries()
    finally:
        await migration.close()


@pytest.mark.gen_test
async def test_serializable_writers_do_not_fail_each_other(
    platform: Platform, world: World, database: str
) -> None:
    """The triggers read no table of the platform's that a writer would not read."""
    await insert_messages(platform, world, 2)
    mine, theirs = await platform.connection.fetch("SELECT id FROM messages")
    other = Platform(await asyncpg.connect(database, timeout=LIMIT))
    edit = "UPDATE messages SET content = content || '!' WHERE id = $1"
    try:
        for writer in (platform, other):
            await writer.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        for writer, message in ((platform, mine), (other, theirs)):
            await insert_messages(writer, world, 1)
            await writer.execute(edit, message["id"])
            await insert_messages(writer, world, 1)
        await platform.execute("COMMIT")
        await other.execute("COMMIT")
    finally:
        await other.connection.close()
    assert await platform.connection.fetchval("SELECT count(*) FROM messages") == 6


@pytest.mark.gen_test
async def test_a_mark_goes_with_its_savepoint(platform: Platform, world: World) -> None:
    """What was done in it and undone is no reason to read, and no harm either."""
    log = await Log.since_now(platform)
    await insert_messages(platform, world, 1)
    await platform.execute(
        f"""DO $$
        DECLARE
            message uuid;
        BEGIN
            BEGIN
                UPDATE messages SET content = 'undone';
                RAISE EXCEPTION 'undo';
            EXCEPTION WHEN raise_exception THEN
                ASSERT coalesce(current_setting('relay.messages', true), '') NOT LIKE '%!';
            END;
            INSERT INTO messages (session_id, bot_id, user_id, role, content)
            VALUES ('{world.session}', '{world.bot}', '{world.guest}', 'user', 'kept')
            RETURNING id INTO message;
            UPDATE messages SET content = 'kept, and edited' WHERE id = message;
        END $$"""
    )
    contents = [message["data"]["content"] for message in await log.messages()]
    assert contents == ["number 1", "kept", "kept, and edited"]


OWN_TRIGGER = """
CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() = 1 THEN
        {acts};
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER own AFTER INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION own()
"""


@pytest.mark.gen_test
async def test_what_is_inserted_beside_a_change_does_not_hide_it(
    platform: Platform, world: World
) -> None:
    """A trigger of the platform's changes the row that was written, and then writes another."""
    acts = """UPDATE messages SET content = content || ', edited' WHERE id = NEW.id;
        INSERT INTO messages (session_id, bot_id, user_id, role, content)
        VALUES (NEW.session_id, NEW.bot_id, NEW.user_id, 'system', 'beside it')"""
    await platform.execute(OWN_TRIGGER.format(acts=acts))
    log = await Log.since_now(platform)
    await insert_messages(platform, world, 1)
    told = [(one["type"], one["data"]["content"]) for one in await log.messages()]
    edited = "number 1, edited"
    assert told == [
        ("chat_message_update", edited),
        ("chat_message", "beside it"),
        ("chat_message", edited),
    ]


@pytest.mark.gen_test
@pytest.mark.parametrize("statement", ["INSERT", "UPDATE"])
async def test_a_change_that_alone_is_not_told_is_told_with_the_row(
    platform: Platform, world: World, statement: str
) -> None:
    """A trigger of the platform's sets a time; whoever is told of the row is told of that, too."""
    await insert_messages(platform, world, 1)
    acts = "UPDATE messages SET created_at = '2001-02-03Z' WHERE id = NEW.id"
    await platform.execute(OWN_TRIGGER.format(acts=acts))
    log = await Log.since_now(platform)
    if statement == "INSERT":
        await insert_messages(platform, world, 1)
    else:
        await platform.execute("UPDATE messages SET content = 'changed'")
    (message,) = await log.messages()
    assert message["data"]["timestamp"] == "2001-02-03T00:00:00.000000Z"


@pytest.mark.gen_test
async def test_a_computed_column_of_a_bot(platform: Platform, world: World) -> None:
    """One that is stored is told; one that is computed when it is read has no value here."""
    is_18 = platform.connection.get_server_version().major >= 18
    await platform.execute(
        "ALTER TABLE bots ADD COLUMN loud text GENERATED ALWAYS AS (upper(name)) STORED"
    )
    if is_18:
        await platform.execute(
            "ALTER TABLE bots ADD COLUMN soft text GENERATED ALWAYS AS (lower(name)) VIRTUAL"
        )
    log = await Log.since_now(platform)
    await platform.execute("UPDATE bots SET name = 'Eve'")
    await platform.execute("UPDATE bots SET name = 'Bob'; UPDATE bots SET name = 'Max'")
    details = [message["data"]["details"] for message in await log.messages()]
    assert details == [{"name": name, "loud": name.upper()} for name in ("Eve", "Bob", "Max")]
    assert world.bot
