"""Reads `relay.events` backwards in time, for sockets that come back with a cursor.

One statement for many topics, each from a cursor of its own, on the index over (topic, xid): what a
client is owed costs what happened on its own topic.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from realtime.postgres.log_rows import (
    COLUMNS,
    FLOOR,
    HEADS,
    in_order,
    microseconds,
    rows_by_key,
    to_access_change,
    to_anchors,
    to_event,
    to_floor,
    to_grant,
)
from realtime.postgres.pool import asking
from realtime.postgres.wire import Wire
from realtime.relay import closing
from realtime.relay.cursor import Anchor, Database
from realtime.relay.errors import Refused
from realtime.relay.events import AccessKind, Event, Part, RowKey
from realtime.relay.position import Lineage
from realtime.relay.resume import (
    Floor,
    GapReason,
    LogState,
    ReadRange,
    TopicHistory,
    Unrecoverable,
)

if TYPE_CHECKING:
    import asyncpg

    from realtime.postgres.pool import Pool

ALONG_BYTES = 16_384
"""What a topic has of so many bytes comes with its payloads, if it fits into a portion that all
topics of a read share."""


def _found(which: str, topics: str, end: str) -> str:
    """The events of many topics, those with little along with their payloads."""
    # Grants have no payload, and are no events.
    return f"""
SELECT '{which}' AS part, id, xid, topic, type,
       CASE WHEN of_topic_bytes <= {ALONG_BYTES}
             AND sum(size) FILTER (WHERE of_topic_bytes <= {ALONG_BYTES}) OVER (ORDER BY topic)
                 <= $10::bigint THEN payload END,
       user_id, code, subject, author, written_at, size
  FROM (SELECT found.*, sum(size) OVER (PARTITION BY topic) AS of_topic_bytes
          FROM {topics}
         CROSS JOIN LATERAL (
               SELECT {COLUMNS} FROM relay.events
                WHERE topic = asked.of_topic AND xid {end} LIMIT $7::bigint + 1) AS found
       ) AS listed"""


# The newest first: where there are too many, those who were away only briefly are still served.
_READ = f"""
SELECT 'floor' AS part, floor.* FROM ({FLOOR}) AS floor
UNION ALL
SELECT 'known', known.* FROM ({rows_by_key(HEADS, "$8", "$9")}) AS known
UNION ALL
{
    _found(
        "newer",
        "unnest($1::text[], $2::xid8[]) AS asked(of_topic, last)",
        "> asked.last AND code IS NULL AND payload IS NOT NULL ORDER BY xid DESC",
    )
}
UNION ALL
{
    _found(
        "open",
        "unnest($3::text[], $4::xid8[]) AS asked(of_topic, open_xid)",
        "= asked.open_xid AND code IS NULL AND payload IS NOT NULL",
    )
}
UNION ALL
SELECT 'change', {HEADS} FROM relay.events
 WHERE (code IS NOT NULL OR user_id IS NOT NULL)
   AND (type <> '{AccessKind.RECHECK}' OR topic IS NULL AND user_id IS NULL)
   AND (xid > $5::xid8 OR xid = ANY ($4::xid8[]))
   AND (topic IS NULL OR topic = ANY ($1::text[]))
   AND (user_id IS NULL OR user_id = ANY ($6::uuid[]))
"""
_READ_PAYLOADS = f"""
SELECT 'floor' AS part, floor.* FROM ({FLOOR}) AS floor
UNION ALL
SELECT 'known', known.* FROM ({rows_by_key(HEADS, "$1", "$2")}) AS known
UNION ALL
SELECT 'event', found.* FROM ({rows_by_key(COLUMNS, "$3", "$4")}) AS found
"""
# One byte more than wanted is asked for: so the last part is known without the size of all.
_READ_PART = f"""
SELECT floor.*, known.xid AS known_xid, known.id AS known_id, known.written_at AS known_written_at,
       found.written_at AS part_written_at,
       found.author::text AS part_author, substring(found.payload FROM $5 FOR $6) AS part
  FROM ({FLOOR}) AS floor
  LEFT JOIN ({rows_by_key(HEADS, "$1", "$2")}) AS known ON true
  LEFT JOIN (SELECT {microseconds("written_at")} AS written_at, author,
                    convert_to(payload, 'UTF8') AS payload
               FROM relay.events WHERE xid = $3::xid8 AND id = $4::bigint
             OFFSET 0) AS found ON true
"""


class HistoryLog:
    """Reads from the log, over the pool, which events clients have missed.

    Args:
        wire: how it is asked.
        at_once: how many portions may be read at the same time, each over a connection.
    """

    def __init__(
        self,
        pool: "Pool",
        lineage: Lineage,
        wire: Wire,
        *,
        at_once: int = 1,
    ) -> None:
        self._pool = pool
        self._lineage = lineage
        self._wire = wire
        self._turns = asyncio.Semaphore(at_once)

    @property
    def portion_bytes(self) -> int:
        """How many bytes of payloads to ask for at once."""
        return self._wire.portion_bytes

    async def payloads(self, keys: Sequence[RowKey]) -> list[Event]:
        """See `HistorySource`."""
        newest, database = self._lineage.newest, self._lineage.database
        async with self._turns:
            rows = await self._fetch(
                _READ_PAYLOADS,
                *_arrays(newest),
                [key.xid for key in keys],
                [key.id for key in keys],
                rows=len(keys),
                payloads=sum(key.size for key in keys),
            )
        parts = _by_part(rows)
        floor = _floor_of(parts["floor"], database)
        _require(LogState(floor, to_anchors(parts["known"])), newest)
        return in_order(keys, parts["event"])

    async def part(self, key: RowKey, start: int, size: int) -> Part:
        """So many bytes of one payload, from that one on.

        Raises:
            Unrecoverable, Refused: as `payloads`.
        """
        newest, database = self._lineage.newest, self._lineage.database
        arguments = *_arrays(newest), key.xid, key.id, start + 1, size + 1
        async with self._turns:
            rows = await self._fetch(_READ_PART, *arguments, rows=1, payloads=size)
        floor, row = _floor_of(rows, database), rows[0]
        known = Anchor(row["known_xid"], row["known_id"], row["known_written_at"])
        _require(LogState(floor, {known}), newest)
        if row["part"] is None:
            raise Unrecoverable(GapReason.TOO_OLD)
        data: bytes = row["part"]
        return Part(
            data[:size],
            Anchor(key.xid, key.id, row["part_written_at"]),
            len(data) <= size,
            row["part_author"],
        )

    async def _fetch(
        self, query: str, *arguments: object, rows: int, payloads: int = 0
    ) -> "list[asyncpg.Record]":
        wire = self._wire
        # As long as one answer may pass until there is a connection.
        seconds = wire.timeout + wire.limit_for(payloads, rows)
        async with asking(self._pool, "missed events", seconds=seconds) as connection:
            return await wire.fetch(connection, query, *arguments, rows=rows, payloads=payloads)

    async def read(
        self,
        ranges: Mapping[str, ReadRange],
        user_ids: Sequence[str],
        limit: int,
        seen: Sequence[Anchor],
    ) -> Mapping[str, TopicHistory]:
        """See `HistorySource`."""
        opened = [(topic, xid) for topic, range_ in ranges.items() for xid in range_.open]
        rows = await self._fetch(
            _READ,
            list(ranges),
            [range_.last for range_ in ranges.values()],
            [topic for topic, _ in opened],
            [xid for _, xid in opened],
            min(range_.last for range_ in ranges.values()),
            list(user_ids),
            limit,
            [row.xid for row in seen],
            [row.id for row in seen],
            self._wire.portion_bytes,
            rows=len(ranges) * (limit + 1),
        )
        return _sort_out(ranges, rows, limit, self._lineage.database)


def _arrays(row: Anchor | None) -> tuple[list[int], list[int]]:
    """The parameters of `rows_by_key` for one row, or none."""
    return ([], []) if row is None else ([row.xid], [row.id])


def _require(state: LogState, newest: Anchor | None) -> None:
    """See that an answer is of the log of which that row was seen."""
    if not state.floor.is_ours or not state.holds(newest):
        raise Unrecoverable(GapReason.FOREIGN)


def _floor_of(rows: "Sequence[asyncpg.Record]", database: Database) -> Floor:
    """The floor, which has one row.

    Raises:
        Refused: 1013, it has none, as for a moment while a dump is restored in place.
    """
    if not rows:
        raise Refused(*closing.DATABASE_AWAY)
    return to_floor(rows[0], database)


def _by_part(rows: "Sequence[asyncpg.Record]") -> "Mapping[str, Sequence[asyncpg.Record]]":
    parts: defaultdict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        parts[row["part"]].append(row)
    return parts


def _sort_out(
    ranges: Mapping[str, ReadRange],
    rows: "Sequence[asyncpg.Record]",
    limit: int,
    database: Database,
) -> Mapping[str, TopicHistory]:
    """Give each topic its rows."""
    parts = _by_part(rows)
    state = LogState(_floor_of(parts["floor"], database), to_anchors(parts["known"]))
    changes = [
        to_grant(row) if row["code"] is None else to_access_change(row) for row in parts["change"]
    ]
    newer: defaultdict[str, list[Event]] = defaultdict(list)
    for row in parts["newer"]:
        newer[row["topic"]].append(to_event(row))
    # What was open for one client is newer for another, once with its payload and once without.
    events: defaultdict[str, dict[tuple[int, int], Event]] = defaultdict(dict)
    for row in parts["open"]:
        events[row["topic"]][row["xid"], row["id"]] = to_event(row)
    histories: dict[str, TopicHistory] = {}
    for topic in ranges:
        found = newer[topic]
        lowest = min(event.xid for event in found) if len(found) > limit else 0
        events[topic].update(((event.xid, event.id), event) for event in found)
        histories[topic] = TopicHistory(state, changes, [*events[topic].values()], lowest)
    return histories
