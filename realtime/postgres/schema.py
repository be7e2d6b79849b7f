"""Whether the database has what this program needs, and how it gets it.

`migrate` is what bin/migrate, bin/dev and the tests call; a server calls `check_schema` at its
start, so that a forgotten migration is one clear line and not an SQL error an hour later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from realtime.errors import CommandError
from realtime.installation import ALEMBIC_INI
from realtime.postgres import needed
from realtime.postgres.holders import Watch
from realtime.postgres.pool import connect
from realtime.postgres.reasons import OTHER_ENCODING

MAX_NAMED = 8
"""So many missing things are named: a schema of which most is gone has no use for a list."""

ACCESS = {"relay.authenticate(text,text)", "relay.authorize(uuid,uuid)"}
"""Those that know the tables: of the reference branch, or attached."""

NO_CURSOR_KEY = "relay.cursor_keys has no key that signs, so nobody can be given a cursor"
NEW_CURSOR_KEY = "run SELECT relay.make_cursor_key(), as the owner of the log"
NO_FLOOR = (
    "relay.floor has lost its row, without which no cursor can be judged: run INSERT INTO"
    " relay.floor DEFAULT VALUES. The next start empties the log, and clients fetch their state"
)

CONNECT_SECONDS = 10.0
_MISSING = """
SELECT name FROM unnest($1::text[]) AS name WHERE to_regprocedure(name) IS NULL
UNION ALL
SELECT name FROM unnest($2::text[]) AS name WHERE to_regclass(name) IS NULL
"""
_FOREIGN = """
SELECT what, quote_ident(pg_get_userbyid(owner)), quote_ident(current_user)
  FROM (SELECT 'the schema relay' AS what, nspowner AS owner FROM pg_namespace
         WHERE nspname = 'relay'
        UNION ALL
        SELECT 'the table ' || oid::regclass, relowner FROM pg_class
         WHERE relnamespace = to_regnamespace('relay') AND relkind IN ('r', 'p')) AS ours
 WHERE NOT pg_has_role(owner, current_user, 'USAGE')
 LIMIT 1
"""

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class SchemaError(CommandError):
    """The database's schema is not this program's; the message says what to do."""


def migrate(
    dsn: str,
    *,
    core_alone: bool = False,
    patience: float | None = None,
    watch: Watch | None = None,
) -> bool:
    """Bring the database up to date: the log and its functions, and the reference tables.

    A database that has only the log keeps only the log: its tables are a platform's own. A database
    that a newer release has migrated stays as it is, if its schema serves this release.

    Args:
        dsn: an address in any form that asyncpg understands.
        core_alone: bring no reference tables into a database that has none.
        patience: seconds for which locks are tried; None: the usual time.
        watch: is to find whom it waits for.

    Returns:
        Whether the schema is of this release; False: of a newer one.

    Raises:
        SchemaError: a newer release has migrated the database, and does not serve this one; or
            its encoding is not one; or the schema relay belongs to somebody else; or a part of
            it is gone, which no migration brings back.

    Must not be called on a running event loop; alembic runs one of its own.
    """
    applied, newer = asyncio.run(_revisions_of(dsn))
    if newer:
        return False
    config = _config()
    config.attributes["dsn"] = dsn
    config.attributes["patience"] = patience
    config.attributes["watch"] = watch
    is_core_alone = _is_core_alone(applied) or (core_alone and not applied)
    command.upgrade(config, "core@head" if is_core_alone else "heads")
    asyncio.run(_check_result(dsn))
    return True


async def check_schema(connection: Connection, *, with_helpers: bool = False) -> set[str]:
    """Refuse a database that is not migrated, or only half.

    The reference tables may be missing, because the platform may have its own. The functions that
    know its tables, authenticate and authorize, must be there. What else a newer release's schema
    must have, that release knows.

    Args:
        with_helpers: look also for what the triggers of the reference tables call. Without it a
            server can serve, and their writers fail.

    Returns:
        The revisions of a newer release whose schema still serves this one; usually none.

    Raises:
        SchemaError: one line, saying what to do.
    """
    await check_encoding(connection)
    applied = await _applied_revisions(connection)
    if not applied:
        raise SchemaError(
            "the database is not migrated: run bin/migrate, or, with tables of your own,"
            " bin/migrate --core and then bin/attach (docs/adopting.md)"
        )
    newer = await _newer_revisions(connection, applied)
    if not newer:
        _check_complete(applied)
    functions = _functions(applied, newer, with_helpers)
    await _check_whole(connection, applied, functions, () if newer else needed.RELATIONS)
    await _check_floor(connection)
    return newer


async def _check_floor(connection: Connection) -> None:
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM relay.floor)"):
        raise SchemaError(NO_FLOOR)


async def check_encoding(connection: Connection) -> None:
    """Refuse a database whose encoding is not known.

    Raises:
        SchemaError: one line, saying what to do.
    """
    if await connection.fetchval("SHOW server_encoding") == "SQL_ASCII":
        raise SchemaError(
            "the database has the encoding SQL_ASCII, so PostgreSQL stores bytes of any encoding"
            f" and nobody knows which text they are: {OTHER_ENCODING}"
        )


def _functions(applied: set[str], newer: set[str], with_helpers: bool) -> set[str]:
    """The functions that must be there. A newer release may do without some of this one's."""
    if newer:
        return ACCESS
    has_helpers = with_helpers and not _is_core_alone(applied)
    return ACCESS.union(needed.FUNCTIONS, needed.OF_REFERENCE_TABLES if has_helpers else ())


async def _check_whole(
    connection: Connection,
    applied: set[str],
    functions: Collection[str],
    relations: Collection[str],
) -> None:
    """Refuse a schema of which something is gone, as after a restore of a dump that lacks it.

    Raises:
        SchemaError: one line, saying what to do.
    """
    missing = await _missing(connection, functions, relations)
    if not missing:
        return
    if ACCESS.issuperset(missing) and _is_core_alone(applied):
        raise SchemaError(
            f"the database has the log and no tables yet, so no {', '.join(missing)}:"
            " run bin/attach --apply with the mapping of your tables (docs/adopting.md)"
        )
    raise _half_restored(missing)


async def _check_result(dsn: str) -> None:
    """See that a migrated database is whole, but for what bin/attach brings."""
    connection = await connect(dsn, CONNECT_SECONDS)
    try:
        applied = await _applied_revisions(connection)
        functions = _functions(applied, set(), with_helpers=True)
        missing = await _missing(connection, functions, needed.RELATIONS)
        if ACCESS.issuperset(missing) and _is_core_alone(applied):
            return
        if missing:
            raise _half_restored(missing)
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


async def _missing(
    connection: Connection, functions: Collection[str], relations: Collection[str]
) -> list[str]:
    rows = await connection.fetch(_MISSING, sorted(functions), relations)
    return [row["name"] for row in rows]


def _half_restored(missing: list[str]) -> SchemaError:
    named = ", ".join(missing[:MAX_NAMED])
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return SchemaError(
        f"the schema relay is half restored, without {named}{more}. Its migrations count as"
        " applied, so bin/migrate cannot bring them back: restore a dump that has all of the schema"
        " relay, or what is missing from the pg_dump --schema-only of a new database that"
        " bin/migrate has made"
    )


async def _revisions_of(dsn: str) -> tuple[set[str], set[str]]:
    """What is applied, and what of it a newer release has applied."""
    connection = await connect(dsn, CONNECT_SECONDS)
    try:
        await check_encoding(connection)
        await _check_owner(connection)
        applied = await _applied_revisions(connection)
        return applied, await _newer_revisions(connection, applied)
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


async def _check_owner(connection: Connection) -> None:
    """Refuse what somebody else has made, for its tables may have triggers of theirs."""
    row = await connection.fetchrow(_FOREIGN)
    if row is not None:
        what, owner, us = row
        raise SchemaError(
            f"{what} belongs to {owner}, who could have code run as {us}: run bin/migrate as"
            f" {owner}. If all in the schema is yours, REASSIGN OWNED BY {owner} TO {us} does that,"
            f" with all else that {owner} has in this database"
        )


def _is_core_alone(applied: set[str]) -> bool:
    """Whether something is applied, and nothing of the reference tables."""
    return bool(applied) and all(_is_of_core(name) for name in applied)


def _is_of_core(revision: str) -> bool:
    """Whether a revision is of the core branch. Of a newer release's only the name is known."""
    return revision.startswith("core_")


async def _applied_revisions(connection: Connection) -> set[str]:
    table = await connection.fetchval("SELECT to_regclass('relay.alembic_version')::text")
    if table is None:
        return set()
    rows = await connection.fetch("SELECT version_num FROM relay.alembic_version")
    return {row["version_num"] for row in rows}


async def _newer_revisions(connection: Connection, applied: set[str]) -> set[str]:
    """The applied revisions that this release does not know, if their schema serves it.

    Raises:
        SchemaError: it does not, or does not say so.
    """
    known = {script.revision for script in _scripts().walk_revisions()}
    newer = applied - known
    if not newer:
        return set()
    marks = {row["revision"]: row for row in await _marks(connection)}
    if newer <= marks.keys() and all(row["serves_from"] in known for row in marks.values()):
        return newer
    releases = sorted({marks[name]["release"] for name in newer & marks.keys()})
    raise SchemaError(
        f"a newer release migrated the database (to {', '.join(sorted(newer | {*releases}))}), and "
        "this one cannot serve it: deploy that release or a later one"
    )


async def _marks(connection: Connection) -> list[asyncpg.Record]:
    """What each revision says of the processes that it serves; see `relay.releases`."""
    table = await connection.fetchval("SELECT to_regclass('relay.releases')::text")
    if table is None:
        return []
    return await connection.fetch("SELECT revision, release, serves_from FROM relay.releases")


def _check_complete(applied: set[str]) -> None:
    scripts = _scripts()
    known = {script.revision for script in scripts.walk_revisions()}
    # The version table names only the tips; what they come after or depend on is applied, too.
    covered = {script.revision for script in scripts.iterate_revisions(tuple(applied), "base")}
    # None of the reference branch is fine, a part of it is not.
    has_tables = not all(_is_of_core(name) for name in covered)
    expected = known if has_tables else {name for name in known if _is_of_core(name)}
    if pending := expected - covered:
        is_older = not covered.intersection(scripts.get_heads())
        state = "the schema is of an older release" if is_older else "the database is half migrated"
        raise SchemaError(f"{state}, without {', '.join(sorted(pending))}: run bin/migrate")


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    return Config(ALEMBIC_INI)
