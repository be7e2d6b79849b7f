"""Reads `relay.events`: everything that a cursor does not cover, and the snapshot it was read in.

One statement gives both, so they are the same moment: what the snapshot covers and the cursor does
not has been returned, all else will be returned by a later read.
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from realtime.log_line import LogLine
from realtime.postgres.pool import identify
from realtime.relay.closing import CloseCode, may_be_sent
from realtime.relay.cursor import Anchor, Cursor, Database, Key, Signer, Snapshot
from realtime.relay.events import AccessChange, AccessKind, Event, Page
from realtime.relay.position import Position
from realtime.relay.resume import Floor, GapReason, LogState, Unrecoverable

if TYPE_CHECKING:
    import asyncpg

    Records = Iterable[asyncpg.Record]

log = logging.getLogger(__name__)

PAGE_ROWS = 1000
"""Rows of the one-trip read, and of each page of a larger one."""
LARGE_READ_SECONDS = 60.0


class _Part(IntEnum):
    """What a row of an answer is, in the order in which they come."""

    SNAPSHOT = 0
    FLOOR = 1
    KNOWN = 2
    ROW = 3


def _microseconds(time: str) -> str:
    """Since 1970. As `relay.microseconds`: a row written by hand may be of any time, infinity
    included."""
    return f"least(greatest(extract(epoch FROM {time}) * 1000000, 0), 4e18)::bigint"


COLUMNS = f"""id, xid, topic, type, payload, user_id, code, subject,
       {_microseconds("written_at")} AS written_at"""
# What retention has removed, in the shape of a row of events: its newest row, and in "topic" which
# database the log is of. A standby's is nobody's: its snapshots list no open transactions, and a
# pooler may lead there at any time.
FLOOR = f"""
SELECT last_id AS id, last AS xid,
       concat(system, ' ', database, CASE WHEN pg_is_in_recovery() THEN ' standby' END) AS topic,
       '' AS type,
       snapshot::text AS payload, NULL::uuid AS user_id, NULL::integer AS code,
       NULL::uuid AS subject,
       {_microseconds("last_written_at")} AS written_at
  FROM relay.floor"""
# Of the rows that are asked about, those that are there.
KNOWN = f"""
SELECT found.* FROM unnest({{xids}}::xid8[], {{ids}}::bigint[]) AS asked(of_xid, of_id)
 CROSS JOIN LATERAL (
       SELECT {COLUMNS} FROM relay.events
        WHERE xid = asked.of_xid AND id = asked.of_id LIMIT 1) AS found"""
# Likewise the snapshot, once, and also when there is nothing else; and the database's time.
_SNAPSHOT = f"""
SELECT 0::bigint AS id, '0'::xid8 AS xid, NULL::text AS topic, '' AS type,
       pg_current_snapshot()::text AS payload, NULL::uuid AS user_id, NULL::integer AS code,
       NULL::uuid AS subject,
       {_microseconds("clock_timestamp()")} AS written_at"""
# Two branches rather than one OR, each with an ORDER BY and a LIMIT: so the index on xid is
# chosen whatever the statistics of a table that is filled and emptied all day, and no parallel
# worker is started. Rows at or past xmax come from a restored dump: their ids lie in the future.
_NEWER = f"""
SELECT {COLUMNS} FROM relay.events
 WHERE xid > {{last}}::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot())"""
_STILL_OPEN = f"""
SELECT {COLUMNS} FROM relay.events
 WHERE xid = ANY ({{open}}::xid8[])"""
_STATE = f"""
SELECT {_Part.SNAPSHOT} AS part, now.* FROM ({_SNAPSHOT}) AS now
UNION ALL SELECT {_Part.FLOOR}, floor.* FROM ({FLOOR}) AS floor
UNION ALL SELECT {_Part.KNOWN}, known.* FROM ({KNOWN.format(xids="$1", ids="$2")}) AS known"""
_READ_STATE = f"{_STATE} ORDER BY part, id"
_READ = f"""{_STATE}
UNION ALL SELECT {_Part.ROW}, newer.*
  FROM ({_NEWER.format(last="$3")} ORDER BY xid LIMIT {PAGE_ROWS + 1}) AS newer
UNION ALL SELECT {_Part.ROW}, open.*
  FROM ({_STILL_OPEN.format(open="$4")} ORDER BY xid LIMIT {PAGE_ROWS + 1}) AS open
 ORDER BY part, id
"""
_UNSEEN = f"({_NEWER.format(last='$1')} UNION ALL {_STILL_OPEN.format(open='$2')}) AS unseen"
_READ_ACCESS_CHANGES = f"SELECT * FROM {_UNSEEN} WHERE code IS NOT NULL ORDER BY id"
_READ_EVENTS = f"SELECT * FROM {_UNSEEN} WHERE code IS NULL ORDER BY id"
_KEYS = "SELECT inner_key, outer_key FROM relay.cursor_keys ORDER BY signs DESC, number DESC"


def log_end(xid: str, row_id: str, written_at: str) -> str:
    """A FROM item of one row: where the log ends for the statement, as `to_cursor` reads it.

    Args:
        xid, row_id, written_at: parameters, as in `$1`; `is_known` says whether that row (nulls:
            none) is there, or is the newest that was removed.

    Retention may have emptied the log; then the newest row is the newest that was removed.
    """
    return f"""(
    SELECT pg_current_snapshot()::text AS snapshot, newest.xid AS newest_xid,
           newest.id AS newest_id, newest.written_at AS newest_written_at, floor.topic AS of,
           {xid}::xid8 IS NULL
           OR (floor.xid, floor.id, floor.written_at)
              = ({xid}::xid8, {row_id}::bigint, {written_at}::bigint)
           OR EXISTS (SELECT FROM (SELECT {COLUMNS} FROM relay.events
                                    WHERE xid = {xid}::xid8 AND id = {row_id}::bigint) AS one
                       WHERE one.written_at = {written_at}::bigint) AS is_known
      FROM ({FLOOR}) AS floor
     CROSS JOIN LATERAL (
           SELECT last.* FROM (
                  (SELECT {COLUMNS} FROM relay.events
                    WHERE xid < pg_snapshot_xmax(pg_current_snapshot())
                    ORDER BY xid DESC, events.id DESC LIMIT 1)
                  UNION ALL SELECT floor.*) AS last
            ORDER BY last.xid DESC, last.id DESC LIMIT 1) AS newest) AS log_end"""


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
        self._database: Database | None = None
        """Whose log it must be; None: nobody has asked."""
        self.round_trip = 0.0
        """Seconds that the latest read took: the heartbeat of the connection."""

    async def signer(self) -> Signer:
        """Find out which database this is, and with which keys its cursors are signed.

        Raises:
            WrongServer: it is a standby.
            One of `pool.DATABASE_ERRORS`.
        """
        self._database = await identify(self._connection)
        rows = await self._connection.fetch(_KEYS)
        keys = tuple(Key(row["inner_key"], row["outer_key"]) for row in rows)
        return Signer(self._database, keys)

    async def start(self) -> Position:
        """The position of one who begins now. A log that came with a dump is emptied first.

        Raises:
            WrongServer: it is a standby.
            One of `pool.DATABASE_ERRORS`.
        """
        if await self._connection.fetchval("SELECT relay.forget_foreign_log()"):
            log.warning(LogLine("foreign_log_emptied"))
        signer = await self.signer()
        return Position(await self.current_cursor(), signer)

    async def current_cursor(self) -> Cursor:
        """The cursor of one who has seen all that there is."""
        query = f"SELECT log_end.* FROM {log_end('NULL', 'NULL', 'NULL')}"
        row = await self._connection.fetchrow(query)
        assert row is not None
        return to_cursor(row)

    async def read(
        self, cursor: Cursor, newest: Anchor | None = None
    ) -> AsyncGenerator[Page, None]:
        """Everything that the cursor does not cover: in one round trip, or in pages when large.

        Args:
            newest: a row that was seen besides, and must be there.

        Raises:
            Unrecoverable: retention has removed what the cursor has not seen; or the log is not
                the one that the cursor is of, and nothing of it may be delivered.
            One of `pool.DATABASE_ERRORS`; pages returned before that were good.
        """
        seen = [row for row in {cursor.anchor, newest} if row]
        known = [row.xid for row in seen], [row.id for row in seen]
        asked = self._monotonic()
        rows = await self._connection.fetch(_READ, *known, cursor.last, list(cursor.open))
        self.round_trip = self._monotonic() - asked
        snapshot, rows = self._check_state(rows, cursor, newest)
        if len(rows) <= PAGE_ROWS:
            offset = asked - snapshot.taken_at
            yield _page(snapshot.snapshot, rows, offset, is_last=True, seconds=self.round_trip)
            return
        # Closed with the reader, not when the garbage collector finds it: it is in a transaction.
        async with aclosing(self._read_in_pages(cursor, newest, known)) as pages:
            async for page in pages:
                yield page

    async def _read_in_pages(
        self, cursor: Cursor, newest: Anchor | None, known: tuple[list[int], list[int]]
    ) -> AsyncGenerator[Page, None]:
        """A read too large for one answer, afresh: its changes, then its events, page by page.

        All statements see one snapshot; the transaction ends with the last page. TRUNCATE minds no
        snapshot, so the lock comes before it: what retention removes is gone before, or after.
        """
        arguments = (cursor.last, list(cursor.open))
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            await self._connection.execute("LOCK TABLE relay.events IN ACCESS SHARE MODE")
            asked = self._monotonic()
            rows = await self._connection.fetch(_READ_STATE, *known)
            (snapshot, taken_at), _ = self._check_state(rows, cursor, newest)
            offset = asked - taken_at
            changes = await self._connection.fetch(
                _READ_ACCESS_CHANGES, *arguments, timeout=LARGE_READ_SECONDS
            )
            seconds = self._monotonic() - asked
            yield _page(snapshot, changes, offset, is_last=False, seconds=seconds)
            events = await self._connection.cursor(
                _READ_EVENTS, *arguments, timeout=LARGE_READ_SECONDS
            )
            # The first page waits until all rows are sorted.
            following = await events.fetch(PAGE_ROWS, timeout=LARGE_READ_SECONDS)
            is_last = False
            while not is_last:
                rows, following = following, await events.fetch(PAGE_ROWS)
                is_last = not following
                yield _page(snapshot, rows, offset, is_last=is_last)

    def _check_state(
        self, rows: "list[asyncpg.Record]", cursor: Cursor, newest: Anchor | None
    ) -> "tuple[_Moment, list[asyncpg.Record]]":
        """The moment of a read, and its rows, without those that say whether they may be used."""
        now, floor, *others = rows
        count = next((n for n, row in enumerate(others) if row["part"] == _Part.ROW), len(others))
        state = LogState(to_floor(floor, self._database), to_anchors(others[:count]))
        state.require(cursor)
        if not state.holds(newest):
            raise Unrecoverable(GapReason.FOREIGN)
        return _Moment(Snapshot.parse(now["payload"]), now["written_at"] / 1e6), others[count:]


class _Moment(NamedTuple):
    """When a read was, for the database."""

    snapshot: Snapshot
    taken_at: float
    """When the snapshot was taken: epoch seconds, by the database's clock."""


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
            grants.append(to_grant(row))
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
    # relay.eject checks it; in a row that was written by hand it may be any number.
    code = row["code"] if may_be_sent(row["code"]) else CloseCode.ACCESS_DENIED
    return AccessChange(
        row["id"],
        row["xid"],
        row["topic"],
        _text(row["user_id"]),
        kind,
        code,
        row["payload"],
        row["written_at"],
    )


def to_grant(row: "asyncpg.Record") -> AccessChange:
    """Read what a row says of access that was gained, which may be an event besides."""
    return AccessChange(
        row["id"],
        row["xid"],
        row["topic"],
        _text(row["user_id"]),
        AccessKind.GRANT,
        written_at=row["written_at"],
    )


def to_cursor(row: "asyncpg.Record") -> Cursor:
    """Read the columns of `log_end`."""
    newest = Anchor(row["newest_xid"], row["newest_id"], row["newest_written_at"])
    return Cursor.at(Snapshot.parse(row["snapshot"]), newest if newest.xid else None)


def is_of(origin: str, database: Database) -> bool:
    """Whether the log, by what its floor says, is that database's own, and no standby's."""
    system, oid, *standby = origin.split()
    return not standby and (int(system) % 2**64, int(oid)) == (database.system, database.oid)


def to_floor(row: "asyncpg.Record", database: Database | None) -> Floor:
    """Make a floor of its columns.

    Args:
        database: whose it must be; None: anybody's.
    """
    return Floor(
        row["xid"],
        Snapshot.parse(row["payload"]),
        Anchor(row["xid"], row["id"], row["written_at"]),
        is_ours=database is None or is_of(row["topic"], database),
    )


def to_anchors(rows: "Records") -> frozenset[Anchor]:
    return frozenset(Anchor(row["xid"], row["id"], row["written_at"]) for row in rows)


def _text(identifier: object) -> str | None:
    return None if identifier is None else str(identifier)
