"""The doctor on triggers that are gone, off, or gone around."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import urlsplit

import pytest

from realtime.attach.attach import apply, connected
from realtime.doctor.checkup import examine
from realtime.doctor.report import Level
from realtime.doctor.triggers import wanted_triggers
from realtime.postgres.pool import AS_COMPARED
from tests.adopted import SCHEMA, mapping
from tests.doctor import ask, deployment, finds
from tests.platform import Platform
from tests.waiting import LIMIT

KINDS = ["users", "bots", "permissions", "messages", "documents"]


@pytest.mark.gen_test
async def test_the_reference_tables_are_fine(database: str, platform: Platform) -> None:
    """What the files of the migrations create is what the database has."""
    await finds(Level.FINE, "triggers", deployment(database), *(f"public.{kind}" for kind in KINDS))
    query = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'relay%'"
    assert await platform.connection.fetchval(query) == len(wanted_triggers())


@pytest.mark.gen_test
async def test_each_trigger_is_missed(database: str, platform: Platform) -> None:
    """Whichever it is: also one whose function another table still calls."""
    names = await platform.connection.fetch(
        "SELECT tgname AS name, tgrelid::regclass::text AS table FROM pg_trigger"
        " WHERE tgname LIKE 'relay%'"
    )
    made = "SELECT string_agg(pg_get_triggerdef(oid), ';' ORDER BY tgname, tgrelid) FROM pg_trigger"
    before = await platform.connection.fetchval(made)
    assert len(names) > 10
    for row in names:
        await platform.execute(f"DROP TRIGGER {row['name']} ON {row['table']}")
        event = row["name"].removeprefix("relay_").upper()
        (finding,) = await ask("triggers", deployment(database))
        assert f"public.{row['table']} has no trigger for {event}" in finding.said
        await platform.execute(finding.cure)
    await finds(Level.FINE, "triggers", deployment(database))
    assert await platform.connection.fetchval(made) == before


@pytest.mark.gen_test
async def test_a_trigger_that_is_gone_with_its_function(database: str, platform: Platform) -> None:
    """The statement that makes the trigger would fail."""
    await platform.execute("DROP FUNCTION relay.bots_updated CASCADE")
    (finding,) = await ask("triggers", deployment(database))
    assert "relay.bots_updated" in finding.said
    assert "That function is not there, either" in finding.said
    assert "bin/attach" in finding.cure


@pytest.mark.gen_test
async def test_a_table_that_lost_all_of_its_triggers(database: str, platform: Platform) -> None:
    """Its functions are left, and nothing calls them."""
    for verb in ("insert", "update", "delete"):
        await platform.execute(f"DROP TRIGGER relay_{verb} ON documents")
    await finds(
        Level.PROBLEM, "triggers", deployment(database), "no trigger calls relay.documents_inserted"
    )


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("how", "state"),
    [
        ("DISABLE TRIGGER relay_insert", "relay_insert on public.messages is disabled"),
        ("DISABLE TRIGGER USER", "relay_delete on public.messages is disabled"),
        ("ENABLE REPLICA TRIGGER relay_update", "relay_update on public.messages is enabled for"),
    ],
)
async def test_triggers_that_are_off(
    database: str, platform: Platform, how: str, state: str
) -> None:
    """As after a bulk load; what it says to run turns them on again."""
    await platform.execute(f"ALTER TABLE messages {how}")
    await finds(Level.PROBLEM, "triggers", deployment(database), state)
    for finding in await ask("triggers", deployment(database)):
        await platform.execute(finding.cure)
    await finds(Level.FINE, "triggers", deployment(database))


@pytest.mark.gen_test
async def test_triggers_that_always_fire_are_on(database: str, platform: Platform) -> None:
    """ENABLE ALWAYS is more than enough."""
    await platform.execute("ALTER TABLE messages ENABLE ALWAYS TRIGGER relay_insert")
    await finds(Level.FINE, "triggers", deployment(database))


@pytest.mark.gen_test
@pytest.mark.parametrize("name", ["again", "zz"])
async def test_a_second_trigger_for_the_same(database: str, platform: Platform, name: str) -> None:
    """Each change would be sent twice; ours stays, whichever name comes first."""
    made = await platform.connection.fetchval(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE tgrelid = 'messages'::regclass AND tgname = 'relay_insert'"
    )
    await platform.execute(made.replace("relay_insert", name, 1))
    (finding,) = await ask("triggers", deployment(database))
    assert (finding.level, finding.said) == (
        Level.PROBLEM,
        f"the triggers relay_insert and {name} on public.messages both call"
        " relay.messages_inserted: such changes are sent twice",
    )
    await platform.execute(f"ALTER TABLE messages DISABLE TRIGGER {name}")
    await finds(Level.PROBLEM, "triggers", deployment(database), f"{name} on public.messages is di")
    await platform.execute(finding.cure)
    await finds(Level.FINE, "triggers", deployment(database))


@pytest.mark.gen_test
async def test_a_trigger_with_a_condition(database: str, platform: Platform) -> None:
    """It may send nothing at all."""
    await platform.execute(
        "CREATE OR REPLACE TRIGGER relay_insert AFTER INSERT ON messages"
        " REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT WHEN (false)"
        " EXECUTE FUNCTION relay.messages_inserted()"
    )
    await finds(
        Level.PROBLEM,
        "triggers",
        deployment(database),
        "relay_insert on public.messages has a condition (WHEN)",
    )
    (finding,) = await ask("triggers", deployment(database))
    await platform.execute(finding.cure)
    await finds(Level.FINE, "triggers", deployment(database))


@pytest.mark.gen_test
async def test_the_log_alone(database: str, platform: Platform) -> None:
    """Without any table of ours: fine for those who only call relay.emit, and worth saying."""
    await platform.execute("DROP TABLE documents, messages, sessions, permissions, bots, users")
    functions = await platform.connection.fetch(
        "SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p"
        " WHERE pronamespace = 'relay'::regnamespace AND prorettype = 'trigger'::regtype"
        " AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = p.oid)"
    )
    for row in functions:
        await platform.execute(f"DROP FUNCTION {row['name']}")
    await finds(Level.WARNING, "triggers", deployment(database), "no table has any of ours")


PARTITIONED = """
CREATE TABLE notes (LIKE messages) PARTITION BY LIST (role);
CREATE TABLE notes_user PARTITION OF notes FOR VALUES IN ('user') PARTITION BY LIST (content);
CREATE TABLE notes_user_all PARTITION OF notes_user DEFAULT;
CREATE TABLE notes_rest PARTITION OF notes DEFAULT;
CREATE TRIGGER relay_insert AFTER INSERT ON notes REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON notes
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON notes REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_deleted();
"""


@pytest.mark.gen_test
async def test_partitions_without_triggers_of_their_own(database: str, platform: Platform) -> None:
    """Written to directly, they send nothing: the leaves are named, at any depth."""
    await platform.execute(PARTITIONED)
    await finds(Level.FINE, "triggers", deployment(database), "public.notes")
    await finds(
        Level.WARNING,
        "partitions",
        deployment(database),
        "partition of public.notes sends nothing: public.notes_rest, public.notes_user_all",
    )
    for leaf in ("notes_rest", "notes_user_all"):
        await platform.execute(
            re.sub(r"CREATE TABLE.*?;", "", PARTITIONED, flags=re.DOTALL).replace(
                "ON notes", f"ON {leaf}"
            )
        )
    await finds(Level.FINE, "partitions", deployment(database))
    await platform.execute("ALTER TABLE notes_rest DISABLE TRIGGER relay_insert")
    await finds(
        Level.PROBLEM,
        "triggers",
        deployment(database),
        "relay_insert on public.notes_rest is disabled",
    )


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("setting", "level"),
    [
        ("session_replication_role = replica", Level.PROBLEM),
        ("relay.quiet = 'on'", Level.WARNING),
        ("relay.two_phase = 'on'", Level.WARNING),
        ("relay.quiet = 'Yes'", Level.WARNING),
        ("relay.two_phase = 'tr'", Level.WARNING),
        ("relay.quiet = 'maybe'", Level.PROBLEM),
        ("relay.two_phase = ' '", Level.PROBLEM),
        ("relay.quiet = 'OFF'", Level.FINE),
        ("relay.two_phase = ''", Level.FINE),
    ],
)
async def test_settings_that_keep_triggers_or_rings_off(
    database: str, platform: Platform, setting: str, level: Level
) -> None:
    """For the whole database here; a role's are named with the role."""
    await finds(Level.FINE, "writers", deployment(database))
    name = await platform.connection.fetchval("SELECT current_database()")
    await platform.execute(f"ALTER DATABASE {name} SET {setting}")
    words = () if level is Level.FINE else (setting.split()[0], "every role")
    await finds(level, "writers", deployment(database), *words)


@pytest.mark.gen_test
async def test_a_platforms_own_tables(core_database: str) -> None:
    """Other names, attached to by bin/attach: everything is well, and each fault is found there."""
    there = deployment(core_database)
    own = await Platform.connect(core_database)
    await own.execute(SCHEMA)
    await finds(Level.WARNING, "triggers", there, "no table has any of ours")
    await apply(own.connection, mapping())
    report = await examine(there)
    assert report.count(Level.FINE) == len(report.lines), report.text()
    await own.execute("ALTER TABLE bot_permissions DISABLE TRIGGER USER")
    await finds(Level.PROBLEM, "triggers", there, "on public.bot_permissions is disabled")
    rows = await own.connection.fetch(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'bot_permissions'::regclass"
        " AND NOT tgisinternal AND tgtype & 32 <> 0"
    )
    await own.execute(f'DROP TRIGGER "{rows[0]["tgname"]}" ON bot_permissions')
    await finds(
        Level.PROBLEM, "triggers", there, "public.bot_permissions has no trigger for TRUNCATE"
    )
    await own.connection.close(timeout=LIMIT)


ODD_DEFAULTS = {
    "quote_all_identifiers": "on",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "xmloption": "document",
    "check_function_bodies": "off",
}


@pytest.mark.gen_test
async def test_defaults_that_change_how_text_is_written(
    core_database: str,
) -> None:
    """Of the database's: what is attached is the same, and nothing seems to have changed."""
    assert ODD_DEFAULTS.keys() == AS_COMPARED.keys()
    functions = "SELECT proname::text, prosrc FROM pg_proc ORDER BY proname, prosrc"
    own = await Platform.connect(core_database)
    await own.execute(SCHEMA)
    await apply(own.connection, mapping())
    before = await own.connection.fetch(functions)
    name = urlsplit(core_database).path[1:]
    for setting, value in ODD_DEFAULTS.items():
        await own.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    await connected(core_database, partial(apply, mapping=mapping()))
    assert await own.connection.fetch(functions) == before
    await own.connection.close(timeout=LIMIT)
    for check in ("columns", "triggers", "rights", "row security", "access", "owners"):
        await finds(Level.FINE, check, deployment(core_database))


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("ALTER TABLE messages DROP content", "public.messages has lost its column content"),
        ("ALTER TABLE messages RENAME user_id TO author", "has lost its column user_id"),
        ("ALTER TABLE documents RENAME TO files", "the table public.documents is gone"),
        (
            "ALTER TABLE messages ALTER content TYPE json USING NULL",
            "public.messages.content was text and is json now",
        ),
        (
            "ALTER TABLE messages RENAME TO old; CREATE TABLE messages (LIKE old INCLUDING ALL)",
            "public.messages has none of our triggers",
        ),
    ],
)
@pytest.mark.gen_test
async def test_tables_that_no_longer_fit(core_database: str, how: str, parts: str) -> None:
    """A writer would be the first to notice. What was attached is written down."""
    own = await Platform.connect(core_database)
    try:
        await own.execute(SCHEMA)
        await apply(own.connection, mapping())
        await finds(Level.FINE, "columns", deployment(core_database))
        await own.execute(how)
        await finds(Level.PROBLEM, "columns", deployment(core_database), parts, "run bin/attach")
    finally:
        await own.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_an_id_that_may_be_null_now(core_database: str) -> None:
    """A row without one sends nothing, and nothing else shows it."""
    own = await Platform.connect(core_database)
    try:
        await own.execute(SCHEMA)
        await apply(own.connection, mapping())
        await own.execute("ALTER TABLE messages DROP CONSTRAINT messages_pkey")
        await own.execute("ALTER TABLE messages ALTER id DROP NOT NULL")
        there = deployment(core_database)
        cure = "ALTER TABLE public.messages ALTER id SET NOT NULL"
        await finds(Level.PROBLEM, "columns", there, "rows of public.messages may have no id", cure)
    finally:
        await own.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_the_reference_tables_whose_id_may_be_null(database: str, platform: Platform) -> None:
    """The same of these, whose ids the default mapping names."""
    await platform.execute("ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE")
    await platform.execute("ALTER TABLE users ALTER id DROP NOT NULL")
    await finds(Level.PROBLEM, "columns", deployment(database), "public.users may have no id")


@pytest.mark.gen_test
async def test_the_reference_tables_without_a_column(database: str, platform: Platform) -> None:
    """They fit, until somebody drops what a function reads."""
    await finds(Level.FINE, "columns", deployment(database))
    await platform.execute("ALTER TABLE documents DROP filename")
    await finds(Level.PROBLEM, "columns", deployment(database), "lost its column filename")


@pytest.mark.parametrize(
    ("table", "column", "change", "now"),
    [
        ("messages", "content", "bytea USING ''", "bytea"),
        ("messages", "created_at", "bigint USING 0", "bigint"),
        ("users", "is_active", "text", "text"),
        ("documents", "filename", "integer USING 0", "integer"),
        ("messages", "metadata", "text", "text"),
        ("messages", "content", "varchar(9000)", None),
    ],
)
@pytest.mark.gen_test
async def test_the_reference_tables_with_a_column_of_another_type(
    database: str, platform: Platform, table: str, column: str, change: str, now: str | None
) -> None:
    """What a function does not take fails the writer; text is text, however long it may be."""
    await platform.execute(
        f"ALTER TABLE {table} ALTER {column} DROP DEFAULT, ALTER {column} TYPE {change}"
    )
    found = [] if now is None else [f"public.{table}.{column} was ", f" and is {now} now"]
    level = Level.FINE if now is None else Level.PROBLEM
    await finds(level, "columns", deployment(database), *found)
