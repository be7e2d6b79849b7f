"""Reads `relay.events` backwards in time, for sockets that come back with a cursor.

One statement for many topics, each from a cursor of its own, on the index over (topic, xid): what a
client is owed costs what happened on its own topic.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from realtime.postgres.event_log import (
    COLUMNS,
    FLOOR,
    KNOWN,
    to_access_change,
    to_anchors,
    to_event,
    to_floor,
    to_grant,
)
from realtime.postgres.pool import asking
from realtime.relay.cursor import Anchor, Database
from realtime.relay.events import AccessKind, Event
from realtime.relay.position import Lineage
from realtime.relay.resume import LogState, ReadRange, TopicHistory

if TYPE_CHECKING:
    import asyncpg

    from realtime.postgres.pool import Pool

# Grants have no payload, and are no events.
# The newest first: where there are too many, those who were away only briefly are still served.
_READ = f"""
SELECT 'floor' AS part, floor.* FROM ({FLOOR}) AS floor
UNION ALL
SELECT 'known', known.* FROM ({KNOWN.format(xids="$8", ids="$9")}) AS known
UNION ALL
SELECT 'newer', found.*
  FROM unnest($1::text[], $2::xid8[]) AS asked(of_topic, last)
 CROSS JOIN LATERAL (
       SELECT {COLUMNS} FROM relay.events
        WHERE topic = asked.of_topic AND xid > asked.last
          AND code IS NULL AND payload IS NOT NULL
        ORDER BY xid DESC LIMIT $7::bigint + 1) AS found
UNION ALL
SELECT 'open', found.*
  FROM unnest($3::text[], $4::xid8[]) AS asked(of_topic, open_xid)
 CROSS JOIN LATERAL (
       SELECT {COLUMNS} FROM relay.events
        WHERE topic = asked.of_topic AND xid = asked.open_xid
          AND code IS NULL AND payload IS NOT NULL
        LIMIT $7::bigint + 1) AS found
UNION ALL
SELECT 'change', {COLUMNS} FROM relay.events
 WHERE (code IS NOT NULL OR user_id IS NOT NULL) AND type <> '{AccessKind.RECHECK}'
   AND (xid > $5::xid8 OR xid = ANY ($4::xid8[]))
   AND (topic IS NULL OR topic = ANY ($1::text[]))
   AND (user_id IS NULL OR user_id = ANY ($6::uuid[]))
"""


class HistoryLog:
    """Reads from the log, over the pool, which events clients have missed.

    Args:
        timeout: seconds until a read counts as failed.
    """

    def __init__(self, pool: "Pool", lineage: Lineage, *, timeout: float) -> None:
        self._pool = pool
        self._lineage = lineage
        self._timeout = timeout

    async def read(
        self,
        ranges: Mapping[str, ReadRange],
        user_ids: Sequence[str],
        limit: int,
        seen: Sequence[Anchor],
    ) -> Mapping[str, TopicHistory]:
        """Read topics, each over its own range, at most `limit + 1` events of each.

        Args:
            seen: rows of which the answer says whether they are still there.

        Raises:
            Refused: the database cannot be asked (1013).
        """
        opened = [(topic, xid) for topic, range_ in ranges.items() for xid in range_.open]
        # Half of the time may pass until there is a connection.
        question = asking(self._pool, "missed events", seconds=2 * self._timeout)
        async with question as connection:
            rows = await connection.fetch(
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
                timeout=self._timeout,
            )
        return _sort_out(ranges, rows, limit, self._lineage.database)


def _sort_out(
    ranges: Mapping[str, ReadRange],
    rows: "Sequence[asyncpg.Record]",
    limit: int,
    database: Database,
) -> Mapping[str, TopicHistory]:
    """Give each topic its rows."""
    parts: defaultdict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        parts[row["part"]].append(row)
    state = LogState(to_floor(parts["floor"][0], database), to_anchors(parts["known"]))
    changes = [
        to_grant(row) if row["code"] is None else to_access_change(row) for row in parts["change"]
    ]
    newer: defaultdict[str, list[Event]] = defaultdict(list)
    for row in parts["newer"]:
        newer[row["topic"]].append(to_event(row))
    events: defaultdict[str, set[Event]] = defaultdict(set)
    for row in parts["open"]:
        events[row["topic"]].add(to_event(row))
    histories: dict[str, TopicHistory] = {}
    for topic in ranges:
        found = newer[topic]
        lowest = min(event.xid for event in found) if len(found) > limit else 0
        histories[topic] = TopicHistory(state, changes, [*(events[topic] | set(found))], lowest)
    return histories
