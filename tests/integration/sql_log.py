"""Reads `relay.events` the way a test wants it: what a statement wrote, as Python values."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from tests.platform import Platform
from tests.serving import World

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
Message = dict[str, Any]
INSERT_MESSAGES = """INSERT INTO messages (session_id, bot_id, user_id, role, content)
    SELECT $1, $2, $3, 'user', 'number ' || n FROM generate_series(1, $4::int) AS n"""


class Entry(NamedTuple):
    """One row of the log; the message without its outer timestamp, which has been checked."""

    topic: str | None
    type: str
    message: Message | None
    user_id: str | None = None
    code: int | None = None


class Log:
    """What was written since the last look, over the connection that writes."""

    def __init__(self, platform: Platform, seen: int) -> None:
        self._platform = platform
        self._seen = seen

    @classmethod
    async def since_now(cls, platform: Platform) -> Log:
        newest = "SELECT coalesce(max(id), 0) FROM relay.events"
        return cls(platform, await platform.connection.fetchval(newest))

    async def texts(self) -> list[str]:
        """The payloads as they stand, null ones left out."""
        return [row["payload"] for row in await self._rows() if row["payload"] is not None]

    async def entries(self) -> list[Entry]:
        return [_entry(row) for row in await self._rows()]

    async def messages(self) -> list[Message]:
        """The messages of entries that must all be events."""
        entries = await self.entries()
        assert all(entry.code is None for entry in entries)
        return [entry.message for entry in entries if entry.message is not None]

    async def only(self) -> Entry:
        """The one entry there is."""
        (entry,) = await self.entries()
        return entry

    async def actions(self) -> list[tuple[str, str | None]]:
        """Types and, where the message has one, the action: for where shapes are no issue."""
        return [
            (entry.type, (entry.message or {}).get("data", {}).get("action"))
            for entry in await self.entries()
        ]

    async def _rows(self) -> list[Any]:
        rows = await self._platform.connection.fetch(
            "SELECT * FROM relay.events WHERE id > $1 ORDER BY id", self._seen
        )
        self._seen = max([self._seen, *(row["id"] for row in rows)])
        return rows


def bot_topic(bot_id: str) -> str:
    return f"bot:{bot_id}"


def user_topic(user_id: str) -> str:
    return f"user:{user_id}"


def permission_entries(
    bot_id: str, user_id: str, action: str, ejection: str | None = None, **details: str | None
) -> list[Entry]:
    """All that one change of a permission writes."""
    if action == "updated":
        details["new_role"] = details["role"]
    elif action == "revoked":
        details |= {"revoked_role": details["role"], "revoked_by": details["granted_by"]}
    change = {
        "type": "permission_change",
        "bot_id": bot_id,
        "data": {"target_user_id": user_id, "action": action, "details": details},
    }
    notification = {
        "type": "notification",
        "notification_type": "permission_change",
        "data": {"bot_id": bot_id, "action": action, "details": details},
    }
    entries = [
        Entry(
            bot_topic(bot_id), "permission_change", change, user_id if action == "granted" else None
        ),
        Entry(user_topic(user_id), "notification", notification),
    ]
    if ejection:
        entries.append(Entry(bot_topic(bot_id), ejection, change, user_id, 4003))
    return entries


def bot_update(bot_id: str, update_type: str, updated_by: str | None, **details: Any) -> Message:
    return {
        "type": "bot_update",
        "bot_id": bot_id,
        "data": {"update_type": update_type, "details": details, "updated_by": updated_by},
    }


async def insert_messages(platform: Platform, world: World, count: int) -> None:
    await platform.execute(INSERT_MESSAGES, world.session, world.bot, world.guest, count)


async def act_as(platform: Platform, actor: str) -> None:
    """Say who is writing, for the rest of the session."""
    await platform.execute("SELECT set_config('relay.actor', $1, false)", actor)


def _entry(row: Any) -> Entry:
    message = None
    if row["payload"] is not None:
        assert row["payload"].startswith('{"')
        message = json.loads(row["payload"])
        assert TIME.fullmatch(message.pop("timestamp"))
    user_id = row["user_id"] and str(row["user_id"])
    return Entry(row["topic"], row["type"], message, user_id, row["code"])
