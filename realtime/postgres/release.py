"""The release step: bring the schema up to date, or say in one line why that cannot be."""

from __future__ import annotations

import asyncio

import asyncpg
from sqlalchemy.exc import DBAPIError

from realtime.errors import CommandError
from realtime.postgres.pool import DATABASE_ERRORS, connect
from realtime.postgres.schema import migrate

CONNECT_SECONDS = 10.0


class ReleaseError(CommandError):
    """The schema could not be brought up to date. The text says what to do."""


def bring_up_to_date(dsn: str, *, core_alone: bool = False) -> None:
    """Migrate the database at `dsn`. With `core_alone`, a new one gets only the log.

    Raises:
        ReleaseError: It cannot be reached, or PostgreSQL refused a step; nothing was changed.
        SchemaError: What is in it was not made by this release.
    """
    try:
        asyncio.run(_reach(dsn))
    except DATABASE_ERRORS as error:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ReleaseError(
            "the database cannot be reached; check DATABASE_URL, and that the server is up"
            f" ({said})"
        ) from error
    try:
        migrate(dsn, core_alone=core_alone)
    except asyncpg.LockNotAvailableError as error:
        raise ReleaseError(
            "nothing was changed: a transaction has one of the tables in use all the time. Look for"
            " an old xact_start in pg_stat_activity (a report, a dump), and run this again after it"
        ) from error
    except asyncpg.PostgresError as error:
        raise ReleaseError(f"the migration failed, and changed nothing: {error}") from error
    except DBAPIError as error:
        raise ReleaseError(f"the migration failed, and changed nothing: {error.orig}") from error


async def _reach(dsn: str) -> None:
    connection = await connect(dsn, CONNECT_SECONDS)
    await connection.close(timeout=CONNECT_SECONDS)
