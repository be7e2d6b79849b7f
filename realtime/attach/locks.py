"""Locks a platform's tables for the blink of an eye, and says who has one in use meanwhile.

A lock that is waited for holds up all who come later. So it is not waited for long: what wants it
gives up all its locks, and starts again a moment later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg

from realtime.attach.names import use_own_names
from realtime.attach.state import AttachError
from realtime.postgres.holders import HOW_TO_END, LOCKED, holders_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Result = TypeVar("Result")

LOCK_MILLISECONDS: Final = 150
"""How long writers may queue behind us for one table. All tables together stay below PostgreSQL's
deadlock_timeout (1 s), so that a deadlock with a writer costs us the attempt, never the writer."""
# One attaches or detaches at a time. Not by an advisory lock: any role can take those. Nobody who
# writes or reads the log has to wait for this one. Without the right to it, or without a log, there
# is nothing to wait for: what runs then says what is wrong.
TAKE_TURN: Final = """
DO $$
BEGIN
    IF has_table_privilege(to_regclass('relay.events'), 'UPDATE') THEN
        LOCK TABLE ONLY relay.events IN SHARE UPDATE EXCLUSIVE MODE;
    END IF;
END
$$
"""
ATTEMPTS: Final = 60
PAUSE_SECONDS: Final = 0.5
READERS_TOO: Final = "ACCESS EXCLUSIVE"
"""The mode of a lock that has to wait for those who only read, too."""

Say = Callable[[str], None]
"""Tells the person who runs it why it takes long."""


class _InUse(Exception):
    """A table could not be locked in a moment."""

    def __init__(self, table: str, mode: str) -> None:
        super().__init__(table)
        self.table = table
        self.mode = mode


def say_nothing(_line: str) -> None:
    """Say nothing."""


async def in_a_moment(
    connection: Connection, run: Callable[[], Awaitable[Result]], attempts: int, say: Say
) -> Result:
    """Run in a transaction that gives up and starts again rather than hold writers up.

    Raises:
        AttachError: a table was in use all the time, or PostgreSQL refused.
    """
    by = ""
    for _attempt in range(attempts):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
                await use_own_names(connection)
                await connection.execute(TAKE_TURN)
                return await run()
        except _InUse as in_use:
            found = await _by_whom(connection, in_use)
            if found and not by:
                say(f"waiting for {found}")
            by = found or by
        except LOCKED:
            pass  # something else of the log's
        await asyncio.sleep(PAUSE_SECONDS)
    if by:
        raise AttachError(
            f"nothing was changed: a table is in use all the time. Last it was {by}. Run this again"
            f" after that; {HOW_TO_END}"
        )
    raise AttachError(
        "nothing was changed: a transaction has the log or one of the tables in use all the time."
        " Look for an old xact_start in pg_stat_activity (a report, a dump), and run this again"
        " after it"
    )


async def lock(connection: Connection, tables: list[str], mode: str) -> None:
    """Lock tables in the order that is given, within what `in_a_moment` runs."""
    # A partitioned table's own lock is enough: the triggers are on it, not on its partitions.
    for table in tables:
        try:
            await connection.execute(f"LOCK TABLE ONLY {table} IN {mode} MODE")
        except LOCKED as error:
            raise _InUse(table, mode) from error


async def _by_whom(connection: Connection, in_use: _InUse) -> str:
    """Which table is in use, and by whom; empty: nobody has it any more."""
    with_readers = in_use.mode == READERS_TOO
    async with connection.transaction():
        await use_own_names(connection)
        holders = await holders_of(connection, [in_use.table], with_readers=with_readers)
    return f"{in_use.table}, which is in use by {holders}" if holders else ""
