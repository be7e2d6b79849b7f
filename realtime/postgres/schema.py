"""Whether the database has what this program needs, and how it gets it.

`migrate` is what bin/migrate, bin/dev and the tests call; a server calls `check_schema` at its
start, so that a forgotten migration is one clear line and not an SQL error an hour later.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from realtime.postgres.pool import connect

PROJECT = Path(__file__).resolve().parents[2]

NEEDED = (
    "relay.ring(text)",
    "relay.actor()",
    "relay.emit(text,text,jsonb,uuid)",
    "relay.notify_user(uuid,text,jsonb)",
    "relay.eject(uuid,text,integer)",
    "relay.authenticate(text,text)",
    "relay.authorize(uuid,uuid)",
)

ACCESS = {"relay.authenticate(text,text)", "relay.authorize(uuid,uuid)"}
"""Those that know the tables: of the reference branch, or attached."""

CONNECT_SECONDS = 10.0

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class SchemaError(Exception):
    """The database's schema is not this program's; the message says what to do."""


def migrate(dsn: str) -> None:
    """Bring the database up to date: the log and its functions, and the reference tables.

    A database that has the log alone keeps to that: its tables are a platform's own.

    Args:
        dsn: an address in any form that asyncpg understands.

    Must not be called on a running event loop; alembic runs one of its own.
    """
    config = _config()
    config.attributes["dsn"] = dsn
    command.upgrade(config, "core@head" if asyncio.run(_has_core_alone(dsn)) else "heads")


async def check_schema(connection: Connection) -> None:
    """Refuse a database that is not migrated, or only half.

    The reference tables are not asked for, for the platform may have its own; the functions
    that know its tables, authenticate and authorize, are.

    Raises:
        SchemaError: one line, saying what to do.
    """
    applied = await _applied_revisions(connection)
    if not applied:
        raise SchemaError("the database is not migrated: run bin/migrate")
    _check_revisions(applied)
    missing = [
        row["name"]
        for row in await connection.fetch(
            "SELECT name FROM unnest($1::text[]) AS name WHERE to_regprocedure(name) IS NULL",
            NEEDED,
        )
    ]
    if not missing:
        return
    names = ", ".join(missing)
    if ACCESS.issuperset(missing) and _is_core_alone(applied):
        raise SchemaError(
            f"the database has the log and no tables yet, so no {names}:"
            " run bin/attach --apply with the mapping of your tables (docs/adopting.md)"
        )
    raise SchemaError(f"the database is half migrated, without {names}: run bin/migrate")


async def _has_core_alone(dsn: str) -> bool:
    connection = await connect(dsn, CONNECT_SECONDS)
    try:
        return _is_core_alone(await _applied_revisions(connection))
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


def _is_core_alone(applied: set[str]) -> bool:
    """Whether something is applied, and nothing of the reference tables."""
    scripts = ScriptDirectory.from_config(_config())
    known = {script.revision: script.branch_labels for script in scripts.walk_revisions()}
    return bool(applied) and all("core" in known.get(name, ()) for name in applied)


async def _applied_revisions(connection: Connection) -> set[str]:
    table = await connection.fetchval("SELECT to_regclass('relay.alembic_version')::text")
    if table is None:
        return set()
    rows = await connection.fetch("SELECT version_num FROM relay.alembic_version")
    return {row["version_num"] for row in rows}


def _check_revisions(applied: set[str]) -> None:
    scripts = ScriptDirectory.from_config(_config())
    known = {script.revision: script for script in scripts.walk_revisions()}
    if strange := applied - known.keys():
        raise SchemaError(
            f"a newer release migrated the database (to {', '.join(sorted(strange))}): "
            "deploy that release or a later one"
        )
    # The version table names only the tips; what they come after or depend on is applied, too.
    covered = {script.revision for script in scripts.iterate_revisions(tuple(applied), "base")}
    core = {name for name, script in known.items() if "core" in script.branch_labels}
    # None of the reference branch is fine, a part of it is not.
    expected = known.keys() if covered - core else core
    if pending := expected - covered:
        raise SchemaError(
            f"the database is half migrated, without {', '.join(sorted(pending))}: run bin/migrate"
        )


def _config() -> Config:
    return Config(PROJECT / "alembic.ini")
