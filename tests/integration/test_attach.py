"""Attaching to tables that are there already: what is refused, what is put on, what is left."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from tornado.ioloop import IOLoop

from realtime.attach.attach import apply, detach, plan, removal_script
from realtime.attach.mapping import PlatformMapping, read_mapping
from realtime.attach.state import AttachError
from realtime.doctor.report import Level
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import SchemaError, check_schema
from tests.adopted import SCHEMA, Adopted, catalogue
from tests.adopted import mapping as adopted_mapping
from tests.commands import ROOT
from tests.doctor import ask, deployment
from tests.integration.test_schema import config_for
from tests.unit.test_mapping import mapping
from tests.unit.test_readme import code_blocks
from tests.waiting import LIMIT

ADOPTED = Path(__file__).parents[1].joinpath("adopted.toml").read_text("utf-8")


@pytest.fixture
def adopted(io_loop: IOLoop, core_database: str) -> Iterator[Adopted]:
    """A platform's tables beside the log."""
    adopted = Adopted(io_loop.run_sync(lambda: asyncpg.connect(core_database, timeout=LIMIT)))
    io_loop.run_sync(lambda: adopted.execute(SCHEMA))
    yield adopted
    io_loop.run_sync(lambda: adopted.connection.close(timeout=LIMIT))


def changed(more: str) -> PlatformMapping:
    """The platform's mapping, with a line replaced or added under a table's heading."""
    heading, _, line = more.partition("\n")
    key = line.split(" = ", maxsplit=1)[0]
    lines, current = [], ""
    for one in ADOPTED.splitlines():
        current = one if one.startswith("[") else current
        if current != heading or not one.startswith(f"{key} ="):
            lines.append(one)
        if one == heading:
            lines.append(line)
    text = "\n".join(lines)
    return mapping(text if heading in ADOPTED else f"{text}\n{more}")


# A trigger of the platform's own, which changes what was just written.
EDITS = """
CREATE FUNCTION edit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE messages SET content = 'edited' WHERE id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER edit AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION edit()
"""


async def problems(adopted: Adopted, wanted: PlatformMapping) -> str:
    with pytest.raises(AttachError) as raised:
        await apply(adopted.connection, wanted)
    return str(raised.value)


async def last_message(adopted: Adopted) -> dict[str, Any]:
    payload = await adopted.connection.fetchval(
        "SELECT payload FROM relay.events WHERE payload IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    message: dict[str, Any] = json.loads(payload)
    return message


async def triggers(adopted: Adopted) -> int:
    count: int = await adopted.connection.fetchval(
        "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'relay%'"
    )
    return count


# What is refused


@pytest.mark.parametrize(
    ("ddl", "change", "complaint"),
    [
        (
            "DROP TABLE documents",
            "[x]",
            "documents: there is no table public.documents: name yours",
        ),
        ("DROP TABLE documents", "[x]", "or write documents = false"),
        (
            "ALTER TABLE messages RENAME content TO body",
            "[x]",
            "messages.content: public.messages has no column content: name the one that holds it",
        ),
        (
            "ALTER TABLE documents DROP filename",
            "[x]",
            "documents.filename, or write false if there is none",
        ),
        (
            "ALTER TABLE documents DROP id, ADD id bigserial",
            "[x]",
            "documents.id: column public.documents.id is bigint; ids on the wire are UUIDs, so"
            " this has to be uuid: add a column, uuid GENERATED ALWAYS AS (f(id)) STORED NOT NULL",
        ),
        (
            "ALTER TABLE documents ALTER uploaded_by TYPE text",
            "[x]",
            "documents.uploaded_by is text; ids on the wire are UUIDs, so this has to be uuid:"
            ' write { sql = "f(uploaded_by)" }, by the f of the ids that it refers to',
        ),
        (
            "ALTER TABLE bot_permissions DROP CONSTRAINT bot_permissions_user_id_fkey,"
            " ALTER user_id TYPE text",
            "[x]",
            "add a column, uuid GENERATED ALWAYS AS (f(user_id)) STORED by the f of the ids",
        ),
        (
            "ALTER TABLE messages ALTER content TYPE json USING NULL",
            "[x]",
            "messages.content is json; this has to be text",
        ),
        (
            "ALTER TABLE messages ALTER message_metadata TYPE text",
            "[x]",
            '"message_metadata" is text; this has to be json or jsonb; or write false',
        ),
        (
            "ALTER TABLE messages ALTER created_at TYPE date",
            "[x]",
            "created_at is date; this has to be timestamptz or timestamp (which counts as UTC); or"
            " write false, to do without; or give an expression, as"
            ' { sql = "created_at::timestamp" }',
        ),
        (
            "ALTER TABLE users ALTER is_active DROP DEFAULT, ALTER is_active TYPE int USING 1",
            "[x]",
            "users.is_active is integer; this has to be boolean; or write false, to do without; or"
            ' give an expression, as { sql = "is_active <> 0" }',
        ),
        *(
            (
                "CREATE TYPE user_state AS ENUM ('active', 'blocked'); ALTER TABLE users ALTER"
                f" is_active DROP DEFAULT, ALTER is_active TYPE {type_} USING 'active'",
                "[x]",
                f"users.is_active is {shown}; this has to be boolean; or write false, to do"
                " without; or give an expression, as { sql = \"is_active = 'active'\" }",
            )
            for type_, shown in (("text", "text"), ("user_state", "public.user_state"))
        ),
        (
            "ALTER TABLE documents RENAME TO d; CREATE VIEW documents AS SELECT * FROM d",
            "[x]",
            "documents: public.documents is a view",
        ),
        (
            "ALTER TABLE documents RENAME TO d;"
            " CREATE MATERIALIZED VIEW documents AS SELECT * FROM d",
            "[x]",
            "documents: public.documents is a materialized view",
        ),
        (
            "DROP TABLE documents; CREATE TABLE p (id uuid) PARTITION BY HASH (id);"
            " CREATE TABLE documents PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "[x]",
            "documents: public.documents is a partition",
        ),
        (
            "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE",
            "[x]",
            "users.id: several rows of public.users could have one id",
        ),
        *(
            (
                f"ALTER TABLE {key} DROP CONSTRAINT {key}_pkey CASCADE, ADD UNIQUE (id),"
                " ALTER id DROP NOT NULL",
                "[x]",
                f"{key}.id: rows of public.{key} may have no id: give each row one, then"
                f" ALTER TABLE public.{key} ALTER id SET NOT NULL",
            )
            for key in ("users", "bots", "messages", "documents")
        ),
        (
            "ALTER TABLE documents ADD uid uuid"
            " GENERATED ALWAYS AS (md5(filename)::uuid) STORED UNIQUE",
            '[documents]\nid = "uid"',
            'ALTER TABLE public.documents ALTER "uid" SET NOT NULL',
        ),
        (
            'ALTER TABLE users ADD "isOn" int',
            '[users]\nis_active = "isOn"',
            """give an expression, as { sql = '"isOn" <> 0' }""",
        ),
        (
            'ALTER TABLE users ADD "isOn" text',
            '[users]\nis_active = "isOn"',
            """as { sql = '''"isOn" = 'active'''' }""",
        ),
        (
            'ALTER TABLE bots ADD "ownerId" bigint',
            '[bots]\nowner_id = "ownerId"',
            """write { sql = 'f("ownerId")' }, by the f of the ids""",
        ),
        (
            'ALTER TABLE documents ADD "Number" bigint',
            '[documents]\nid = "Number"',
            'uuid GENERATED ALWAYS AS (f("Number")) STORED NOT NULL UNIQUE, and name it',
        ),
        (
            'ALTER TABLE conversation_sessions ADD "botId" bigint',
            '[messages]\nbot_id = { through = "session_id", table = "conversation_sessions",'
            ' column = "botId" }',
            'add a column to public."conversation_sessions", uuid GENERATED ALWAYS AS (f("botId"))'
            " STORED by the f of the ids that it refers to, and name it as `column`",
        ),
        (
            "SELECT 1",
            "[messages]\nuser_id = { sql = '1' }",
            "the value is integer; ids on the wire are UUIDs, so this has to be uuid: make one of"
            " it by the f of the ids that it refers to",
        ),
        ("SELECT 1", '[bots]\nuntold = ["api_kye"]', 'no column public.bots."api_kye"'),
        ("SELECT 1", '[permissions]\nrole = "rule"', "permissions.role, or write false"),
    ],
)
@pytest.mark.gen_test
async def test_what_does_not_fit_is_refused(
    adopted: Adopted, ddl: str, change: str, complaint: str
) -> None:
    """The line names the table, the column, the type it has, and the way out; nothing is done."""
    await adopted.execute(ddl)
    wanted = adopted_mapping() if change == "[x]" else changed(change)
    assert complaint in await problems(adopted, wanted)
    assert await triggers(adopted) == 0


# What is written after a column was given another type, and what the event then has. None: writing
# has to fail, for the type is one that attaching refuses.
NOON = "2026-01-31T12:00:00.000000Z"


@pytest.mark.parametrize(
    ("first", "then", "value", "told"),
    [
        ("", "created_at TYPE timestamptz", "'2026-01-31 12:00:00+00'", NOON),
        ("created_at TYPE timestamptz", "created_at TYPE timestamp", "'2026-01-31 12:00:00'", NOON),
        ("", "created_at TYPE date", "'2026-01-31'", NOON.replace("12", "00")),
        ("", "created_at TYPE text", "'2026-01-31 12:00:00'", None),
        ("", "message_metadata TYPE jsonb USING NULL", "'{\"a\":   1}'", {"a": 1}),
        ("message_metadata TYPE jsonb USING NULL", "message_metadata TYPE json", "'{}'", {}),
        ("", "message_metadata TYPE text", '\'{},"content":"forged"\'', None),
        ("message_metadata TYPE jsonb USING NULL", "message_metadata TYPE text", "'{}'", None),
        ("", "role TYPE text", "'user'", "user"),
        ("", "role TYPE bpchar", "'user  '", "user"),
        ("", "role TYPE integer USING 1", "1", None),
        ("", "role TYPE json USING NULL", "'{}'", None),
        ("role TYPE bot_role USING 'OWNER'", "role TYPE integer USING 1", "1", None),
        ("role TYPE mood_too USING 'sad'", "role TYPE text", "'{}'", None),
        ("", "content TYPE varchar", "'12'", "12"),
        ("", "content TYPE integer USING 1", "12", None),
        ("", "content TYPE jsonb USING NULL", "'12'", None),
        ("", "user_id TYPE text", "'00000000-0000-4000-8000-000000000001'", None),
    ],
)
@pytest.mark.gen_test
async def test_a_type_that_changes_later_is_read_right_or_fails(
    adopted: Adopted, first: str, then: str, value: str, told: object
) -> None:
    """Never is an event sent that says something else, also not in a session that wrote before."""
    await adopted.execute(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN mood_too AS mood;"
        "ALTER TABLE messages DROP CONSTRAINT messages_user_id_fkey, ALTER created_at DROP DEFAULT"
    )
    if first:
        await adopted.execute(f"ALTER TABLE messages ALTER {first}")
    await apply(adopted.connection, adopted_mapping())
    bot = await adopted.insert("bots", name="Ada")
    await adopted.insert("messages", bot_id=bot)
    await adopted.execute("UPDATE messages SET content = 'x'")
    await adopted.execute(f"ALTER TABLE messages ALTER {then}; SET timezone = 'America/New_York'")
    column = then.split()[0]
    insert = f"INSERT INTO messages (bot_id, {column}) VALUES ('{bot}', {value})"
    other = "role" if column == "content" else "content"
    update = f"UPDATE messages SET {other} = 'other', {column} = {value}"
    word = {"created_at": "timestamp", "message_metadata": "metadata"}.get(column, column)
    if told is None:
        for written in (insert, update):
            with pytest.raises((asyncpg.UndefinedFunctionError, asyncpg.DatatypeMismatchError)):
                await adopted.execute(written)
    else:
        await adopted.execute(insert)
        assert (await last_message(adopted))["data"][word] == told
        await adopted.execute(update)
        assert (await last_message(adopted))["data"][word] == told


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("", "is_active TYPE integer USING 1"),
        ("is_active TYPE flag", "is_active TYPE integer USING 1"),
        ("is_active TYPE flag", "is_active TYPE text"),
    ],
)
@pytest.mark.gen_test
async def test_a_flag_that_is_one_no_more_lets_nobody_in(
    adopted: Adopted, first: str, then: str
) -> None:
    """Nor does anybody write it."""
    await adopted.execute(
        "CREATE DOMAIN flag AS boolean; ALTER TABLE users ALTER is_active DROP DEFAULT"
    )
    if first:
        await adopted.execute(f"ALTER TABLE users ALTER {first}")
    await apply(adopted.connection, adopted_mapping())
    await adopted.insert("users", username="olga", is_active=True)
    await adopted.execute("UPDATE users SET is_active = false")
    await adopted.execute(f"ALTER TABLE users ALTER {then}")
    for query in (
        "UPDATE users SET username = 'eve'",
        "SELECT relay.authenticate('eve', 'username')",
    ):
        with pytest.raises(asyncpg.PostgresError, match="boolean"):
            await adopted.execute(query)


@pytest.mark.gen_test
async def test_all_that_is_wrong_is_said_at_once(adopted: Adopted) -> None:
    """One line each: the default mapping is not this platform's."""
    said = await problems(adopted, read_mapping())
    assert len(said.splitlines()) == 6
    for key in ("bots.updated_by", "permissions", "messages.metadata", "documents.status"):
        assert f"\n  {key}: " in said


@pytest.mark.gen_test
async def test_a_foreign_table_is_refused(adopted: Adopted) -> None:
    """Its rows are written elsewhere."""
    await adopted.execute(
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER far FOREIGN DATA WRAPPER nothing;"
        " DROP TABLE documents; CREATE FOREIGN TABLE documents (id uuid) SERVER far"
    )
    assert "documents: public.documents is a foreign table" in await problems(
        adopted, adopted_mapping()
    )


FAR = "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER far FOREIGN DATA WRAPPER nothing;"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("made", "cure"),
    [
        (
            "{PARTITIONED}; CREATE TABLE older PARTITION OF messages"
            " FOR VALUES FROM (MINVALUE) TO ('2010-01-01') PARTITION BY RANGE (created_at);"
            " CREATE FOREIGN TABLE away PARTITION OF older DEFAULT SERVER far",
            "ALTER TABLE public.older DETACH PARTITION public.away",
        ),
        (
            "CREATE FOREIGN TABLE away () INHERITS (messages) SERVER far",
            "ALTER FOREIGN TABLE public.away NO INHERIT public.messages",
        ),
    ],
)
async def test_a_foreign_table_below_one_is_refused_and_found_later(
    adopted: Adopted, core_database: str, made: str, cure: str
) -> None:
    """PostgreSQL lets the writers of what triggers cannot be shown fail."""
    partitioned = PARTITIONED.replace("(MINVALUE)", "('2010-01-01')")
    await adopted.execute(FAR + made.replace("{PARTITIONED}", partitioned))
    assert "messages: public.messages has foreign tables below it" in (
        said := await problems(adopted, adopted_mapping())
    )
    assert said.endswith(cure)
    await adopted.execute(cure)
    await apply(adopted.connection, adopted_mapping())
    back = "ALTER FOREIGN TABLE away INHERIT messages"
    if "PARTITION" in cure:
        back = "ALTER TABLE older ATTACH PARTITION away DEFAULT"
    await adopted.execute(back)
    (finding,) = [
        one for one in await ask("partitions", deployment(core_database)) if "foreign" in one.said
    ]
    assert (finding.level, finding.cure) == (Level.PROBLEM, cure)


@pytest.mark.gen_test
async def test_a_virtual_column_is_refused(adopted: Adopted) -> None:
    """From PostgreSQL 18 on; triggers are not shown what it computes."""
    if adopted.connection.get_server_version().major < 18:
        pytest.skip("this PostgreSQL has no virtual columns")
    await adopted.execute(
        "ALTER TABLE users DROP is_active,"
        " ADD is_active boolean GENERATED ALWAYS AS (hashed_password IS NOT NULL) VIRTUAL"
    )
    assert "make it STORED" in await problems(adopted, adopted_mapping())


@pytest.mark.gen_test
async def test_the_reference_tables_are_not_attached_to_twice(database: str) -> None:
    """Their triggers are the migration's."""
    connection = await asyncpg.connect(database)
    try:
        with pytest.raises(AttachError, match="has the reference tables"):
            await apply(connection, read_mapping())
        with pytest.raises(AttachError, match="has the reference tables"):
            await detach(connection)
    finally:
        await connection.close()


@pytest.mark.gen_test
async def test_without_the_log_there_is_nothing_to_attach_to(empty_database: str) -> None:
    """The line says what to run."""
    connection = await asyncpg.connect(empty_database)
    try:
        with pytest.raises(AttachError, match="bin/migrate --core"):
            await apply(connection, read_mapping())
    finally:
        await connection.close()


@pytest.mark.gen_test
async def test_the_log_has_to_be_of_this_release(adopted: Adopted) -> None:
    """What the functions call is not there before; to detach needs nothing of it."""
    await apply(adopted.connection, adopted_mapping())
    await adopted.execute("DROP FUNCTION relay.message_event, relay.json_data CASCADE")
    assert "older release: run bin/migrate" in await problems(adopted, adopted_mapping())
    assert await detach(adopted.connection) > 0


@pytest.mark.gen_test
async def test_what_is_probably_not_meant_is_a_warning(adopted: Adopted) -> None:
    """Names that two may have, and permissions of which there may be several."""
    assert (await plan(adopted.connection, adopted_mapping())).warnings == []
    await adopted.execute(
        "ALTER TABLE users DROP CONSTRAINT users_username_key;"
        " ALTER TABLE bot_permissions DROP CONSTRAINT bot_permissions_pkey"
    )
    names, several = (await plan(adopted.connection, adopted_mapping())).warnings
    assert "do not set JWT_SUBJECT=username" in names
    assert "no unique index on bot and user" in several
    assert "may read the whole table" in several
    await adopted.execute("CREATE INDEX ON bot_permissions (user_id, bot_id)")
    [_, several] = (await plan(adopted.connection, adopted_mapping())).warnings
    assert several.endswith("which role counts is not said")


@pytest.mark.gen_test
@pytest.mark.parametrize("name", ["deleted_at", "Deleted At"])
async def test_an_index_over_the_permissions_that_are_not_deleted(
    adopted: Adopted, name: str
) -> None:
    """It is unique as far as it has to be; one over other rows is not."""
    wanted = changed(f'[permissions]\ndeleted_at = "{name}"')
    await adopted.execute(
        "ALTER TABLE bot_permissions DROP CONSTRAINT bot_permissions_pkey;"
        f' ALTER TABLE bot_permissions ADD "{name}" timestamptz;'
        " CREATE UNIQUE INDEX live ON bot_permissions (bot_id, user_id)"
        f' WHERE "{name}" IS NULL'
    )
    assert (await plan(adopted.connection, wanted)).warnings == []
    await adopted.execute(
        "DROP INDEX live; CREATE UNIQUE INDEX ON bot_permissions (bot_id, user_id)"
        f' WHERE "{name}" IS NOT NULL'
    )
    [warning] = (await plan(adopted.connection, wanted)).warnings
    assert "may read the whole table" in warning


# What is put on


@pytest.mark.gen_test
async def test_names_of_every_kind(core_database: str) -> None:
    """Capitals, spaces, quotes, words of SQL's and attempts at more: each is one name."""
    connection = await asyncpg.connect(core_database)
    evil = 'x"; DROP TABLE "order"; --'
    q = '"' + evil.replace('"', '""') + '"'
    await connection.execute(
        f"""CREATE SCHEMA "My App";
        CREATE TABLE "My App"."user" ("Id" uuid PRIMARY KEY, "select" text UNIQUE,
            kind text DEFAULT 'id', subject text DEFAULT 'x', user_id uuid, u text);
        CREATE TABLE "My App".{q} ("$1" uuid PRIMARY KEY, "it's" uuid, "a 'secret'" text,
            at text, actor text, n text, o text, bot_id uuid, b text);
        CREATE TABLE "My App"."order" (at uuid NOT NULL, actor uuid, n uuid, {q} text,
            "o.id" json)"""
    )
    wanted = mapping(
        f"""schema = "My App"
        documents = false
        permissions = false
        [users]
        table = "user"
        id = "Id"
        username = "select"
        is_active = false
        [bots]
        table = {json.dumps(evil)}
        id = "$1"
        name = false
        owner_id = "it's"
        updated_by = false
        untold = ["a 'secret'"]
        [messages]
        table = "order"
        id = "at"
        bot_id = "actor"
        session_id = false
        user_id = "n"
        role = false
        content = {json.dumps(evil)}
        metadata = "o.id"
        created_at = false"""
    )
    try:
        await apply(connection, wanted)
        assert (await apply(connection, wanted)).is_done
        user, bot, message = uuid4(), uuid4(), uuid4()
        await connection.execute('INSERT INTO "My App"."user" VALUES ($1, \'olga\')', user)
        await connection.execute(f"INSERT INTO \"My App\".{q} VALUES ($1, $2, '')", bot, user)
        named = await connection.fetch("SELECT * FROM relay.authenticate('olga', 'username')")
        assert [row["user_id"] for row in named] == [user]
        assert not await connection.fetch("SELECT * FROM relay.authenticate('olga', 'id')")
        allowed = await connection.fetchrow("SELECT * FROM relay.authorize($1, $2)", user, bot)
        assert tuple(allowed) == (None, "owner", "olga")
        adopted = Adopted(connection)
        await adopted.execute(
            'INSERT INTO "My App"."order" VALUES ($1, $2, $3, $4, $5)', message, bot, user, "", "[]"
        )
        assert (await last_message(adopted))["data"] == {
            "message_id": str(message),
            "session_id": None,
            "user_id": str(user),
            "username": "olga",
            "content": "",
            "role": "user",
            "timestamp": None,
            "metadata": [],
        }
        await adopted.execute(f'UPDATE "My App"."order" SET {q} = $1', evil)
        assert (await last_message(adopted))["data"]["content"] == evil
        before = await connection.fetchval("SELECT count(*) FROM relay.events")
        await adopted.execute(f"UPDATE \"My App\".{q} SET \"a 'secret'\" = 'new'")
        assert await connection.fetchval("SELECT count(*) FROM relay.events") == before
        await adopted.execute(f"UPDATE \"My App\".{q} SET o = 'O', at = 'now'")
        assert (await last_message(adopted))["data"]["details"] == {"o": "O", "at": "now"}
        await adopted.execute(f'DELETE FROM "My App".{q}')
        assert (await last_message(adopted))["data"]["update_type"] == "deleted"
        await detach(connection)
        assert await triggers(adopted) == 0
    finally:
        await connection.close()


NUMBERED = """
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, username text UNIQUE);
CREATE TABLE bots (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text,
    owner_id bigint REFERENCES users);
CREATE TABLE permissions (bot_id bigint REFERENCES bots, user_id bigint REFERENCES users);
CREATE TABLE messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bot_id bigint REFERENCES bots, user_id bigint REFERENCES users, content text);
INSERT INTO users (username) VALUES ('olga'), ('gus'), ('sam');
INSERT INTO bots (name, owner_id) VALUES ('Ada', 1);
INSERT INTO permissions VALUES (1, 2);
"""
NOT_THERE = """documents = false
[users]
is_active = false
[bots]
updated_by = false
[permissions]
role = false
granted_by = false
[messages]
session_id = false
role = false
metadata = false
created_at = false
"""


@pytest.mark.gen_test
async def test_ids_that_are_numbers(core_database: str) -> None:
    """By the way of docs/adopting.md: references lead to their rows, and give access."""
    page = (ROOT / "docs" / "adopting.md").read_text("utf-8")
    section = page.partition("### Ids that are numbers\n")[2].partition("\n### ")[0]
    text = NOT_THERE
    for part in code_blocks(section, "toml")[0].split("\n\n"):
        heading, _, lines = part.partition("\n")
        text = text.replace(f"{heading}\n", f"{heading}\n{lines.rstrip()}\n")
    connection = await asyncpg.connect(core_database, timeout=LIMIT)
    try:
        await connection.execute(NUMBERED + code_blocks(section, "sql")[0])
        await apply(connection, mapping(text))
        await connection.execute(
            "INSERT INTO messages (bot_id, user_id, content) VALUES (1, 2, 'hello')"
        )
        may_watch = """SELECT username FROM users
            WHERE EXISTS (SELECT FROM relay.authorize(uid, public.uid(2, 1))) ORDER BY id"""
        rows = await connection.fetch(may_watch)
        assert [row["username"] for row in rows] == ["olga", "gus"]
        message = await last_message(Adopted(connection))
        ids = await connection.fetchrow(
            "SELECT public.uid(3, 1)::text, public.uid(2, 1)::text, public.uid(1, 2)::text"
        )
        found = message["data"]
        assert (found["message_id"], message["bot_id"], found["user_id"]) == tuple(ids or ())
        assert found["username"] == "gus"
    finally:
        await connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_a_large_table_gets_its_ids_in_use(
    core_database: str, postgres: EmbeddedPostgres
) -> None:
    """By the way of docs/adopting.md; what is written before the backfill and after it has one."""
    page = (ROOT / "docs" / "adopting.md").read_text("utf-8")
    section = page.partition("### Ids that are numbers\n")[2].partition("\n### ")[0]
    made, filled = code_blocks(section, "sql")
    made = "".join(line for line in made.splitlines(True) if "ALTER TABLE messages" not in line)
    written = "INSERT INTO messages (bot_id, user_id, content) VALUES (1, 2, 'hello');\n"
    script = f"{NUMBERED}{made}{written}{filled}{written}"
    command = [postgres.psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", core_database]
    done = await asyncio.to_thread(
        subprocess.run, command, input=script, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    connection = await asyncpg.connect(core_database, timeout=LIMIT)
    try:
        wrong = "SELECT count(*) FROM messages WHERE uid IS DISTINCT FROM public.uid(3, id)"
        assert await connection.fetchval(wrong) == 0
        text = NOT_THERE.replace("[users]", '[users]\nid = "uid"').replace(
            "[bots]", '[bots]\nid = "uid"\nowner_id = false'
        )
        text = text.replace(
            "[permissions]", '[permissions]\nbot_id = "bot_uid"\nuser_id = "user_uid"'
        )
        ids = "bot_id = { sql = 'public.uid(2, bot_id)' }\nuser_id = false"
        await plan(
            connection, mapping(text.replace("[messages]", f'[messages]\nid = "uid"\n{ids}'))
        )
    finally:
        await connection.close(timeout=LIMIT)


PARTITIONED = """
DROP TABLE messages;
CREATE TABLE messages (id uuid NOT NULL DEFAULT gen_random_uuid(), session_id uuid,
        bot_id uuid, user_id uuid, role text, content text, message_metadata jsonb,
        created_at timestamptz NOT NULL) PARTITION BY RANGE (created_at);
CREATE TABLE old PARTITION OF messages FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE new PARTITION OF messages FOR VALUES FROM ('2020-01-01') TO (MAXVALUE)
"""


@pytest.mark.gen_test
async def test_a_partitioned_table(adopted: Adopted) -> None:
    """Statements on the parent are told of, whichever partitions their rows are in."""
    await adopted.execute(PARTITIONED)
    [warning] = (await plan(adopted.connection, adopted_mapping())).warnings
    assert "MERGE" in warning
    await apply(adopted.connection, adopted_mapping())
    await adopted.execute(
        "INSERT INTO messages (bot_id, content, created_at)"
        " VALUES (gen_random_uuid(), 'old', '2019-01-01'), (gen_random_uuid(), 'new', now())"
    )
    count = "SELECT count(*) FROM relay.events WHERE type LIKE 'chat%'"
    assert await adopted.connection.fetchval(count) == 2
    await adopted.execute("UPDATE messages SET created_at = now(), content = 'moved'")
    assert await adopted.connection.fetchval(count) == 4
    assert (await last_message(adopted))["data"]["action"] == "edited"
    await adopted.execute(EDITS)
    await adopted.insert("messages", bot_id=uuid4(), content="new", created_at=datetime.now(UTC))
    message = await last_message(adopted)
    assert (message["type"], message["data"]["content"]) == ("chat_message", "edited")
    assert await detach(adopted.connection) == 18
    assert await triggers(adopted) == 0


@pytest.mark.gen_test
async def test_triggers_of_partitions_are_kept(adopted: Adopted) -> None:
    """A platform made them, under a name of its own; they are made anew and taken off as ours."""
    await adopted.execute(PARTITIONED)
    await apply(adopted.connection, adopted_mapping())
    await adopted.execute(
        'CREATE TRIGGER "of Its Own" AFTER INSERT ON new REFERENCING NEW TABLE AS new_rows'
        " FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_inserted();"
        ' ALTER TABLE new ENABLE ALWAYS TRIGGER "of Its Own"'
    )
    definition = """SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger
        WHERE tgrelid = 'new'::regclass"""
    before = await adopted.connection.fetch(definition)
    assert (await apply(adopted.connection, adopted_mapping())).is_done
    done = await apply(adopted.connection, changed("[messages]\nrole = false"))
    assert (done.is_done, done.left) == (False, [])
    assert await adopted.connection.fetch(definition) == before
    assert (await apply(adopted.connection, changed("[messages]\nrole = false"))).is_done
    always = "SELECT count(*) FROM pg_trigger WHERE tgenabled = 'A'"
    assert await adopted.connection.fetchval(always) == 1
    await adopted.insert("new", bot_id=uuid4(), content="straight", created_at=datetime.now(UTC))
    assert (await last_message(adopted))["data"]["content"] == "straight"
    await adopted.execute("ALTER TABLE messages DETACH PARTITION new")
    done = await apply(adopted.connection, adopted_mapping())
    assert done.left == ["public.new"]
    assert await adopted.connection.fetch(definition) == []


@pytest.mark.gen_test
async def test_enums_domains_and_times(adopted: Adopted) -> None:
    """Types that read as text and ids do; a time without zone counts as UTC."""
    await adopted.execute(
        """CREATE DOMAIN user_id AS uuid;
        CREATE DOMAIN name AS varchar(40) CHECK (VALUE <> '');
        CREATE TYPE status AS ENUM ('NEW', 'failed');
        ALTER TABLE messages ALTER user_id TYPE user_id, ALTER role TYPE char(10);
        ALTER TABLE documents ALTER filename TYPE name, ADD status status, ADD error varchar"""
    )
    await apply(adopted.connection, changed('[documents]\nstatus = "status"'))
    await adopted.execute("SET timezone = 'Asia/Tokyo'")
    user = await adopted.insert("users", username="olga")
    bot = await adopted.insert("bots", name="Ada", owner_id=user)
    await adopted.execute(
        "INSERT INTO messages (bot_id, user_id, role, created_at)"
        " VALUES ($1, $2, 'ai', '2026-01-31 12:00')",
        bot,
        user,
    )
    data = (await last_message(adopted))["data"]
    assert (data["username"], data["role"]) == ("olga", "ai")
    assert data["timestamp"] == "2026-01-31T12:00:00.000000Z"
    await adopted.insert("documents", bot_id=bot, filename="a.pdf", status="NEW")
    assert (await last_message(adopted))["data"]["document"]["status"] == "NEW"
    await adopted.execute("UPDATE documents SET status = 'failed'")
    assert (await last_message(adopted))["data"]["action"] == "failed"
    admitted = "SELECT count(*) FROM relay.authenticate('olga', 'username')"
    assert await adopted.connection.fetchval(admitted) == 1


@pytest.mark.gen_test
async def test_a_permission_of_nobody_ejects_nobody(adopted: Adopted) -> None:
    """A row without a user is about no one: an ejection without one would be about everyone."""
    await adopted.execute(
        "ALTER TABLE bot_permissions DROP CONSTRAINT bot_permissions_pkey;"
        " ALTER TABLE bot_permissions ALTER user_id DROP NOT NULL, ALTER bot_id DROP NOT NULL"
    )
    await apply(adopted.connection, adopted_mapping())
    user = await adopted.insert("users", username="olga")
    bot = await adopted.insert("bots", name="Ada")
    await adopted.execute("TRUNCATE relay.events")
    for row in ((bot, None), (None, user), (None, None)):
        await adopted.execute("INSERT INTO bot_permissions VALUES ($1, $2, 'VIEWER')", *row)
        await adopted.execute("UPDATE bot_permissions SET role = 'EDITOR'")
        await adopted.execute("UPDATE bot_permissions SET role = NULL")
        await adopted.execute("DELETE FROM bot_permissions")
    assert await adopted.connection.fetchval("SELECT count(*) FROM relay.events") == 0


@pytest.mark.gen_test
async def test_an_id_that_is_made_of_what_is_never_null(adopted: Adopted) -> None:
    """Nobody declares such a column NOT NULL, and none needs to."""
    await adopted.execute(
        "ALTER TABLE documents ADD uid uuid GENERATED ALWAYS AS (md5(id::text)::uuid) STORED"
    )
    await plan(adopted.connection, changed('[documents]\nid = "uid"'))


@pytest.mark.gen_test
async def test_a_row_without_an_id_is_nobodys(adopted: Adopted) -> None:
    """NOT NULL was dropped later: such a row sends nothing, and above all ejects nobody."""
    await apply(adopted.connection, adopted_mapping())
    user = await adopted.insert("users", username="olga")
    bot = await adopted.insert("bots", name="Ada", owner_id=user)
    for key in ("users", "bots", "messages", "documents"):
        await adopted.execute(
            f"ALTER TABLE {key} DROP CONSTRAINT {key}_pkey CASCADE, ALTER id DROP NOT NULL"
        )
    await adopted.execute("TRUNCATE relay.events")
    for table, columns, change in (
        ("users", "(id, username) VALUES (NULL, 'nobody')", "is_active = NOT is_active"),
        ("users", "(id, username) VALUES (NULL, 'nobody')", "username = 'no one'"),
        ("bots", f"(id, name, owner_id) VALUES (NULL, 'none', '{user}')", "owner_id = NULL"),
        ("messages", f"(id, bot_id, content) VALUES (NULL, '{bot}', 'a')", "content = 'b'"),
        ("documents", f"(id, bot_id, filename) VALUES (NULL, '{bot}', 'a')", "filename = 'b'"),
    ):
        await adopted.execute(f"INSERT INTO {table} {columns}")
        await adopted.execute(f"UPDATE {table} SET {change} WHERE id IS NULL")
        await adopted.execute(f"DELETE FROM {table} WHERE id IS NULL")
        # In one transaction the current rows are read in place of those that were written.
        async with adopted.connection.transaction():
            await adopted.execute(f"INSERT INTO {table} {columns}")
            await adopted.execute(f"UPDATE {table} SET {change} WHERE id IS NULL")
            await adopted.execute(f"DELETE FROM {table} WHERE id IS NULL")
    rows = await adopted.connection.fetch("SELECT topic, type, payload FROM relay.events")
    assert [tuple(row) for row in rows] == []


@pytest.mark.gen_test
async def test_a_row_that_gets_its_id_later_is_told_as_new(adopted: Adopted) -> None:
    """As in a backfill."""
    await apply(adopted.connection, adopted_mapping())
    user = await adopted.insert("users", username="olga")
    bot = await adopted.insert("bots", name="Ada", owner_id=user)
    await adopted.execute(
        "ALTER TABLE messages DROP CONSTRAINT messages_pkey, ALTER id DROP NOT NULL"
    )
    await adopted.execute("INSERT INTO messages (id, bot_id, content) VALUES (NULL, $1, 'a')", bot)
    await adopted.execute("UPDATE messages SET id = gen_random_uuid()")
    assert (await last_message(adopted))["type"] == "chat_message"


@pytest.mark.gen_test
async def test_a_user_with_a_new_id_is_another(adopted: Adopted) -> None:
    """Who had the old one leaves; everyone else stays."""
    await apply(adopted.connection, adopted_mapping())
    user = await adopted.insert("users", username="olga")
    await adopted.insert("users", username="gus")
    await adopted.execute("UPDATE users SET id = gen_random_uuid() WHERE id = $1", user)
    ejected = "SELECT user_id::text, code FROM relay.events WHERE type = 'eject' AND code <> 1013"
    assert [tuple(row) for row in await adopted.connection.fetch(ejected)] == [(user, 4001)]


@pytest.mark.gen_test
async def test_again_with_another_mapping_replaces_what_was_there(adopted: Adopted) -> None:
    """In one transaction; the same mapping again changes nothing, unless something is missing."""
    assert not (await apply(adopted.connection, adopted_mapping())).is_done
    assert (await apply(adopted.connection, adopted_mapping())).is_done
    await adopted.execute("ALTER TABLE messages DISABLE TRIGGER relay_insert")
    assert not (await apply(adopted.connection, adopted_mapping())).is_done
    await adopted.execute("DROP TRIGGER relay_insert ON messages")
    assert not (await apply(adopted.connection, adopted_mapping())).is_done
    assert await triggers(adopted) == 18
    fewer = mapping("documents = false\n" + ADOPTED.partition("[documents]")[0])
    refusal = await problems(adopted, fewer)
    assert "by this mapping public.documents would be attached no longer" in refusal
    assert "--detach-others" in refusal
    assert await triggers(adopted) == 18
    done = await apply(adopted.connection, fewer, detaches_others=True)
    assert (done.is_done, done.left) == (False, ["public.documents"])
    assert await triggers(adopted) == 15
    assert await detach(adopted.connection) == 15
    assert await detach(adopted.connection) == 0


@pytest.mark.gen_test
async def test_the_printed_sql_does_what_apply_does(
    adopted: Adopted, postgres: EmbeddedPostgres, core_database: str
) -> None:
    """By psql, in one transaction, over what was there before, too."""

    async def run_printed() -> None:
        script = (await plan(adopted.connection, adopted_mapping())).script
        command = [postgres.psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", core_database]
        done = await asyncio.to_thread(
            subprocess.run, command, input=script, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr

    await apply(adopted.connection, adopted_mapping())
    applied = await catalogue(adopted.connection)
    await detach(adopted.connection)
    await run_printed()
    assert await catalogue(adopted.connection) == applied
    await adopted.execute("DROP TRIGGER relay_insert ON messages")
    await run_printed()
    assert await catalogue(adopted.connection) == applied
    assert (await apply(adopted.connection, adopted_mapping())).is_done


@pytest.mark.gen_test
async def test_a_server_wants_the_tables_attached(adopted: Adopted) -> None:
    """The log alone is not enough, and the line says what to run."""
    with pytest.raises(SchemaError, match=r"relay\.authorize.*: run bin/attach --apply"):
        await check_schema(adopted.connection)
    await apply(adopted.connection, adopted_mapping())
    await check_schema(adopted.connection)
    await detach(adopted.connection)
    with pytest.raises(SchemaError, match="bin/attach"):
        await check_schema(adopted.connection)


# Locks


@pytest.mark.gen_test
async def test_a_table_in_use_is_not_waited_for(adopted: Adopted, core_database: str) -> None:
    """Attaching gives up after a moment, nothing half done, and writers were not held up.

    Whoever runs it is told whom it waits for: once, and at the end.
    """
    other = await asyncpg.connect(core_database)
    said: list[str] = []
    by = rf"\S+, which is in use by process {other.get_server_pid()} \(.*, idle in transaction"
    failure = f"in use all the time. Last it was {by}"
    try:
        async with other.transaction():
            await other.execute("INSERT INTO users (username) VALUES ('olga')")
            with pytest.raises(AttachError, match=failure):
                await apply(adopted.connection, adopted_mapping(), attempts=2, say=said.append)
        assert len(said) == 1
        assert re.match(f"waiting for {by}", said[0])
        await apply(adopted.connection, adopted_mapping(), attempts=1, say=said.append)
        async with other.transaction():
            await other.execute("SELECT count(*) FROM messages")
            with pytest.raises(AttachError, match=failure):
                await detach(adopted.connection, attempts=1, say=said.append)
        assert len(said) == 2
        assert await triggers(adopted) == 18
        async with other.transaction():
            await other.execute("SELECT count(*) FROM messages")
            assert (await apply(adopted.connection, adopted_mapping())).is_done
    finally:
        await other.close()


IN_ORDER = [
    "public.messages",
    "public.documents",
    "public.bot_permissions",
    "public.bots",
    "public.users",
]


@pytest.mark.gen_test
async def test_tables_are_locked_in_a_writers_order(adopted: Adopted, core_database: str) -> None:
    """Foreign keys lead a writer from a message to its bot and its user, never the other way.

    In another order a printed script and a writer would wait for each other. It gives up before
    PostgreSQL looks for deadlocks.
    """
    other = await asyncpg.connect(core_database)
    said: list[str] = []
    in_use = "LOCK TABLE users, bots, messages, documents IN ROW EXCLUSIVE MODE"
    try:
        async with other.transaction():
            await other.execute(in_use)
            with pytest.raises(AttachError):
                await apply(adopted.connection, adopted_mapping(), attempts=1, say=said.append)
        first = await plan(adopted.connection, adopted_mapping())
        await apply(adopted.connection, adopted_mapping())
        async with other.transaction():
            await other.execute(in_use)
            with pytest.raises(AttachError):
                await detach(adopted.connection, attempts=1, say=said.append)
        assert [re.findall(r"waiting for (\S+), which", line) for line in said] == [
            ["public.messages"],
            ["public.messages"],
        ]
        for script in (
            first.script,
            (await plan(adopted.connection, changed("[documents]\nfilename = false"))).script,
            await removal_script(adopted.connection),
        ):
            locked = re.findall(r"LOCK TABLE ONLY (\S+) IN", script)
            assert [name.replace('"', "") for name in locked] == IN_ORDER
            assert "SET LOCAL lock_timeout = '150ms'" in script
    finally:
        await other.close()


@pytest.mark.gen_test
async def test_a_prepared_transaction_that_is_in_the_way_is_named(
    adopted: Adopted, core_database: str
) -> None:
    """It has no process, and nobody sees it among the sessions."""
    other = await asyncpg.connect(core_database)
    name = f"forgotten {other.get_server_pid()}"
    try:
        await other.execute("BEGIN; INSERT INTO users (username) VALUES ('olga')")
        await other.execute(f"PREPARE TRANSACTION '{name}'")
        with pytest.raises(AttachError, match=f"in use by the prepared transaction '{name}'"):
            await apply(adopted.connection, adopted_mapping(), attempts=1)
    finally:
        await other.execute(f"ROLLBACK PREPARED '{name}'")
        await other.close()
    await apply(adopted.connection, adopted_mapping(), attempts=1)


@pytest.mark.gen_test
async def test_two_at_once_do_not_collide(adopted: Adopted, core_database: str) -> None:
    """The second finds that everything is done."""
    other = await asyncpg.connect(core_database)
    try:
        done = await asyncio.gather(
            *(apply(connection, adopted_mapping()) for connection in (adopted.connection, other))
        )
        assert sorted(one.is_done for one in done) == [False, True]
    finally:
        await other.close()


# Rights


@pytest.fixture
def roles(
    io_loop: IOLoop, postgres: EmbeddedPostgres, adopted: Adopted
) -> Iterator[tuple[str, str, str]]:
    """The log's owner, the tables' owner, and the server's role; names of this test alone."""
    mark = uuid4().hex[:8]
    names = (f"relay {mark}", f"app_{mark}", f"server_{mark}")
    for name in names:
        postgres.sql(f'CREATE ROLE "{name}" LOGIN')
    yield names
    io_loop.run_sync(lambda: adopted.execute("RESET ROLE"))
    every = ", ".join(f'"{name}"' for name in names)
    leave = f"REASSIGN OWNED BY {every} TO CURRENT_USER; DROP OWNED BY {every}; DROP ROLE {every}"
    io_loop.run_sync(lambda: adopted.execute(leave))


@pytest.mark.gen_test
async def test_what_the_functions_owner_lacks_is_granted_and_taken_back(
    adopted: Adopted, roles: tuple[str, str, str]
) -> None:
    """Where the log is one role's and the tables are another's; the server's role may ask."""
    relay, app, server = roles
    objects = await adopted.connection.fetch(
        "SELECT c.relkind::text AS kind, c.oid::regclass::text AS name FROM pg_class AS c"
        " WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p', 'S')"
    )
    for one in objects:
        await adopted.execute(f'ALTER TABLE {one["name"]} OWNER TO "{relay}"')
    await adopted.execute(f'ALTER SCHEMA relay OWNER TO "{relay}"')
    for table in ("users", "bots", "bot_permissions", "messages", "documents"):
        await adopted.execute(f"ALTER TABLE {table} OWNER TO {app}")
    await adopted.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO "{relay}"')
    await adopted.execute(f"GRANT USAGE ON SCHEMA relay TO {server}")
    before = await catalogue(adopted.connection)
    wanted = mapping(f'server_role = "{server}"\n{ADOPTED}')
    [warning] = (await apply(adopted.connection, wanted)).warnings
    assert warning.startswith(f"{app} can act as {relay}, the owner of relay, by owning tables")
    assert (await apply(adopted.connection, wanted)).is_done
    user = await adopted.insert("users", username="olga")
    bot = await adopted.insert("bots", name="Ada", owner_id=user)
    await adopted.execute(f"SET ROLE {app}")
    await adopted.execute("INSERT INTO messages (bot_id, user_id) VALUES ($1, $2)", bot, user)
    await adopted.execute(f"SET ROLE {server}")
    asked = "SELECT role FROM relay.authorize($1, $2)"
    assert await adopted.connection.fetchval(asked, user, bot) == "owner"
    await adopted.execute("RESET ROLE")
    assert (await last_message(adopted))["data"]["username"] == "olga"
    await adopted.execute(EDITS)
    await adopted.execute(f"SET ROLE {app}")
    await adopted.execute("INSERT INTO messages (bot_id, user_id) VALUES ($1, $2)", bot, user)
    await adopted.execute("RESET ROLE")
    assert (await last_message(adopted))["data"]["content"] == "edited"
    await adopted.execute("DROP FUNCTION edit CASCADE")
    await detach(adopted.connection)
    after = await catalogue(adopted.connection)
    assert without_defaults(after, app) == without_defaults(before, app)


CASTS = """
CREATE FUNCTION ran(mood) RETURNS json LANGUAGE plpgsql AS
    $$BEGIN RAISE 'ran as %', current_user; END$$;
CREATE FUNCTION ran_too(mood) RETURNS text LANGUAGE plpgsql AS
    $$BEGIN RAISE 'ran as %', current_user; END$$;
CREATE CAST (mood AS json) WITH FUNCTION ran;
CREATE CAST (mood AS text) WITH FUNCTION ran_too AS IMPLICIT;
"""


@pytest.mark.gen_test
async def test_no_cast_of_a_types_owner_runs_as_the_functions_owner(
    adopted: Adopted, roles: tuple[str, str, str]
) -> None:
    """Enums and arrays of them look as they do without; what else is made of them is a string."""
    relay, app, _ = roles
    await adopted.execute(
        """CREATE TYPE mood AS ENUM ('sad', 'glad', '');
        CREATE DOMAIN feeling AS mood;
        CREATE TYPE pair AS (one mood, other int);
        CREATE DOMAIN extra AS jsonb;
        ALTER TABLE bots ADD mood mood, ADD feeling feeling, ADD moods mood[], ADD pair pair,
            ADD extra extra, ADD tags text[], ADD nothing mood;
        ALTER TABLE documents ADD status feeling"""
    )
    await apply(adopted.connection, changed('[documents]\nstatus = "status"'))
    bot = await adopted.insert("bots", name="Ada")
    change = """UPDATE bots SET mood = '{0}', feeling = '{0}', moods = '{{{{{0},NULL}}}}',
        pair = '({0},1)', extra = '{{"{0}": [1]}}', tags = '{{{0}}}',
        nothing = CASE WHEN nothing IS NULL THEN 'sad'::mood END"""
    await adopted.execute("UPDATE bots SET nothing = 'sad'")
    await adopted.execute(change.format("sad"))
    told = (await last_message(adopted))["data"]["details"]
    assert told == {
        "mood": "sad",
        "feeling": "sad",
        "moods": [["sad", None]],
        "pair": {"one": "sad", "other": 1},
        "extra": {"sad": [1]},
        "tags": ["sad"],
        "nothing": None,
    }
    await adopted.execute(
        f'ALTER TYPE mood OWNER TO {app}; GRANT ALL ON SCHEMA relay TO "{relay}";'
        f' GRANT ALL ON ALL TABLES IN SCHEMA relay, public TO "{relay}";'
        f' GRANT ALL ON ALL SEQUENCES IN SCHEMA relay TO "{relay}";'
        f' GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO "{relay}"'
    )
    for function in ("bots_updated", "documents_inserted"):
        await adopted.execute(f'ALTER FUNCTION relay.{function} OWNER TO "{relay}"')
    await adopted.execute(CASTS)
    with pytest.raises(asyncpg.RaiseError, match="ran as"):
        await adopted.execute("SELECT to_json(mood) FROM bots")
    await adopted.execute(change.format("glad"))
    assert (await last_message(adopted))["data"]["details"] == {
        "mood": "glad",
        "feeling": "glad",
        "moods": [["glad", None]],
        "pair": "(glad,1)",
        "extra": {"glad": [1]},
        "tags": ["glad"],
        "nothing": "sad",
    }
    await adopted.insert("documents", bot_id=bot, filename="a.pdf", status="")
    assert (await last_message(adopted))["data"]["document"]["status"] == ""


def without_defaults(found: list[list[Any]], owner: str) -> list[list[Any]]:
    """A GRANT spells out what the owner has by default, and a REVOKE leaves that written down."""
    acls = [entry for table in found[0] for entry in str(table[1]).strip("{}").split(",")]
    assert all(entry in ("None", "") or entry.startswith(f"{owner}=") for entry in acls)
    return [[(row[0], *row[2:]) for row in found[0]], *found[1:]]


@pytest.mark.gen_test
async def test_who_does_not_own_the_tables_is_told_who_does(
    adopted: Adopted, roles: tuple[str, str, str], postgres: EmbeddedPostgres
) -> None:
    """They could not take the triggers off again."""
    relay, app, _ = roles
    await adopted.execute(f"ALTER TABLE messages OWNER TO {app}")
    us = await adopted.connection.fetchval("SELECT current_user")
    await adopted.execute(f'ALTER TABLE relay.events OWNER TO "{relay}"')
    await adopted.execute(f'GRANT USAGE ON SCHEMA relay TO "{relay}"; SET ROLE "{relay}"')
    said = await problems(adopted, adopted_mapping())
    assert f"messages: public.messages belongs to {app}, and only its owner" in said
    assert f"users: public.users belongs to {us}" in said
    await adopted.execute(f"RESET ROLE; GRANT USAGE ON SCHEMA relay TO {app}; SET ROLE {app}")
    assert f"the schema relay belongs to {relay}" in await problems(adopted, adopted_mapping())
    await adopted.execute("RESET ROLE")
    nobody = mapping(f'server_role = "nobody"\n{ADOPTED}')
    assert "there is no role nobody" in await problems(adopted, nobody)


@pytest.mark.gen_test
async def test_a_table_that_is_not_ours_hides_no_other_problem(
    adopted: Adopted, roles: tuple[str, str, str]
) -> None:
    """All that is wrong is said at once, of such a table too."""
    relay, app, _ = roles
    await adopted.execute(f'ALTER TABLE relay.events OWNER TO "{relay}"')
    await adopted.execute(f'ALTER TABLE users OWNER TO "{app}"; ALTER TABLE users DROP is_active')
    await adopted.execute(f'GRANT CREATE, USAGE ON SCHEMA relay TO "{relay}"; SET ROLE "{relay}"')
    said = await problems(adopted, adopted_mapping())
    assert f"users: public.users belongs to {app}" in said
    assert "users.is_active: public.users has no column is_active" in said


@pytest.mark.gen_test
async def test_row_security_that_hides_rows_is_refused(
    adopted: Adopted, roles: tuple[str, str, str]
) -> None:
    """Everyone would be refused, without a word."""
    await adopted.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY")
    await adopted.execute(f'ALTER TABLE relay.events OWNER TO "{roles[0]}"')
    said = await problems(adopted, adopted_mapping())
    assert "users: row security hides rows of public.users" in said
    cure = said[said.index("CREATE POLICY relay ON public.users") :].splitlines()[0]
    await adopted.execute(cure)
    await adopted.execute("CREATE POLICY few ON users AS RESTRICTIVE USING (is_active)")
    assert "users: row security" in await problems(adopted, adopted_mapping())
    await adopted.execute("DROP POLICY few ON users")
    await plan(adopted.connection, adopted_mapping())


@pytest.mark.gen_test
async def test_messages_that_row_security_hides_are_told_as_they_are_written(
    adopted: Adopted, roles: tuple[str, str, str]
) -> None:
    """They are not taken for gone. That they may be old is a warning."""
    relay = roles[0]
    for name in ("events", "nodes"):
        await adopted.execute(f'ALTER TABLE relay.{name} OWNER TO "{relay}"')
    await adopted.execute(f'GRANT ALL ON ALL SEQUENCES IN SCHEMA relay TO "{relay}"')
    await adopted.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO "{relay}"')
    await adopted.execute(f'GRANT USAGE ON SCHEMA relay TO "{relay}"')
    await adopted.execute(
        "ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    )
    attached = await apply(adopted.connection, adopted_mapping())
    assert "messages: row security hides rows of public.messages" in attached.warnings[0]
    await adopted.execute(EDITS)
    user = await adopted.insert("users", username="olga")
    bot = await adopted.insert("bots", name="Ada", owner_id=user)
    for row_security in ("on", "off"):
        await adopted.execute(f"SET row_security = {row_security}")
        await adopted.insert("messages", bot_id=bot, user_id=user, content="written")
        message = await last_message(adopted)
        assert (message["type"], message["data"]["content"]) == ("chat_message", "written")
    await adopted.execute(
        "SET row_security = on;"
        f' CREATE POLICY relay ON messages FOR SELECT TO "{relay}" USING (true)'
    )
    await adopted.insert("messages", bot_id=bot, user_id=user, content="written")
    assert (await last_message(adopted))["data"]["content"] == "edited"
    await adopted.execute("CREATE POLICY no ON messages AS RESTRICTIVE USING (content <> 'edited')")
    await adopted.insert("messages", bot_id=bot, user_id=user, content="written")
    assert (await last_message(adopted))["data"]["content"] == "written"


@pytest.mark.gen_test
async def test_row_security_is_on_for_us_whatever_the_writer_says(
    adopted: Adopted, roles: tuple[str, str, str], core_database: str
) -> None:
    """It is off where a dump is restored; what a policy shows is shown all the same."""
    relay = roles[0]
    for name in ("events", "nodes"):
        await adopted.execute(f'ALTER TABLE relay.{name} OWNER TO "{relay}"')
    await adopted.execute(f'GRANT ALL ON ALL SEQUENCES IN SCHEMA relay TO "{relay}"')
    await adopted.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO "{relay}"')
    await adopted.execute(f'GRANT USAGE ON SCHEMA relay TO "{relay}"')
    for name in ("users", "bots", "bot_permissions", "messages", "documents"):
        await adopted.execute(
            f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            f' CREATE POLICY relay ON {name} TO "{relay}" USING (true)'
        )
    await apply(adopted.connection, adopted_mapping())
    await adopted.execute("SET row_security = off")
    user, guest = [await adopted.insert("users", username=name) for name in ("olga", "gus")]
    bot = await adopted.insert("bots", name="Ada", owner_id=user)
    await adopted.permit(bot, guest, "EDITOR")
    await adopted.execute("UPDATE bot_permissions SET role = 'VIEWER'")
    await adopted.insert("messages", bot_id=bot, user_id=user, content="written")
    assert (await last_message(adopted))["data"]["username"] == "olga"
    await adopted.execute("UPDATE messages SET content = 'edited'")
    await adopted.insert("documents", bot_id=bot, filename="a.pdf")
    await adopted.execute("UPDATE documents SET filename = 'b.pdf'")
    await adopted.execute("UPDATE bots SET owner_id = NULL")
    may = "SELECT role FROM relay.authorize($1, $2)"
    assert await adopted.connection.fetchval(may, guest, bot) == "VIEWER"
    is_someone = "SELECT user_id::text FROM relay.authenticate('gus', 'username')"
    assert await adopted.connection.fetchval(is_someone) == guest
    for table in ("messages", "documents", "bot_permissions", "bots", "users"):
        await adopted.execute(f"DELETE FROM {table}")


@pytest.mark.gen_test
async def test_every_function_with_our_rights_has_row_security_on(adopted: Adopted) -> None:
    """But for those that read no table."""
    await apply(adopted.connection, adopted_mapping())
    found = await adopted.connection.fetch(
        """SELECT proname FROM pg_proc
           WHERE pronamespace = 'relay'::regnamespace AND prosecdef
             AND NOT coalesce('row_security=on' = ANY (proconfig), false) ORDER BY 1"""
    )
    assert [row["proname"] for row in found] == [
        "carry",
        "is_listening",
        "listen",
        "make_readable",
        "tell",
        "timeline",
    ]


@pytest.mark.gen_test
async def test_a_platforms_own_triggers_before_ours(adopted: Adopted) -> None:
    """What is told last is what the tables have, under whatever names they have it."""
    await apply(adopted.connection, adopted_mapping())
    await adopted.execute(EDITS)
    await adopted.execute(
        """CREATE FUNCTION cap() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE bot_permissions SET role = 'VIEWER' WHERE role = 'EDITOR';
            UPDATE bots SET settings = '{"seen": true}' WHERE name = 'Eve';
            DELETE FROM documents WHERE filename = 'forbidden';
            RETURN NULL;
        END $$;
        CREATE TRIGGER a AFTER INSERT ON bot_permissions EXECUTE FUNCTION cap();
        CREATE TRIGGER a AFTER UPDATE ON bots WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION cap();
        CREATE TRIGGER a AFTER INSERT ON documents FOR EACH ROW EXECUTE FUNCTION cap()"""
    )
    user, guest = [await adopted.insert("users", username=name) for name in ("olga", "gus")]
    bot = await adopted.insert("bots", name="Ada", owner_id=user)
    await adopted.insert("messages", bot_id=bot, user_id=user, content="written")
    assert (await last_message(adopted))["data"]["content"] == "edited"
    await adopted.permit(bot, guest, "EDITOR")
    granted = (await last_message(adopted))["data"]
    assert (granted["action"], granted["details"]["role"]) == ("granted", "VIEWER")
    await adopted.execute("UPDATE bots SET name = 'Eve'")
    details = {"name": "Eve", "settings": {"seen": True}}
    assert (await last_message(adopted))["data"]["details"] == details
    await adopted.insert("documents", bot_id=bot, filename="forbidden")
    assert (await last_message(adopted))["data"]["action"] == "deleted"


@pytest.mark.gen_test
async def test_a_transfer_of_a_bot_with_a_row_for_its_owner(adopted: Adopted) -> None:
    """One revoke and one grant, whatever the owner's role is called."""
    await apply(adopted.connection, adopted_mapping())
    olga, hedi = [await adopted.insert("users", username=name) for name in ("olga", "hedi")]
    bot = await adopted.insert("bots", name="Ada", owner_id=olga)
    await adopted.permit(bot, olga, "OWNER")
    last = await adopted.connection.fetchval("SELECT max(id) FROM relay.events")
    async with adopted.connection.transaction():
        await adopted.execute("DELETE FROM bot_permissions")
        await adopted.permit(bot, hedi, "OWNER")
        await adopted.execute("UPDATE bots SET owner_id = $1", hedi)
    told = await adopted.connection.fetch(
        "SELECT payload FROM relay.events WHERE type = 'permission_change' AND id > $1 ORDER BY id",
        last,
    )
    changes = [json.loads(row["payload"])["data"] for row in told]
    assert [(one["target_user_id"], one["action"]) for one in changes] == [
        (hedi, "granted"),
        (olga, "revoked"),
    ]


@pytest.mark.gen_test
async def test_json_that_jsonb_cannot_hold(adopted: Adopted) -> None:
    """A bot's settings may be anything that is JSON; and what is untold is not read."""
    await apply(adopted.connection, adopted_mapping())
    user = await adopted.insert("users", username="olga")
    await adopted.insert("bots", name="Ada", owner_id=user)
    await adopted.execute("""UPDATE bots SET settings = '{"a": "\\u0000"}'""")
    assert (await last_message(adopted))["data"]["details"] == {"settings": {"a": "\0"}}
    made = await adopted.connection.fetchval("SELECT relay.bot_changes('bots'::regclass, false)")
    assert "settings" in made
    assert "api_key" not in made


@pytest.mark.parametrize(
    ("type_", "value", "told"),
    [
        ("json[]", """ARRAY['{"a": "\\u0000"}']::json[]""", [{"a": "\0"}]),
        ("json[]", """ARRAY['"\\ud800"']::json[]""", ["\ud800"]),
        ("json[]", "ARRAY['1e400000']::json[]", None),
        ("pair", """ROW(1, '{"a": "\\u0000"}')""", {"number": 1, "more": {"a": "\0"}}),
        ("deeper", """'{"a": "\\u0000"}'""", {"a": "\0"}),
        ("numeric", "'NaN'", "NaN"),
        ("float8", "'-Infinity'", "-Infinity"),
        ("point", "'(1,2)'", "(1,2)"),
        ("tsvector", "'a:1'", "'a':1"),
        ("text[]", "ARRAY['a', NULL]", ["a", None]),
    ],
)
@pytest.mark.gen_test
async def test_a_value_of_any_type_stops_no_update(
    adopted: Adopted, type_: str, value: str, told: object
) -> None:
    """Neither of that column, nor later of another."""
    await adopted.execute(
        "CREATE TYPE pair AS (number int, more json); CREATE DOMAIN deep AS json;"
        f" CREATE DOMAIN deeper AS deep; ALTER TABLE bots ADD more {type_}"
    )
    await apply(adopted.connection, adopted_mapping())
    user = await adopted.insert("users", username="olga")
    await adopted.insert("bots", name="Ada", owner_id=user)
    await adopted.execute(f"UPDATE bots SET more = {value}")
    details = (await last_message(adopted))["data"]["details"]
    if told is not None:
        assert details == {"more": told}
    await adopted.execute(f"UPDATE bots SET name = 'Bea', more = {value}")
    assert (await last_message(adopted))["data"]["details"] == {"name": "Bea"}
    await adopted.execute("UPDATE bots SET owner_id = NULL")
    last = "SELECT type FROM relay.events ORDER BY id DESC LIMIT 1"
    assert await adopted.connection.fetchval(last) == "eject"


@pytest.mark.gen_test
async def test_a_secret_column_that_has_another_name_now_stops_the_update(
    adopted: Adopted,
) -> None:
    """Under that name it would be told to everybody who watches; the writer is told what to do."""
    await apply(adopted.connection, adopted_mapping())
    user = await adopted.insert("users", username="olga")
    await adopted.insert("bots", name="Ada", owner_id=user)
    await adopted.execute("ALTER TABLE bots RENAME api_key TO secret_key")
    with pytest.raises(asyncpg.RaiseError, match=r"untold names a column that is gone: api_key"):
        await adopted.execute("UPDATE bots SET secret_key = 'sk-live'")
    renamed = ADOPTED.replace('"api_key"', '"secret_key"')
    await apply(adopted.connection, mapping(renamed))
    await adopted.execute("UPDATE bots SET secret_key = 'sk-live', name = 'Bea'")
    assert (await last_message(adopted))["data"]["details"] == {"name": "Bea"}


@pytest.mark.gen_test
async def test_a_table_in_the_place_of_another_gets_the_triggers(adopted: Adopted) -> None:
    """After a swap by renaming; the table that was put away has none any more."""
    await apply(adopted.connection, adopted_mapping())
    await adopted.execute(
        "CREATE TABLE messages_new (LIKE messages INCLUDING ALL);"
        " ALTER TABLE messages RENAME TO messages_old;"
        " ALTER TABLE messages_new RENAME TO messages"
    )
    assert not (await plan(adopted.connection, adopted_mapping())).is_done
    assert (await apply(adopted.connection, adopted_mapping())).left == ["public.messages_old"]
    rows = await adopted.connection.fetch(
        "SELECT tgrelid::regclass::text AS table FROM pg_trigger"
        " WHERE tgname LIKE 'relay%' AND tgrelid::regclass::text LIKE 'messages%'"
    )
    assert [row["table"] for row in rows] == ["messages"] * 3


@pytest.mark.gen_test
async def test_triggers_for_replicated_rows_stay_that(adopted: Adopted) -> None:
    """`ENABLE ALWAYS` is the platform's own choice, and kept when the triggers are made anew."""
    await apply(adopted.connection, adopted_mapping())
    await adopted.execute("ALTER TABLE messages ENABLE ALWAYS TRIGGER relay_insert")
    assert (await plan(adopted.connection, adopted_mapping())).is_done
    await apply(adopted.connection, changed("[messages]\nrole = false"))
    rows = await adopted.connection.fetch(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgenabled = 'A'"
    )
    assert [tuple(row) for row in rows] == [("messages", "relay_insert")]


@pytest.mark.gen_test
async def test_a_restore_without_comments(adopted: Adopted) -> None:
    """As hosts make it: what was attached is known by its names, and moved or taken off."""
    before = await catalogue(adopted.connection)
    wanted = changed("[messages]\nmetadata = false")
    for again in (adopted_mapping(), wanted):
        await apply(adopted.connection, adopted_mapping())
        functions = await adopted.connection.fetch(
            "SELECT oid::regprocedure::text AS name FROM pg_proc"
            " WHERE pronamespace = 'relay'::regnamespace"
        )
        for row in functions:
            await adopted.execute(f"COMMENT ON FUNCTION {row['name']} IS NULL")
        done = await apply(adopted.connection, again)
        assert (done.is_done, done.keeps_authorize) == (False, False)
        assert (await apply(adopted.connection, again)).is_done
        assert await detach(adopted.connection) > 0
        assert await catalogue(adopted.connection) == before


@pytest.mark.gen_test
async def test_a_downgrade_below_what_is_attached_is_refused(
    adopted: Adopted, core_database: str
) -> None:
    """Each write would fail after it: the error says what to run first."""
    downgrade = partial(command.downgrade, config_for(core_database), "core_0001")
    await apply(adopted.connection, adopted_mapping())
    with pytest.raises(asyncpg.RaiseError, match="tables are attached") as refused:
        await asyncio.to_thread(downgrade)
    assert "bin/attach --detach --apply" in refused.value.hint
    await detach(adopted.connection)
    await asyncio.to_thread(downgrade)


@pytest.mark.gen_test
async def test_a_trigger_that_has_our_name_is_refused(adopted: Adopted) -> None:
    """It would be in the way of ours; where it does what ours does, it is ours from before."""
    await adopted.execute(
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER relay_update AFTER UPDATE ON messages EXECUTE FUNCTION own()"
    )
    said = await problems(adopted, adopted_mapping())
    assert "messages: public.messages has a trigger relay_update of your own" in said
    await adopted.execute("ALTER TRIGGER relay_update ON messages RENAME TO own_update")
    for is_done in (False, True):
        assert (await apply(adopted.connection, adopted_mapping())).is_done is is_done


@pytest.mark.gen_test
async def test_one_table_is_not_two_things(adopted: Adopted) -> None:
    """Each statement would be told twice."""
    twice = changed(
        '[documents]\ntable = "messages"\nfilename = "content"\nuploaded_by = "user_id"'
    )
    said = await problems(adopted, twice)
    assert "documents: public.messages is the table of messages already" in said
