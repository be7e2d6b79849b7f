"""Databases of different ages, and of a new event type, arrive at one schema with nothing lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic import command

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import migrate
from tests.adopted import MAPPING, SCHEMA
from tests.catalogue import schema_of
from tests.commands import ROOT, environment, execute, run_script
from tests.integration.test_schema import config_for
from tests.postgres import copy_of

OLD_ATTACHED = ROOT / "tests" / "releases" / "0.1.0_attached.sql"
ENDS_COLUMNS = '}\n"""Every table and column that a mapping may name."""'
PROTOCOL_TYPES = r"^CREATE (?:OR REPLACE )?FUNCTION relay\.protocol_types\(.*?^\];\n"
TABLES = [
    *(f"public.{name}" for name in ("users", "bots", "permissions", "sessions", "messages")),
    *("public.documents", "relay.events", "relay.floor", "relay.snapshots", "relay.nodes"),
]
ROWS = """
INSERT INTO users (username) VALUES ('olga'), ('gus');
INSERT INTO bots (name, owner_id) SELECT 'Ada', id FROM users;
INSERT INTO permissions (bot_id, user_id, role)
    SELECT b.id, u.id, 'viewer' FROM bots AS b, users AS u;
INSERT INTO sessions (bot_id, user_id) SELECT id, owner_id FROM bots;
INSERT INTO messages (session_id, bot_id, user_id, role, content)
    SELECT id, bot_id, user_id, 'user', 'written with 0.1.0' FROM sessions;
INSERT INTO documents (bot_id, filename) SELECT id, 'a.pdf' FROM bots;
UPDATE permissions SET role = 'editor';
INSERT INTO relay.nodes (id) VALUES (gen_random_uuid());
INSERT INTO relay.snapshots DEFAULT VALUES;
"""
ADOPTED_WRITES = (
    "INSERT INTO users (username) VALUES ('olga'), ('gus')",
    "INSERT INTO bots (name, owner_id) SELECT 'Ada', id FROM users",
    "INSERT INTO bot_permissions SELECT b.id, u.id, 'VIEWER' FROM bots AS b, users AS u",
    "UPDATE bot_permissions SET role = 'EDITOR'",
    "INSERT INTO messages (bot_id, user_id, content) SELECT id, owner_id, 'hello' FROM bots",
    "UPDATE messages SET content = 'hello again'",
    "DELETE FROM messages",
    "INSERT INTO documents (bot_id, filename) SELECT id, 'a.pdf' FROM bots",
    "DELETE FROM documents",
    "UPDATE bots SET name = 'Eve'",
    "DELETE FROM bot_permissions WHERE user_id = (SELECT id FROM users WHERE username = 'gus')",
    "UPDATE users SET is_active = false WHERE username = 'gus'",
    "DELETE FROM bots",
    "DELETE FROM users",
)
# In the order of a migration's locks: writers of another order fail each other's transactions, too.
WRITES = (
    "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
    " SELECT id, bot_id, user_id, 'user', 'during' FROM sessions LIMIT 1",
    "INSERT INTO documents (bot_id, filename) SELECT id, 'during' FROM bots LIMIT 1",
    "SELECT relay.emit('bot:' || id, 'during', '{}') FROM bots LIMIT 1",
)
WRITTEN = """
SELECT count(*) FROM messages WHERE content = 'during'
UNION ALL SELECT count(*) FROM documents WHERE filename = 'during'
UNION ALL SELECT count(*) FROM relay.events WHERE type = 'during'
"""
WAITING = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation IS NOT NULL)"


def schema(dsn: str, *, without: str = "nothing") -> list[str]:
    """All of it, but for one kind of line."""
    lines = asyncio.run(schema_of(dsn))
    return [line for line in lines if not line.startswith(f"{without}: ")]


def fetch(dsn: str, query: str) -> list[str]:
    async def run() -> list[str]:
        connection = await asyncpg.connect(dsn, timeout=10)
        rows = await connection.fetch(query)
        await connection.close(timeout=10)
        return [str(row[0]) for row in rows]

    return asyncio.run(run())


def rows_of(dsn: str, table: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in fetch(dsn, f"SELECT to_jsonb(t) FROM {table} AS t")]


def lost(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are not there as they were. A later release may have added columns."""
    return [row for row in before if not any(row.items() <= one.items() for one in after)]


def written_by(dsn: str) -> dict[str, list[str]]:
    """The kinds of rows in the log that each of a platform's statements writes."""
    found = {}
    for statement in ADOPTED_WRITES:
        before = len(fetch(dsn, "SELECT id FROM relay.events"))
        execute(dsn, statement)
        rows = f"SELECT type FROM relay.events ORDER BY id OFFSET {before}"
        found[statement] = sorted(fetch(dsn, rows))
    return found


# From release 0.1.0


def test_a_database_of_0_1_0_keeps_all_its_rows(empty_database: str, database: str) -> None:
    """And has the schema of a fresh one. What is written next is an event, as before."""
    old = empty_database
    command.upgrade(config_for(old), "reference_0001")
    execute(old, ROWS)
    before = {table: rows_of(old, table) for table in TABLES}
    assert all(before.values())
    migrate(old)
    after = {table: rows_of(old, table) for table in TABLES}
    assert [row for table in TABLES for row in lost(before[table], after[table])] == []
    assert schema(old) == schema(database)
    execute(old, "UPDATE users SET is_active = false WHERE username = 'gus'")
    assert [row["type"] for row in lost(rows_of(old, "relay.events"), after["relay.events"])] == [
        "eject"
    ]


def test_a_servers_rights_survive(empty_database: str) -> None:
    """A role that was granted what docs/security.md lists may still ask about access."""
    command.upgrade(config_for(empty_database), "reference_0001")
    role = f"server_{uuid4().hex[:8]}"
    execute(
        empty_database,
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA relay TO {role};"
        f" GRANT EXECUTE ON FUNCTION relay.authenticate, relay.authorize TO {role}",
    )
    try:
        migrate(empty_database)
        asked = "SELECT relay.authorize(gen_random_uuid(), gen_random_uuid())"
        execute(empty_database, f"SET ROLE {role}; {asked}; SELECT FROM relay.releases")
    finally:
        execute(empty_database, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_tables_attached_with_0_1_0_are_attached_again(
    empty_database: str, core_database: str
) -> None:
    """The operator runs `bin/migrate` and `bin/attach --apply`, as docs/upgrading.md says."""
    command.upgrade(config_for(empty_database), "core_0001")
    execute(empty_database, SCHEMA)
    execute(empty_database, OLD_ATTACHED.read_text("utf-8"))
    old = written_by(empty_database)
    assert all(old.values())
    execute(core_database, SCHEMA)
    migrate(empty_database)
    # Until bin/attach runs, the old triggers go on writing the log as before.
    assert written_by(empty_database) == old
    for dsn in (empty_database, core_database):
        done = run_script("attach", str(MAPPING), "--apply", DATABASE_URL=dsn)
        assert done.returncode == 0, done.stderr
    assert schema(empty_database) == schema(core_database)


async def write_until(done: asyncio.Event, dsn: str, statements: Sequence[str]) -> int:
    """Transactions of these statements, one after the other; how many statements committed."""
    connection = await asyncpg.connect(dsn, timeout=10)
    committed = 0
    try:
        while not done.is_set():
            async with connection.transaction():
                for statement in statements:
                    await connection.execute(statement)
            committed += len(statements)
    finally:
        await connection.close(timeout=10)
    return committed


@pytest.mark.gen_test
async def test_a_migration_fails_no_writer(empty_database: str) -> None:
    """Transactions that write to several tables and to the log go on meanwhile."""
    await asyncio.to_thread(command.upgrade, config_for(empty_database), "reference_0001")
    await asyncio.to_thread(execute, empty_database, ROWS)
    done = asyncio.Event()
    parts = [part for size in (1, 2, 3) for part in itertools.combinations(WRITES, size)]
    writers = [asyncio.create_task(write_until(done, empty_database, part)) for part in parts]
    try:
        await asyncio.to_thread(migrate, empty_database)
    finally:
        done.set()
        committed = await asyncio.gather(*writers)
    assert all(committed)
    written = await asyncio.to_thread(fetch, empty_database, WRITTEN)
    assert sum(map(int, written)) == sum(committed)


@pytest.mark.gen_test
async def test_writers_do_not_queue_behind_a_migration(empty_database: str) -> None:
    """It waits for a long transaction, and others write meanwhile."""
    await asyncio.to_thread(command.upgrade, config_for(empty_database), "reference_0001")
    await asyncio.to_thread(execute, empty_database, ROWS)
    holder, other = [await asyncpg.connect(empty_database, timeout=10) for _ in range(2)]
    try:
        async with holder.transaction():
            await holder.execute(WRITES[0])
            migrating = asyncio.create_task(asyncio.to_thread(migrate, empty_database))
            while not await other.fetchval(WAITING):
                assert not migrating.done()
            await asyncio.wait_for(other.execute(WRITES[0]), 10)
            assert not migrating.done()
        await migrating
    finally:
        for connection in (holder, other):
            await connection.close(timeout=10)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("first", "second"),
    [("relay.floor", "relay.events"), ("relay.connections", "relay.nodes")],
)
async def test_a_migration_locks_in_the_order_of_the_processes(
    empty_database: str, first: str, second: str
) -> None:
    """A process of 0.1.0 that has the first table gets the second, though the migration waits."""
    await asyncio.to_thread(command.upgrade, config_for(empty_database), "core_0001")
    process, other = [await asyncpg.connect(empty_database, timeout=10) for _ in range(2)]
    try:
        async with process.transaction():
            await process.execute(f"SELECT FROM {first}")
            migrating = asyncio.create_task(asyncio.to_thread(migrate, empty_database))
            while not await other.fetchval(WAITING):
                assert not migrating.done()
            await process.execute(f"LOCK TABLE {second} IN ACCESS SHARE MODE NOWAIT")
        await migrating
    finally:
        for connection in (process, other):
            await connection.close(timeout=10)


def test_0_2_0_can_be_taken_back(database: str, empty_database: str) -> None:
    """As docs/upgrading.md says; the rows stay, and no cursor of before is good."""
    execute(database, ROWS)
    before = rows_of(database, "relay.events")
    for revision in ("reference_0001", "core_0001"):
        command.downgrade(config_for(database), revision)
    command.upgrade(config_for(empty_database), "reference_0001")
    assert schema(database) == schema(empty_database)
    assert len(rows_of(database, "relay.events")) == len(before)
    (floor,) = rows_of(database, "relay.floor")
    assert int(floor["last"]) > max(int(row["xid"]) for row in before)


# A new event type


class Checkout:
    """A copy of this project, which a developer changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "*cache*", "tests"))
        folders = (root / "migrations" / "sql").glob("[0-9]*")
        self.newest = max(folder.name for folder in folders)
        self.next = f"{int(self.newest) + 1:04}"

    def numbered(self, text: str) -> str:
        """The documentation's text, with the numbers of this release and the next one."""
        return text.replace("0002", self.newest).replace("0003", self.next)

    def path(self, name: str) -> Path:
        return self.root / name if name.startswith("realtime/") else self.root / "migrations" / name

    def read(self, name: str) -> str:
        return self.path(name).read_text("utf-8")

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text, "utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        assert old in self.read(name), (name, old)
        self.write(name, self.read(name).replace(old, new))

    def run(self, *command: str, dsn: str = "") -> None:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.root,
            env=environment(DATABASE_URL=dsn),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    def tables(self) -> list[Path]:
        return sorted((self.root / "migrations" / "sql").glob("*/reference/tables.sql"))


def follow_the_recipe(checkout: Checkout) -> None:
    """Take the steps of docs/design.md, with the files that stand there."""
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    recipe = design.partition("\n## A new event type\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"`([\w./]+)`(?:,[^:`]+)?:\n\n *```\w+\n(.*?)```", recipe, re.DOTALL)
    assert len(blocks) == recipe.count("```") / 2
    for name, block in blocks:
        path, text = checkout.numbered(name), textwrap.dedent(checkout.numbered(block))
        if path.endswith("mapping.py"):
            checkout.edit(path, ENDS_COLUMNS, textwrap.indent(text, "    ") + ENDS_COLUMNS)
        else:
            there = checkout.read(path) if checkout.path(path).exists() else ""
            checkout.write(path, there + text)
    add_the_type(checkout)


def add_the_type(checkout: Checkout) -> None:
    """Step 4: a copy of the newest list that there is, and one type more."""
    files = sorted((checkout.root / "migrations" / "sql").glob("*/core/contract.sql"))
    texts = [path.read_text("ascii") for path in files]
    found = [re.search(PROTOCOL_TYPES, text, re.DOTALL | re.MULTILINE) for text in texts]
    newest = [one[0] for one in found if one][-1]
    former = newest.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    checkout.write(f"sql/{checkout.next}/core/down.sql", former)
    checkout.write(f"sql/{checkout.next}/core/contract.sql", former)
    checkout.edit(f"sql/{checkout.next}/core/contract.sql", "ARRAY[", "ARRAY['reaction',")


def change_templates(checkout: Checkout) -> None:
    """A function's body, a trigger, and the name of an argument, which means another function."""
    checkout.edit("templates/documents.sql", "'uploaded', {{n.id}}", "'added', {{n.id}}")
    checkout.edit("templates/permissions.sql", "('4003')", "('1013')")
    checkout.edit(
        "templates/access_changes.sql", "action text, role text, g", "action text, rank text, g"
    )
    checkout.edit("templates/access_changes.sql", "(coalesce(role, ", "(coalesce(rank, ")
    before, down = (f"sql/{checkout.next}/reference/{name}.sql" for name in ("before", "down"))
    checkout.write(before, "DROP FUNCTION relay.permission_details(text, text, uuid, text);\n")
    checkout.write(down, checkout.read(before) + checkout.read(down))
    tables = f'"{checkout.next}/reference/tables"'
    revision = f"versions/reference_{checkout.next}.py"
    checkout.edit(revision, tables, f"{tables.replace('tables', 'before')}, {tables}")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The next release: a new event type by the recipe, and changed templates."""
    checkout = Checkout(tmp_path_factory.mktemp("next") / "checkout")
    follow_the_recipe(checkout)
    change_templates(checkout)
    checkout.run("-m", "migrations.render", checkout.next)
    return checkout


@pytest.fixture(scope="module")
def next_template(checkout: Checkout, postgres: EmbeddedPostgres) -> str:
    """The name of a database that the next release alone has migrated. Nobody connects to it."""
    postgres.sql("CREATE DATABASE next_release")
    checkout.run("-m", "realtime", "migrate", dsn=postgres.dsn("next_release"))
    return "next_release"


@pytest.fixture
def fresh(next_template: str, postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a copy of it."""
    with copy_of(next_template, postgres) as dsn:
        yield dsn


@pytest.fixture
def attached(checkout: Checkout, postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database with the next release's core, and tables that it attached."""
    with copy_of("template1", postgres) as dsn:
        checkout.run("-m", "realtime", "migrate", "--core", dsn=dsn)
        for path in checkout.tables():
            execute(dsn, path.read_text("ascii"))
        checkout.run("-m", "realtime", "attach", "--apply", dsn=dsn)
        yield dsn


def test_a_new_event_type_by_the_recipe(checkout: Checkout, fresh: str) -> None:
    """Its rows are events, its name is the protocol's, and the models know its table."""
    checkout.run("-m", "alembic", "check", dsn=fresh)
    reaction = "INSERT INTO reactions (bot_id, message_id, emoji)"
    execute(fresh, f"{ROWS} {reaction} SELECT bot_id, id, '+1' FROM messages LIMIT 1")
    events = fetch(fresh, "SELECT payload FROM relay.events WHERE type = 'reaction'")
    assert [json.loads(event)["data"]["emoji"] for event in events] == ["+1"]
    with pytest.raises(asyncpg.InvalidParameterValueError, match="belongs to the protocol"):
        execute(fresh, "SELECT relay.emit('bot:' || gen_random_uuid(), 'reaction', '{}')")


def test_all_ways_lead_to_one_schema(
    checkout: Checkout, fresh: str, attached: str, empty_database: str
) -> None:
    """A fresh database, one of 0.1.0 upgraded, and one that was attached anew.

    What differs is meant to: `bin/attach` says in comments what it made.
    """
    upgraded = empty_database
    command.upgrade(config_for(upgraded), "reference_0001")
    execute(upgraded, ROWS)
    checkout.run("-m", "realtime", "migrate", dsn=upgraded)
    assert schema(upgraded) == schema(fresh)
    assert schema(attached, without="comment") == schema(fresh, without="comment")
    comments = {*schema(attached)} - {*schema(fresh)}
    assert comments
    assert all("Made by bin/attach" in comment for comment in comments)


def test_the_next_release_can_be_taken_back(checkout: Checkout, fresh: str, database: str) -> None:
    """`alembic downgrade` brings the schema of this release again."""
    assert schema(fresh) != schema(database)
    for branch in ("reference", "core"):
        checkout.run("-m", "alembic", "downgrade", f"{branch}_{checkout.newest}", dsn=fresh)
    assert schema(fresh) == schema(database)
