"""Connections to Postgres: one to listen on, a small pool for everything else.

Every connection has time limits, and says which program it belongs to.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import asyncpg

from realtime.errors import CommandError
from realtime.log_line import LogLine
from realtime.postgres.hosts import open_connection
from realtime.postgres.own_names import OWN_PATH, OwnNamesConnection
from realtime.relay import closing
from realtime.relay.cursor import Database
from realtime.relay.errors import Refused

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    AnyConnection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

log = logging.getLogger(__name__)

DATABASE_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What asyncpg raises when the database cannot be asked: try again, on a new connection."""

ACQUIRE_SECONDS = 10.0
"""Seconds that background work waits for a connection of the pool. Sockets wait less."""

STATEMENTS_KEPT = 100
"""How many prepared statements a connection keeps: more than we have."""

LATER_SECONDS = 0.5
"""PostgreSQL ends a statement so much later than its client gives it up."""
IDLE_TRANSACTION_SECONDS = 30.0
"""How long a process that stopped may keep a transaction open, and with it locks."""
UNREAD_SECONDS = 10.0
"""How long PostgreSQL keeps a connection whose other end takes nothing. A listener that takes
nothing holds the queue of notifications, and commits fail once that is full."""

# The server notices a process that went away without a word; the process notices a server that did
# by its next read, which is never more than seconds off. And the log is read by the same plan all
# day: to plan each read anew takes four times as long as the read, and a plan that is made while
# the log is empty must not be one that scans all of it when it is full. Nor may each page of a
# large transaction be found by sorting all that is left of it, which looks cheap while its rows are
# not counted: an index has them in order.
_FOR_THE_LOG = {
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_sort": "off",
}

# Definitions are compared and stored as PostgreSQL writes them, which a role's or a database's
# defaults change. The pool keeps those: a platform's own functions may want them.
AS_COMPARED = {
    "quote_all_identifiers": "off",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "xmloption": "content",
    "check_function_bodies": "on",
}
"""How PostgreSQL reads and writes text for a command."""

_IDENTITY = """
SELECT pg_is_in_recovery() AS is_standby,
       system_identifier,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS oid
  FROM pg_control_system()
"""
_TIMELINE = "SELECT relay.timeline()"


class WrongServer(CommandError):
    """The address leads to a server that must not be read from; the message says why."""


def limits(timeout: float) -> dict[str, str]:
    """What PostgreSQL itself ends on a connection, whatever the role's defaults are.

    A process that gives a connection up cannot take back what it asked. Without these, PostgreSQL
    would go on with it, and each new connection would leave one more behind.

    Args:
        timeout: seconds that the client waits for a statement.
    """
    return {
        "statement_timeout": str(round(1000 * (timeout + LATER_SECONDS))),
        "lock_timeout": str(round(500 * timeout)),
        "idle_in_transaction_session_timeout": str(round(1000 * IDLE_TRANSACTION_SECONDS)),
        "idle_session_timeout": "0",  # a quiet platform leaves connections idle
        "tcp_user_timeout": str(round(1000 * UNREAD_SECONDS)),
    }


def _settings(timeout: float, *, keeps_path: bool = False) -> dict[str, str]:
    return {
        **limits(timeout),
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        # Nothing that a server writes has to wait for standbys.
        "synchronous_commit": "local",
        # By its plan, what is asked looks dear, and so worth compiling: of the floor, which has one
        # row, 840 are expected. It takes milliseconds, and the compiling up to seconds.
        "jit": "off",
        # Off, a table whose rows a policy shows would be an error.
        "row_security": "on",
        **({} if keeps_path else {"search_path": OWN_PATH}),
    }


async def connect(
    dsn: str, timeout: float, *, is_pooled: bool = False, keeps_path: bool = False
) -> "HearingConnection":
    """Open a connection of its own, to listen on and read the log.

    Args:
        timeout: seconds, to connect and for each statement.
        is_pooled: as of `open_pool`.
        keeps_path: names mean what the role's own search path says, as a platform's SQL needs it.

    Raises:
        One of `DATABASE_ERRORS`.
    """
    settings = {**_FOR_THE_LOG, **AS_COMPARED, **_settings(timeout, keeps_path=keeps_path)}
    kept = _statements_kept(is_pooled)
    try:
        return await _open(dsn, timeout, "realtime", settings, kept, keeps_path=keeps_path)
    except asyncpg.ProtocolViolationError as error:
        # PgBouncer lets few settings through. It works without, but that there is a pooler at all
        # is for the one who listens to find out.
        _tell_of_refusal(dsn, str(error))
        return await _open(dsn, timeout, "realtime", {}, 0, keeps_path=keeps_path)


@lru_cache
def _tell_of_refusal(_dsn: str, error: str) -> None:
    """Once for each address, and not for each connection."""
    log.warning(LogLine("connection_settings_refused", error=error))


def _statements_kept(is_pooled: bool) -> int:
    """How many prepared statements a connection keeps.

    Behind a transaction-mode pooler none: the next transaction may run in another session, which
    does not have the statement, or has another process's by the same name.
    """
    return 0 if is_pooled else STATEMENTS_KEPT


async def connect_command(
    dsn: str,
    timeout: float,
    name: str,
    *,
    statement_cache_size: int = STATEMENTS_KEPT,
    as_server: bool = False,
    keeps_path: bool = False,
) -> "HearingConnection":
    """Open a connection for a command, with the role's own settings but for few.

    Args:
        timeout: seconds, to connect and for each statement.
        name: what `pg_stat_activity` calls it.
        as_server: text is read and written as the role has it, as on the connections of a
            server's pool.
        keeps_path: as of `connect`.

    Raises:
        One of `DATABASE_ERRORS`.
    """
    settings = {**limits(timeout), "row_security": "on"}
    if not keeps_path:
        settings["search_path"] = OWN_PATH
    if not as_server:
        settings |= AS_COMPARED
    kept = statement_cache_size
    try:
        return await _open(dsn, timeout, name, settings, kept, keeps_path=keeps_path)
    except asyncpg.ProtocolViolationError:  # a pooler that lets no settings through
        return await _open(dsn, timeout, name, {}, 0, keeps_path=keeps_path)


async def _open(
    dsn: str,
    timeout: float,
    name: str,
    settings: Mapping[str, str],
    statement_cache_size: int,
    *,
    keeps_path: bool = False,
) -> "HearingConnection":
    connection: HearingConnection = await open_connection(
        dsn,
        timeout=timeout,
        command_timeout=timeout,
        statement_cache_size=statement_cache_size,
        connection_class=HearingConnection,
        server_settings={"application_name": name, **settings},
    )
    await _set_rest(connection, settings, keeps_path=keeps_path)
    return connection


async def _set_rest(
    connection: OwnNamesConnection, settings: Mapping[str, str], *, keeps_path: bool = False
) -> None:
    """Do what cannot be done, or be sure, when one connects."""
    try:
        if settings:
            await _lift_transaction_limit(connection)
        if not keeps_path:
            await connection.use_own_names()
    except BaseException:
        connection.terminate()  # a pooler may have no session for it, and nobody else knows it
        raise


async def _lift_transaction_limit(connection: "_Connection") -> None:
    """Whatever the role's default is. Servers before 17 refuse the name when one connects."""
    if connection.get_server_version() >= (17,):
        await connection.execute("SET transaction_timeout = 0")


class HearingConnection(OwnNamesConnection):
    """A connection that hands over what it hears, whatever the channel's name.

    asyncpg's own `add_listener` sends LISTEN with the name, which is a secret here; so
    `relay.listen` is called instead.

    Attributes:
        hear: called with the channel and the payload, in order, while the protocol reads: it must
            only take note. asyncpg's own listeners then hear nothing.
    """

    __slots__ = ("hear",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.hear: Callable[[str, str], None] | None = None

    def _process_notification(self, pid: int, channel: str, payload: str) -> None:
        if self.hear is not None:
            self.hear(channel, payload)
        else:
            super()._process_notification(pid, channel, payload)  # type: ignore[misc]


class _Stateless(OwnNamesConnection):
    """A connection without a reset query: no user of the pool leaves anything in the session."""

    __slots__ = ()

    def get_reset_query(self) -> str:
        return ""


@asynccontextmanager
async def open_pool(
    dsn: str, *, size: int, timeout: float, is_pooled: bool, keeps_path: bool = False
) -> AsyncIterator["Pool"]:
    """A pool that opens its connections when they are needed.

    Args:
        is_pooled: the address is a transaction-mode pooler: keep no prepared statements.
        keeps_path: as of `connect`.
    """

    async def open_one(*arguments: Any, **options: Any) -> _Connection:
        return await _open_for_pool(settings, keeps_path, *arguments, **options)

    settings = {} if is_pooled else _settings(timeout, keeps_path=keeps_path)
    pool = asyncpg.create_pool(
        dsn,
        connect=open_one,
        min_size=0,
        max_size=size,
        timeout=timeout,
        command_timeout=timeout,
        max_inactive_connection_lifetime=60,
        statement_cache_size=_statements_kept(is_pooled),
        server_settings={"application_name": "realtime"},
        connection_class=_Stateless,
    )
    await pool
    try:
        yield pool
    finally:
        # close() waits for connections in use; all who use them have been stopped by now.
        pool.terminate()


async def _open_for_pool(
    settings: Mapping[str, str],
    keeps_path: bool,
    *arguments: Any,
    server_settings: dict[str, str],
    **options: Any,
) -> "_Connection":
    try:
        connection: _Stateless = await open_connection(
            *arguments, server_settings={**server_settings, **settings}, **options
        )
    except asyncpg.ProtocolViolationError:
        # A pooler that came in between since the start. It is for the one who listens to say so.
        settings = {}
        options["statement_cache_size"] = _statements_kept(is_pooled=True)
        connection = await open_connection(*arguments, server_settings=server_settings, **options)
    await _set_rest(connection, settings, keeps_path=keeps_path)
    return connection


@asynccontextmanager
async def asking(
    pool: "Pool", question: str, *, seconds: float, turn: asyncio.Lock | None = None
) -> AsyncIterator["AnyConnection"]:
    """Lend a connection for a question that somebody waits for; a failure is logged.

    Args:
        question: names it in the log.
        seconds: how long all of it may take, the wait for a connection included.
        turn: held meanwhile, so that only one such question is asked at a time.

    Raises:
        Refused: 1013, the database cannot be asked.
    """
    try:
        async with asyncio.timeout(seconds), turn or nullcontext(), pool.acquire() as connection:
            yield connection
    except DATABASE_ERRORS as error:
        log.warning(LogLine("query_failed", question=question, error=error))
        raise Refused(*closing.DATABASE_AWAY) from error


async def identify(connection: "AnyConnection") -> Database:
    """Which history this server's transaction ids belong to.

    Raises:
        WrongServer: it is a standby: its snapshots do not list the transactions in progress.
        One of `DATABASE_ERRORS`.
    """
    row = await connection.fetchrow(_IDENTITY)
    assert row is not None
    if row["is_standby"]:
        raise WrongServer(
            "this server is a standby (in recovery), from which events would be lost; "
            "point DATABASE_URL at the primary"
        )
    try:
        timeline = await connection.fetchval(_TIMELINE)
    except (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError):
        timeline = 0  # not migrated, so there are no cursors
    # int8 in the catalogue, printed unsigned everywhere else.
    return Database(row["system_identifier"] % 2**64, row["oid"], timeline)
