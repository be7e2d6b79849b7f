"""The platform behind the demo: what a real one's API does, on the reference tables.

Each question has a connection of its own: there are few, and none may disturb the server's pool.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from realtime.auth.signing import sign
from realtime.config.settings import Settings
from realtime.dev.demo import BOT_ID, PEOPLE
from realtime.postgres.pool import DATABASE_ERRORS, connect
from realtime.web.demo_platform import DemoRefused

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

VISITORS: Final = ("ada", "grace")
TOKEN_SECONDS: Final = 24 * 3600
SECONDS: Final = 20.0
"""How long one request may take; the recipes' pauses are a few seconds."""
NEWEST: Final = 100
"""How many messages the history has."""

# Who asks, if they may see the bot. Both functions are what the server asks, too.
_ROLE: Final = """
SELECT who.user_id, may.role
  FROM relay.authenticate($1, $2) AS who
 CROSS JOIN LATERAL relay.authorize(who.user_id, $3) AS may
"""
# Messages of one transaction have one time, and stand in the table as they were written.
# State and cursor are of one statement, so of one moment: nothing is missed between the two.
_HISTORY: Final = """
SELECT relay.cursor('bot:' || $1::uuid) AS cursor,
       (SELECT coalesce(json_agg(m.data ORDER BY m.created_at, m.place), '[]')
          FROM (SELECT n.ctid AS place, n.created_at,
                       relay.message_event('chat_message', NULL, n.bot_id, n.id, n.session_id,
                           n.user_id, u.username, n.content, n.role, n.created_at,
                           n.metadata::text, relay.json_now())::json -> 'data' AS data
                  FROM messages AS n LEFT JOIN users AS u ON u.id = n.user_id
                 WHERE n.bot_id = $1
                 ORDER BY n.created_at DESC, n.ctid DESC
                 LIMIT $2) AS m) AS messages
"""
_POST: Final = """
INSERT INTO messages (session_id, bot_id, user_id, role, content, id)
SELECT (SELECT id FROM sessions WHERE bot_id = $1 LIMIT 1), $1, $2, 'user', $3, $4
    ON CONFLICT (id) DO NOTHING
"""
_END: Final = "SELECT pg_terminate_backend($1)"
_ACTIONS: Final = {
    "disconnect": "SELECT relay.eject($1, coalesce('bot:' || $2::uuid, 'user:' || $1::uuid))",
    "eject": "SELECT relay.eject($1, NULL), $2::uuid",
    "try_event": "SELECT relay.emit('bot:' || $2::uuid, 'console_test',"
    " jsonb_build_object('from', 'the console'), $1)",
}


class DemoTables:
    """The reference tables, as the platform of the demo.

    Args:
        service_dsn: the address for a role with a service's rights; None: there is no such role.
        seconds: how long one request may take.
    """

    people: Sequence[str] = VISITORS
    bot_id: str = BOT_ID

    def __init__(
        self, settings: Settings, service_dsn: str | None, *, seconds: float = SECONDS
    ) -> None:
        self._settings = settings
        self._seconds = seconds
        self._dsn = settings.database_direct_url.get_secret_value()
        self._service_dsn = service_dsn
        self.can_run = service_dsn is not None

    def sign_in(self, name: str) -> str:
        """A token of one of the people, an administrator's for Ada."""
        subject = name if self._settings.jwt_subject == "username" else PEOPLE[name]
        is_admin = name == "ada"
        return sign(self._settings, subject, ttl=TOKEN_SECONDS, is_admin=is_admin, now=time.time())

    async def history(self, subject: str, bot_id: str) -> dict[str, Any]:
        """The newest messages, oldest first, and the cursor of that very moment."""
        async with self._connected() as connection:
            user_id = await self._user(connection, subject, bot_id)
            row = await connection.fetchrow(_HISTORY, bot_id, NEWEST)
            assert row is not None
            return {
                "user_id": str(user_id),
                "messages": json.loads(row["messages"]),
                "cursor": row["cursor"],
            }

    async def post(self, subject: str, bot_id: str, message_id: str, content: str) -> None:
        """Write a message, once for an id."""
        async with self._connected() as connection:
            user_id = await self._user(connection, subject, bot_id)
            await connection.execute(_POST, bot_id, user_id, content, message_id)

    async def act(self, action: str, user_id: str, bot_id: str | None) -> None:
        """Do what an administrator asks for."""
        if action == "try_event" and bot_id is None:
            raise DemoRefused("a test event needs a bot_id", 400)
        async with self._connected() as connection:
            await connection.execute(_ACTIONS[action], user_id, bot_id)

    async def run(self, statements: Sequence[str]) -> list[str]:
        """Run statements, each in a transaction of its own, with the rights of a service."""
        results: list[str] = []
        try:
            await self._run(statements, results)
        except DemoRefused as refused:
            refused.more["results"] = results
            raise
        return results

    async def _run(self, statements: Sequence[str], results: list[str]) -> None:
        assert self._service_dsn is not None
        with _refusing():
            connection = await asyncpg.connect(self._service_dsn, timeout=SECONDS)
            try:
                async with asyncio.timeout(self._seconds):
                    for one in statements:
                        results.append(await _result_of(connection, one))
            except TimeoutError:
                # The role has a time limit, which statements may lift.
                async with self._connected() as ours:
                    await ours.execute(_END, connection.get_server_pid())
                raise
            finally:
                connection.terminate()

    async def _user(self, connection: Connection, subject: str, bot_id: str) -> object:
        row = await connection.fetchrow(_ROLE, subject, self._settings.jwt_subject, bot_id)
        if row is None:
            raise DemoRefused("bot not found or access denied", 403)
        return row["user_id"]

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        with _refusing():
            connection = await connect(self._dsn, SECONDS, keeps_path=True)
            try:
                yield connection
            finally:
                connection.terminate()


async def _result_of(connection: Connection, statement: str) -> str:
    try:
        return await connection.execute(statement)
    except AttributeError as error:
        # What asyncpg 0.30 makes of PostgreSQL's answer to nothing.
        raise DemoRefused("a statement is empty, or only a comment", 400) from error


@contextmanager
def _refusing() -> Iterator[None]:
    """Tell the reader what PostgreSQL says: the tables are theirs."""
    try:
        yield
    except TimeoutError as error:
        raise DemoRefused("it took too long, and was ended", 504) from error
    except UnicodeEncodeError as error:
        raise DemoRefused("half of a surrogate pair is no character", 400) from error
    except asyncpg.PostgresError as error:
        raise DemoRefused(f"PostgreSQL says: {error}", 400) from error
    except DATABASE_ERRORS as error:
        raise DemoRefused("the database is away", 503) from error
