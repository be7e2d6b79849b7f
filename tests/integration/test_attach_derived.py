"""Values that no column has, and rows that count as deleted: attached, and seen in the log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.attach.attach import apply, detach, plan
from realtime.attach.state import AttachError
from realtime.attach.trial import try_out
from realtime.doctor.report import Level
from tests.adopted import Adopted
from tests.citext import CITEXT
from tests.doctor import deployment, finds
from tests.unit.test_mapping import mapping
from tests.waiting import LIMIT

# Progress is a count; a message is of its session's bot; nothing is ever really deleted.
SCHEMA = """
CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), username text NOT NULL UNIQUE,
    state text NOT NULL DEFAULT 'active', deleted_at timestamptz
);
CREATE TABLE bots (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, owner_id uuid,
    deleted_at timestamptz
);
CREATE TABLE permissions (
    bot_id uuid, user_id uuid, role text, deleted_at timestamptz, PRIMARY KEY (bot_id, user_id)
);
CREATE TABLE chats (number bigserial PRIMARY KEY, bot uuid);
CREATE TABLE messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), chat bigint, user_id uuid, role text,
    content text, actor text, deleted_at timestamptz
);
CREATE TABLE documents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), bot_id uuid, filename text,
    chunk_count integer NOT NULL DEFAULT 0, "At" text, is_deleted boolean NOT NULL DEFAULT false
)
"""
MAPPING = """
[users]
is_active = { sql = "state <> 'blocked'" }
deleted_at = "deleted_at"
[bots]
updated_by = false
deleted_at = "deleted_at"
[permissions]
granted_by = false
deleted_at = "deleted_at"
[messages]
bot_id = { through = "chat", table = "chats", key = "number", column = "bot" }
session_id = false
metadata = false
created_at = false
content = { sql = "coalesce(content, actor)" }
deleted_at = "deleted_at"
[documents]
status = { sql = '''CASE WHEN chunk_count > 0 OR "At" = 'now' THEN 'processed'
    ELSE 'processing' END -- until there is one''' }
error = false
uploaded_by = false
deleted_at = { sql = "CASE WHEN is_deleted THEN now() END" }
"""


class Row(NamedTuple):
    """What of a row of the log these tests compare."""

    topic: str | None
    type: str
    user_id: str | None
    said: Any


class Platform(Adopted):
    """A platform whose tables need all of it."""

    ada = bot = chat = ""

    async def build(self) -> None:
        await self.execute(SCHEMA)
        await apply(self.connection, mapping(MAPPING))
        self.ada = await self.insert("users", username="ada")
        self.bot = await self.insert("bots", name="Ada's", owner_id=self.ada)
        self.chat = await self.connection.fetchval(
            "INSERT INTO chats (bot) VALUES ($1) RETURNING number", self.bot
        )

    async def told(self, query: str, *arguments: Any) -> list[Row]:
        """What a statement writes into the log."""
        await self.execute("TRUNCATE relay.events")
        await self.execute(query, *arguments)
        rows = await self.connection.fetch("SELECT * FROM relay.events ORDER BY id")
        return [
            Row(row["topic"], row["type"], _text(row["user_id"]), _said(row["payload"]))
            for row in rows
        ]

    async def may_watch(self, user_id: str) -> bool:
        query = "SELECT count(*) FROM relay.authorize($1, $2)"
        return bool(await self.connection.fetchval(query, user_id, self.bot))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _said(payload: str | None) -> Any:
    """What the message says was done: its action, or else its content or status."""
    data = json.loads(payload or "{}").get("data", {})
    return data.get("action") or data.get("content") or data.get("update_type")


@pytest.fixture
def platform(io_loop: IOLoop, core_database: str) -> Iterator[Platform]:
    found = Platform(io_loop.run_sync(lambda: asyncpg.connect(core_database, timeout=LIMIT)))
    io_loop.run_sync(found.build, timeout=LIMIT)
    yield found
    io_loop.run_sync(lambda: found.connection.close(timeout=LIMIT))


@pytest.mark.gen_test
async def test_a_status_is_worked_out_of_other_columns(platform: Platform) -> None:
    """Its change is told, the change of a column alone is not; names mean columns, always."""
    document = await platform.insert("documents", bot_id=platform.bot, filename="a.pdf")
    update = "UPDATE documents SET chunk_count = $2 WHERE id = $1"
    topic = f"bot:{platform.bot}"
    first = await platform.told(update, document, 3)
    assert first == [Row(topic, "document_update", None, "processed")]
    assert await platform.told(update, document, 4) == []
    assert await platform.told('UPDATE documents SET chunk_count = 0, "At" = $$now$$') == []
    last = await platform.told("""UPDATE documents SET "At" = 'later'""")
    assert [row.said for row in last] == ["processing"]


@pytest.mark.gen_test
async def test_a_messages_bot_is_its_sessions(platform: Platform) -> None:
    """Inserted, edited, moved to another session, and deleted; without a session it is nobody's."""
    other = await platform.insert("bots", name="Other")
    chat = await platform.connection.fetchval(
        "INSERT INTO chats (bot) VALUES ($1) RETURNING number", other
    )
    topics = f"bot:{platform.bot}", f"bot:{other}"
    insert = "INSERT INTO messages (chat, content, actor) VALUES ($1, $2, 'nobody')"
    said = await platform.told(insert, platform.chat, "Hello")
    assert said == [Row(topics[0], "chat_message", None, "Hello")]
    assert [one.said for one in await platform.told("UPDATE messages SET content = 'x'")] == [
        "edited"
    ]
    moved = await platform.told("UPDATE messages SET chat = $1", chat)
    assert {(one.topic, one.type) for one in moved} == {
        (topics[0], "chat_message_update"),
        (topics[1], "chat_message"),
    }
    gone = await platform.told("DELETE FROM messages")
    assert gone == [Row(topics[1], "chat_message_update", None, "deleted")]
    assert await platform.told(insert, None, "to nobody") == []
    assert await platform.told(insert, platform.chat, None) == [
        Row(topics[0], "chat_message", None, "nobody")
    ]


@pytest.mark.parametrize("deleted", ["deleted_at = now()", "is_deleted = true"])
@pytest.mark.gen_test
async def test_a_row_that_counts_as_deleted_is_told_as_deleted(
    platform: Platform, deleted: str
) -> None:
    """And as new when it comes back; what happens to it meanwhile is nobody's business."""
    table, kind = ("documents", "document_update"), "is_deleted"
    restored = "is_deleted = false"
    if "deleted_at" in deleted:
        table, kind = ("messages", "chat_message_update"), "deleted_at"
        restored = "deleted_at = NULL"
    await platform.insert("messages", chat=platform.chat, content="Hello")
    await platform.insert("documents", bot_id=platform.bot, filename="a.pdf")
    name, event = table
    assert kind in deleted
    assert [one[1:] for one in await platform.told(f"UPDATE {name} SET {deleted}")] == [
        (event, None, "deleted")
    ]
    quiet = "chunk_count = 9" if name == "documents" else "content = 'unseen'"
    assert await platform.told(f"UPDATE {name} SET {quiet}") == []
    assert [one.said for one in await platform.told(f"UPDATE {name} SET {restored}")] == [
        "uploaded" if name == "documents" else "unseen"
    ]
    await platform.execute(f"UPDATE {name} SET {deleted}")
    assert await platform.told(f"DELETE FROM {name}") == []


@pytest.mark.gen_test
async def test_access_ends_with_a_row_that_counts_as_deleted(platform: Platform) -> None:
    """A permission's, a bot's and a user's; and it begins again with the row."""
    guest = await platform.insert("users", username="gus")
    grant = "INSERT INTO permissions VALUES ($1, $2, 'viewer')"
    await platform.execute(grant, platform.bot, guest)
    assert await platform.may_watch(guest)
    for table, ended, begun in (
        ("permissions", "eject", "permission_change"),
        ("bots", "eject", "grant"),
        ("users", "eject", "grant"),
    ):
        rows = await platform.told(f"UPDATE {table} SET deleted_at = now()")
        assert rows[-1].type == ended, table
        assert not await platform.may_watch(guest), table
        assert (
            await platform.told(f"UPDATE {table} SET deleted_at = now() + interval '1 day'") == []
        )
        rows = await platform.told(f"UPDATE {table} SET deleted_at = NULL")
        assert begun in [row.type for row in rows], table
        assert await platform.may_watch(guest), table
    await platform.execute("UPDATE users SET deleted_at = now() WHERE username = 'gus'")
    assert await platform.told("DELETE FROM users WHERE username = 'gus'") == []


@pytest.mark.gen_test
async def test_a_purged_bot_takes_its_rows_along_in_silence(platform: Platform) -> None:
    """It counted as deleted already. Only its guest is told, as when a bot is deleted at once."""
    guest = await granted(platform)
    await platform.execute(
        """ALTER TABLE permissions ADD FOREIGN KEY (bot_id) REFERENCES bots ON DELETE CASCADE;
        ALTER TABLE documents ADD FOREIGN KEY (bot_id) REFERENCES bots ON DELETE CASCADE;
        ALTER TABLE messages ADD bot uuid REFERENCES bots ON DELETE CASCADE"""
    )
    kept = await platform.insert("bots", name="kept")
    await platform.insert("documents", bot_id=platform.bot, filename="a.pdf")
    await platform.insert("documents", bot_id=kept, filename="b.pdf")
    await platform.insert("messages", chat=platform.chat, bot=platform.bot, content="Hello")
    await platform.execute("UPDATE bots SET deleted_at = now() WHERE id = $1", platform.bot)
    said = await platform.told("DELETE FROM bots WHERE id = $1", platform.bot)
    assert {(row.topic, row.type) for row in said} == {
        (f"user:{guest}", "notification"),
        (f"bot:{platform.bot}", "recheck"),
    }
    assert len(await platform.told("DELETE FROM documents WHERE bot_id = $1", kept)) == 1


@pytest.mark.parametrize("then", ["boolean USING false", "text", "uuid USING NULL"])
@pytest.mark.gen_test
async def test_a_time_of_deletion_that_is_none_any_more(platform: Platform, then: str) -> None:
    """False is not null: every row would count as deleted, and nothing would be told."""
    insert = "INSERT INTO messages (chat, content) VALUES ($1, 'Hello')"
    assert len(await platform.told(insert, platform.chat)) == 1
    await platform.execute(f"ALTER TABLE messages ALTER deleted_at TYPE {then}")
    with pytest.raises(asyncpg.UndefinedFunctionError, match=r"relay\.time_of"):
        await platform.execute(insert, platform.chat)
    await platform.execute("ALTER TABLE messages ALTER deleted_at TYPE timestamp USING NULL")
    assert len(await platform.told(insert, platform.chat)) == 1


@pytest.mark.parametrize("zones", [("timestamp", "timestamptz"), ("timestamptz", "timestamp")])
@pytest.mark.gen_test
async def test_an_expression_reads_a_time_whose_type_changes(
    platform: Platform, zones: tuple[str, str]
) -> None:
    """A cast that nobody wrote would follow the writer's time zone."""
    first, then = zones
    at = "written AT TIME ZONE 'UTC'" if first == "timestamptz" else "written"
    await platform.execute(f"ALTER TABLE messages ADD written {first}")
    told = f"content = {{ sql = \"to_char({at}, 'HH24:MI')\" }}"
    wanted = mapping(MAPPING.replace('content = { sql = "coalesce(content, actor)" }', told))
    await apply(platform.connection, wanted)
    await platform.execute(
        f"SET timezone = 'UTC'; ALTER TABLE messages ALTER written TYPE {then};"
        " SET timezone = 'America/New_York'"
    )
    noon = "2026-01-31 12:00:00" + "+00" * (then == "timestamptz")
    insert = f"INSERT INTO messages (chat, written) VALUES ($1, '{noon}')"
    assert [row.said for row in await platform.told(insert, platform.chat)] == ["12:00"]


@pytest.mark.gen_test
async def test_a_lookup_whose_key_is_not_unique_is_a_warning(platform: Platform) -> None:
    """Which of the rows counts is not said."""
    assert not (await plan(platform.connection, mapping(MAPPING))).warnings
    await platform.execute("ALTER TABLE chats DROP CONSTRAINT chats_pkey")
    (warning,) = (await plan(platform.connection, mapping(MAPPING))).warnings
    assert warning.startswith('public."chats": "number" has no unique index')


INNER = """
CREATE FUNCTION public.inner_of(value text) RETURNS text
LANGUAGE plpgsql STABLE AS 'BEGIN RETURN upper(value); END';
CREATE FUNCTION public.outer_of(value text) RETURNS text
LANGUAGE plpgsql STABLE AS 'BEGIN RETURN inner_of(value); END'
"""


@pytest.mark.parametrize("has_rows", [True, False])
@pytest.mark.gen_test
async def test_a_function_that_needs_the_writers_search_path_is_refused(
    platform: Platform, has_rows: bool
) -> None:
    """Under the triggers' own path each write would fail, for what its body names."""
    await platform.execute(INNER)
    if has_rows:
        await platform.execute("ALTER FUNCTION outer_of STRICT")  # nulls would not run it
        await platform.insert("messages", chat=platform.chat, content="Hello")
    told = 'content = { sql = "public.outer_of(content)" }'
    wanted = mapping(MAPPING.replace('content = { sql = "coalesce(content, actor)" }', told))
    with pytest.raises(AttachError, match=r"inner_of\(text\) does not exist.*name all else with"):
        await apply(platform.connection, wanted)
    await platform.execute("ALTER FUNCTION outer_of SET search_path = public")
    await apply(platform.connection, wanted)
    insert = "INSERT INTO messages (chat, content) VALUES ($1, 'Hello')"
    assert [row.said for row in await platform.told(insert, platform.chat)] == ["HELLO"]


@pytest.mark.gen_test
async def test_an_expression_that_fails_for_some_row_is_refused(
    platform: Platform, core_database: str
) -> None:
    """It would fail whoever writes such a row, and the statement that repairs it."""
    texts = ("true", "maybe", "false")
    for text in texts:
        await platform.insert("messages", chat=platform.chat, content=text)
    told = 'content = { sql = "content::boolean::text" }'
    wanted = mapping(MAPPING.replace('content = { sql = "coalesce(content, actor)" }', told))
    with pytest.raises(AttachError, match=r'messages.content: .*type boolean: "maybe"\. For every'):
        await apply(platform.connection, wanted)
    await platform.execute("DELETE FROM messages WHERE content = 'maybe'")
    await apply(platform.connection, wanted)
    await finds(Level.FINE, "expressions", deployment(core_database))
    await platform.execute("ALTER TABLE messages DISABLE TRIGGER USER")
    await platform.insert("messages", chat=platform.chat, content="maybe")
    there = deployment(core_database)
    await finds(Level.PROBLEM, "expressions", there, 'boolean: "maybe"', "null for every row")


# The first row takes longer than there is time; so does a scan of the whole table.
SLOW = """
CREATE FUNCTION public.slow(value text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF value = 'slow' THEN PERFORM pg_sleep(60); END IF;
    IF value = 'bad' THEN RAISE 'a bad one'; END IF;
    RETURN value;
END $$;
ALTER TABLE messages ALTER content SET STORAGE PLAIN;
INSERT INTO messages (chat, content)
SELECT 1, CASE number WHEN 1 THEN 'slow' WHEN 300 THEN 'bad' ELSE repeat('x', 7000) END
  FROM generate_series(1, 300) AS number
"""


@pytest.mark.gen_test
async def test_of_a_large_table_the_newest_rows_are_tried(platform: Platform) -> None:
    """There is not the time for all; what could not be tried is no reason to refuse."""
    await platform.execute(SLOW)
    told = 'content = { sql = "public.slow(content)" }'
    wanted = mapping(MAPPING.replace('content = { sql = "coalesce(content, actor)" }', told))
    with pytest.raises(AttachError, match="a bad one"):
        await plan(platform.connection, wanted)
    await platform.execute("DELETE FROM messages WHERE content = 'bad'")
    assert not (await plan(platform.connection, wanted)).is_done


@pytest.mark.gen_test
async def test_a_policy_that_fails_whoever_attaches_is_no_fault_of_the_expression(
    platform: Platform,
) -> None:
    """The triggers do not read the table through it; nulls tell whether all names are found."""
    await platform.insert("messages", chat=platform.chat, content="Hello")
    await platform.execute(
        f'CREATE ROLE "{LOOKUP_ROLE}"; GRANT SELECT ON messages TO "{LOOKUP_ROLE}";'
        " ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        " CREATE POLICY tenant ON messages USING (actor = current_setting('app.tenant'));"
        f' SET ROLE "{LOOKUP_ROLE}"; SET search_path = pg_catalog, pg_temp'
    )
    try:
        table = "public.messages"
        found = await try_out(platform.connection, table, "upper(r.content)", "upper(NULL)")
        assert found == ("", 'unrecognized configuration parameter "app.tenant"')
        found = await try_out(platform.connection, table, "inner_of(r.content)", "inner_of(NULL)")
        assert "inner_of(unknown) does not exist" in found.failure
        await platform.execute("SET app.tenant = 'x'")
        found = await try_out(platform.connection, table, "upper(r.content)", "upper(NULL)")
        assert found == ("", "row security shows it none")
    finally:
        await platform.execute(
            f'RESET ROLE; RESET search_path; DROP OWNED BY "{LOOKUP_ROLE}";'
            f' DROP ROLE "{LOOKUP_ROLE}"'
        )


@pytest.mark.gen_test
async def test_the_doctor_tries_expressions(platform: Platform, core_database: str) -> None:
    """A function that is replaced after attaching fails each write; nothing else shows it."""
    await finds(Level.FINE, "expressions", deployment(core_database), "4 expressions can be")
    await platform.execute(INNER.replace("inner_of(value)", "upper(value)"))
    told = 'content = { sql = "public.outer_of(content)" }'
    wanted = mapping(MAPPING.replace('content = { sql = "coalesce(content, actor)" }', told))
    await apply(platform.connection, wanted)
    for strict, row in (("", 0), (" STRICT", 1)):
        await platform.execute(
            INNER.replace("CREATE", "CREATE OR REPLACE").replace(
                " STABLE AS", f" STABLE{strict} AS"
            )
        )
        if row:
            await platform.execute("ALTER TABLE messages DISABLE TRIGGER USER")
            await platform.insert("messages", chat=platform.chat, content="Hello")
        await finds(
            Level.PROBLEM,
            "expressions",
            deployment(core_database),
            "public.messages: content cannot be worked out: function inner_of(text) does not exist",
            "name all that its functions use",
        )


@pytest.mark.gen_test
async def test_the_doctor_tries_no_expression_that_it_may_not_call(
    platform: Platform, core_database: str
) -> None:
    """A server's own role need not; it is said who may."""
    role = f"server_{uuid4().hex[:8]}"
    await platform.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA relay TO {role}")
    there = deployment(re.sub(r"//[^@/]*@", f"//{role}@", core_database))
    await finds(Level.FINE, "expressions", there, "4 expressions are not tried", "the owner of")
    await platform.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.gen_test
async def test_a_function_that_refuses_nulls_is_no_matter(platform: Platform) -> None:
    """The column may never be null; and what fails for a row that is there is refused."""
    await platform.execute(
        """CREATE FUNCTION public.strictly(value text) RETURNS text LANGUAGE plpgsql STABLE AS
        'BEGIN IF value IS NULL THEN RAISE ''no value''; END IF; RETURN value; END'"""
    )
    told = 'content = { sql = "public.strictly(content)" }'
    wanted = mapping(MAPPING.replace('content = { sql = "coalesce(content, actor)" }', told))
    assert not (await plan(platform.connection, wanted)).is_done
    await platform.insert("messages", chat=platform.chat)
    with pytest.raises(AttachError, match="no value"):
        await plan(platform.connection, wanted)


@pytest.mark.gen_test
async def test_a_flag_may_be_worked_out_too(platform: Platform) -> None:
    """A user who is blocked leaves; one who was never there is not asked about."""
    rows = await platform.told("UPDATE users SET state = 'blocked'")
    assert rows == [Row(None, "eject", platform.ada, None)]
    assert not await platform.may_watch(platform.ada)
    assert [one.type for one in await platform.told("UPDATE users SET state = 'active'")] == [
        "grant"
    ]


@pytest.mark.gen_test
async def test_attached_again_and_detached(platform: Platform) -> None:
    """The second time there is nothing to do, and nothing is left at the end."""
    assert (await plan(platform.connection, mapping(MAPPING))).is_done
    await detach(platform.connection)
    assert not await platform.connection.fetchval(
        "SELECT count(*) FROM pg_proc WHERE proname LIKE 'mapped%'"
    )
    assert not await platform.connection.fetchval("SELECT to_regclass('relay.mapped_value')")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("[documents]\nstatus = { sql = 'chunk_cuont > 0' }", 'documents.status: .*"chunk_cuont"'),
        (
            "[documents]\nstatus = { sql = 'chunk_count' }",
            "the value is integer; this has to be text",
        ),
        (
            "[documents]\nstatus = { sql = 'filename) AS x, (1' }",
            "documents.status: PostgreSQL ref",
        ),
        ("[documents]\nstatus = { sql = 'filename); DROP TABLE messages; --' }", "refuses it"),
        (
            "[documents]\nstatus = { sql = '/* filename' }",
            "documents.status: PostgreSQL refuses it",
        ),
        (
            "[documents]\nstatus = { sql = '(SELECT name FROM bots LIMIT 1)' }",
            "may read the columns of its row, and no other table",
        ),
        (
            "[documents]\nstatus = { sql = '(SELECT count(*) FROM bots)::text' }",
            "may read the columns of its row, and no other table",
        ),
        ("[documents]\nstatus = { sql = 'random()::text' }", r"random\(\) is volatile"),
        (
            "[documents]\nstatus = { sql = 'coalesce(filename, clock_timestamp()::text)' }",
            r"clock_timestamp\(\) is volatile: it may give another value each time",
        ),
        (
            "[documents]\nstatus = { sql = '(SELECT max(chunk_count) FROM documents)::text' }",
            "may read the columns of its row, and no other table",
        ),
        (
            '[messages]\nbot_id = { through = "chat", table = "chatz", column = "bot" }',
            "messages.bot_id: there is no table public.chatz: correct `table`",
        ),
        (
            '[messages]\nbot_id = { through = "chat", table = "chats", column = "bot" }',
            "messages.bot_id: public.chats has no column id: correct `key`",
        ),
        (
            '[messages]\nbot_id = { through = "chat", table = "chats", key = "number",'
            ' column = "bto" }',
            "messages.bot_id: public.chats has no column bto: correct `column`",
        ),
        (
            '[messages]\nbot_id = { through = "chta", table = "chats", key = "number",'
            ' column = "bot" }',
            "has no column chta: correct `through`",
        ),
        (
            '[messages]\nbot_id = { through = "content", table = "chats", key = "number",'
            ' column = "bot" }',
            "messages.bot_id: PostgreSQL refuses it: operator does not exist: bigint = text",
        ),
        (
            '[messages]\nbot_id = { through = "chat", table = "chats", key = "number",'
            ' column = "number" }',
            "messages.bot_id: the value is bigint; ids on the wire are UUIDs",
        ),
        (
            '[documents]\ndeleted_at = "is_deleted"',
            "CASE WHEN is_deleted THEN timestamptz 'epoch' END",
        ),
    ],
)
@pytest.mark.gen_test
async def test_what_cannot_be_worked_out_is_refused(
    platform: Platform, change: str, complaint: str
) -> None:
    """In one line each, with what PostgreSQL says, and nothing is changed."""
    heading, _, line = change.partition("\n")
    before, found, after = MAPPING.partition(f"{heading}\n")
    key = line.split(" = ", maxsplit=1)[0]
    section, rest, others = after.partition("\n[")
    kept = mapping(f"{before}{found}{line}\n{_without(section, key)}{rest}{others}")
    with pytest.raises(AttachError, match=complaint) as refused:
        await apply(platform.connection, kept)
    assert len(str(refused.value).removeprefix(HEADING).splitlines()) == 1
    assert (await plan(platform.connection, mapping(MAPPING))).is_done


HEADING = "the mapping does not fit the database:\n"


def _without(section: str, key: str) -> str:
    """The section without the value of a key, which may have two lines."""
    lines, skips = [], False
    for line in section.split("\n"):
        skips = line.startswith(f"{key} =") or (skips and line.startswith(" "))
        lines += [] if skips else [line]
    return "\n".join(lines)


async def began(url: str, isolation: str) -> asyncpg.Connection[asyncpg.Record]:
    """Another connection in a transaction that, where it keeps one, has its snapshot."""
    other = await asyncpg.connect(url, timeout=LIMIT)
    await other.execute(f"BEGIN ISOLATION LEVEL {isolation}")
    await other.fetchval("SELECT count(*) FROM users")
    return other


async def granted(platform: Platform) -> str:
    grace = await platform.insert("users", username="grace")
    await platform.execute("INSERT INTO permissions VALUES ($1, $2, 'viewer')", platform.bot, grace)
    return grace


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("table", ["bots", "users"])
@pytest.mark.parametrize(
    "revoke", ["DELETE FROM permissions", "UPDATE permissions SET deleted_at = now()"]
)
@pytest.mark.gen_test
async def test_a_revoke_that_does_not_see_what_was_restored_has_its_user_asked_again(
    platform: Platform, core_database: str, isolation: str, table: str, revoke: str
) -> None:
    """By the time it commits, that user may be watching: it was right to let them in."""
    grace = await granted(platform)
    row = platform.bot if table == "bots" else grace
    await platform.execute(f"UPDATE {table} SET deleted_at = now() WHERE id = $1", row)
    other = await began(core_database, isolation)
    if isolation == "READ COMMITTED":
        await other.execute(f"{revoke} WHERE user_id = '{grace}'")
    await platform.execute(f"UPDATE {table} SET deleted_at = NULL WHERE id = $1", row)
    assert await platform.may_watch(grace)
    if isolation == "REPEATABLE READ":
        await other.execute(f"{revoke} WHERE user_id = '{grace}'")
    await platform.execute("DELETE FROM relay.events")
    await other.execute("COMMIT")
    await other.close(timeout=LIMIT)
    rows = await platform.connection.fetch("SELECT type, topic FROM relay.events ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("permission_change", f"bot:{platform.bot}"),
        ("notification", f"user:{grace}"),
        ("recheck", f"bot:{platform.bot}"),
    ]
    assert not await platform.may_watch(grace)


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("table", ["messages", "documents"])
@pytest.mark.gen_test
async def test_what_is_deleted_is_told_although_its_bot_counted_as_deleted(
    platform: Platform, core_database: str, isolation: str, table: str
) -> None:
    """It may be back when that commits."""
    more = {"chat": platform.chat} if table == "messages" else {"bot_id": platform.bot}
    await platform.insert(table, **more)
    await platform.execute("UPDATE bots SET deleted_at = now()")
    other = await began(core_database, isolation)
    if isolation == "READ COMMITTED":
        await other.execute(f"DELETE FROM {table}")
    await platform.execute("UPDATE bots SET deleted_at = NULL")
    await platform.execute("DELETE FROM relay.events")
    if isolation == "REPEATABLE READ":
        await other.execute(f"DELETE FROM {table}")
    await other.execute("COMMIT")
    await other.close(timeout=LIMIT)
    payloads = await platform.connection.fetch("SELECT payload FROM relay.events")
    assert [_said(row["payload"]) for row in payloads] == ["deleted"]


@pytest.mark.gen_test
async def test_what_was_put_in_the_place_of_a_deleted_row_is_told(
    platform: Platform, core_database: str
) -> None:
    """A snapshot that shows both rows, of a table where some count as deleted."""
    ids = [await platform.insert("messages", chat=platform.chat, content="old") for _ in "12"]
    other = await began(core_database, "REPEATABLE READ")
    await platform.execute("DELETE FROM messages WHERE id = $1", ids[0])
    await platform.execute("DELETE FROM relay.events")
    await other.execute(
        "INSERT INTO messages (id, chat, content)"
        " SELECT id, $2, 'new' FROM unnest($1::uuid[]) AS id"
        " ON CONFLICT (id) DO UPDATE SET content = excluded.content",
        *(ids, platform.chat),
    )
    await other.execute("COMMIT")
    await other.close(timeout=LIMIT)
    told = await platform.connection.fetch("SELECT payload FROM relay.events")
    contents = [json.loads(row["payload"])["data"]["content"] for row in told]
    assert contents == ["new", "new"]


LOOKUP_ROLE = "Relay of lookups"


@pytest.mark.gen_test
async def test_a_table_that_is_looked_up_may_not_hide_its_rows(platform: Platform) -> None:
    """What is not found sends nothing, so events would be lost without a word."""
    await platform.execute(
        f'CREATE ROLE "{LOOKUP_ROLE}"; ALTER TABLE relay.events OWNER TO "{LOOKUP_ROLE}";'
        " ALTER TABLE chats ENABLE ROW LEVEL SECURITY"
    )
    try:
        with pytest.raises(AttachError, match=r'public."chats": row security hides its rows'):
            await plan(platform.connection, mapping(MAPPING))
    finally:
        await platform.execute(
            "ALTER TABLE relay.events OWNER TO CURRENT_USER;"
            f' DROP OWNED BY "{LOOKUP_ROLE}"; DROP ROLE "{LOOKUP_ROLE}"'
        )


@pytest.mark.gen_test
async def test_the_doctor_looks_at_tables_that_are_looked_up(
    platform: Platform, core_database: str
) -> None:
    """Nothing else notices, until somebody writes a message."""
    await platform.execute("ALTER TABLE chats RENAME bot TO bot_id")
    await finds(Level.PROBLEM, "columns", deployment(core_database), "lost its column bot")


@pytest.mark.gen_test
async def test_a_table_that_inherits_is_refused(platform: Platform) -> None:
    """Statements about its parent change its rows, and fire no trigger of it."""
    await platform.execute("CREATE TABLE child () INHERITS (permissions)")
    warned = (await plan(platform.connection, mapping(MAPPING))).warnings
    assert any("child inherits from public.permissions" in warning for warning in warned)
    child = MAPPING.replace("[permissions]", '[permissions]\ntable = "child"')
    with pytest.raises(AttachError, match=r"inherits from public\.permissions"):
        await plan(platform.connection, mapping(child))


@pytest.mark.parametrize("moment", ["now()", "CURRENT_TIMESTAMP"])
@pytest.mark.gen_test
async def test_a_flag_that_follows_the_time_is_a_warning(platform: Platform, moment: str) -> None:
    """Nobody is told when it changes by itself. A time of a flag's own, as here, is no matter."""
    of_time = MAPPING.replace("state <> 'blocked'", f"deleted_at > {moment}")
    warned, others = [
        [
            one
            for one in (await plan(platform.connection, mapping(wanted))).warnings
            if "time" in one
        ]
        for wanted in (of_time, MAPPING)
    ]
    assert ([one.partition(":")[0] for one in warned], others) == (["users.is_active"], [])


@pytest.mark.parametrize(
    ("written", "instead", "warned"),
    [
        (
            '[permissions]\ngranted_by = false\ndeleted_at = "deleted_at"',
            "[permissions]\ngranted_by = false\ndeleted_at ="
            ' { sql = "CASE WHEN deleted_at <= now() THEN deleted_at END" }',
            "permissions.deleted_at: if a row counts as deleted once its time has come",
        ),
        (
            """is_active = { sql = "state <> 'blocked'" }""",
            'is_active = { through = "state", table = "states", key = "name", column = "works" }',
            "users.is_active: it is looked up in public.states",
        ),
    ],
)
@pytest.mark.gen_test
async def test_access_that_ends_without_a_statement_is_a_warning(
    platform: Platform, written: str, instead: str, warned: str
) -> None:
    """No trigger tells of it, so somebody has to."""
    await platform.execute("CREATE TABLE states (name text PRIMARY KEY, works boolean)")
    assert written in MAPPING
    wanted = mapping(MAPPING.replace(written, instead))
    warnings = (await plan(platform.connection, wanted)).warnings
    assert [one for one in warnings if one.startswith(warned) and "relay.eject" in one] != []


@pytest.mark.gen_test
async def test_attaching_anew_has_everybody_asked_again(platform: Platform) -> None:
    """Another table may decide from now on, of which no trigger has told."""
    await platform.execute("DELETE FROM relay.events")
    await apply(platform.connection, mapping(MAPPING))
    rows = "SELECT type, code FROM relay.events"
    assert await platform.connection.fetch(rows) == []
    await platform.execute(
        "ALTER TABLE permissions RENAME TO old; CREATE TABLE permissions (LIKE old INCLUDING ALL)"
    )
    await apply(platform.connection, mapping(MAPPING))
    said = [("recheck", 4003), ("grant", None)]
    assert [tuple(row) for row in await platform.connection.fetch(rows)] == said


@pytest.mark.gen_test
async def test_attaching_after_a_detachment_sends_everybody_away(platform: Platform) -> None:
    """No trigger has told of what was written meanwhile: whoever lost access, or missed events."""
    await detach(platform.connection)
    await platform.execute("DELETE FROM relay.events")
    await apply(platform.connection, mapping(MAPPING))
    found = await platform.connection.fetch("SELECT type, code, user_id, topic FROM relay.events")
    assert [tuple(row) for row in found] == [
        ("eject", 1013, None, None),
        ("grant", None, None, None),
    ]


@pytest.mark.gen_test
async def test_a_lookup_compares_as_its_key_does(platform: Platform) -> None:
    """A key that ignores case is found by what a foreign key to it accepts, and by its index."""
    await platform.execute(
        f"{CITEXT} CREATE TABLE rooms (name ci PRIMARY KEY, bot uuid);"
        " ALTER TABLE messages ADD room ci REFERENCES rooms"
    )
    await platform.execute("INSERT INTO rooms VALUES ('Support', $1)", platform.bot)
    through = 'through = "room", table = "rooms", key = "name", column = "bot"'
    chats = 'through = "chat", table = "chats", key = "number", column = "bot"'
    await apply(platform.connection, mapping(MAPPING.replace(chats, through)))
    found = await platform.told("INSERT INTO messages (room, content) VALUES ('support', 'Hi')")
    assert [(row.topic, row.type) for row in found] == [(f"bot:{platform.bot}", "chat_message")]


@pytest.mark.gen_test
async def test_a_username_is_looked_up_by_its_index(platform: Platform) -> None:
    """Though its type is not PostgreSQL's own; and it is compared exactly."""
    await platform.execute(f"{CITEXT} ALTER TABLE users ALTER username TYPE ci")
    await apply(platform.connection, mapping(MAPPING))
    await platform.execute(
        "INSERT INTO users (username) SELECT 'user' || n FROM generate_series(1, 500) AS n;"
        " ANALYZE users"
    )
    asked = "SELECT count(*) FROM relay.authenticate($1, 'username')"
    scanned = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'users'"
    before = await platform.connection.fetchval(scanned)
    counts = [await platform.connection.fetchval(asked, name) for name in ("ada", "Ada", "no")]
    assert (counts, await platform.connection.fetchval(scanned)) == ([1, 0, 0], before)


@pytest.mark.gen_test
async def test_what_the_owner_may_not_call_is_refused(
    platform: Platform, core_database: str
) -> None:
    """Each write would fail, for the functions run as the owner of the log."""
    name = await platform.connection.fetchval("SELECT current_database()")
    owner = f"owner_of_{name}"
    await platform.execute(
        "CREATE FUNCTION label(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper($1);"
        " REVOKE EXECUTE ON FUNCTION label FROM PUBLIC;"
        f" CREATE ROLE {owner}; GRANT ALL ON SCHEMA relay TO {owner};"
    )
    try:
        objects = await platform.connection.fetch(
            "SELECT format('ALTER %s %s OWNER TO ', CASE relkind WHEN 'S' THEN 'SEQUENCE'"
            " ELSE 'TABLE' END, oid::regclass) AS change FROM pg_class"
            " WHERE relnamespace = 'relay'::regnamespace AND relkind IN ('r', 'p', 'S')"
        )
        for row in objects:
            await platform.execute(row["change"] + owner)
        for table in ("users", "bots", "permissions", "messages", "documents"):
            await platform.execute(f"ALTER TABLE {table} OWNER TO {owner}")
        wanted = mapping(MAPPING.replace("coalesce(content, actor)", "label(content)"))
        refused = rf"{owner}, as whom the functions run, may not call public\.label\(text\): GRANT"
        with pytest.raises(AttachError, match=refused):
            await plan(platform.connection, wanted)
        await platform.execute(f"GRANT EXECUTE ON FUNCTION label TO {owner}")
        await plan(platform.connection, wanted)
    finally:
        await platform.execute(f"REASSIGN OWNED BY {owner} TO CURRENT_USER")
        await platform.execute(f"DROP OWNED BY {owner}; DROP ROLE {owner}")


@pytest.mark.parametrize(
    "reading",
    [
        "{ sql = \"coalesce(label, 'none')\" }",
        '{ through = "label", table = "words", key = "word", column = "text" }',
    ],
    ids=["sql", "through"],
)
@pytest.mark.gen_test
async def test_what_is_computed_when_it_is_read_is_refused(
    platform: Platform, reading: str
) -> None:
    """Triggers cannot read it: PostgreSQL 18 has such columns, and each write would fail."""
    if await platform.connection.fetchval("SELECT current_setting('server_version_num')") < "18":
        pytest.skip("PostgreSQL 18 has virtual generated columns")
    await platform.execute(
        "ALTER TABLE messages ADD label text GENERATED ALWAYS AS (lower(content)) VIRTUAL;"
        " CREATE TABLE words (word text PRIMARY KEY, text text)"
    )
    wanted = MAPPING.replace('{ sql = "coalesce(content, actor)" }', reading)
    with pytest.raises(AttachError, match=r"messages\.content: it reads label, which is computed"):
        await plan(platform.connection, mapping(wanted))


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("CASE WHEN row_number() OVER () = 1 THEN 'user' ELSE 'x' END", "a window function"),
        ("count(*) OVER () || ''", "a window function"),
        ("lag(content) OVER ()", "a window function"),
        ("string_agg(content, ',')", "an aggregate"),
        ("unnest(ARRAY[content, 'more'])", "a function that returns a set"),
        ("generate_series(1, 0)::text", "a function that returns a set"),
    ],
)
@pytest.mark.gen_test
async def test_what_is_of_many_rows_is_refused(
    platform: Platform, expression: str, said: str
) -> None:
    """A trigger has one row at a time: each write would fail, or be told wrong."""
    wanted = MAPPING.replace("coalesce(content, actor)", expression)
    with pytest.raises(AttachError, match=rf"each row alone, without {said}"):
        await plan(platform.connection, mapping(wanted))


@pytest.mark.gen_test
async def test_a_row_may_hold_many_values(platform: Platform) -> None:
    """A subquery over them is of that row alone."""
    joined = "(SELECT string_agg(one, '+') FROM unnest(string_to_array(content, ' ')) AS one)"
    await apply(platform.connection, mapping(MAPPING.replace("coalesce(content, actor)", joined)))
    insert = "INSERT INTO messages (chat, content) VALUES ($1, 'a b')"
    (found,) = await platform.told(insert, platform.chat)
    assert "a+b" in str(found.said)
