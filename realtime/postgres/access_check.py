"""Whether the functions that decide about access work at all, whoever is asked about.

A function that is missing, or whose result has another column, fails for everybody: no socket can
be opened, though the database answers and the log can be read.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

import asyncpg

from realtime.log_line import LogLine
from realtime.postgres.access import OF_ALL, PATIENCE, try_access
from realtime.postgres.holders import LOCKED
from realtime.postgres.pool import DATABASE_ERRORS

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

log = logging.getLogger(__name__)

NOT_ASKED = "it is not known yet whether access can be asked for"
BROKEN = "the functions that decide about access fail: bin/doctor says why"
"""Everybody may read this, so it has none of the database's names."""


def is_broken(error: BaseException) -> bool:
    """Whether an error is of the schema, so that all questions fail, and not of a user's row.

    PostgreSQL has a class of errors for it: something that a statement names is missing, or may not
    be used. A function that raises such an error by itself speaks of whom it was asked about.
    """
    return (
        isinstance(error, (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError))
        # A pooler that mixes up statements is no fault of the schema's.
        and not isinstance(error, asyncpg.DuplicatePreparedStatementError)
        and getattr(error, "server_source_function", None) != "exec_stmt_raise"
    )


def is_answered(error: BaseException) -> bool:
    """Whether the functions were called, and one raised for whom it does not know."""
    no_answer = (*OF_ALL, *LOCKED, asyncpg.DuplicatePreparedStatementError)
    return isinstance(error, asyncpg.PostgresError) and not isinstance(error, no_answer)


class AccessCheck:
    """Asks about a user and a bot that do not exist, again and again.

    So no user's and no bot's row can make a process not ready. A question that is not answered says
    nothing: whether the database answers is known from the heartbeats.

    Args:
        subject_kind: as of `Access`.
        timeout: seconds until a question counts as unanswered.
        seconds: between two questions.
    """

    def __init__(self, pool: "Pool", *, subject_kind: str, timeout: float, seconds: float) -> None:
        self._pool = pool
        self._subject_kind = subject_kind
        self._patience = PATIENCE * timeout
        self._seconds = seconds
        self.fault: str | None = NOT_ASKED
        """Why nobody can be let in; None: nothing is known against it."""

    async def run(self) -> NoReturn:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._seconds)

    async def look(self) -> None:
        """Ask once, and note the answer."""
        try:
            async with asyncio.timeout(self._patience), self._pool.acquire() as connection:
                await try_access(connection, self._subject_kind)
        except DATABASE_ERRORS as error:
            if is_broken(error):
                self._is_broken(error)
                return
            if self.fault is BROKEN and not is_answered(error):
                return
        if self.fault is BROKEN:
            log.info(LogLine("access_works_again"))
        self.fault = None

    def _is_broken(self, error: BaseException) -> None:
        if self.fault is not BROKEN:
            log.error(LogLine("access_broken", error=error))
        self.fault = BROKEN
