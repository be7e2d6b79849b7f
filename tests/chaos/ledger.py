"""What was committed, and in what order that can be proven: the truth that clients are held to.

Three sources, independent of the relays:
- `chaos.archive`: every row that ever reached `relay.events`, copied by a trigger of the suite's
  own in the same transaction, so that retention cannot take it away.
- `chaos.ledger`: one row per marked event, written by the writer itself in the same statement. It
  says which transaction (by the suite's own name for it, its tag) has which transaction id, and
  shows whether a trigger of the product dropped, invented or repeated an event.
- `Book`: for each tag, when COMMIT was sent and when its answer came, on this process's clock.

**Commit order.** A commits before B is proven when A's answer had come before B's COMMIT was sent:
the server shows a commit to everyone before it answers. Nothing else is taken for proof: commit
timestamps (`track_commit_timestamp`) are taken before a transaction becomes visible, so two of them
can lie the wrong way round. Where the intervals overlap, nothing is asserted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

import asyncpg

SCHEMA = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.ledger (
    mark text PRIMARY KEY,
    tag text NOT NULL,
    topic text,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX ON chaos.ledger (tag);
CREATE TABLE chaos.archive (LIKE relay.events);
CREATE FUNCTION chaos.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.archive SELECT * FROM new_rows;
    RETURN NULL;
END
$$;
CREATE TRIGGER chaos_keep AFTER INSERT ON relay.events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION chaos.keep();
CREATE TABLE chaos.contended (id int PRIMARY KEY, times int NOT NULL DEFAULT 0);
INSERT INTO chaos.contended SELECT generate_series(1, 3);
"""


class Interval(NamedTuple):
    """When a transaction was committed, as far as its writer knows: somewhere in between."""

    sent: float
    acked: float

    def is_before(self, other: Interval) -> bool:
        """Whether that is proven."""
        return self.acked < other.sent


UNKNOWN = Interval(-inf, inf)


class Book:
    """When which transaction was committed.

    Args:
        clock: monotonic seconds, the same that the clients' records are kept in.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._intervals: dict[str, Interval] = {}
        self.rolled_back: set[str] = set()

    def sent(self, tag: str) -> None:
        """COMMIT is about to be sent. Said again for the same tag, the first time counts."""
        self._intervals.setdefault(tag, Interval(self._clock(), inf))

    def acked(self, tag: str) -> None:
        """It is known to be committed."""
        self._intervals[tag] = Interval(self._intervals[tag].sent, self._clock())

    def took_back(self, tag: str) -> None:
        """It is known not to be."""
        self._intervals.pop(tag, None)
        self.rolled_back.add(tag)

    def interval(self, tag: str | None) -> Interval:
        return self._intervals.get(tag, UNKNOWN) if tag else UNKNOWN

    def known_to_be_committed(self) -> set[str]:
        return {tag for tag, interval in self._intervals.items() if interval.acked < inf}


class LogRow(NamedTuple):
    """One row of the archive."""

    id: int
    xid: int
    topic: str | None
    type: str
    user_id: str | None
    code: int | None
    payload: str | None
    subject: str | None = None

    @property
    def is_event(self) -> bool:
        """Whether it is for clients; else it is an ejection, or a word between relays."""
        return self.code is None and self.payload is not None


class Mark(NamedTuple):
    """What a marked event says of itself: its name, and which events its writer had seen."""

    mark: str
    saw: Sequence[int]


def mark_in(message: Mapping[str, Any]) -> Mark | None:
    """The mark of a wire message, if it has one."""
    kind = message["type"]
    if kind not in ("chat_message", "marked") and message.get("notification_type") != "marked":
        return None
    data = message["data"]
    said = json.loads(data["content"]) if kind == "chat_message" else data
    return Mark(said["mark"], said["saw"])


@dataclass
class Truth:
    """Everything that was committed, once the run is over."""

    rows: dict[int, LogRow]
    book: Book
    tags: Mapping[int, str]
    """By transaction id."""
    marks: Mapping[str, str | None]
    """What the writers say that they committed, with its topic."""
    marked: dict[int, Mark] = field(default_factory=dict)
    """What the log says, by event id."""
    by_topic: dict[str, list[LogRow]] = field(default_factory=dict)
    xids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.xids = {tag: xid for xid, tag in self.tags.items()}
        for row in self.rows.values():
            if row.is_event:
                self.by_topic.setdefault(row.topic or "", []).append(row)
                mark = mark_in(json.loads(row.payload or "{}"))
                if mark is not None:
                    self.marked[row.id] = mark

    def interval(self, row: LogRow) -> Interval:
        """When the row was committed."""
        return self.book.interval(self.tags.get(row.xid))


async def read_truth(connection: asyncpg.Connection[asyncpg.Record], book: Book) -> Truth:
    """Read the archive and the ledger. Every writer must have ended."""
    archive = await connection.fetch(
        "SELECT id, xid, topic, type, user_id::text, code, payload, subject::text"
        "  FROM chaos.archive ORDER BY id"
    )
    ledger = await connection.fetch("SELECT mark, tag, topic, xid FROM chaos.ledger")
    return Truth(
        rows={row["id"]: LogRow(*row.values()) for row in archive},
        book=book,
        tags={row["xid"]: row["tag"] for row in ledger},
        marks={row["mark"]: row["topic"] for row in ledger},
    )
