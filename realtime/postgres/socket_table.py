"""Who is connected, in all processes: it writes this process's sockets and reads the others'.

The hub says which sockets come and go. A few times a second the changes are written to
`relay.connections`, and nothing is written if nothing changed. The table is unlogged, and a write
may be lost. So every two seconds this process's rows are counted, and corrected if they differ from
its memory. The rows of a process without a recent heartbeat do not count.

A process may have a hundred thousand rows, and one statement may not take long. So much is written
in portions. Each is a transaction of its own: what was written before a failure stays.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from realtime.config.intervals import Intervals
from realtime.log_line import LogLine
from realtime.postgres.doorbell import IS_ALIVE
from realtime.postgres.pool import ACQUIRE_SECONDS, DATABASE_ERRORS, asking
from realtime.relay.hub import Hub
from realtime.relay.observers import HubObserver
from realtime.relay.presence import MAX_PEOPLE, Person
from realtime.relay.remote import ConnectedSocket, RemoteCounts
from realtime.relay.subscriber import Subscriber

if TYPE_CHECKING:
    import asyncpg

    from realtime.postgres.pool import AnyConnection, Pool

log = logging.getLogger(__name__)

COUNT_EVERY = 8
"""The rows are counted at every so many times to write, also where there is nothing to write."""
PORTION_ROWS = 2000
"""How many rows one statement writes at most: that takes some 100 ms, of the 2 s that it may."""

_WRITE = """
WITH gone AS (
    DELETE FROM relay.connections WHERE id = ANY ($2::uuid[])
)
INSERT INTO relay.connections
       (id, node_id, topic, user_id, username, opened_at, socket_id, is_over_http, is_present)
SELECT id, $1, topic, user_id, username, to_timestamp(opened_at),
       socket_id, is_over_http, is_present
  FROM unnest($3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::float8[], $8::uuid[],
              $9::boolean[], $10::boolean[])
       AS came (id, topic, user_id, username, opened_at, socket_id, is_over_http, is_present)
    ON CONFLICT (id) DO NOTHING
"""
_COUNT_OWN = "SELECT count(*) FROM relay.connections WHERE node_id = $1"
_OWN = "SELECT id::text FROM relay.connections WHERE node_id = $1"

_REMOTE = f"""
  FROM relay.connections AS one JOIN relay.nodes AS node ON node.id = one.node_id
 WHERE node.id <> $1 AND {IS_ALIVE}
"""
_COUNT_REMOTE = f"""
WITH others AS MATERIALIZED (SELECT one.user_id, one.topic, one.socket_id {_REMOTE}),
     users AS (SELECT user_id FROM others EXCEPT SELECT unnest($2::uuid[])),
     topics AS (SELECT topic FROM others EXCEPT SELECT unnest($3::text[]))
SELECT (SELECT count(*) FROM relay.nodes AS node WHERE id <> $1 AND {IS_ALIVE}) AS nodes,
       (SELECT count(*) FROM others WHERE socket_id IS NULL) AS connections,
       (SELECT count(*) FROM users) AS users,
       (SELECT count(*) FROM topics WHERE topic LIKE 'bot:%') AS bots
"""
_LIST_REMOTE = f"""
SELECT one.id::text, one.node_id::text, one.topic, one.user_id::text, one.username,
       extract(epoch FROM one.opened_at)::float8, one.is_over_http,
       array(SELECT part.topic FROM relay.connections AS part WHERE part.socket_id = one.id)
{_REMOTE} AND one.socket_id IS NULL AND ($2::uuid IS NULL OR one.id > $2)
 ORDER BY one.id LIMIT $3
"""
_PEOPLE_REMOTE = f"""
SELECT asked.topic, found.user_id::text, found.username, extract(epoch FROM since)::float8
  FROM unnest($2::text[]) AS asked(topic)
 CROSS JOIN LATERAL (
    SELECT one.user_id, min(one.username) AS username, min(one.opened_at) AS since
      {_REMOTE} AND one.topic = asked.topic AND one.is_present
     GROUP BY one.user_id ORDER BY since, one.user_id LIMIT $3) AS found
"""


class SocketTable(HubObserver):
    """This process's sockets in `relay.connections`, and those of the others.

    Args:
        node_id: this process's, in `relay.nodes`.
        hub: has its sockets.
        timeout: seconds until a question about others counts as unanswered.
        max_people: how many users are read of one topic, and one more.
        portion_rows: how many rows one statement writes.
    """

    def __init__(
        self,
        pool: "Pool",
        node_id: str,
        hub: Hub,
        *,
        timeout: float,
        intervals: Intervals,
        max_people: int = MAX_PEOPLE,
        portion_rows: int = PORTION_ROWS,
    ) -> None:
        self._write_seconds = intervals.socket_table
        self._max_people = max_people
        self._portion_rows = portion_rows
        self._pool = pool
        self._node_id = node_id
        self._hub = hub
        hub.add_observer(self)
        self._timeout = timeout
        self._came: dict[str, Subscriber] = {}
        self._gone: set[str] = set()
        self._is_stale = False
        """A write failed: the table must be compared. Until then no changes are collected."""
        self._turn = asyncio.Lock()

    # This process's own.

    def joined(self, subscriber: Subscriber) -> None:
        if not self._is_stale:
            self._came[subscriber.connection_id] = subscriber

    def left(self, subscriber: Subscriber) -> None:
        if self._is_stale:
            return
        if self._came.pop(subscriber.connection_id, None) is None:
            self._gone.add(subscriber.connection_id)

    async def keep_writing(self) -> None:
        """Write until cancelled."""
        number = 0
        while True:
            await asyncio.sleep(self._write_seconds)
            number += 1
            try:
                await self._step(is_checked=number % COUNT_EVERY == 0)
            except DATABASE_ERRORS as error:
                log.warning(LogLine("socket_table_write_failed", error=error))
                self._forget_changes()

    async def _step(self, *, is_checked: bool) -> None:
        if not is_checked and (self._is_stale or not (self._came or self._gone)):
            return  # nothing to write, or it waits for the next check
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            if self._is_stale or not await self._write_changes(connection, is_checked):
                await self._mend(connection)

    async def _write_changes(self, connection: "AnyConnection", is_checked: bool) -> bool:
        """Write what was collected; False if the table then proves to be wrong."""
        came, self._came = self._came, {}
        gone, self._gone = self._gone, set()
        expected = sum(1 for _ in self._hub.subscribers.joined()) if is_checked else 0
        await self._write(connection, list(came.values()), list(gone))
        if not is_checked:
            return True
        found: int = await connection.fetchval(_COUNT_OWN, self._node_id)
        if found != expected:
            log.info(LogLine("socket_table_repaired", found=found, expected=expected))
        return found == expected

    async def _mend(self, connection: "AnyConnection") -> None:
        """Make the table equal to the memory."""
        self._forget_changes()
        rows = await connection.fetch(_OWN, self._node_id)
        written = {row["id"] for row in rows}
        present = {one.connection_id: one for one in self._hub.subscribers.joined()}
        self._is_stale = False  # from this moment on, changes count again
        came = [one for key, one in present.items() if key not in written]
        await self._write(connection, came, list(written - present.keys()))

    def _forget_changes(self) -> None:
        self._is_stale = True
        self._came.clear()
        self._gone.clear()

    async def _write(
        self, connection: "AnyConnection", came: Sequence[Subscriber], gone: Sequence[str]
    ) -> None:
        size = self._portion_rows
        for start in range(0, max(len(came), len(gone)), size):
            part = slice(start, start + size)
            await self._write_portion(connection, came[part], gone[part])

    async def _write_portion(
        self, connection: "AnyConnection", came: Sequence[Subscriber], gone: Sequence[str]
    ) -> None:
        rows = [
            (
                *(one.connection_id, one.topic, one.user_id, one.username),
                *(one.opened_at, one.socket_id, one.is_over_http, one.is_present),
            )
            for one in came
        ]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 8
        await connection.execute(_WRITE, self._node_id, gone, *columns)

    # Everybody's.

    async def count(self, users: Iterable[str], topics: Iterable[str]) -> RemoteCounts:
        """Count what the other processes have, without these users and topics, which we have.

        Raises:
            Refused: 1013, the database cannot be asked.
        """
        (row,) = await self._ask(_COUNT_REMOTE, list(users), list(topics))
        return RemoteCounts(*row)

    async def page(self, after: str | None, limit: int) -> list[ConnectedSocket]:
        """List the other processes' sockets in the order of their ids, at most `limit`.

        Args:
            after: only those whose id comes after this one.

        Raises:
            Refused: 1013, the database cannot be asked.
        """
        return [ConnectedSocket(*row) for row in await self._ask(_LIST_REMOTE, after, limit)]

    async def people_on(self, topics: Sequence[str]) -> dict[str, dict[str, Person]]:
        """Name who has a socket on each of the topics in the other processes, by topic and user id.

        At most one more than `presence` shows of a topic: those who are there the longest.

        Raises:
            Refused: 1013, the database cannot be asked.
        """
        people: dict[str, dict[str, Person]] = {topic: {} for topic in topics}
        for topic, *person in await self._ask(_PEOPLE_REMOTE, list(topics), self._max_people + 1):
            people[topic][person[0]] = Person(*person)
        return people

    async def _ask(self, query: str, *arguments: object) -> "list[asyncpg.Record]":
        # One at a time: a client that asks often takes one connection from the sockets, not all.
        question = asking(self._pool, "remote sockets", seconds=self._timeout, turn=self._turn)
        async with question as connection:
            return await connection.fetch(query, self._node_id, *arguments)
