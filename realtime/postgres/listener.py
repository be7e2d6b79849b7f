"""Keeps one connection that listens, and runs the reader over it, through every outage.

`runtime/server.py` runs `Listener.run` as long as the process lives. After each connect it sees
which database this is, then sends LISTEN, then switches the bell on, then reads the log from the
reader's position. So what was committed meanwhile arrives, once. docs/design.md ("When the database
is away") tells an outage from its beginning to its end.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import asyncpg

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.log_line import LogLine
from realtime.postgres.doorbell import Doorbell
from realtime.postgres.event_log import EventLog
from realtime.postgres.own_names import without_path
from realtime.postgres.pool import DATABASE_ERRORS, WrongServer, connect
from realtime.postgres.schema import SchemaError, check_schema
from realtime.postgres.wire import Wire
from realtime.relay.backoff import Backoff
from realtime.relay.counters import Counters
from realtime.relay.position import Position
from realtime.relay.reader import Reader
from realtime.relay.resume import GapReason

log = logging.getLogger(__name__)

PAST_THE_POOLER = "point DATABASE_DIRECT_URL past the transaction-mode pooler"


async def read_position(dsn: str, timeout: float) -> Position:
    """Check the database before anything starts, and say where in its log a reader begins.

    Raises:
        SchemaError, WrongServer: it cannot be used; the message says what to do.
        One of `DATABASE_ERRORS`: it cannot be reached.
    """
    connection = await connect(dsn, timeout, is_pooled=True)  # nobody has looked yet
    try:
        await check_schema(connection)
        return await EventLog(connection).start()
    finally:
        connection.terminate()


async def is_path_needed(dsn: str, timeout: float) -> bool:
    """Whether what asks about access has to look through the role's own search path.

    Raises:
        One of `DATABASE_ERRORS`.
    """
    connection = await connect(dsn, timeout, is_pooled=True)
    try:
        found = await without_path(connection)
    finally:
        connection.terminate()
    if found:
        log.warning(LogLine("access_without_path", functions=", ".join(found)))
    return bool(found)


async def is_behind_pooler(dsn: str, timeout: float, intervals: Intervals = DEFAULTS) -> bool:
    """Find out whether an address may be a transaction-mode pooler's: no ring is heard there.

    Where that cannot be found out, it may be one: without prepared statements everything is
    slower, but with them behind a pooler nothing is sure.
    """
    try:
        connection = await connect(dsn, timeout, is_pooled=True)
        try:
            doorbell = Doorbell(connection, "", lambda _payload: None, intervals=intervals)
            await doorbell.listen()
            await doorbell.try_hearing(lambda: _ring(dsn, timeout))
        finally:
            connection.terminate()
    except DATABASE_ERRORS as error:
        log.warning(LogLine("listen_test_failed", error=error))
        return True
    if not doorbell.can_hear:
        log.warning(LogLine("statements_not_prepared", cure=PAST_THE_POOLER))
    return not doorbell.can_hear


async def _ring(dsn: str, timeout: float) -> None:
    """Ring over a connection of its own."""
    connection = await connect(dsn, timeout, is_pooled=True)
    try:
        await connection.execute("SELECT relay.tell('ring', '')")
    finally:
        connection.terminate()


class Listener:
    """Keeps one connection that listens, and runs the reader over it.

    Args:
        dsn: the database, directly: LISTEN does not pass a transaction-mode pooler.
        node_id: this process's, in `relay.nodes`.
        timeout: seconds, to connect and for each statement.
        is_pooled: keep no prepared statements, for no ring is heard over this address.
        on_typing: called with each payload of the typing channel.
        on_change: called with whether Postgres is heard, whenever that changes.
        counters: counts rings and outages.
        carries: whether rings may carry events.
    """

    def __init__(
        self,
        dsn: str,
        node_id: str,
        *,
        timeout: float,
        is_pooled: bool = False,
        backoff: Backoff,
        on_typing: Callable[[str], None],
        on_change: Callable[[bool], None],
        counters: Counters | None = None,
        intervals: Intervals = DEFAULTS,
        carries: bool = True,
    ) -> None:
        self._intervals = intervals
        self._carries = carries
        self._counters = counters or Counters(time.monotonic)
        self._dsn = dsn
        self._node_id = node_id
        self._timeout = timeout
        self._is_pooled = is_pooled
        self._wire = Wire(timeout)
        self._backoff = backoff
        self._on_typing = on_typing
        self._on_change = on_change
        self._doorbell: Doorbell | None = None
        self._event_log: EventLog | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that listens at the moment."""
        return self._event_log is not None

    @property
    def round_trip(self) -> float | None:
        """Seconds that the latest read of the log took; None: there is no connection."""
        return self._event_log.round_trip if self._event_log is not None else None

    @property
    def can_hear(self) -> bool:
        """Whether rings arrive; if not, the log is polled."""
        return self._doorbell is None or self._doorbell.can_hear

    def ring(self) -> None:
        """Make the relay read soon: now, or when the connection is back."""
        if self._doorbell is not None:
            self._doorbell.ring()

    async def run(self, reader: Reader) -> NoReturn:
        """Keep the relay running until cancelled."""
        while True:
            try:
                async with self._listening(reader) as (event_log, doorbell):
                    await reader.run(event_log, doorbell)
            except (*DATABASE_ERRORS, WrongServer, SchemaError) as error:
                self._on_change(False)
                self._counters.losses += 1
                delay = self._backoff.next()
                log.warning(LogLine("database_lost", error=error, retry_seconds=round(delay, 1)))
                self._say_if_stuck(reader)
                await asyncio.sleep(delay)

    def _say_if_stuck(self, reader: Reader) -> None:
        if reader.is_stuck:
            log.error(LogLine("log_not_read", seconds=round(reader.stuck_seconds)))

    @asynccontextmanager
    async def _listening(self, reader: Reader) -> AsyncIterator[tuple[EventLog, Doorbell]]:
        connection = await connect(self._dsn, self._timeout, is_pooled=self._is_pooled)
        try:
            event_log = EventLog(connection, wire=self._wire)
            signer = await event_log.signer()
            doorbell = Doorbell(
                connection,
                self._node_id,
                self._on_typing,
                self._counters,
                self._intervals,
                carries=self._carries,
            )
            await self._try_listening(doorbell)
            if signer.database == reader.lineage.database:
                reader.lineage.signer = signer  # a key may have been changed
            else:
                log.warning(LogLine("database_replaced"))
                reader.start_over(await event_log.start(), GapReason.FOREIGN)
            self._doorbell, self._event_log = doorbell, event_log
            self._on_change(True)
            yield event_log, doorbell
        finally:
            if self._event_log is not None and self._event_log.round_trip:
                self._backoff.reset()  # it could be read: this is a new failure
            self._doorbell = self._event_log = None
            # Not close(): the other side may no longer answer.
            connection.terminate()

    async def _try_listening(self, doorbell: Doorbell) -> None:
        """Listen, if that is possible. The log can be read without it."""
        try:
            await doorbell.listen()
        except asyncpg.PostgresError as error:
            doorbell.can_hear = False
            poll = self._intervals.poll
            log.warning(LogLine("listen_failed", error=error, poll_seconds=poll))
        else:
            await self._try_hearing(doorbell)

    async def _try_hearing(self, doorbell: Doorbell) -> None:
        try:
            await doorbell.try_hearing(partial(_ring, self._dsn, self._timeout))
        except asyncpg.PostgresError as error:
            log.warning(LogLine("listen_test_failed", error=error))
        if not doorbell.can_hear:
            poll = self._intervals.poll
            log.warning(LogLine("listen_hears_nothing", poll_seconds=poll, cure=PAST_THE_POOLER))
