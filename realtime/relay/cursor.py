"""Which events have been seen: snapshots, cursors, and the text of a cursor on the wire.

A cursor is (last, open, anchor): every event whose transaction id is at most `last` has been seen,
except those whose transaction id is in `open`. The anchor is the newest row of the log that was
seen. A cursor is good only while the log holds exactly that row, or remembers having removed it:
after a crash that forgot transactions, or in a copy of the database, the same ids belong to other
rows. So everything that is kept for longer than one read is a cursor, never a snapshot.

Only the server makes a cursor's text: it is signed, for one topic. `relay.cursor(topic)` makes the
same text in SQL (migrations/sql/0002/core/cursor.sql).

Snapshots are those of `pg_current_snapshot()`:
https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT
"""

import hmac
import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

MAX_CURSOR_LENGTH = 1000
SIGNATURE_BYTES = 16

_VERSION = "2"
_HEX_64 = "[0-9a-f]{1,16}"
_SHAPE = re.compile(
    rf"(?P<body>{_VERSION}\.(?P<system>{_HEX_64})\.(?P<database>[0-9a-f]{{1,8}})"
    r"\.(?P<timeline>[0-9a-f]{1,8})"
    rf"\.(?P<last>{_HEX_64})\.(?P<open>(?:{_HEX_64}(?:-{_HEX_64})*)?)"
    rf"\.(?P<xid>{_HEX_64})\.(?P<id>{_HEX_64})\.(?P<written_at>{_HEX_64})\.)"
    rf"(?P<signature>[0-9a-f]{{{2 * SIGNATURE_BYTES}}})",
    re.ASCII,
)
# As 0.1.0 wrote it: unsigned and without an anchor.
_OLD_SHAPE = re.compile(r"1\.[0-9a-f]+\.[0-9a-f]+\.[0-9a-f]+\.[0-9a-f]+\.[0-9a-f-]*", re.ASCII)


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

    def __str__(self) -> str:
        """Postgres's own form."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.in_progress)))}"

    @property
    def xmin(self) -> int:
        """Every transaction with a lower id had ended."""
        return min(self.in_progress, default=self.xmax)

    def covers(self, xid: int) -> bool:
        """Whether the transaction had ended (so that its events, if any, were visible)."""
        return xid < self.xmax and xid not in self.in_progress


class Anchor(NamedTuple):
    """One row of the log, as no other history has it. The newest of several is their `max`."""

    xid: int
    id: int
    written_at: int
    """When the row was written: microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much of the log somebody has seen. `open` is ascending and lies below `last`."""

    last: int
    open: tuple[int, ...] = ()
    anchor: Anchor | None = None
    """The newest row seen. None where there was none yet: then `last` is 0."""

    @classmethod
    def at(cls, snapshot: Snapshot, newest: Anchor | None) -> "Cursor":
        """The cursor of one who has seen all that the snapshot covers.

        Args:
            snapshot: of the statement that read.
            newest: the newest row seen up to now, by any statement; None: there was none.
        """
        last = newest.xid if newest else 0
        return cls(last, tuple(sorted(xid for xid in snapshot.in_progress if xid < last)), newest)

    def covers(self, xid: int) -> bool:
        """Whether an event of this transaction has been seen."""
        return xid <= self.last and xid not in self.open

    def includes(self, other: "Cursor") -> bool:
        """Whether every event that the other covers is covered here too."""
        if self.last < other.last:
            return False
        return all(xid in other.open for xid in self.open if xid <= other.last)

    def after(self, snapshot: Snapshot, newest: Anchor | None) -> "Cursor":
        """The cursor after a read in that snapshot whose newest row is given (None: no row)."""
        return Cursor.at(snapshot, newer(self.anchor, newest))

    def naming(self, newest: Anchor | None) -> "Cursor":
        """The same claim, by one who has seen that row too, of a read that is not over yet."""
        return Cursor(self.last, self.open, newer(self.anchor, newest))


def newer(one: Anchor | None, other: Anchor | None) -> Anchor | None:
    """The newer of two rows, of which one or both may be missing."""
    if one is None or other is None:
        return one or other
    return max(one, other)


class Database(NamedTuple):
    """Which history transaction ids belong to; ids of another mean nothing here."""

    system: int
    oid: int
    timeline: int
    """The timeline of the WAL; 0 if the host does not tell it."""


class Key(NamedTuple):
    """A key of HMAC-SHA-256 (RFC 2104), XORed with the two pads, so that SQL can use it too."""

    inner: bytes
    outer: bytes

    def sign(self, body: str, topic: str) -> str:
        """The signature of a cursor's text, for that topic only."""
        message = (body + topic).encode()
        digest = sha256(self.outer + sha256(self.inner + message).digest())
        return digest.digest()[:SIGNATURE_BYTES].hex()


class InvalidCursor(ValueError):
    """The text is not a cursor that this software wrote."""


class ForeignCursor(ValueError):
    """The cursor belongs to another database, timeline or release."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Writes and reads the cursors of one database.

    Args:
        database: which one.
        keys: the one that signs, then the others that are good while it is changed.
    """

    database: Database
    keys: tuple[Key, ...]

    def write(self, cursor: Cursor, topic: str) -> str | None:
        """Return the text: at most 1,000 characters of `[0-9a-f.-]`, good for that topic only.

        None where the list of open transactions does not fit. A cursor is never cut: one that
        claims less is no snapshot, and would bring a message from before a grant after it.
        """
        body = self.body(cursor)
        return None if body is None else self.sign(body, topic)

    def body(self, cursor: Cursor) -> str | None:
        """The part of the text that is the same on every topic; None where it does not fit."""
        # For each event that is delivered, so it is written for speed.
        differences = ""
        if cursor.open:
            falling = (cursor.last, *reversed(cursor.open))
            differences = "-".join(f"{above - below:x}" for above, below in pairwise(falling))
        system, oid, timeline = self.database
        xid, row_id, written_at = cursor.anchor or (0, 0, 0)
        body = (
            f"{_VERSION}.{system:x}.{oid:x}.{timeline:x}.{cursor.last:x}.{differences}"
            f".{xid:x}.{row_id:x}.{written_at:x}."
        )
        return body if len(body) + 2 * SIGNATURE_BYTES <= MAX_CURSOR_LENGTH else None

    def sign(self, body: str, topic: str) -> str:
        """Finish the text of a body for one topic."""
        return body + self.keys[0].sign(body, topic)

    def read(self, text: str, topic: str) -> Cursor:
        """Read what `write` or `relay.cursor` wrote; the text comes from outside.

        Raises:
            ForeignCursor: it is of another database, timeline or release.
            InvalidCursor: it is no cursor, or not one that was made here for this topic.
        """
        database, cursor = parse_cursor(text)
        if database != self.database:
            raise ForeignCursor("a cursor of another database")
        body, signature = text[: -2 * SIGNATURE_BYTES], text[-2 * SIGNATURE_BYTES :]
        if not any(hmac.compare_digest(key.sign(body, topic), signature) for key in self.keys):
            raise InvalidCursor("not a cursor of this topic that was made here")
        return cursor


def parse_cursor(text: str) -> tuple[Database, Cursor]:
    """Read a cursor's text without looking at its signature.

    Raises:
        ForeignCursor: a release before 0.2.0 wrote it.
        InvalidCursor: it is not a cursor.
    """
    if len(text) > MAX_CURSOR_LENGTH:
        raise InvalidCursor("not a cursor: too long")
    match = _SHAPE.fullmatch(text)
    if match is None:
        if _OLD_SHAPE.fullmatch(text):
            raise ForeignCursor("a cursor of an older release")
        raise InvalidCursor("not a cursor")
    numbers = {
        name: int(found, 16)
        for name, found in match.groupdict().items()
        if name not in ("body", "open", "signature")
    }
    database = Database(numbers["system"], numbers["database"], numbers["timeline"])
    anchor = Anchor(numbers["xid"], numbers["id"], numbers["written_at"])
    last = numbers["last"]
    return database, Cursor(last, _parse_open(last, match["open"]), anchor if any(anchor) else None)


def _parse_open(last: int, text: str) -> tuple[int, ...]:
    xid, falling = last, []
    for difference in filter(None, text.split("-")):
        below = xid - int(difference, 16)
        if not 0 < below < xid:
            raise InvalidCursor("not a cursor: its open transactions do not fall")
        falling.append(below)
        xid = below
    return tuple(reversed(falling))
