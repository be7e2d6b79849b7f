"""Plain SQL through every outage: one connection straight to Postgres, for what must be written.

`transact` commits exactly once, however often the server dies in between: the transaction's own
row in the ledger, whose mark is unique, tells whether an attempt whose answer was lost went
through. Used for access changes, probes and bursts, and by the faults for their questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from tests.chaos.gate import Gate
from tests.chaos.ledger import Book

OUTAGE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # "shutting down", "starting up", "terminated"
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a query between "terminating" and the end of the connection
    TimeoutError,
    OSError,
)
COMMAND_SECONDS = 20.0
RETRY_SECONDS = 0.1
_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)

Statement = tuple[str, Sequence[object]]


async def connect(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    """A connection of the suite's own; none of its waits is without a limit."""
    return await asyncpg.connect(dsn, timeout=5, command_timeout=COMMAND_SECONDS)


class Scribe:
    """Writes for the suite, one transaction at a time."""

    def __init__(self, dsn: str, book: Book, gate: Gate) -> None:
        self._dsn = dsn
        self._book = book
        self._gate = gate
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._lock = asyncio.Lock()

    async def transact(self, tag: str, *statements: Statement) -> None:
        """Commit the statements as one transaction, once, and enter it in the book.

        The caller bounds it in time: without Postgres it goes on trying.
        """
        while True:
            # The lock is not held at the gate: who closes the gate has questions for this scribe.
            async with self._gate.transaction(), self._lock:
                if await self._attempt(tag, statements):
                    return
            await asyncio.sleep(RETRY_SECONDS)

    async def _attempt(self, tag: str, statements: Sequence[Statement]) -> bool:
        try:
            connection = await self._connected()
            await connection.execute("BEGIN")
            await connection.execute("INSERT INTO chaos.ledger (mark, tag) VALUES ($1, $1)", tag)
            for query, arguments in statements:
                await connection.execute(query, *arguments)
            self._book.sent(tag)
            await connection.execute("COMMIT")
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "ledger_pkey":
                raise
            # An attempt whose answer was lost had gone through (this one waited for its end).
            await self._disconnect()
        except (*OUTAGE, *_CONFLICTS):
            await self._disconnect()
            return False
        self._book.acked(tag)
        return True

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        """Ask, as soon as somebody answers. For questions that may be asked twice."""
        async with self._lock:
            while True:
                try:
                    return await (await self._connected()).fetch(query, *arguments)
                except OUTAGE:
                    await self._disconnect()
                    await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        await self._disconnect()

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn)
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
