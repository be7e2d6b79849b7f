"""Which events have been seen: snapshots, cursors, and the text of a cursor on the wire.

A cursor is (last, open): every event whose transaction id is at most `last` has been seen, except
those whose transaction id is in `open`. `last` is always the id of a transaction whose commit was
seen, so its commit record was flushed and no id up to it is handed out again after a crash; a
snapshot's own xmax would not do (ids of unflushed, aborted transactions are reused). So everything
that is kept for longer than one read is a cursor, never a snapshot.

Snapshots are those of `pg_current_snapshot()`:
https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

MAX_CURSOR_LENGTH = 400

_VERSION = "1"
_SHAPE = re.compile(
    _VERSION
    + r"\.(?P<system>[0-9a-f]{1,16})\.(?P<database>[0-9a-f]{1,8})\.(?P<timeline>[0-9a-f]{1,8})"
    r"\.(?P<last>[0-9a-f]{1,16})\.(?P<open>(?:[0-9a-f]{1,16}(?:-[0-9a-f]{1,16})*)?)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a statement could see: every id below `xmax` that is not `in_progress`."""

    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read Postgres's own form, `xmin:xmax:id,id,…`."""
        _xmin, xmax, ids = text.split(":")
        return cls(int(xmax), frozenset(map(int, ids.split(","))) if ids else frozenset())

    @property
    def xmin(self) -> int:
        """Every transaction with a lower id had ended."""
        return min(self.in_progress, default=self.xmax)

    def covers(self, xid: int) -> bool:
        """Whether the transaction had ended (so that its events, if any, were visible)."""
        return xid < self.xmax and xid not in self.in_progress


@dataclass(frozen=True, slots=True)
class Cursor:
    """A reader's place in the log. `open` is ascending and lies below `last`."""

    last: int
    open: tuple[int, ...] = ()

    @classmethod
    def at(cls, snapshot: Snapshot, last: int) -> "Cursor":
        """The place of one who has seen all that the snapshot covers.

        Args:
            snapshot: of the statement that read.
            last: the highest transaction id of any event seen up to now.
        """
        return cls(last, tuple(sorted(xid for xid in snapshot.in_progress if xid < last)))

    def covers(self, xid: int) -> bool:
        """Whether an event of this transaction has been seen."""
        return xid <= self.last and xid not in self.open

    def includes(self, other: "Cursor") -> bool:
        """Whether every event that the other covers is covered here too."""
        if self.last < other.last:
            return False
        return all(xid in other.open for xid in self.open if xid <= other.last)

    def after(self, snapshot: Snapshot, highest: int) -> "Cursor":
        """The place after a read in that snapshot which found ids up to `highest` (0: none)."""
        return Cursor.at(snapshot, max(self.last, highest))


class Database(NamedTuple):
    """Which history transaction ids belong to; ids of another mean nothing here."""

    system: int
    oid: int
    timeline: int


class InvalidCursor(ValueError):
    """The text is not a cursor that this software wrote."""


def encode_cursor(database: Database, cursor: Cursor) -> str:
    """Return the cursor as at most 400 characters of `[0-9a-f.-]`.

    `open` is written as differences, from the top down. Where the list is too long, the cursor
    claims less (a lower `last`): whoever resumes from it may see repeats, never a gap.
    """
    head = f"{_VERSION}.{database.system:x}.{database.oid:x}.{database.timeline:x}"
    text = _encode_place(head, cursor)
    kept = len(cursor.open)
    while len(text) > MAX_CURSOR_LENGTH:
        kept -= max(1, (len(text) - MAX_CURSOR_LENGTH) // 17)
        text = _encode_place(head, _below(cursor, kept))
    return text


def _below(cursor: Cursor, kept: int) -> Cursor:
    """The cursor cut down to below the first open transaction that is not kept."""
    last = cursor.open[kept] - 1
    while kept and cursor.open[kept - 1] == last:
        kept, last = kept - 1, last - 1
    return Cursor(last, cursor.open[:kept])


def _encode_place(head: str, cursor: Cursor) -> str:
    falling = (cursor.last, *reversed(cursor.open))
    differences = "-".join(f"{above - below:x}" for above, below in pairwise(falling))
    return f"{head}.{cursor.last:x}.{differences}"


def decode_cursor(text: str) -> tuple[Database, Cursor]:
    """Read what `encode_cursor` wrote; the text comes from outside and is not trusted.

    Raises:
        InvalidCursor: it is not a cursor.
    """
    match = _SHAPE.fullmatch(text) if len(text) <= MAX_CURSOR_LENGTH else None
    if match is None:
        raise InvalidCursor("not a cursor")
    database = Database(*(int(match[name], 16) for name in ("system", "database", "timeline")))
    last = xid = int(match["last"], 16)
    falling = []
    for difference in filter(None, match["open"].split("-")):
        below = xid - int(difference, 16)
        if not 0 < below < xid:
            raise InvalidCursor("not a cursor: its open transactions do not fall")
        falling.append(below)
        xid = below
    return database, Cursor(last, tuple(reversed(falling)))
