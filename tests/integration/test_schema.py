"""The migrations: up, down and up again, one branch or both, and what a server says of the rest."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from migrations import needed
from realtime.embedded.server import EmbeddedPostgres
from realtime.installation import ALEMBIC_INI, PROJECT
from realtime.postgres.schema import SchemaError, check_schema, migrate

Result = TypeVar("Result")


def config_for(dsn: str) -> Config:
    config = Config(ALEMBIC_INI)
    config.attributes["dsn"] = dsn
    return config


def execute(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def check(dsn: str, *, with_helpers: bool = False) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await check_schema(connection, with_helpers=with_helpers)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture
def dump(postgres: EmbeddedPostgres) -> Callable[[str], list[str]]:
    """All that pg_dump knows of a schema, line by line."""

    def run(dsn: str) -> list[str]:
        program = Path(postgres.bin_dir) / "pg_dump"
        done = subprocess.run(
            [program, "--schema-only", dsn], check=True, capture_output=True, text=True
        )
        # Newer ones write a random key, as in "\restrict xyz".
        return [line for line in done.stdout.splitlines() if not line.startswith("\\")]

    return run


def test_up_down_up_gives_the_same_schema(
    empty_database: str, dump: Callable[[str], list[str]]
) -> None:
    """And down leaves only what env.py made: the schema and alembic's table."""
    config = config_for(empty_database)
    command.upgrade(config, "heads")
    up = dump(empty_database)
    command.downgrade(config, "base")
    down = dump(empty_database)
    assert [line for line in down if line.startswith("CREATE ")] == [
        "CREATE SCHEMA relay;",
        "CREATE TABLE relay.alembic_version (",
    ]
    command.upgrade(config, "heads")
    assert dump(empty_database) == up
    migrate(empty_database)
    assert dump(empty_database) == up


def test_the_core_alone_knows_no_tables(
    empty_database: str, dump: Callable[[str], list[str]]
) -> None:
    """A platform with tables of its own takes only that, and brings authorize itself."""
    migrate(empty_database, core_alone=True)
    assert "public." not in "\n".join(dump(empty_database))
    with pytest.raises(SchemaError, match=r"relay\.authorize"):
        check(empty_database)
    execute(
        empty_database,
        """CREATE FUNCTION relay.authenticate(subject text, kind text)
        RETURNS TABLE (user_id uuid, username text) LANGUAGE sql AS 'SELECT NULL::uuid, NULL';
        CREATE FUNCTION relay.authorize(user_id uuid, bot_id uuid)
        RETURNS TABLE (bot_name text, role text, username text)
        LANGUAGE sql AS 'SELECT NULL, NULL, NULL'""",
    )
    check(empty_database)


def test_the_reference_branch_can_be_taken_out_alone(
    database: str, dump: Callable[[str], list[str]]
) -> None:
    """What is left is the core, as if the other had never been there."""
    command.downgrade(config_for(database), "reference@base")
    assert "public." not in "\n".join(dump(database))


def test_the_models_say_what_the_tables_are(database: str) -> None:
    """`alembic check` is clean; an application's own tables are not its business."""
    execute(database, "CREATE TABLE theirs (id int)")
    command.check(config_for(database))
    execute(database, "ALTER TABLE messages ADD COLUMN surprise text")
    with pytest.raises(CommandError, match="surprise"):
        command.check(config_for(database))


def test_two_release_phases_at_once_do_not_collide(empty_database: str) -> None:
    """The second waits for the first and finds nothing left to do."""
    with ThreadPoolExecutor(2) as pool:
        script = [sys.executable, "-c", "import sys; from realtime.postgres.schema import migrate;"]
        script[2] += " migrate(sys.argv[1])"
        runs = pool.map(
            lambda dsn: subprocess.run([*script, dsn], cwd=PROJECT, check=False),
            [empty_database] * 2,
        )
        assert [run.returncode for run in runs] == [0, 0]
    check(empty_database)


def test_the_address_comes_from_the_environment(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Procfile host, postgres:// included; without one, a line says what to set."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(CommandError, match="set DATABASE_URL"):
        command.upgrade(Config(ALEMBIC_INI), "heads")
    assert empty_database.startswith("postgres")
    address = "postgres://" + empty_database.split("://", 1)[1]
    monkeypatch.setenv("DATABASE_URL", address)
    command.upgrade(Config(ALEMBIC_INI), "heads")
    check(empty_database)


def test_offline_mode_prints_sql_that_works(
    empty_database: str,
    postgres: EmbeddedPostgres,
    dump: Callable[[str], list[str]],
    capsys: pytest.CaptureFixture[str],
    database: str,
) -> None:
    """For those whose database administrator runs the migrations."""
    command.upgrade(config_for(empty_database), "heads", sql=True)
    script = capsys.readouterr().out
    subprocess.run(
        [postgres.psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", empty_database],
        input=script,
        check=True,
        text=True,
        capture_output=True,
    )
    assert dump(empty_database) == dump(database)


def test_a_migrated_database_passes(database: str) -> None:
    """Nothing is said of it."""
    check(database)


@pytest.fixture
def squatter(empty_database: str) -> Iterator[str]:
    """A role that has made the schema `relay` before anybody else."""
    name = f"squatter_{uuid4().hex[:8]}"
    execute(empty_database, f"CREATE ROLE {name}; CREATE SCHEMA relay AUTHORIZATION {name}")
    yield name
    execute(empty_database, f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_schema_of_somebody_else_is_not_migrated(empty_database: str, squatter: str) -> None:
    """A trigger of theirs on a table there would run as who migrates."""
    refused = f"^the schema relay belongs to {squatter}, who could have code run as postgres"
    with pytest.raises(SchemaError, match=refused):
        migrate(empty_database)
    execute(empty_database, "ALTER SCHEMA relay OWNER TO postgres")
    migrate(empty_database)
    check(empty_database)
    execute(empty_database, f"ALTER TABLE relay.nodes OWNER TO {squatter}")
    with pytest.raises(SchemaError, match=f"^the table relay.nodes belongs to {squatter}") as said:
        migrate(empty_database)
    (cure,) = re.findall(r"REASSIGN OWNED BY \w+ TO \w+", str(said.value))
    execute(empty_database, cure)
    migrate(empty_database)


def test_a_database_that_was_never_migrated_is_refused(empty_database: str) -> None:
    """In one line that says what to do."""
    with pytest.raises(
        SchemaError,
        match=r"^the database is not migrated: run bin/migrate, or, .*bin/migrate --core and then",
    ):
        check(empty_database)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("DELETE FROM relay.alembic_version", "not migrated: run bin/migrate"),
        ("DROP FUNCTION relay.eject", r"half restored, without relay\.eject\(.*: restore a dump"),
        ("DROP TABLE relay.connections", r"half restored, without relay\.connections, .*: restore"),
        ("ALTER FUNCTION relay.carry RENAME TO x", r"half restored, without relay\.carry\(text,"),
        ("DROP TABLE relay.floor", r"half restored, without relay\.floor, relay\.floor_pkey\. "),
        ("ALTER SEQUENCE relay.bell RENAME TO gone", r"half restored, without relay\.bell\. "),
        ("DROP INDEX relay.events_xid_id", r"half restored, without relay\.events_xid_id\. "),
        ("UPDATE relay.alembic_version SET version_num = 'core_9999'", "deploy that release"),
        (
            "DROP FUNCTION relay.authorize, relay.authenticate",
            r"half restored, without relay\.authenticate.*relay\.authorize.*: restore a dump",
        ),
        ("DELETE FROM relay.floor", "INSERT INTO relay.floor DEFAULT VALUES"),
    ],
)
def test_a_half_migrated_database_is_refused(database: str, damage: str, complaint: str) -> None:
    """The line names what is missing."""
    execute(database, damage)
    with pytest.raises(SchemaError, match=complaint):
        check(database)


@pytest.mark.parametrize(
    "damage",
    ["DROP TABLE relay.connections", "DROP FUNCTION relay.eject", "DROP FUNCTION relay.authorize"],
)
def test_what_no_migration_brings_back_is_said(database: str, damage: str) -> None:
    """As after a restore that left it out: all migrations are applied."""
    execute(database, damage)
    with pytest.raises(SchemaError, match=f"half restored, without {damage.split()[2]}"):
        migrate(database)


def test_all_that_the_schema_has_is_looked_for(core_database: str, database: str) -> None:
    """The list is made from a new database, and is made again when the schema changes."""
    made = needed.written(
        asyncio.run(needed.things_of(core_database)), asyncio.run(needed.things_of(database))
    )
    assert needed.TARGET.read_text("ascii") == made, "run python -m migrations.needed"


def test_a_helper_that_is_gone_is_said_where_the_tables_are(database: str) -> None:
    """Only writers call it: a server can start."""
    execute(database, "ALTER FUNCTION relay.bot_changes RENAME TO gone")
    check(database)
    with pytest.raises(
        SchemaError, match=r"half restored, without relay\.bot_changes\(oid,boolean"
    ):
        check(database, with_helpers=True)
    with pytest.raises(SchemaError, match="half restored, without"):
        migrate(database)


def test_of_many_that_are_gone_few_are_named(database: str) -> None:
    """The line stays one that can be read."""
    execute(database, "DROP TABLE relay.nodes, relay.connections, relay.floor")
    with pytest.raises(SchemaError, match=r"(relay\.\w+, ){7}relay\.\w+ and \d+ more\. Its"):
        check(database)


@pytest.mark.parametrize(
    ("core", "reference", "complaint"),
    [
        ("core_0001", None, "of an older release, without core_0002: run bin/migrate"),
        ("core_0001", "reference_0001", "of an older release, without core_0002, reference_0002"),
        ("core_0002", "reference_0001", "half migrated, without reference_0002"),
    ],
)
def test_a_database_of_an_older_release_is_refused(
    empty_database: str, core: str, reference: str | None, complaint: str
) -> None:
    """It is not half migrated: all of its release is there."""
    for revision in filter(None, (core, reference)):
        command.upgrade(config_for(empty_database), revision)
    with pytest.raises(SchemaError, match=complaint):
        check(empty_database)


NEWER = "UPDATE relay.alembic_version SET version_num = 'core_9999'; INSERT INTO relay.releases"


def test_a_newer_release_that_only_adds_is_served(
    database: str, dump: Callable[[str], list[str]]
) -> None:
    """The schema says from which revision on; the release step leaves it alone."""
    execute(database, f"{NEWER} VALUES ('core_9999', '9.9', 'core_0002')")
    before = dump(database)
    check(database)
    migrate(database)
    assert dump(database) == before


def test_what_else_a_newer_release_has_is_its_own(database: str) -> None:
    """It may have named things anew that this release does not ask for by name."""
    execute(
        database,
        f"{NEWER} VALUES ('core_9999', '9.9', 'core_0002');"
        " ALTER INDEX relay.releases_pkey RENAME TO releases_key;"
        " ALTER FUNCTION relay.bare_type RENAME TO bare",
    )
    check(database)


@pytest.mark.parametrize(
    "marks",
    [
        "('core_9999', '9.9', 'core_9999')",
        "('core_9999', '9.9', 'core_0002'), ('core_9998', '9.8', 'core_9998')",
    ],
)
def test_a_newer_release_that_changes_more_is_refused(database: str, marks: str) -> None:
    """One of its revisions, the last or one before, serves newer processes only."""
    execute(database, f"{NEWER} VALUES {marks}")
    for refused in (check, migrate):
        with pytest.raises(SchemaError, match=r"to 9\.9, core_9999\).*: deploy that release"):
            refused(database)


def test_each_revision_says_whom_it_serves(database: str) -> None:
    """But for those of 0.1.0, and each names a revision of its branch that is not newer."""
    revisions = ScriptDirectory.from_config(config_for(database)).walk_revisions()
    names = {script.revision for script in revisions}

    async def marks() -> dict[str, str]:
        connection = await asyncpg.connect(database)
        rows = await connection.fetch("SELECT revision, serves_from FROM relay.releases")
        await connection.close()
        return {row["revision"]: row["serves_from"] for row in rows}

    serves_from = asyncio.run(marks())
    assert serves_from.keys() == names - {"core_0001", "reference_0001"}
    for revision, oldest in serves_from.items():
        assert oldest in names
        assert oldest <= revision
        assert oldest.split("_")[0] == revision.split("_")[0]


@pytest.fixture
def latin_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of an empty database that is not UTF-8."""
    postgres.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    yield postgres.dsn("latin")
    postgres.sql("DROP DATABASE latin WITH (FORCE)")


def test_a_database_of_another_encoding_can_be_migrated(latin_database: str) -> None:
    """No file has a character that only UTF-8 has, comments included."""
    migrate(latin_database)
    check(latin_database)


def test_the_log_lives_beside_an_applications_own_history(
    empty_database: str, dump: Callable[[str], list[str]]
) -> None:
    """Its tables and its alembic_version are not touched, going up or down."""
    theirs = """CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
        INSERT INTO alembic_version VALUES ('theirs_0042');
        CREATE TABLE users (id uuid PRIMARY KEY, username text)"""
    execute(empty_database, theirs)
    before = dump(empty_database)
    command.upgrade(config_for(empty_database), "core@head")
    command.downgrade(config_for(empty_database), "base")
    execute(empty_database, "DROP TABLE relay.alembic_version; DROP SCHEMA relay")
    assert dump(empty_database) == before


def test_migrating_a_database_with_the_log_alone_leaves_it_alone(
    core_database: str, dump: Callable[[str], list[str]]
) -> None:
    """The tables there are a platform's own: the reference ones would be in their way."""
    before = dump(core_database)
    migrate(core_database)
    assert dump(core_database) == before


def test_the_reference_tables_stay_where_the_core_alone_is_asked_for(
    empty_database: str, database: str, dump: Callable[[str], list[str]]
) -> None:
    """The wrong option on a database that has them leaves it whole: both parts go to the newest."""
    command.upgrade(config_for(empty_database), "reference_0001")
    migrate(empty_database, core_alone=True)
    assert dump(empty_database) == dump(database)
