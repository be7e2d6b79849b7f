"""Should a user have received an event? Judged by the log and by the user's access now.

It cannot know whether a socket was open, nor in which order transactions committed: the log's ids
are in the order of writing, which is nearly the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import wrapped
from realtime.relay.events import AccessKind
from realtime.relay.protocol import bot_of

if TYPE_CHECKING:
    import asyncpg

    from realtime.doctor.deployment import Connection

SEARCH_SECONDS = 60.0
"""The log has no index over ids: it is read through."""

_WHO = "SELECT user_id::text, username FROM relay.authenticate($1, $2)"
_EVENT = """
SELECT id, xid::text, topic, type, payload IS NOT NULL AS is_message, user_id::text, code,
       written_at, xid >= pg_snapshot_xmax(pg_current_snapshot()) AS is_foreign
  FROM relay.events
 WHERE id = $1 AND ($2::bigint IS NULL OR relay.microseconds(written_at) = $2)
"""
# Ids from before a crash or a restore are given out again: the time tells such rows apart.
_SAME_NUMBER = """
SELECT relay.microseconds(written_at) AS written_at FROM relay.events
 WHERE id = $1 ORDER BY written_at
"""
_EDGES = """
SELECT coalesce(pg_sequence_last_value('relay.events_id'), 0) AS last, min(id) AS lowest
  FROM relay.events
"""
_MAY = "SELECT role FROM relay.authorize($1::text::uuid, $2::text::uuid)"
# A grant names whom it lets in; an ejection without a user or a topic means all of them. A grant
# without a topic may be about this one.
_CHANGES = """
SELECT id, xid::text, written_at,
       CASE WHEN code IS NOT NULL THEN type WHEN topic IS NULL THEN 'maybe' ELSE 'grant' END
           AS kind,
       user_id IS NULL AND topic IS NULL AS is_of_everybody
  FROM relay.events
 WHERE xid < pg_snapshot_xmax(pg_current_snapshot())
   AND (topic IS NULL OR topic = $1)
   AND (user_id = $2::text::uuid OR user_id IS NULL AND code IS NOT NULL)
 ORDER BY id
"""


class Verdict(Enum):
    """Whether the user should have received the event."""

    YES = "They should have received it, or receive it when they come back with a cursor."
    PERHAPS = "Whether they received it depends on what came first."
    NO = "They should not have received it."
    UNKNOWN = "It cannot be told."


@dataclass(frozen=True)
class Explanation:
    """A verdict and what it rests on; the exit code is 0 for a yes."""

    verdict: Verdict
    reasons: Sequence[str]

    @property
    def exit_code(self) -> int:
        return int(self.verdict is not Verdict.YES)

    def text(self, columns: int | None = None) -> str:
        """Lines for people; for `columns` as in `Report.text`."""
        reasons = (wrapped(reason, columns) for reason in self.reasons)
        return "\n".join([*reasons, "", wrapped(self.verdict.value, columns)])

    def json(self) -> str:
        document = {"verdict": self.verdict.name.lower(), "reasons": list(self.reasons)}
        return json.dumps(document, ensure_ascii=False, indent=2)


@dataclass(frozen=True)
class _Change:
    """What the log says of this user's access: an ejection, a recheck or a grant."""

    id: int
    xid: str
    kind: str
    at: str
    is_of_everybody: bool = False
    """Whether it names neither a user nor a topic, as the first run of bin/attach."""

    @property
    def is_ejection(self) -> bool:
        return self.kind == "eject"

    @property
    def decides(self) -> bool:
        """Whether it says who had access then; what ends everybody's sockets does not."""
        return self.kind in ("eject", "grant") and not self.is_of_everybody


async def explain(
    deployment: Deployment, event_id: int, user: str, written_at: int | None = None
) -> Explanation:
    """Say of the event and the user (an id or a username, as JWT_SUBJECT says) what is known.

    Raises:
        One of `realtime.postgres.pool.DATABASE_ERRORS`.
    """
    async with (
        deployment.connect() as connection,
        deployment.connect(as_server=True) as asking,
    ):
        event = await connection.fetchrow(_EVENT, event_id, written_at, timeout=SEARCH_SECONDS)
        if event is None:
            return await _absent(connection, event_id, written_at)
        reasons = [_describe(event)]
        if event["is_foreign"]:
            reasons.append("It came with a dump from another server, and is not delivered here.")
            return Explanation(Verdict.NO, reasons)
        if not event["is_message"]:
            reasons.append("It is a note to the servers about access, and not sent as an event.")
            return Explanation(Verdict.NO, reasons)
        who = await _identify(asking, user, deployment.settings.jwt_subject, reasons)
        if who is None:
            return Explanation(Verdict.UNKNOWN, reasons)
        if event["code"] is not None:
            return await _of_end(connection, event, who, reasons)
        if bot_of(event["topic"]) is None:
            return _of_own_topic(event["topic"], who, reasons)
        role = await asking.fetchval(_MAY, who, bot_of(event["topic"]))
        return await _of_bot(connection, event, who, role, reasons)


async def _absent(connection: Connection, event_id: int, written_at: int | None) -> Explanation:
    others = await connection.fetch(_SAME_NUMBER, event_id, timeout=SEARCH_SECONDS)
    if written_at is not None and others:
        return _of_another_history(event_id, written_at, [other["written_at"] for other in others])
    row = await connection.fetchrow(_EDGES, timeout=SEARCH_SECONDS)
    assert row is not None
    if event_id < 1 or event_id > row["last"]:
        reason = f"No event {event_id} was ever written: the newest number is {row['last']}."
        return Explanation(Verdict.NO, [reason])
    if row["lowest"] is None or event_id < row["lowest"]:
        reason = f"Event {event_id} is not in the log: retention has removed it."
        return Explanation(Verdict.UNKNOWN, [reason])
    reason = (
        f"Event {event_id} is not in the log, though older ones are: its transaction was rolled"
        " back, or has not committed yet."
    )
    return Explanation(Verdict.NO, [reason])


def _of_another_history(event_id: int, written_at: int, others: Sequence[int]) -> Explanation:
    ids = " and ".join(f"{event_id}-{other}" for other in others)
    reason = (
        f"Event {event_id}-{written_at} is not in the log: another row has that number, {ids}. If"
        " the id is right, the event is of another history of this database, as from before a"
        " restore."
    )
    return Explanation(Verdict.UNKNOWN, [reason])


def _describe(event: asyncpg.Record) -> str:
    topic = f"on {event['topic']}" if event["topic"] else "on every topic"
    return (
        f"Event {event['id']} is in the log: {event['type']} {topic}, written"
        f" {_time(event)} by transaction {event['xid']}."
    )


def _time(row: asyncpg.Record) -> str:
    return f"{row['written_at']:%Y-%m-%d %H:%M:%S.%f} UTC"


async def _identify(connection: Connection, user: str, kind: str, reasons: list[str]) -> str | None:
    """The user's id; an id that nobody active has is still good to search the log with."""
    found = await connection.fetchrow(_WHO, user, kind)
    if found is not None:
        reasons.append(f"{user} is {found['username']}, {found['user_id']}, and active.")
        return str(found["user_id"])
    reasons.append(f"No active user has the {kind} {user} (JWT_SUBJECT is {kind}).")
    try:
        return str(UUID(user)) if kind == "id" else None
    except ValueError:
        return None


def _of_own_topic(topic: str, who: str, reasons: list[str]) -> Explanation:
    if topic == f"user:{who}":
        reasons.append("It is for this user's notifications, on every socket that they have there.")
        return Explanation(Verdict.YES, reasons)
    reasons.append("It is for another user's notifications.")
    return Explanation(Verdict.NO, reasons)


async def _of_end(
    connection: Connection, event: asyncpg.Record, who: str, reasons: list[str]
) -> Explanation:
    """Of what ends access, which is a socket's last message."""
    if event["user_id"] not in (None, who):
        reasons.append("It is the last message to another user, whose access it ends.")
        return Explanation(Verdict.NO, reasons)
    reasons.append("It is the last message to those whose access it ends, on sockets open then.")
    if event["type"] == AccessKind.RECHECK:
        reasons.append("It asks whether they still have access, and is sent only if they do not.")
        return Explanation(Verdict.PERHAPS, reasons)
    changes = await _changes_of(connection, event["topic"], who)
    earlier = [one for one in changes if one.id < event["id"] and one.decides]
    reasons += [_tell(one, event) for one in earlier]
    if earlier:
        return Explanation(Verdict.NO if earlier[-1].is_ejection else Verdict.YES, reasons)
    return Explanation(Verdict.YES if event["user_id"] else Verdict.PERHAPS, reasons)


async def _changes_of(connection: Connection, topic: str | None, who: str) -> list[_Change]:
    rows = await connection.fetch(_CHANGES, topic, who, timeout=SEARCH_SECONDS)
    return [
        _Change(row["id"], row["xid"], row["kind"], _time(row), row["is_of_everybody"])
        for row in rows
    ]


async def _of_bot(
    connection: Connection, event: asyncpg.Record, who: str, role: str | None, reasons: list[str]
) -> Explanation:
    changes = await _changes_of(connection, event["topic"], who)
    now = f"may watch the bot now, as {role}" if role is not None else "may not watch the bot now"
    reasons.append(f"The user {now}.")
    reasons += [_tell(change, event) for change in changes]
    return Explanation(judge(event["id"], event["xid"], role is not None, changes), reasons)


def _tell(change: _Change, event: asyncpg.Record) -> str:
    what = {
        "eject": "Their access was ended",
        "recheck": "Their access was asked about again",
        "grant": "They were given access",
        "maybe": "They were given access to something, perhaps this,",
    }[change.kind]
    if change.xid == event["xid"]:
        return f"{what} in the same transaction (event {change.id})."
    side = "before" if change.id < event["id"] else "after"
    return f"{what} {side} it (event {change.id}, {change.at})."


def judge(event_id: int, xid: str, is_entitled: bool, changes: Sequence[_Change]) -> Verdict:
    """Conclude from who may watch now, and from the changes of access in the log.

    An ejection of the same transaction is applied before any of its events, so it counts as before;
    a grant of the same transaction counts as before, too: the socket opens after both.
    """
    before = [c for c in changes if c.id < event_id or c.xid == xid]
    after = [c for c in changes if c.id > event_id and c.xid != xid]
    # Rechecks end nothing by themselves: whether they did is seen in what is so now.
    last = next((c for c in reversed(before) if c.decides), None)
    following = next((c for c in after if c.decides), None)
    was_ejected = last is not None and last.is_ejection
    if was_ejected:
        # An ejection ends sockets. Who may watch now, and was given nothing since, kept access.
        was_entitled = is_entitled and all(c.kind != "grant" for c in after)
    elif last is not None:
        was_entitled = True
    elif following is not None:
        was_entitled = following.is_ejection
    else:
        was_entitled = is_entitled
    if not was_entitled:
        return Verdict.NO
    if any(c.is_ejection or (was_ejected and c.kind == "maybe") for c in after) or not is_entitled:
        # Who was connected and read in time has it; a read that found both withheld it.
        return Verdict.PERHAPS
    return Verdict.YES
