"""What `bin/migrate` says where it cannot do its work: one line that a person can act on."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest
from alembic import command

from realtime.attach.command import run as attach
from realtime.attach.mapping import read_mapping
from realtime.attach.state import AttachError
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.release import ReleaseError, bring_up_to_date
from realtime.postgres.rotation import RotateError, rotate_channels, rotate_cursor_key
from realtime.postgres.schema import SchemaError
from tests.commands import execute, free_port
from tests.integration.test_schema import check, config_for
from tests.postgres import restart


def refusal(dsn: str, *, patience: float = 0) -> str:
    """The line, which is one."""
    with pytest.raises((ReleaseError, SchemaError)) as caught:
        bring_up_to_date(dsn, patience=patience)
    line = str(caught.value)
    assert "\n" not in line
    assert "sqlalche.me" not in line
    return line


@contextmanager
def role(dsn: str) -> Iterator[tuple[str, str]]:
    """The name of a role without any right, and the address for it."""
    name = f"weak_{uuid.uuid4().hex[:8]}"
    execute(dsn, f"CREATE ROLE {name} LOGIN")
    try:
        yield name, dsn.replace("postgres@", f"{name}@")
    finally:
        execute(dsn, f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_role_without_rights(empty_database: str, database: str) -> None:
    """Who may make nothing, and who is not the owner of what is there: the role is named."""
    for dsn in (empty_database, database):
        with role(dsn) as (name, weak):
            line = refusal(weak)
            assert "permission denied" in line
            assert f"as the role {name}. Run this as the role that owns" in line


def test_who_may_make_no_schema_and_need_not(empty_database: str) -> None:
    """The right may be taken back once the schema is there."""
    name = urlsplit(empty_database).path[1:]
    with role(empty_database) as (owner, dsn):
        execute(
            empty_database,
            f"GRANT CREATE ON DATABASE {name} TO {owner}; GRANT CREATE ON SCHEMA public TO {owner}",
        )
        assert bring_up_to_date(dsn)
        execute(empty_database, f"REVOKE CREATE ON DATABASE {name} FROM {owner}")
        assert bring_up_to_date(dsn)


def test_with_nothing_to_do_nothing_is_made(empty_database: str) -> None:
    """Not even IF NOT EXISTS: a platform may refuse all DDL but in its own releases."""
    bring_up_to_date(empty_database, core_alone=True)
    execute(
        empty_database,
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION 'no DDL here: %', tg_tag; END $$;"
        " CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()",
    )
    assert bring_up_to_date(empty_database, core_alone=True)


@contextmanager
def transaction(dsn: str, *statements: str) -> Iterator[None]:
    """Open, with what the statements have locked."""
    loop = asyncio.new_event_loop()
    settings = {"application_name": "nightly report"}
    connection = loop.run_until_complete(asyncpg.connect(dsn, server_settings=settings))
    for statement in ("BEGIN", *statements):
        loop.run_until_complete(connection.execute(statement))
    try:
        yield
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def test_a_lock_that_is_held_is_laid_to_somebody(empty_database: str) -> None:
    """The process and its program, or the prepared transaction; nobody who holds another table."""
    command.upgrade(config_for(empty_database), "core_0001")
    locked = "LOCK TABLE relay.events IN ACCESS EXCLUSIVE MODE"
    held = r"relay\.events, which was held by"
    with (
        transaction(empty_database, "SELECT FROM relay.snapshots"),
        transaction(empty_database, locked),
    ):
        line = refusal(empty_database, patience=1)
    assert re.search(held + r" process \d+ \(postgres, nightly report\), idle in transact", line)
    assert line.count("nightly report") == 1
    name = f"prepared {uuid.uuid4().hex[:8]}"
    execute(empty_database, f"BEGIN; {locked}; PREPARE TRANSACTION '{name}'")
    try:
        line = refusal(empty_database, patience=1)
        assert re.search(f"{held} the prepared transaction '{name}'", line)
    finally:
        execute(empty_database, f"ROLLBACK PREPARED '{name}'")


def test_tables_that_are_there_already(empty_database: str) -> None:
    """Those of a platform: the line leads to the way for them, which then works."""
    execute(empty_database, "CREATE TABLE users (id int); CREATE TABLE bots (id int)")
    line = refusal(empty_database)
    assert "tables already that bin/migrate would make: bots, users" in line
    assert "docs/adopting.md" in line
    assert bring_up_to_date(empty_database, core_alone=True)
    assert bring_up_to_date(empty_database)


def test_a_log_without_its_versions(database: str) -> None:
    """As when the version table was left out of a dump."""
    execute(database, "DELETE FROM relay.alembic_version")
    assert "relay.alembic_version does not know of it" in refusal(database)


def test_a_dump_without_the_rows_of_the_log(database: str) -> None:
    """The line says the whole way out, and the tables keep what they have."""
    execute(database, "INSERT INTO users (username) VALUES ('ada')")
    tables = "SELECT string_agg(format('relay.%I', tablename), ', ') FROM pg_tables"
    execute(
        database,
        f"DO $$BEGIN EXECUTE 'TRUNCATE ' || ({tables} WHERE schemaname = 'relay'); END$$",
    )
    line = refusal(database)
    steps = "DROP SCHEMA relay CASCADE, then bin/migrate --core, then bin/attach --apply"
    assert steps in line
    execute(database, "DROP SCHEMA relay CASCADE")
    assert bring_up_to_date(database, core_alone=True)
    attach(database, read_mapping(), named="DATABASE_URL", apply=True, detaches_others=False)
    check(database)
    assert bring_up_to_date(database)
    # A trigger tells of the user who was there before.
    execute(
        database,
        "UPDATE users SET is_active = false WHERE username = 'ada';"
        " DO $$BEGIN ASSERT EXISTS (SELECT FROM relay.events WHERE code IS NOT NULL); END$$",
    )


def test_a_database_that_is_read_only(empty_database: str) -> None:
    """As a host makes it when the disk is full."""
    name = urlsplit(empty_database).path[1:]
    execute(empty_database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "read-only (default_transaction_read_only is on)" in refusal(empty_database)


def test_a_newer_schema_stays(database: str) -> None:
    """Where it serves this release; else the release is named."""
    execute(
        database,
        "INSERT INTO relay.alembic_version VALUES ('core_9999');"
        "INSERT INTO relay.releases (revision, release, serves_from)"
        " SELECT 'core_9999', '9.9', serves_from FROM relay.releases LIMIT 1",
    )
    assert bring_up_to_date(database) is False
    execute(database, "UPDATE relay.releases SET serves_from = 'core_9999'")
    assert "a newer release migrated the database" in refusal(database)


def test_an_address_that_leads_nowhere(postgres: EmbeddedPostgres, empty_database: str) -> None:
    """No server, no such database, no such role: each says what to correct."""
    nowhere = f"postgresql://someone:sesame@127.0.0.1:{free_port()}/none"
    assert "the database cannot be reached: nothing listens on port" in refusal(nowhere)
    assert "sesame" not in refusal(nowhere)
    assert "correct the name after the last / of DATABASE_URL" in refusal(postgres.dsn("missing"))
    stranger = empty_database.replace("postgres@", "nobody_here@")
    assert "correct the role or the database in DATABASE_URL" in refusal(stranger)


def test_a_password_and_a_standby(stoppable_postgres: EmbeddedPostgres) -> None:
    """A password that is wrong is not repeated; a standby cannot be changed."""
    server = stoppable_postgres
    server.sql("CREATE ROLE keeper LOGIN PASSWORD 'right'")
    access = server.data_directory / "pg_hba.conf"
    before = access.read_text()
    access.write_text("local all keeper scram-sha-256\n" + before)
    server.sql("SELECT pg_reload_conf()")
    line = refusal(server.dsn().replace("postgres@", "keeper:hunter2@"))
    assert "the password for 'keeper' is wrong; correct the password in DATABASE_URL" in line
    assert "hunter2" not in line
    access.write_text(before)
    standby = server.data_directory / "standby.signal"
    asyncio.run(restart(server, standby.touch))
    assert "this server is a standby" in refusal(server.dsn())
    with pytest.raises(AttachError, match="this server is a standby"):
        attach(server.dsn(), read_mapping(), named="", apply=True, detaches_others=False)
    for rotate in (rotate_channels, rotate_cursor_key):
        with pytest.raises(RotateError, match="this server is a standby"):
            asyncio.run(rotate(server.dsn()))
    asyncio.run(restart(server, lambda: standby.unlink()))
