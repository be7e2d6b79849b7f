"""Who may open a socket, and who may stay: asked of the SQL functions that know the tables.

`relay.authenticate` says who a token's subject is, `relay.authorize` whether they may watch a bot
(migrations/sql).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID, uuid4

import asyncpg

from realtime.postgres.doorbell import IS_ALIVE
from realtime.postgres.log_rows import is_of, log_end, to_cursor
from realtime.postgres.pool import asking
from realtime.relay import closing
from realtime.relay.admission import Admission, AdmissionRequest
from realtime.relay.cursor import Cursor
from realtime.relay.errors import Refused
from realtime.relay.position import Lineage
from realtime.relay.protocol import bot_of
from realtime.relay.recheck import RecheckAnswer

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection, Pool

NOBODY = str(UUID(int=0))
"""No user has this id, and no bot."""
PATIENCE = 4
"""The time for a query with its wait, as a multiple of the time for its answer: many may wait."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What Postgres cannot store as text."""
NAME_CHARACTERS = 1000
"""So much of a name is read: each socket holds its user's, and is sent its bot's."""


def _name(column: str) -> str:
    return f"relay.readable(left({column}, {NAME_CHARACTERS}))"


# One statement, and the functions are STABLE: who, what they may, and since when are one moment.
_AUTHORIZE = f"""
SELECT who.user_id::text, {_name("who.username")} AS username,
       {_name("may.bot_name")} AS bot_name, {_name("may.role")} AS role,
       log_end.*,
       (SELECT count(*)
          FROM relay.connections AS one JOIN relay.nodes AS node ON node.id = one.node_id
         WHERE one.user_id = who.user_id AND one.socket_id IS NULL
           AND node.id <> $4 AND {IS_ALIVE}) AS remote_sockets
  FROM {log_end("$5", "$6", "$7")}
 CROSS JOIN unnest($2::text[], $3::uuid[]) WITH ORDINALITY AS asked(subject, bot_id, number)
  LEFT JOIN LATERAL (SELECT * FROM relay.authenticate(asked.subject, $1) LIMIT 1) AS who
    ON asked.subject IS NOT NULL
  LEFT JOIN LATERAL (SELECT * FROM relay.authorize(who.user_id, asked.bot_id)
                      WHERE who.user_id IS NOT NULL AND asked.bot_id IS NOT NULL LIMIT 1) AS may
    ON true
 ORDER BY asked.number
"""
_RECHECK = f"""
SELECT log_end.*,
       array(SELECT CASE WHEN bot_id IS NULL
                    THEN EXISTS (SELECT FROM relay.authenticate(user_id, 'id'))
                    ELSE EXISTS (SELECT FROM relay.authorize(user_id::uuid, bot_id::uuid)) END
               FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked(user_id, bot_id, number)
              ORDER BY number) AS allowed
  FROM {log_end("$3", "$4", "$5")}
"""


NOT_IN_ENCODING = (
    asyncpg.UntranslatableCharacterError,
    asyncpg.CharacterNotInRepertoireError,
)
"""What is raised for text that the database's encoding does not have."""


OF_ALL = (
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresConnectionError,
    asyncpg.LockNotAvailableError,
)
"""What is raised for the database's own state, and so would be for each question alone."""

MAX_APART = 32
"""How often a question that failed is parted: enough for three who fail among five hundred."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


async def try_access(connection: "AnyConnection", subject_kind: str) -> None:
    """Ask what a server asks, about a user and a bot that do not exist.

    An unknown subject has no id to ask `relay.authorize` about, so that is asked in a second one.

    Args:
        subject_kind: as of `Access`.

    Raises:
        One of `realtime.postgres.pool.DATABASE_ERRORS`.
    """
    user, bot = str(uuid4()), str(uuid4())
    nothing_seen = (None, None, None)
    await connection.fetch(_AUTHORIZE, subject_kind, [user], [bot], None, *nothing_seen)
    await connection.fetch(_RECHECK, [user, user], [None, bot], *nothing_seen)


class Access:
    """Asks the database who may be where.

    Args:
        lineage: which log the answers must be of; told of the newest row that they saw.
        subject_kind: what a token's subject is, `id` or `username` (the setting JWT_SUBJECT).
        timeout: seconds until a question counts as unanswered.
        node_id: the process that asks; None: it has no sockets, and nobody's are counted.
    """

    def __init__(
        self,
        pool: "Pool",
        lineage: Lineage,
        *,
        subject_kind: str,
        timeout: float,
        node_id: str | None = None,
    ) -> None:
        self._pool = pool
        self._lineage = lineage
        self._subject_kind = subject_kind
        self._timeout = timeout
        self._node_id = node_id

    async def authorize(self, questions: Sequence[AdmissionRequest]) -> list[Admission | Refused]:
        """Answer for each, as of one moment.

        Refused: 4001 nobody active is meant; 4003 not on this bot; 1013 no answer to be had.
        """
        return await _apart(self._authorize, questions)

    async def _is_text(self, subject: str, refused: Refused) -> bool:
        """Whether the database's encoding has all of a subject; without that, nobody has that name.

        Args:
            refused: why it could not be asked about.
        """
        if not isinstance(refused.__cause__, NOT_IN_ENCODING):
            return True
        try:
            async with asking(self._pool, "subject", seconds=self._timeout) as connection:
                await connection.fetchval("SELECT $1::text IS NULL", subject)
        except Refused as still:
            return not isinstance(still.__cause__, NOT_IN_ENCODING)
        return True

    async def _authorize(self, questions: Sequence[AdmissionRequest]) -> list[Admission | Refused]:
        try:
            return await self._authorize_all(questions)
        except Refused as refused:
            if len(questions) != 1 or await self._is_text(questions[0].subject, refused):
                raise
            return [Refused(*closing.USER_UNKNOWN)]

    async def _authorize_all(
        self, questions: Sequence[AdmissionRequest]
    ) -> list[Admission | Refused]:
        # What Postgres cannot hold as text is nobody's id or name.
        subjects = [None if _NO_TEXT.search(one.subject) else one.subject for one in questions]
        bots = [one.bot_id for one in questions]
        asked = (self._subject_kind, subjects, bots, self._node_id)
        rows, cursor = await self._fetch(_AUTHORIZE, *asked)
        return [_answer(one, row, cursor) for one, row in zip(questions, rows, strict=True)]

    async def warm_up(self, connections: int) -> None:
        """Ask about nobody, on so many connections at once: so they are open, and know the query.

        To open a connection and plan on it takes as long as letting in a hundred clients. After a
        start, they come all together.
        """
        nobody = AdmissionRequest(NOBODY, NOBODY)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(connections):
                tasks.create_task(self.authorize([nobody]))

    async def recheck(self, questions: Sequence[tuple[str, str]]) -> list[RecheckAnswer | Refused]:
        """Say of pairs of user id and topic whether the user may still be there.

        Refused: 1013, no answer to be had.
        """
        return await _apart(self._recheck, questions)

    async def _recheck(self, questions: Sequence[tuple[str, str]]) -> list[RecheckAnswer | Refused]:
        users = [user_id for user_id, _ in questions]
        bots = [bot_of(topic) for _, topic in questions]
        (row,), cursor = await self._fetch(_RECHECK, users, bots)
        return [RecheckAnswer(is_allowed, cursor) for is_allowed in row["allowed"]]

    async def _fetch(self, query: str, *arguments: object) -> tuple[list[asyncpg.Record], Cursor]:
        """The answers, and the cursor as of which they hold.

        Raises:
            Refused: 1013, no answer to be had.
        """
        lineage = self._lineage
        database, seen = lineage.database, lineage.newest
        seconds = PATIENCE * self._timeout
        async with asking(self._pool, "access", seconds=seconds) as connection:
            known = seen or (None, None, None)
            rows = await connection.fetch(query, *arguments, *known, timeout=self._timeout)
        # In another history the cursor would hide what came after. The reader will notice that
        # within seconds, and have everybody come back; or it has noticed it meanwhile. Without the
        # floor's row there is no answer: so it is for a moment while a dump is restored in place.
        is_same = lineage.database == database and rows and is_of(rows[0]["of"], database)
        if not is_same or not rows[0]["is_known"]:
            raise Refused(*closing.DATABASE_AWAY)
        cursor = to_cursor(rows[0])
        lineage.saw(cursor.anchor)
        return rows, cursor


async def _apart(
    ask: Callable[[Sequence[Question]], Awaitable[list[Answer | Refused]]],
    questions: Sequence[Question],
) -> list[Answer | Refused]:
    """Ask about all at once; where that fails, about each half for itself, and so on.

    The platform's own functions may fail for one of them: that is not the others' fault. Where they
    fail for very many, the rest is refused, too, for the database has enough to do.
    """
    answers: list[Answer | Refused] = []
    waiting, left = [questions], MAX_APART
    while waiting:
        some = waiting.pop()
        try:
            answers += await ask(some)
        except Refused as refused:
            if len(some) > 1 and left > 0 and _is_of_one(refused.__cause__):
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]
                left -= 1
            else:
                answers += [Refused(refused.code, refused.reason) for _ in some]
    return answers


def _is_of_one(error: BaseException | None) -> bool:
    return isinstance(error, asyncpg.PostgresError) and not isinstance(error, OF_ALL)


def _answer(question: AdmissionRequest, row: asyncpg.Record, cursor: Cursor) -> Admission | Refused:
    if row["user_id"] is None:
        return Refused(*closing.USER_UNKNOWN)
    if question.bot_id is not None and row["role"] is None:
        return Refused(*closing.ACCESS_DENIED)
    return Admission(
        row["user_id"],
        row["username"],
        row["bot_name"],
        row["role"],
        cursor,
        row["remote_sockets"],
    )
