"""Reads `relay.events`: everything that a cursor does not cover, and the snapshot it was read in.

One statement gives both, so they are the same moment: what the snapshot covers and the cursor does
not has been returned, all else will be returned by a later read.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from realtime.relay.cursor import Cursor, Snapshot
from realtime.relay.events import AccessChange, AccessKind, Event, Page
from realtime.relay.resume import Floor, GapReason, Unrecoverable

if TYPE_CHECKING:
    import asyncpg

    Records = Iterable[asyncpg.Record]

PAGE_ROWS = 1000
"""Rows of the one-trip read, and of each page of a larger one."""
LARGE_READ_SECONDS = 60.0

COLUMNS = """id, xid, topic, type, payload, user_id, code, subject,
       date_part('epoch', written_at) AS written_at"""
# What retention has removed, in the shape of a row of events: nothing, where the floor came with a
# dump from another server, whose ids lie in the future here.
FLOOR = """
SELECT 0::bigint AS id, CASE WHEN is_ours THEN last ELSE '0' END AS xid, NULL::text AS topic,
       '' AS type, CASE WHEN is_ours THEN snapshot::text ELSE '1:1:' END AS payload,
       NULL::uuid AS user_id, NULL::integer AS code, NULL::uuid AS subject,
       NULL::float8 AS written_at
  FROM (SELECT last, snapshot,
               last < pg_snapshot_xmax(pg_current_snapshot()) AS is_ours FROM relay.floor) AS f"""
# Likewise the snapshot, once, and also when there is nothing else; and the database's time.
_SNAPSHOT = """
SELECT -1::bigint AS id, '0'::xid8 AS xid, NULL::text AS topic, '' AS type,
       pg_current_snapshot()::text AS payload, NULL::uuid AS user_id, NULL::integer AS code,
       NULL::uuid AS subject, date_part('epoch', clock_timestamp()) AS written_at"""
# Two branches rather than one OR, each with an ORDER BY and a LIMIT: so the index on xid is
# chosen whatever the statistics of a table that is filled and emptied all day, and no parallel
# worker is started. Rows at or past xmax come from a restored dump: their ids lie in the future.
_NEWER = f"""
SELECT {COLUMNS} FROM relay.events
 WHERE xid > $1::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot())"""
_STILL_OPEN = f"""
SELECT {COLUMNS} FROM relay.events
 WHERE xid = ANY ($2::xid8[])"""
_STATE = f"{_SNAPSHOT} UNION ALL {FLOOR}"
_READ_STATE = f"{_STATE} ORDER BY id"
_READ = f"""{_STATE}
UNION ALL ({_NEWER} ORDER BY xid LIMIT {PAGE_ROWS + 1})
UNION ALL ({_STILL_OPEN} ORDER BY xid LIMIT {PAGE_ROWS + 1})
 ORDER BY id
"""
_READ_ACCESS_CHANGES = f"""
SELECT * FROM ({_NEWER} UNION ALL {_STILL_OPEN}) AS unseen WHERE code IS NOT NULL ORDER BY id
"""
_READ_EVENTS = f"""
SELECT * FROM ({_NEWER} UNION ALL {_STILL_OPEN}) AS unseen WHERE code IS NULL ORDER BY id
"""
# The columns that `to_cursor` reads: where the log ends for the statement that they stand in.
# Retention may have emptied it; then the newest event is the newest that was removed.
CURRENT_CURSOR = f"""pg_current_snapshot()::text AS snapshot, greatest(
    (SELECT xid FROM ({FLOOR}) AS floor),
    (SELECT xid FROM relay.events WHERE xid < pg_snapshot_xmax(pg_current_snapshot())
      ORDER BY xid DESC LIMIT 1)) AS newest"""


class EventLog:
    """The log, read over a connection that does nothing else at the same time.

    Args:
        monotonic: seconds; the relay's clock.
    """

    def __init__(
        self,
        connection: "asyncpg.Connection[asyncpg.Record]",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self.round_trip = 0.0
        """Seconds that the latest read took: the heartbeat of the connection."""

    async def current_cursor(self) -> Cursor:
        """The place of one who begins now."""
        row = await self._connection.fetchrow(f"SELECT {CURRENT_CURSOR}")
        assert row is not None
        return to_cursor(row)

    async def read(self, cursor: Cursor) -> AsyncGenerator[Page, None]:
        """Everything that the cursor does not cover: in one round trip, or in pages when large.

        Raises:
            Unrecoverable: retention has removed what the cursor has not seen.
            One of `pool.DATABASE_ERRORS`; pages returned before that were good.
        """
        asked = self._monotonic()
        rows = await self._connection.fetch(_READ, cursor.last, list(cursor.open))
        self.round_trip = self._monotonic() - asked
        snapshot = _check_state(rows, cursor)
        if len(rows) <= PAGE_ROWS:
            offset = asked - rows[0]["written_at"]
            yield _page(snapshot, rows[2:], offset, is_last=True, seconds=self.round_trip)
            return
        # Closed with the reader, not when the garbage collector finds it: it is in a transaction.
        async with aclosing(self._read_in_pages(cursor)) as pages:
            async for page in pages:
                yield page

    async def _read_in_pages(self, cursor: Cursor) -> AsyncGenerator[Page, None]:
        """A read too large for one answer, afresh: its changes, then its events, page by page.

        All statements see one snapshot; the transaction ends with the last page. TRUNCATE minds no
        snapshot, so the lock comes before it: what retention removes is gone before, or after.
        """
        place = (cursor.last, list(cursor.open))
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            await self._connection.execute("LOCK TABLE relay.events IN ACCESS SHARE MODE")
            asked = self._monotonic()
            rows = await self._connection.fetch(_READ_STATE)
            offset = asked - rows[0]["written_at"]
            snapshot = _check_state(rows, cursor)
            changes = await self._connection.fetch(
                _READ_ACCESS_CHANGES, *place, timeout=LARGE_READ_SECONDS
            )
            seconds = self._monotonic() - asked
            yield _page(snapshot, changes, offset, is_last=False, seconds=seconds)
            events = await self._connection.cursor(_READ_EVENTS, *place, timeout=LARGE_READ_SECONDS)
            # The first page waits until all rows are sorted.
            following = await events.fetch(PAGE_ROWS, timeout=LARGE_READ_SECONDS)
            is_last = False
            while not is_last:
                rows, following = following, await events.fetch(PAGE_ROWS)
                is_last = not following
                yield _page(snapshot, rows, offset, is_last=is_last)


def _check_state(rows: "Sequence[asyncpg.Record]", cursor: Cursor) -> Snapshot:
    """The snapshot of a read, whose first two rows are `_STATE`."""
    if to_floor(rows[1]).is_above(cursor):
        raise Unrecoverable(GapReason.TOO_OLD)
    return Snapshot.parse(rows[0]["payload"])


def _page(
    snapshot: Snapshot, rows: "Records", offset: float, *, is_last: bool, seconds: float = 0.0
) -> Page:
    events: list[Event] = []
    changes: list[AccessChange] = []
    grants: list[AccessChange] = []
    for row in rows:
        if row["code"] is not None:
            changes.append(to_access_change(row))
            continue
        if row["payload"] is not None:
            events.append(to_event(row))
        if row["payload"] is None or row["user_id"] is not None:
            grants.append(_to_grant(row))
    return Page(snapshot, tuple(changes), tuple(events), is_last, tuple(grants), offset, seconds)


def to_event(row: "asyncpg.Record") -> Event:
    return Event(
        row["id"],
        row["xid"],
        row["topic"],
        row["payload"],
        _text(row["user_id"]),
        _text(row["subject"]),
        row["written_at"],
    )


def to_access_change(row: "asyncpg.Record") -> AccessChange:
    """Read a revoke or a recheck, which have a code."""
    kind = AccessKind.RECHECK if row["type"] == AccessKind.RECHECK else AccessKind.REVOKE
    user_id, code, final_message = _text(row["user_id"]), row["code"], row["payload"]
    return AccessChange(row["id"], row["xid"], row["topic"], user_id, kind, code, final_message)


def _to_grant(row: "asyncpg.Record") -> AccessChange:
    user_id = _text(row["user_id"])
    return AccessChange(row["id"], row["xid"], row["topic"], user_id, AccessKind.GRANT)


def to_cursor(row: "asyncpg.Record") -> Cursor:
    return Cursor.at(Snapshot.parse(row["snapshot"]), row["newest"])


def to_floor(row: "asyncpg.Record") -> Floor:
    return Floor(row["xid"], Snapshot.parse(row["payload"]))


def _text(identifier: object) -> str | None:
    return None if identifier is None else str(identifier)
