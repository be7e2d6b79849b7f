"""Executes the plan on the database, over one connection, each statement when it is due.

It waits for a database that is away. A cast whose rows somebody has deleted enters again. What
would have happened meanwhile is not made up for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import asyncpg

from realtime.simulate import cast as casting
from realtime.simulate.acts import Act
from realtime.simulate.cast import Cast
from realtime.simulate.progress import Clock, Progress

TIMEOUT_SECONDS: Final = 10.0
LIMITS: Final = {
    "statement_timeout": "10500",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "30000",
}
"""What PostgreSQL itself ends, in milliseconds: what was given up here must not go on there."""
MAX_LATE_SECONDS: Final = 1.0
FIRST_WAIT_SECONDS: Final = 0.1
MAX_WAIT_SECONDS: Final = 5.0
AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What is raised while a database restarts, fails over or is full: it passes."""
NO_TABLES: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)


class SimulateError(Exception):
    """In one line: the database is none that this can be played on."""


class Unreachable(SimulateError):
    """The database cannot be reached at the start; the cause is what the driver raised."""


class Player:
    """One connection to the database, and whether the cast's rows are there.

    Args:
        say: told when the database goes and comes.
    """

    def __init__(
        self, dsn: str, cast: Cast, progress: Progress, say: Callable[[str], None], clock: Clock
    ) -> None:
        self._dsn = dsn
        self._cast = cast
        self._progress = progress
        self._say = say
        self._clock = clock
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Connect, and let the cast enter.

        Raises:
            SimulateError: that was not possible.
        """
        try:
            await self._connect()
        except (*AWAY, ValueError) as error:  # of a port in the environment that is none
            raise Unreachable(_named(error)) from error
        except asyncpg.PostgresError as error:
            raise _refused(error) from error

    async def play(self, timeline: Iterable[tuple[float, Act]], stop: asyncio.Event) -> None:
        """Execute what is due, until told to stop.

        Raises:
            SimulateError: the database refuses for good.
        """
        start = self._clock()
        for at, act in timeline:
            # What an outage took is counted as such.
            late = self._clock() - (start + at + self._progress.seconds_away)
            if late > MAX_LATE_SECONDS:
                start += late
                self._progress.seconds_behind += late
            if await _stopped_within(max(-late, 0), stop):
                return
            try:
                await self._perform(act, stop)
            except asyncpg.PostgresError as error:
                raise _refused(error) from error

    async def clear_away(self) -> bool:
        """Delete all rows of the cast; whether that was possible."""
        try:
            connection = self._connection or await self._connect()
            async with connection.transaction():
                for act in casting.leave():
                    await connection.execute(act.sql, *act.arguments)
        except (*AWAY, asyncpg.PostgresError):
            return False
        return True

    def close(self) -> None:
        """Close the connection without waiting for the database."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        try:
            connection = await self._open(LIMITS)
        except asyncpg.ProtocolViolationError:  # a pooler that lets no settings through
            connection = await self._open({})
        self._connection = connection
        await self._enter(connection)
        return connection

    async def _open(self, limits: Mapping[str, str]) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            self._dsn,
            timeout=TIMEOUT_SECONDS,
            command_timeout=TIMEOUT_SECONDS,
            server_settings={"application_name": "realtime-simulate", **limits},
        )

    async def _enter(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """In one transaction, for half a cast would be of no use."""
        async with connection.transaction():
            for act in casting.enter(self._cast):
                await connection.execute(act.sql, *act.arguments)
            for session in casting.guest_sessions(self._cast):
                if not await connection.fetchval(
                    "SELECT true FROM sessions WHERE id = $1", session
                ):
                    self._say(f"the session {session} is gone; they talk elsewhere")
                    casting.turn_away(self._cast, session)

    async def _perform(self, act: Act, stop: asyncio.Event) -> None:
        since = self._clock()
        try:
            await self._execute(act)
        except AWAY as error:
            await self._wait_out(act, error, since, stop)

    async def _wait_out(
        self, act: Act, error: Exception, since: float, stop: asyncio.Event
    ) -> None:
        """Try again until it works, or we are told to stop."""
        self._say(f"the database is away ({_named(error)}); trying again until it is back")
        wait = FIRST_WAIT_SECONDS
        self._progress.outages += 1
        self.close()
        while not await _stopped_within(wait, stop):
            try:
                await self._execute(act)
            except AWAY:
                self.close()
                wait = min(wait * 2, MAX_WAIT_SECONDS)
            else:
                self._say(f"the database is back after {self._clock() - since:.1f} s")
                break
        self._progress.seconds_away += self._clock() - since

    async def _execute(self, act: Act) -> None:
        connection = self._connection or await self._connect()
        try:
            await connection.execute(act.sql, *act.arguments)
        except asyncpg.ForeignKeyViolationError:
            # Somebody deleted people or bots of the cast: they enter again, and this is let go.
            await self._enter(connection)
        else:
            self._progress.add(act)


async def _stopped_within(seconds: float, stop: asyncio.Event) -> bool:
    """Wait that long, or until told to stop; whether that was it."""
    if seconds > 0 and not stop.is_set():
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            return False
    return stop.is_set()


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _refused(error: asyncpg.PostgresError) -> SimulateError:
    if isinstance(error, NO_TABLES):
        return SimulateError(
            f"this database does not have the reference tables ({error}), and only these can be"
            " played with: run it on a database of its own, where bin/migrate makes them"
        )
    if isinstance(error, asyncpg.UndefinedFunctionError):
        return SimulateError(f"{error}: bin/doctor says what this database lacks")
    return SimulateError(f"the database refused: {error}")
