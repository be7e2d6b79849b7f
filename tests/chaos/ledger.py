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
CREATE INDEX ON chaos.ledger (xid);
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
-- Triggers as a platform may have them. They run before those of the log.
CREATE FUNCTION chaos.moderate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.metadata ->> 'moderation' = 'edit' THEN
        UPDATE messages SET content = content || ' ', metadata = '{"moderated": true}'
         WHERE id = NEW.id;
    ELSE
        DELETE FROM messages WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER chaos_moderate AFTER INSERT ON messages FOR EACH ROW
    WHEN (NEW.metadata ? 'moderation') EXECUTE FUNCTION chaos.moderate();
CREATE FUNCTION chaos.cap_role() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE permissions SET role = 'editor' WHERE id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER chaos_cap_role AFTER INSERT ON permissions FOR EACH ROW
    WHEN (NEW.role = 'admin') EXECUTE FUNCTION chaos.cap_role();
"""


class Interval(NamedTuple):
    """When a transaction was committed, as far as its writer knows: somewhere in between."""

    sent: float
    acked: float

    def is_before(self, other: Interval) -> bool:
        """Whether that is proven."""
        return self.acked < other.sent


ARCHIVE = """
SELECT id, xid, topic, type, user_id::text, code, payload, subject::text,
       relay.microseconds(written_at) AS written_at,
       (SELECT tag FROM chaos.ledger AS l WHERE l.xid = a.xid LIMIT 1) AS tag
  FROM chaos.archive AS a
 WHERE relay.microseconds(written_at) >= $1::bigint ORDER BY id
"""
UNKNOWN = Interval(-inf, inf)


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
    written_at: int = 0
    """Microseconds since 1970."""
    tag: str | None = None
    """The suite's name of its transaction."""

    @property
    def wire_id(self) -> str:
        """The id that clients see. No history has it twice, while others have `id` and `xid`."""
        return f"{self.id}-{self.written_at}"

    @property
    def is_event(self) -> bool:
        """Whether it is for clients; else it is an ejection, or a word between relays."""
        return self.code is None and self.payload is not None


class Loss(NamedTuple):
    """The database forgot transactions that clients may have seen: another history began."""

    at: float
    """When no client could be shown anything new of the old one."""
    over_at: float
    """When the database answered again."""
    rows: Mapping[str, LogRow]
    """What was forgotten, by the ids that clients see."""
    last: int = 0
    """The highest transaction id that was not. Ids below it are given to nobody again."""

    def is_found_out(self, row: LogRow) -> bool:
        """Whether whoever saw the row can be told apart from others by the newest that they saw.

        Not where a transaction with a higher id was durable earlier: that is what they saw last,
        and it is still there.
        """
        return row.xid > self.last


class Book:
    """When which transaction was committed.

    Args:
        clock: monotonic seconds, the same that the clients' records are kept in.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._intervals: dict[str, Interval] = {}
        self.rolled_back: set[str] = set()
        self.asynchronous: set[str] = set()
        """Whose commits a crash may forget."""
        self.forgotten: set[str] = set()
        """Committed, and then forgotten with a history, as it may be."""
        self.losses: list[Loss] = []

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

    def lose(self, loss: Loss, forgotten: set[str]) -> None:
        """Another history began, in which these transactions are not committed."""
        self.losses.append(loss)
        self.forgotten |= forgotten

    def interval(self, tag: str | None) -> Interval:
        return self._intervals.get(tag, UNKNOWN) if tag else UNKNOWN

    def known_to_be_committed(self) -> set[str]:
        acked = {tag for tag, interval in self._intervals.items() if interval.acked < inf}
        return acked - self.forgotten


class Mark(NamedTuple):
    """What a marked event says of itself: its name, and which events its writer had seen."""

    mark: str
    saw: Sequence[str]


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

    rows: dict[str, LogRow]
    """By the ids that clients see."""
    book: Book
    xids: Mapping[str, int]
    """Of each transaction, by its tag."""
    marks: Mapping[str, str | None]
    """What the writers say that they committed, with its topic."""
    marked: dict[str, Mark] = field(default_factory=dict)
    """What the log says, by event id."""
    by_topic: dict[str, list[LogRow]] = field(default_factory=dict)
    lost_in: dict[str, Loss] = field(default_factory=dict)
    """In which loss a row was forgotten, by the id that clients see."""

    def __post_init__(self) -> None:
        self.lost_in = {row: loss for loss in self.book.losses for row in loss.rows}
        for row in self.rows.values():
            if row.is_event:
                self.by_topic.setdefault(row.topic or "", []).append(row)
                mark = mark_in(json.loads(row.payload or "{}"))
                if mark is not None:
                    self.marked[row.wire_id] = mark

    def row(self, wire_id: str) -> LogRow | None:
        """The row of an event that was committed, though it may be forgotten."""
        if wire_id in self.lost_in:
            return self.lost_in[wire_id].rows[wire_id]
        return self.rows.get(wire_id)

    def interval(self, row: LogRow) -> Interval:
        """When the row was committed."""
        return self.book.interval(row.tag)


def to_rows(records: Sequence[asyncpg.Record]) -> dict[str, LogRow]:
    """What `ARCHIVE` found, by the ids that clients see."""
    rows = [LogRow(*record.values()) for record in records]
    return {row.wire_id: row for row in rows}


async def read_truth(connection: asyncpg.Connection[asyncpg.Record], book: Book) -> Truth:
    """Read the archive and the ledger. Every writer must have ended."""
    archive = to_rows(await connection.fetch(ARCHIVE, 0))
    ledger = await connection.fetch("SELECT mark, tag, topic, xid FROM chaos.ledger")
    return Truth(
        rows=archive,
        book=book,
        xids={row["tag"]: row["xid"] for row in ledger},
        marks={row["mark"]: row["topic"] for row in ledger},
    )
