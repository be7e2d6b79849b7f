"""The platform's side of a test: its tables, written to with plain SQL, as any service would."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg

from realtime.postgres.pool import HearingConnection
from tests.waiting import LIMIT


class Platform:
    """A connection that writes rows."""

    def __init__(self, connection: HearingConnection) -> None:
        self.connection = connection

    @classmethod
    async def connect(cls, dsn: str) -> Platform:
        return cls(await asyncpg.connect(dsn, timeout=LIMIT, connection_class=HearingConnection))

    async def execute(self, query: str, *arguments: Any) -> str:
        return await self.connection.execute(query, *arguments)

    async def hear(self, channel: str) -> list[str]:
        """All payloads on the channel from now on; `channel` is how its secret name begins."""
        payloads: list[str] = []

        def hear(name: str, payload: str) -> None:
            if name.startswith(channel):
                payloads.append(payload)

        self.connection.hear = hear
        await self.execute("SELECT relay.listen()")
        return payloads

    async def _insert(self, query: str, *arguments: Any) -> str:
        return str(await self.connection.fetchval(f"{query} RETURNING id", *arguments))

    async def user(self, username: str | None = None) -> str:
        name = username or f"user-{uuid4().hex[:8]}"
        return await self._insert("INSERT INTO users (username) VALUES ($1)", name)

    async def bot(self, owner_id: str, name: str = "Ada") -> str:
        return await self._insert(
            "INSERT INTO bots (name, owner_id) VALUES ($1, $2)", name, owner_id
        )

    async def permit(self, bot_id: str, user_id: str, role: str = "viewer") -> str:
        return await self._insert(
            "INSERT INTO permissions (bot_id, user_id, role) VALUES ($1, $2, $3)",
            bot_id,
            user_id,
            role,
        )

    async def revoke(self, bot_id: str, user_id: str) -> None:
        await self.execute(
            "DELETE FROM permissions WHERE bot_id = $1 AND user_id = $2", bot_id, user_id
        )

    async def session(self, bot_id: str, user_id: str) -> str:
        return await self._insert(
            "INSERT INTO sessions (bot_id, user_id) VALUES ($1, $2)", bot_id, user_id
        )

    async def message(
        self, session_id: str, bot_id: str, user_id: str, content: str = "Hello", role: str = "user"
    ) -> str:
        return await self._insert(
            "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
            " VALUES ($1, $2, $3, $4, $5)",
            session_id,
            bot_id,
            user_id,
            role,
            content,
        )
