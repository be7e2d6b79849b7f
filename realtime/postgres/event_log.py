"""Reads `relay.events`: everything that a cursor does not cover, and the snapshot it was read in.

One statement gives both, so they are the same moment: what the snapshot covers and the cursor does
not has been returned, all else will be returned by a later read.

What is too much for one answer is read in many, each a statement of its own: first all rows about
access, then which events there are and how large. Their payloads are read when they can be sent.
Rows do not change, and the first answer's snapshot says which belong to the read; so nothing is
held in the database meanwhile. Each answer says whether the log is still the one it was.
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence, Set
from contextlib import aclosing
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from realtime.log_line import LogLine
from realtime.postgres.log_rows import (
    COLUMNS,
    FLOOR,
    HEADS,
    columns,
    in_order,
    log_end,
    microseconds,
    rows_by_key,
    to_access_change,
    to_anchors,
    to_cursor,
    to_event,
    to_floor,
    to_grant,
)
from realtime.postgres.pool import identify
from realtime.postgres.schema import NEW_CURSOR_KEY, NO_CURSOR_KEY, NO_FLOOR, SchemaError
from realtime.postgres.wire import Wire
from realtime.relay.carried import Ahead
from realtime.relay.cursor import Anchor, Cursor, Database, Key, Signer, Snapshot
from realtime.relay.events import AccessChange, Event, Page, RowKey
from realtime.relay.large_read import LargeRead
from realtime.relay.position import Position
from realtime.relay.resume import GapReason, LogState, Unrecoverable

if TYPE_CHECKING:
    import asyncpg

    Records = Iterable[asyncpg.Record]

log = logging.getLogger(__name__)

PAGE_ROWS = 1000
"""Rows of the one-trip read, and of each page of a larger one."""
ALONG_BYTES = 262_144
"""The one-trip read brings payloads of so many bytes at most."""


class _Kind(IntEnum):
    """What a row of an answer is, in the order in which they come."""

    SNAPSHOT = 0
    FLOOR = 1
    KNOWN = 2
    ROW = 3
    COUNT = 4


# The snapshot in the shape of a row of events, as `FLOOR` has the floor: once, and also when there
# is nothing else. Its `written_at` is the database's time.
_SNAPSHOT = f"""
SELECT 0::bigint AS id, '0'::xid8 AS xid, NULL::text AS topic, '' AS type,
       pg_current_snapshot()::text AS payload, NULL::uuid AS user_id, NULL::integer AS code,
       NULL::uuid AS subject, NULL::uuid AS author,
       {microseconds("clock_timestamp()")} AS written_at, 0 AS size"""
_STATE = f"""
SELECT {_Kind.SNAPSHOT} AS kind, now.* FROM ({_SNAPSHOT}) AS now
UNION ALL SELECT {_Kind.FLOOR}, floor.* FROM ({FLOOR}) AS floor
UNION ALL SELECT {_Kind.KNOWN}, known.* FROM ({rows_by_key(HEADS, "$1", "$2")}) AS known"""
# Two branches rather than one OR, each with an ORDER BY and a LIMIT: so the index on xid is
# chosen whatever the statistics of a table that is filled and emptied all day, and no parallel
# worker is started. Rows at or past xmax come from a restored dump: their ids lie in the future.
_UNSEEN = f"""
        (SELECT {COLUMNS} FROM relay.events
          WHERE xid > $3::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot())
          ORDER BY xid LIMIT {PAGE_ROWS + 1})
        UNION ALL
        (SELECT {COLUMNS} FROM relay.events
          WHERE xid = ANY ($4::xid8[])
          ORDER BY xid LIMIT {PAGE_ROWS + 1})"""
# The payloads come along where all of them together have no more than $5 bytes. What was delivered
# ahead of this read is only counted: the rows $6, $7, $8.
_READ = f"""WITH unseen AS MATERIALIZED ({_UNSEEN})
{_STATE}
UNION ALL
SELECT {_Kind.ROW}, id, xid, topic, type,
       CASE WHEN sum(size) OVER () <= $5::bigint THEN payload END,
       user_id, code, subject, author, written_at, size
  FROM unseen
 WHERE (xid, id, written_at) NOT IN (
       SELECT ahead.* FROM unnest($6::xid8[], $7::bigint[], $8::bigint[]) AS ahead)
UNION ALL
SELECT {_Kind.COUNT}, count(*), '0', NULL, '', NULL, NULL, NULL, NULL, NULL, 0, NULL FROM unseen
 ORDER BY kind, id
"""


def _next_page(columns: str, which: str) -> str:
    """A large read's next rows, as of the snapshot $5: those behind ($6, $7) in the order of the
    index, with at most $8 bytes of payloads, but one row at least."""
    behind = f"""{which} AND pg_visible_in_snapshot(xid, $5::text::pg_snapshot)
                 AND (xid, id) > ($6::xid8, $7::bigint)
               ORDER BY xid, id LIMIT {PAGE_ROWS}"""
    return f"""{_STATE}
UNION ALL
SELECT {_Kind.ROW}, id, xid, topic, type, payload, user_id, code, subject, author, written_at, size
  FROM (SELECT unseen.*, sum(octet_length(payload)) OVER (ORDER BY xid, id
                             ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM ((SELECT {columns} FROM relay.events
                  WHERE xid > $3::xid8 AND xid < pg_snapshot_xmax($5::text::pg_snapshot)
                    AND {behind})
                UNION ALL
                (SELECT {columns} FROM relay.events
                  WHERE xid = ANY ($4::xid8[]) AND {behind})
                ORDER BY xid, id LIMIT {PAGE_ROWS}) AS unseen) AS page
 WHERE before IS NULL OR before < $8::bigint
 ORDER BY kind, xid, id
"""


# As the index has it, so that it is used.
_IS_ABOUT_ACCESS = "(code IS NOT NULL OR user_id IS NOT NULL OR type = 'grant')"
# What ends a topic for everybody comes before all else: see `events.ends_first`. An event that
# gives access comes as such once more, with the events.
_FINAL = columns("CASE WHEN code IS NOT NULL THEN payload END", "NULL::integer")
_READ_ACCESS = (
    _next_page(_FINAL, f"{_IS_ABOUT_ACCESS} AND code IS NOT NULL AND user_id IS NULL"),
    _next_page(_FINAL, f"{_IS_ABOUT_ACCESS} AND NOT (code IS NOT NULL AND user_id IS NULL)"),
)
_READ_EVENTS = _next_page(HEADS, "code IS NULL AND payload IS NOT NULL")
# The newest row of any kind that was visible in the snapshot $3.
_READ_END = f"""{_STATE}
UNION ALL SELECT {_Kind.ROW}, newest.* FROM (
       SELECT {HEADS} FROM relay.events
        WHERE xid < pg_snapshot_xmax($3::text::pg_snapshot)
          AND pg_visible_in_snapshot(xid, $3::text::pg_snapshot)
        ORDER BY xid DESC, id DESC LIMIT 1) AS newest
 ORDER BY kind
"""


def _first_of_topic(which: str) -> str:
    # The order is there for the index on topic and xid.
    return f"""
        (SELECT {HEADS} FROM relay.events
          WHERE topic = asked.of_topic AND {which} AND code IS NULL AND payload IS NOT NULL
            AND pg_visible_in_snapshot(xid, $5::text::pg_snapshot)
          ORDER BY topic, xid LIMIT $7)"""


# Of each topic $6 the first $7 events of a large read, as of its snapshot $5.
_READ_FIRST = f"""{_STATE}
UNION ALL
SELECT {_Kind.ROW}, found.* FROM unnest($6::text[]) AS asked(of_topic)
 CROSS JOIN LATERAL (
       SELECT either.* FROM ({
    _first_of_topic("xid > $3::xid8 AND xid < pg_snapshot_xmax($5::text::pg_snapshot)")
}
        UNION ALL{_first_of_topic("xid = ANY ($4::xid8[])")}) AS either LIMIT $7) AS found
 ORDER BY kind
"""
_READ_PAYLOADS = f"""{_STATE}
UNION ALL SELECT {_Kind.ROW}, found.* FROM ({rows_by_key(COLUMNS, "$3", "$4")}) AS found
 ORDER BY kind
"""
_KEYS = "SELECT inner_key, outer_key FROM relay.cursor_keys ORDER BY signs DESC, number DESC"


class EventLog:
    """The log, read over a connection that does nothing else at the same time.

    Args:
        wire: how it is asked; None: within ten seconds.
        monotonic: seconds; the relay's clock.
    """

    def __init__(
        self,
        connection: "asyncpg.Connection[asyncpg.Record]",
        *,
        wire: Wire | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._wire = wire or Wire(10.0, monotonic)
        self._monotonic = monotonic
        self._database: Database | None = None
        """Whose log it must be; None: nobody has asked."""
        self.round_trip = 0.0
        """Seconds that the latest read took: the heartbeat of the connection."""

    @property
    def portion_bytes(self) -> int:
        """How many bytes of payloads to ask for at once."""
        return self._wire.portion_bytes

    async def signer(self) -> Signer:
        """Find out which database this is, and with which keys its cursors are signed.

        Raises:
            WrongServer: it is a standby.
            SchemaError: there is no key, as after a restore without the table's rows.
            One of `pool.DATABASE_ERRORS`.
        """
        self._database = await identify(self._connection)
        rows = await self._connection.fetch(_KEYS)
        keys = tuple(Key(row["inner_key"], row["outer_key"]) for row in rows)
        if not keys:
            raise SchemaError(f"{NO_CURSOR_KEY}: {NEW_CURSOR_KEY}")
        return Signer(self._database, keys)

    async def start(self) -> Position:
        """The position of one who begins now. A log that came with a dump is emptied first.

        Raises:
            WrongServer, SchemaError, one of `pool.DATABASE_ERRORS`: as `signer`.
        """
        if await self._connection.fetchval("SELECT relay.forget_foreign_log()"):
            log.warning(LogLine("foreign_log_emptied"))
        signer = await self.signer()
        return Position(await self.current_cursor(), signer)

    async def current_cursor(self) -> Cursor:
        """The cursor of one who has seen all that there is.

        Raises:
            SchemaError: the floor has no row.
            One of `pool.DATABASE_ERRORS`.
        """
        query = f"SELECT log_end.* FROM {log_end('NULL', 'NULL', 'NULL')}"
        row = await self._connection.fetchrow(query)
        if row is None:
            raise SchemaError(NO_FLOOR)
        return to_cursor(row)

    async def read(
        self, cursor: Cursor, newest: Anchor | None = None, ahead: Set[Anchor] = frozenset()
    ) -> AsyncGenerator[Page, None]:
        """Everything that the cursor does not cover: in one round trip, unless it is large.

        Then there are pages of rows about access, and the last page has an `end`; the events are
        to be listed after that.

        Args:
            newest: a row that was seen besides, and must be there.
            ahead: events that were delivered already, and must be there, too. A page has
                `confirmed` all of them, or none.

        Raises:
            Unrecoverable: retention has removed what the cursor has not seen; or the log is not
                the one that the cursor is of, and nothing of it may be delivered.
            SchemaError: the floor has no row, so nobody can say which of these it is.
            One of `pool.DATABASE_ERRORS`; pages returned before that were good.
        """
        place = _Place(cursor, newest)
        answer, count = await self._read_all(place, ahead)
        if count <= PAGE_ROWS and all(map(_is_whole, answer.rows)):
            if count - len(answer.rows) != len(ahead):
                raise Unrecoverable(GapReason.FOREIGN)  # what a ring carried was never there
            yield _page(answer, is_last=True)._replace(confirmed=ahead)
            return
        async with aclosing(self._read_access(place, answer)) as pages:
            async for page in pages:
                yield page

    async def read_all(
        self, cursor: Cursor, newest: Anchor | None = None
    ) -> AsyncGenerator[Page, None]:
        """As `read`, and the events of a large read follow at once. Its last page is empty."""
        async with aclosing(self.read(cursor, newest)) as pages:
            async for page in pages:
                if page.end is None:
                    yield page
                    continue
                large = LargeRead(0, cursor, page.snapshot, Ahead())
                while not large.is_over:
                    listed = large.take(await self.listing(large, newest))
                    if listed.events:
                        yield listed
                yield page

    async def listing(self, large: LargeRead, newest: Anchor | None = None) -> Page:
        """The next events of a large read, without payloads; none: those were all.

        Raises:
            Unrecoverable, SchemaError, one of `pool.DATABASE_ERRORS`: as `read`.
        """
        place = _Place(large.cursor, newest)
        answer = await self._next_page(_READ_EVENTS, place, large.snapshot, large.last)
        return _page(answer, is_last=False)

    async def first_of(
        self, topics: Sequence[str], number: int, large: LargeRead, newest: Anchor | None = None
    ) -> list[Event]:
        """Of each topic some events that a large read has, so many at most, without payloads.

        Raises:
            Unrecoverable, SchemaError, one of `pool.DATABASE_ERRORS`: as `read`.
        """
        place = _Place(large.cursor, newest)
        arguments = *place.unseen, str(large.snapshot), topics, number
        answer = await self._ask(_READ_FIRST, place, *arguments, rows=number * len(topics))
        return [to_event(row) for row in answer.rows]

    async def payloads(
        self, keys: Sequence[RowKey], cursor: Cursor, newest: Anchor | None = None
    ) -> list[Event]:
        """A portion of events with their payloads, in the order of the keys.

        Args:
            cursor, newest: as for `read`.

        Raises:
            Unrecoverable: retention has removed one of them, or this is another log.
            SchemaError: as `read`.
            One of `pool.DATABASE_ERRORS`.
        """
        arguments = [key.xid for key in keys], [key.id for key in keys]
        size = sum(key.size for key in keys)
        place = _Place(cursor, newest)
        answer = await self._ask(_READ_PAYLOADS, place, *arguments, payloads=size, rows=len(keys))
        return in_order(keys, answer.rows)

    async def _read_all(self, place: "_Place", ahead: Set[Anchor]) -> tuple["_LogAnswer", int]:
        """What is unseen, with its payloads if it is not too much; and how many rows, also of those
        that are left out because they were delivered ahead."""
        along = min(self._wire.portion_bytes, ALONG_BYTES)
        answer = await self._ask(
            _READ, place, *place.unseen, along, *_columns_of(ahead), rows=PAGE_ROWS
        )
        *rows, counted = answer.rows
        return answer._replace(rows=rows), counted["id"]

    async def _read_access(
        self, place: "_Place", first: "_LogAnswer"
    ) -> AsyncGenerator[Page, None]:
        """The rows about access of what was too much for the first answer, as of its snapshot."""
        snapshot = first.snapshot
        for query in _READ_ACCESS:
            behind = 0, 0
            while (answer := await self._next_page(query, place, snapshot, behind)).rows:
                yield _access_page(answer)
                behind = answer.rows[-1]["xid"], answer.rows[-1]["id"]
        end = (await self._ask(_READ_END, place, str(snapshot), rows=1)).rows
        if not end:
            raise Unrecoverable(GapReason.TOO_OLD)
        [newest] = to_anchors(end)
        yield Page(snapshot, (), (), is_last=True, clock_offset=first.clock_offset, end=newest)

    async def _next_page(
        self, query: str, place: "_Place", snapshot: Snapshot, behind: tuple[int, int]
    ) -> "_LogAnswer":
        """The next rows of one kind that were visible in a snapshot."""
        arguments = *place.unseen, str(snapshot), *behind, self._wire.portion_bytes
        answer = await self._ask(query, place, *arguments, rows=PAGE_ROWS)
        return answer._replace(snapshot=snapshot)

    async def _ask(
        self, query: str, place: "_Place", *arguments: object, rows: int, payloads: int = 0
    ) -> "_LogAnswer":
        """Ask for rows, and see that they may be used.

        Args:
            rows, payloads: how many, and how many bytes, at most.
        """
        asked = self._monotonic()
        found = await self._wire.fetch(
            self._connection, query, *place.known, *arguments, rows=rows, payloads=payloads
        )
        if not any(row["kind"] == _Kind.FLOOR for row in found[:2]):
            raise SchemaError(NO_FLOOR)  # as for a moment while a dump is restored in place
        self.round_trip = self._monotonic() - asked
        return self._check_state(found, place, asked)

    def _check_state(
        self, rows: "list[asyncpg.Record]", place: "_Place", asked: float
    ) -> "_LogAnswer":
        """An answer, without the rows that say whether it may be used."""
        now, floor, *others = rows
        count = next((n for n, row in enumerate(others) if row["kind"] >= _Kind.ROW), len(others))
        state = LogState(to_floor(floor, self._database), to_anchors(others[:count]))
        state.require(place.cursor)
        if not state.holds(place.newest):
            raise Unrecoverable(GapReason.FOREIGN)
        return _LogAnswer(
            Snapshot.parse(now["payload"]),
            others[count:],
            asked - now["written_at"] / 1e6,
            self.round_trip,
        )


class _Place(NamedTuple):
    """From where on is read, and what must be there."""

    cursor: Cursor
    newest: Anchor | None

    @property
    def known(self) -> tuple[list[int], list[int]]:
        """The first two parameters of each statement."""
        seen = [row for row in {self.cursor.anchor, self.newest} if row]
        return [row.xid for row in seen], [row.id for row in seen]

    @property
    def unseen(self) -> tuple[int, list[int]]:
        """The next two, of those that look for what is new."""
        return self.cursor.last, list(self.cursor.open)


class _LogAnswer(NamedTuple):
    """What one statement found."""

    snapshot: Snapshot
    rows: "Sequence[asyncpg.Record]"
    clock_offset: float
    """As in `Page`."""
    seconds: float


def _columns_of(rows: Iterable[Anchor]) -> tuple[list[int], list[int], list[int]]:
    """The parameters that name rows: their xid, id and time."""
    rows = list(rows)
    return [row.xid for row in rows], [row.id for row in rows], [row.written_at for row in rows]


def _is_whole(row: "asyncpg.Record") -> bool:
    """Whether its payload has come along, if it has one."""
    return row["size"] is None or row["payload"] is not None


def _page(answer: _LogAnswer, *, is_last: bool) -> Page:
    events: list[Event] = []
    changes: list[AccessChange] = []
    grants: list[AccessChange] = []
    for row in answer.rows:
        if row["code"] is not None:
            changes.append(to_access_change(row))
            continue
        if row["size"] is not None:
            events.append(to_event(row))
        if row["size"] is None or row["user_id"] is not None:
            grants.append(to_grant(row))
    return Page(
        answer.snapshot,
        tuple(changes),
        tuple(events),
        is_last,
        tuple(grants),
        answer.clock_offset,
        answer.seconds,
    )


def _access_page(answer: _LogAnswer) -> Page:
    changes = tuple(to_access_change(row) for row in answer.rows if row["code"] is not None)
    grants = tuple(to_grant(row) for row in answer.rows if row["code"] is None)
    return Page(
        answer.snapshot,
        changes,
        (),
        is_last=False,
        grants=grants,
        clock_offset=answer.clock_offset,
        seconds=answer.seconds,
    )
