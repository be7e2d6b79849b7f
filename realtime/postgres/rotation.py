"""Changes secrets of the database while servers run, as `bin/rotate` does.

The channels' names: servers notice within two seconds, and listen to the new ones. The key that
signs cursors: servers read the keys when they connect. So a new key is added first, the sessions in
which servers listen are ended, and when all servers are connected again, the new key signs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from realtime.errors import CommandError
from realtime.postgres.doorbell import IS_ALIVE, RENAMING, TAKE_ROTATION_TURN
from realtime.postgres.pool import DATABASE_ERRORS, HearingConnection, connect
from realtime.postgres.reasons import STANDBY, why_unreachable

CONNECT_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.2
MAX_SECONDS: Final = 30.0
"""How long servers may take to connect again."""

_NOT_MIGRATED: Final = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
)
_MAY_END_SESSIONS = (
    ". If the servers have a role of their own, it must also be a member of that role, or of"
    " pg_signal_backend"
)
# What does not sign is older than the key that does, or was added by a rotation that broke off.
_ADD_KEY = """
DELETE FROM relay.cursor_keys WHERE NOT signs;
SELECT relay.make_cursor_key()
"""
_NEWEST = "SELECT max(number) FROM relay.cursor_keys"
_STOP_SIGNING = "UPDATE relay.cursor_keys SET signs = false WHERE signs"
_SIGN = "UPDATE relay.cursor_keys SET signs = true WHERE number = $1"
_LISTENERS = f"""
SELECT id, backend FROM relay.nodes WHERE backend IS NOT NULL AND {IS_ALIVE}
"""
_END = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE pid = ANY ($1) AND datname = current_database() AND application_name = 'realtime'
"""


class RotateError(CommandError):
    """A secret was not changed; the text says why and what to do."""


async def rotate_channels(dsn: str, *, named: str = "DATABASE_URL") -> None:
    """Give the channels new names.

    Raises:
        RotateError: the database refused, or cannot be reached.
    """
    async with (
        _connected(dsn, named) as connection,
        _connected(dsn, named) as other,
        connection.transaction(),
    ):
        await connection.execute(TAKE_ROTATION_TURN)
        # Committed before: who hears it delivers nothing ahead of a read before it has the names,
        # or sees that nobody is at it any more.
        await other.execute("SELECT relay.tell('ring', $1)", RENAMING)
        await connection.execute("SELECT relay.rotate_channels()")


async def rotate_cursor_key(
    dsn: str, *, max_seconds: float = MAX_SECONDS, named: str = "DATABASE_URL"
) -> int:
    """Sign cursors with a new key from now on; return how many servers have it.

    The key that signed until now stays good until the next time.

    Raises:
        RotateError: the database refused, or a server did not connect again: the old key signs.
    """
    async with _connected(dsn, named, _MAY_END_SESSIONS) as connection:
        async with connection.transaction():
            await connection.execute(TAKE_ROTATION_TURN)
            await connection.execute(_ADD_KEY)
            number = await connection.fetchval(_NEWEST)
        servers = await _connect_again(connection, max_seconds)
        async with connection.transaction():
            await connection.execute(TAKE_ROTATION_TURN)
            if await connection.fetchval(_NEWEST) != number:
                raise RotateError("another rotation of the key is at work: nothing was changed")
            await connection.execute(_STOP_SIGNING)
            await connection.execute(_SIGN, number)
        return servers


async def _connect_again(connection: HearingConnection, max_seconds: float) -> int:
    """Have all servers connect to the database again; return how many there are."""
    listeners = await _listeners(connection)
    await connection.execute(_END, [backend for _, backend in listeners])
    for _ in range(round(max_seconds / LOOK_SECONDS)):
        if not listeners & await _listeners(connection):
            return len(listeners)
        await asyncio.sleep(LOOK_SECONDS)
    raise RotateError(
        "a server did not connect to the database again, and may not know the new key, so the old"
        " key still signs: look at the servers' logs, then run this again"
    )


async def _listeners(connection: HearingConnection) -> set[tuple[object, int]]:
    """The live servers, each with the session in which it listens."""
    rows = await connection.fetch(_LISTENERS)
    return {(row["id"], row["backend"]) for row in rows}


@asynccontextmanager
async def _connected(dsn: str, named: str, also: str = "") -> AsyncIterator[HearingConnection]:
    """A connection; what goes wrong while it is used is said in one line.

    Args:
        also: what else the role needs.
    """
    try:
        connection = await connect(dsn, CONNECT_SECONDS)
    except DATABASE_ERRORS as error:
        raise RotateError(why_unreachable(error, dsn, named)) from error
    try:
        try:
            if await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()"):
                raise RotateError(STANDBY)
            yield connection
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except asyncpg.InsufficientPrivilegeError as error:
        raise RotateError(f"{error}: run this as the role that runs bin/migrate{also}") from error
    except _NOT_MIGRATED as error:
        raise RotateError(f"{error}: run bin/migrate first") from error
    except DATABASE_ERRORS as error:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise RotateError(
            f"nothing was changed; check DATABASE_URL, and that the server is up ({said})"
        ) from error
