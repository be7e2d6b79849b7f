"""Functions that others have made do not run in place of PostgreSQL's own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.attach.attach import apply, connected, detach, plan, removal_script
from realtime.attach.state import AttachError
from realtime.doctor.report import Level
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.holders import holders_of
from realtime.postgres.schema import migrate
from realtime.postgres.shared_names import text_of
from tests.adopted import MAPPING, SCHEMA
from tests.adopted import mapping as adopted_mapping
from tests.doctor import deployment, finds
from tests.unit.test_mapping import mapping
from tests.waiting import LIMIT

# Each fits an argument list of ours better than PostgreSQL's own function of that name.
PLANTED = """
CREATE FUNCTION public.format(text, name, name) RETURNS text LANGUAGE plpgsql AS {fails};
CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql AS {fails};
CREATE FUNCTION public.concat(text, uuid) RETURNS text LANGUAGE plpgsql AS {fails};
CREATE FUNCTION public.concat(text, uuid, text) RETURNS text LANGUAGE plpgsql AS {fails};
CREATE FUNCTION public.concat(text, name, text, text, text) RETURNS text
    LANGUAGE plpgsql AS {fails};
CREATE FUNCTION public.concat(text, text, text, json, text, text, text) RETURNS text
    LANGUAGE plpgsql AS {fails};
CREATE FUNCTION public.has_table_privilege(regclass, text) RETURNS boolean
    LANGUAGE plpgsql AS {fails};
CREATE FUNCTION public.to_json(text) RETURNS json LANGUAGE plpgsql AS {fails};
CREATE FUNCTION public.pg_get_userbyid(integer) RETURNS name LANGUAGE plpgsql AS {fails}
""".format(fails="$$BEGIN RAISE 'planted'; END$$")


@pytest.fixture
def planted(io_loop: IOLoop, empty_database: str) -> str:
    """A database of a platform's, in which somebody has made such functions."""

    async def plant() -> None:
        connection = await asyncpg.connect(empty_database, timeout=LIMIT)
        await connection.execute(SCHEMA)
        await connection.execute(PLANTED)
        await connection.close(timeout=LIMIT)
        migrating = partial(migrate, empty_database, core_alone=True)
        await io_loop.run_in_executor(None, migrating)

    io_loop.run_sync(plant, timeout=LIMIT)
    return empty_database


async def run(database: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database, timeout=LIMIT)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_no_command_calls_them(planted: str) -> None:
    """Nor are they called by what a command makes."""
    with pytest.raises(asyncpg.RaiseError, match="planted"):
        await run(planted, "SELECT format('%I.%I', nspname, nspname) FROM pg_namespace")
    for work in (
        lambda connection: plan(connection, adopted_mapping()),
        lambda connection: apply(connection, adopted_mapping()),
    ):
        await connected(planted, work)
    await finds(Level.FINE, "triggers", deployment(planted))
    called = """
        SELECT d.objid::regprocedure, d.refobjid::regprocedure
          FROM pg_depend AS d JOIN pg_proc AS p ON p.oid = d.refobjid
         WHERE p.pronamespace = 'public'::regnamespace
    """
    assert await run(planted, called) == []
    await connected(planted, removal_script)
    await connected(planted, detach)


@pytest.mark.gen_test
async def test_an_expression_means_what_its_author_means(planted: str) -> None:
    """A function of the platform's is found by the path of who attaches."""
    content = '[messages]\ncontent = { sql = "shown(content)" }'
    mapped = mapping(MAPPING.read_text("utf-8").replace("[messages]", content))
    with pytest.raises(AttachError, match="shown"):
        await connected(planted, lambda connection: plan(connection, mapped))
    await run(
        planted,
        "CREATE FUNCTION public.shown(text) RETURNS text LANGUAGE sql IMMUTABLE"
        " AS $$ SELECT upper($1) $$",
    )
    await connected(planted, lambda connection: apply(connection, mapped))


@pytest.fixture
def encoded(io_loop: IOLoop, postgres: EmbeddedPostgres, encoding: str) -> Iterator[str]:
    """A database of that encoding, with a platform's tables and the log."""
    name = f"test_{uuid4().hex[:12]}"
    postgres.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    migrate(postgres.dsn(name), core_alone=True)
    io_loop.run_sync(lambda: execute(postgres.dsn(name), SCHEMA))
    yield postgres.dsn(name)
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=LIMIT)
    for statement in statements:
        await connection.execute(statement)
    await connection.close(timeout=LIMIT)


@pytest.mark.parametrize("encoding", ["LATIN1", "UTF8"])
def test_a_name_has_63_bytes_of_the_databases_encoding(
    io_loop: IOLoop, encoded: str, encoding: str
) -> None:
    """What is longer would be cut off, and another table or column be found."""
    name = "\u00fc" * 63
    short = name if encoding == "LATIN1" else name[:31]
    wanted = mapping(
        MAPPING.read_text("utf-8").replace("[messages]", f'[messages]\ncontent = "{name}"')
    )

    async def attach() -> None:
        await execute(encoded, f'ALTER TABLE messages RENAME content TO "{short}"')
        await connected(encoded, lambda connection: plan(connection, wanted))

    if encoding == "LATIN1":
        io_loop.run_sync(attach)
    else:
        with pytest.raises(AttachError, match="names have at most 63 bytes"):
            io_loop.run_sync(attach)


# Named in a UTF-8 database: the second byte of its first letter is no character of WIN1252.
FOREIGN_ROLE = "\u00c1lvaro"


@pytest.fixture
def foreign_role(io_loop: IOLoop, postgres: EmbeddedPostgres, encoded: str) -> Iterator[str]:
    """As the database of another encoding calls it: nobody can write that name there."""
    postgres.sql(f'CREATE ROLE "{FOREIGN_ROLE}" LOGIN')
    yield FOREIGN_ROLE
    io_loop.run_sync(lambda: execute(encoded, "ALTER TABLE messages OWNER TO postgres"))
    postgres.sql(f'DROP ROLE "{FOREIGN_ROLE}"')


OWN = """
DO $$ BEGIN
    EXECUTE (SELECT format('ALTER TABLE messages OWNER TO %I; ALTER ROLE %1$I SET relay.quiet = on',
        rolname) FROM pg_roles WHERE rolname LIKE '%lvaro');
END $$
"""


@pytest.mark.parametrize("encoding", ["WIN1252"])
def test_a_role_that_was_named_in_another_encoding(
    io_loop: IOLoop, encoded: str, foreign_role: str
) -> None:
    """As the owner of a table, in the settings of roles, and as who holds a lock."""

    async def look() -> None:
        await execute(encoded, OWN)
        attached = await connected(
            encoded, lambda connection: apply(connection, adopted_mapping(), attempts=1)
        )
        assert any(one.startswith(f"{foreign_role} can act as") for one in attached.warnings)
        await finds(Level.WARNING, "writers", deployment(encoded), f"for {foreign_role}")
        as_it_is = {"client_encoding": "sql_ascii"}  # else it could not even connect
        holder = await asyncpg.connect(
            encoded, user=foreign_role, timeout=LIMIT, server_settings=as_it_is
        )
        await holder.execute("BEGIN; LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        asker = await asyncpg.connect(encoded, timeout=LIMIT)
        assert f"({foreign_role}), idle in transaction" in await holders_of(
            asker, ["public.messages"]
        )
        await asker.close(timeout=LIMIT)
        await holder.close(timeout=LIMIT)

    io_loop.run_sync(look)


@pytest.mark.parametrize(
    ("name", "encoding", "read"),
    [
        (b"\xc3\x81lvaro", "WIN1252", "\u00c1lvaro"),
        (b"\xc1lvaro", "WIN1252", "\u00c1lvaro"),
        (b"\xc1lvaro", "LATIN1", "\u00c1lvaro"),
        (b"\xc1lvaro", "UTF8", "\\xc1lvaro"),
        (b"\xc1lvaro", "KOI8R", "\\xc1lvaro"),
        (None, "UTF8", None),
    ],
)
def test_bytes_of_a_name_are_read_as_what_they_most_likely_are(
    name: bytes | None, encoding: str, read: str | None
) -> None:
    assert text_of(name, encoding) == read
