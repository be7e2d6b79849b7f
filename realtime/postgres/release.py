"""The release step: bring the schema up to date, or say in one line why that cannot be."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError

from realtime.errors import CommandError
from realtime.postgres.holders import HOW_TO_END, LOCKED, Watch
from realtime.postgres.pool import DATABASE_ERRORS, connect
from realtime.postgres.reasons import STANDBY, why_refused, why_unreachable
from realtime.postgres.schema import migrate

CONNECT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
"""How long a lock is tried for."""

_LOOK = """
SELECT pg_is_in_recovery() AS is_standby, current_user::text AS role,
       EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = 'relay' AND relname = 'alembic_version') AS is_migrated,
       (SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class
         WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'public')
           AND relname IN ('users', 'bots', 'permissions', 'sessions', 'messages', 'documents')
       ) AS tables
"""


class ReleaseError(CommandError):
    """The schema could not be brought up to date. The text says what to do."""


class BeforeRelease(NamedTuple):
    """What a database is like before anything is done."""

    is_standby: bool
    role: str
    is_migrated: bool
    tables: str | None
    """Tables that have the names of the reference tables."""


def bring_up_to_date(
    dsn: str,
    *,
    core_alone: bool = False,
    patience: float = PATIENCE_SECONDS,
    named: str = "DATABASE_URL",
) -> bool:
    """Migrate the database at `dsn`. With `core_alone`, a new one gets only the log.

    Args:
        patience: seconds for which locks are tried.
        named: the setting that has the address.

    Returns:
        Whether the schema is of this release; False: of a newer one, which serves it.

    Raises:
        ReleaseError: It cannot be reached, or PostgreSQL refused a step; nothing was changed.
        SchemaError: What is in it was not made by this release.
    """
    found = asyncio.run(_look(dsn, named))
    if found.is_standby:
        raise ReleaseError(STANDBY)
    if found.tables and not found.is_migrated and not core_alone:
        raise ReleaseError(
            f"there are tables already that bin/migrate would make: {found.tables}. If they are"
            " your platform's own, run bin/migrate --core and then bin/attach (docs/adopting.md)"
        )
    watch = Watch()
    try:
        return migrate(dsn, core_alone=core_alone, patience=patience, watch=watch)
    except (*DATABASE_ERRORS, DBAPIError) as error:
        cause = _cause(error)
        if isinstance(cause, LOCKED):
            raise ReleaseError(_why_locked(watch)) from error
        raise ReleaseError(why_refused(cause, found.role)) from error


async def _look(dsn: str, named: str) -> BeforeRelease:
    try:
        connection = await connect(dsn, CONNECT_SECONDS)
        try:
            row = await connection.fetchrow(_LOOK)
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except DATABASE_ERRORS as error:
        raise ReleaseError(why_unreachable(error, dsn, named)) from error
    assert row is not None
    return BeforeRelease(*row)


def _why_locked(watch: Watch) -> str:
    last = f" The last was {watch.found}." if watch.found else ""
    return (
        f"nothing was changed: a lock on one of the tables could not be had.{last} Run this again"
        f" later; {HOW_TO_END}"
    )


def _cause(error: BaseException) -> BaseException:
    """PostgreSQL's own error, also where SQLAlchemy has wrapped it."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error
