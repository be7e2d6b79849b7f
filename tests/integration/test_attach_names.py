"""Functions that others have made do not run in place of PostgreSQL's own."""

from __future__ import annotations

from functools import partial

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.attach.attach import apply, connected, detach, plan, removal_script
from realtime.attach.state import AttachError
from realtime.doctor.report import Level
from realtime.postgres.schema import migrate
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
