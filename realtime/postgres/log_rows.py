"""The rows of `relay.events`, for all who read them: which columns, and what becomes of them.

`event_log`, `history_log` and `access` put these pieces into their statements, and make the relay's
own types of what comes back.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from realtime.relay.closing import CloseCode, may_be_sent
from realtime.relay.cursor import Anchor, Cursor, Database, Snapshot
from realtime.relay.events import AccessChange, AccessKind, Event, RowKey
from realtime.relay.resume import Floor, GapReason, Unrecoverable

if TYPE_CHECKING:
    import asyncpg

    Records = Iterable[asyncpg.Record]


def microseconds(time: str) -> str:
    """Since 1970. As `relay.microseconds`: a row written by hand may be of any time, infinity
    included."""
    return f"least(greatest(extract(epoch FROM {time}) * 1000000, 0), 4e18)::bigint"


def columns(payload: str = "payload", size: str = "octet_length(payload)") -> str:
    """What is read of a row. The size of a payload is known without reading it.

    Args:
        payload, size: SQL expressions.
    """
    return f"""id, xid, topic, type, {payload} AS payload, user_id, code, subject, author,
       {microseconds("written_at")} AS written_at, {size} AS size"""


COLUMNS = columns()
# How large, and of what, but not the payload itself.
HEADS = columns("NULL::text")
# What retention has removed, in the shape of a row of events: its newest row, and in "topic" which
# database the log is of. A standby's is nobody's: its snapshots list no open transactions, and a
# pooler may lead there at any time.
FLOOR = f"""
SELECT last_id AS id, last AS xid,
       concat(system, ' ', database, CASE WHEN pg_is_in_recovery() THEN ' standby' END) AS topic,
       '' AS type,
       snapshot::text AS payload, NULL::uuid AS user_id, NULL::integer AS code,
       NULL::uuid AS subject, NULL::uuid AS author,
       {microseconds("last_written_at")} AS written_at, 0 AS size
  FROM relay.floor"""


def rows_by_key(columns: str, xids: str, ids: str) -> str:
    """A query for those of some rows that are still there.

    Args:
        columns: what is read of each: `HEADS`, or `COLUMNS` with the payload.
        xids, ids: parameters, as in `$1`: two arrays of equal length.
    """
    return f"""
SELECT found.* FROM unnest({xids}::xid8[], {ids}::bigint[]) AS asked(of_xid, of_id)
 CROSS JOIN LATERAL (
       SELECT {columns} FROM relay.events
        WHERE xid = asked.of_xid AND id = asked.of_id LIMIT 1) AS found"""


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


def in_order(keys: Sequence[RowKey], rows: "Records") -> list[Event]:
    """The rows that were asked for by these keys.

    Raises:
        Unrecoverable: one of them is not there any more.
    """
    found = {(row["xid"], row["id"]): row for row in rows}
    try:
        return [to_event(found[key.xid, key.id]) for key in keys]
    except KeyError:
        raise Unrecoverable(GapReason.TOO_OLD) from None


def to_event(row: "asyncpg.Record") -> Event:
    return Event(
        row["id"],
        row["xid"],
        row["topic"],
        row["payload"],
        _text(row["subject"]),
        row["written_at"],
        row["size"],
        _text(row["author"]),
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
