"""The processes on one database: heartbeats, the typing indicators they exchange, their metrics.

Each process updates its row in `relay.nodes`, and the doorbell its own columns of that row: a table
in docs/design.md ("Many processes") has all of them. A process that stops doing so counts as gone.
Typing indicators are sent as small JSON batches by NOTIFY, from the pool. Each NOTIFY takes the
commit lock: so there are only a few per second, and none for bots that no other process has.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn

import asyncpg

from realtime.config.intervals import Intervals
from realtime.log_line import LogLine
from realtime.metrics.snapshot import DatabaseMetrics, LogMetrics
from realtime.postgres.doorbell import ALIVE_SECONDS, IS_ALIVE, beat_within
from realtime.postgres.pool import (
    ACQUIRE_SECONDS,
    DATABASE_ERRORS,
    WrongServer,
    asking,
    identify,
)
from realtime.relay.errors import Refused
from realtime.relay.position import Lineage
from realtime.relay.protocol import bot_topic
from realtime.relay.rate_limit import TokenBucket
from realtime.relay.typing import Indicator

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection, Pool

log = logging.getLogger(__name__)

Heard = tuple[str, str, str, bool]
"""What another process tells of a user: bot, user, username, whether they type."""

MISSED_BEATS = 2
"""After so many heartbeats that were not taken, the pool counts as away."""
ASK_SECONDS = 1.0
"""How long a process that ends waits for a connection, to ask who else serves."""
BATCH_BYTES = 5000
"""NOTIFY takes less than 8000 bytes: https://www.postgresql.org/docs/current/sql-notify.html
After so many bytes a new payload begins; one more row has at most 2500."""
FILLING = 0.1
"""Above this use of the queue of notifications, dead processes' sessions are ended at once."""
MAX_NAME = 200
MAX_ID = 36
HEARD_BYTES_PER_SECOND, MAX_HEARD_BYTES = 100_000, 200_000
"""How much typing of other processes is taken: about 800 indicators a second, and a burst of two
seconds. The rest is not shown."""
COMPLAINT_SECONDS = 60.0

# `awake` is the doorbell's, and of no concern here but for a row that is new.
_BEAT_LATELY = f"EXISTS (SELECT FROM relay.nodes WHERE id = $1 AND {IS_ALIVE})"
# A heartbeat need not outlive a crash, so it does not wait for the disk. Whose own row is old too
# takes no other for dead: the clock has leapt, and the others are still to say that they are here.
_BEAT = f"""
WITH mine AS (
    INSERT INTO relay.nodes (id, started_at, heartbeat_at, awake, info)
    SELECT $1::uuid, now(), now(), false, $2::jsonb
      FROM set_config('synchronous_commit', 'off', true)
    ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), info = excluded.info
), gone AS (
    DELETE FROM relay.nodes
     WHERE id <> $1 AND NOT {beat_within(10 * ALIVE_SECONDS)}
       AND {_BEAT_LATELY}
    RETURNING backend
)
SELECT backend FROM gone
UNION
SELECT backend FROM relay.nodes
 WHERE id <> $1 AND NOT {IS_ALIVE} AND {_BEAT_LATELY}
   AND pg_notification_queue_usage() > $3
"""
# A supervisor's processes have one host and one port.
_ELSEWHERE = f"""
SELECT EXISTS (
    SELECT FROM relay.nodes AS node
     WHERE {IS_ALIVE} AND (node.info->>'hostname', node.info->>'port') <> ($1, $2))
"""
# A process that was stopped takes nothing any more, and holds the queue of notifications: once that
# fills, its session is ended before its row is removed. One that goes on connects again and has
# missed nothing.
_END_LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE pid = ANY ($1) AND datname = current_database() AND usename = current_user
   AND application_name = 'realtime'
"""
# Which bots other processes have is for the database to know; here it would be a second truth.
_TELL = f"""
WITH told AS (
    SELECT number, said.row, sum(octet_length(said.row) + 1) OVER (ORDER BY number) AS bytes
      FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS said (topic, row, number)
     WHERE EXISTS (
        SELECT FROM relay.nodes AS node
          JOIN relay.connections AS one ON one.node_id = node.id
         WHERE one.topic = said.topic AND node.id <> $1 AND {IS_ALIVE})
)
SELECT relay.tell('typing',
                  concat('["', $1, '",[', string_agg(told.row, ',' ORDER BY number), ']]'))
  FROM told GROUP BY bytes / {BATCH_BYTES}
"""


class Nodes:
    """Tells the other processes that this one runs, and what its users type.

    Args:
        node_id: this process's, in `relay.nodes`.
        lineage: which log the process reads.
        timeout: seconds that a statement may take.
        monotonic: seconds.
    """

    def __init__(
        self,
        pool: "Pool",
        node_id: str,
        intervals: Intervals,
        lineage: Lineage,
        *,
        timeout: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._intervals = intervals
        self._timeout = timeout
        self._monotonic = monotonic
        self._pool_answered_at = float("-inf")
        self.is_pool_elsewhere = False
        """Whether the pool leads to another database than the one whose log is read."""
        self._lineage = lineage
        self.node_id = node_id
        self._pool = pool
        self._outbox: dict[tuple[str, str], Indicator] = {}

    async def keep_alive(self, info: Callable[[], Mapping[str, object]]) -> NoReturn:
        """Send heartbeats until cancelled.

        Args:
            info: what each heartbeat tells of the process, for people and metrics; JSON.
        """
        while True:
            try:
                async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                    await self._see_where(connection)
                    # In another database nobody looks for this process.
                    if not self.is_pool_elsewhere:
                        await self._beat(connection, json.dumps(info()))
            except DATABASE_ERRORS as error:
                log.warning(LogLine("heartbeat_failed", error=error))
            await asyncio.sleep(self._intervals.heartbeat)

    async def _see_where(self, connection: "AnyConnection") -> None:
        """Note whether the pool leads to the database whose log is read.

        Two addresses may be of two databases by mistake, and a pooler may stay on the old primary
        after a failover. What such a database says of access is not true, so nobody is let in.
        """
        error: WrongServer | None = None
        try:
            is_elsewhere = await identify(connection) != self._lineage.database
        except WrongServer as standby:
            is_elsewhere, error = True, standby
        if is_elsewhere:
            self._pool_answered_at = self._monotonic()
        if is_elsewhere and not self.is_pool_elsewhere:
            log.warning(LogLine("databases_differ", error=error))
        elif self.is_pool_elsewhere and not is_elsewhere:
            log.info(LogLine("databases_agree"))
        self.is_pool_elsewhere = is_elsewhere

    async def _beat(self, connection: "AnyConnection", told: str) -> None:
        try:
            gone = await connection.fetch(_BEAT, self.node_id, told, FILLING)
            if gone:
                await connection.execute(_END_LISTENERS, [row["backend"] for row in gone])
        except asyncpg.TooManyConnectionsError:
            raise
        except (asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientResourcesError):
            # As where the disk is full. It answers, which is enough to let somebody in.
            self._pool_answered_at = self._monotonic()
            raise
        self._pool_answered_at = self._monotonic()

    @property
    def is_pool_answering(self) -> bool:
        """Whether one of the latest heartbeats was taken: new sockets need the same pool."""
        silence = self._monotonic() - self._pool_answered_at
        return silence < MISSED_BEATS * self._intervals.heartbeat + self._timeout

    def stood_still(self, seconds: float) -> None:
        """The process itself did nothing for so long: no heartbeat was missed."""
        self._pool_answered_at = min(self._pool_answered_at + seconds, self._monotonic())

    async def leave(self) -> None:
        """Say that this process is gone. If that fails, the others notice it after some time."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                await connection.execute("DELETE FROM relay.nodes WHERE id = $1", self.node_id)
        except DATABASE_ERRORS as error:
            log.info(LogLine("node_removal_failed", error=error))

    async def are_elsewhere(self, hostname: str, port: int) -> bool:
        """Whether processes run on another host or port; False where nobody can tell."""
        try:
            async with self._pool.acquire(timeout=ASK_SECONDS) as connection:
                found: bool = await connection.fetchval(_ELSEWHERE, hostname, str(port))
        except DATABASE_ERRORS as error:
            log.info(LogLine("nodes_unknown", error=error))
            return False
        return found

    def tell(self, indicators: Iterable[Indicator]) -> None:
        """Send this process's own indicators with the next batch. Only the newest state counts."""
        for one in indicators:
            if one.is_local:
                self._outbox[one.bot_id, one.user_id] = one

    async def keep_telling(self) -> NoReturn:
        """Send the collected indicators, a few times a second."""
        while True:
            await asyncio.sleep(self._intervals.typing_batch)
            if self._outbox:
                batch, self._outbox = list(self._outbox.values()), {}
                await self._notify(batch)

    async def _notify(self, batch: list[Indicator]) -> None:
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                topics = [bot_topic(one.bot_id) for one in batch]
                rows = [pack(one) for one in batch]
                await connection.execute(_TELL, self.node_id, topics, rows)
        except DATABASE_ERRORS as error:
            log.warning(LogLine("typing_notify_failed", error=error))


def pack(one: Indicator) -> str:
    """An indicator as a row of a NOTIFY payload, in ASCII."""
    return json.dumps([one.bot_id, one.user_id, one.username[:MAX_NAME], one.is_typing])


class TypingInbox:
    """What other processes tell of typing, limited in bytes.

    Whoever knows the channel's name can send whatever they like.

    Args:
        node_id: this process's.
        on_indicator: called with bot, user, username and whether they type.
        monotonic: seconds.
    """

    def __init__(
        self,
        node_id: str,
        on_indicator: Callable[[str, str, str, bool], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._node_id = node_id
        self._on_indicator = on_indicator
        self._monotonic = monotonic
        self._bucket = TokenBucket(HEARD_BYTES_PER_SECOND, MAX_HEARD_BYTES, monotonic)
        self._refused_bytes = 0
        self._told_at = float("-inf")

    def hear(self, payload: str) -> None:
        """Take a payload of the typing channel."""
        length = len(payload.encode())
        if not self._bucket.take(length):
            self._complain(length)
            return
        for indicator in unpack(self._node_id, payload):
            self._on_indicator(*indicator)

    def _complain(self, length: int) -> None:
        """Say from time to time how many bytes were refused."""
        now = self._monotonic()
        self._refused_bytes += length
        if now - self._told_at >= COMPLAINT_SECONDS:
            log.warning(LogLine("typing_flood", refused_bytes=self._refused_bytes))
            self._told_at, self._refused_bytes = now, 0


def unpack(node_id: str, payload: str) -> list[Heard]:
    """What another process told: bot, user, username, whether typing.

    Nothing for our own echo, or for what is no such batch.
    """
    try:
        sender, rows = json.loads(payload)
        batch = [_checked(*row) for row in rows]
    except (ValueError, TypeError, RecursionError):
        log.warning(LogLine("typing_batch_refused", characters=len(payload)))
        return []
    return [] if sender == node_id else batch


def _checked(bot_id: object, user_id: object, username: object, is_typing: object) -> Heard:
    """A row of a batch, with text of limited length."""
    bot, user = str(bot_id), str(user_id)
    if max(len(bot), len(user)) > MAX_ID:
        raise ValueError("an id is too long")
    return bot, user, str(username)[:MAX_NAME], bool(is_typing)


MAX_SECONDS = 1.0
"""How long the database may take to answer. Prometheus waits 10 s for a scrape, and then it gets
not even the metrics of this process."""
MAX_NODES = 200
"""How many other processes are reported, at most."""

_OTHERS = f"""
SELECT node.id::text, node.info::text FROM relay.nodes AS node
 WHERE node.id <> $1 AND {IS_ALIVE} ORDER BY node.started_at, node.id LIMIT {MAX_NODES}
"""
# The rows are the statistics' (to count them takes long); the oldest is found by the index.
_LOG = """
SELECT (SELECT coalesce(sum(pg_stat_get_live_tuples(inhrelid)), 0)::bigint
          FROM pg_inherits WHERE inhparent = 'relay.events'::regclass),
       (SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint
          FROM pg_inherits WHERE inhparent = 'relay.events'::regclass),
       greatest(date_part('epoch', clock_timestamp() - (
           SELECT written_at FROM relay.events
            WHERE xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY xid LIMIT 1)), 0),
       pg_notification_queue_usage()
"""


class MetricsQuery:
    """Asks for the metrics that the database has.

    Args:
        node_id: this process's, in `relay.nodes`.
        timeout: seconds that the database may take to answer.
    """

    def __init__(self, pool: "Pool", node_id: str, *, timeout: float) -> None:
        self._pool = pool
        self._node_id = node_id
        self._timeout = min(timeout, MAX_SECONDS)
        self._turn = asyncio.Lock()

    async def ask(self) -> DatabaseMetrics | None:
        """None: the database cannot be asked at the moment."""
        question = asking(self._pool, "metrics", seconds=self._timeout, turn=self._turn)
        try:
            async with question as connection:
                others = await connection.fetch(_OTHERS, self._node_id)
                row = await connection.fetchrow(_LOG)
        except Refused:
            return None
        assert row is not None
        return DatabaseMetrics([(node_id, info) for node_id, info in others], LogMetrics(*row))
