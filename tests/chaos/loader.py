"""Loads what there is on a bot together with its cursor, as the API of a platform does.

In one statement, or in a REPEATABLE READ transaction whose snapshot is seconds old, sometimes one
that has a transaction id of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, NamedTuple

import asyncpg

from tests.chaos.model import STATE
from tests.chaos.population import Bot
from tests.chaos.scribe import OUTAGE, connect

OLD_SECONDS = 2.0
RETRY_SECONDS = 0.2
_CURSOR = "SELECT relay.cursor($1)"
_BOTH = f"SELECT relay.cursor($3) AS cursor, ({STATE}) AS state"


class Loaded(NamedTuple):
    """One moment of a bot."""

    cursor: str
    things: dict[str, Any]


class Loader:
    """Loads one bot."""

    def __init__(self, dsn: str, bot: Bot, chance: random.Random) -> None:
        self._dsn = dsn
        self._bot = bot
        self._random = chance

    async def load(self) -> Loaded:
        """Ask until there is an answer and a cursor."""
        while True:
            try:
                connection = await connect(self._dsn)
                try:
                    cursor, state = await self._ask(connection)
                finally:
                    connection.terminate()
            except OUTAGE:
                cursor = None
            if cursor is not None:
                return Loaded(cursor, json.loads(state))
            await asyncio.sleep(RETRY_SECONDS)

    async def _ask(self, connection: asyncpg.Connection[asyncpg.Record]) -> tuple[str | None, str]:
        bot = self._bot
        if self._random.random() < 0.5:
            row = await connection.fetchrow(_BOTH, bot.id, bot.owner, bot.topic)
            assert row is not None
            return row["cursor"], row["state"]
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        if self._random.random() < 0.5:
            await connection.execute("SELECT pg_current_xact_id()")
        await connection.execute("SELECT FROM bots LIMIT 1")  # the snapshot is of this moment
        await asyncio.sleep(self._random.uniform(0, OLD_SECONDS))
        cursor = await connection.fetchval(_CURSOR, bot.topic)
        await asyncio.sleep(self._random.uniform(0, OLD_SECONDS / 4))
        return cursor, await connection.fetchval(STATE, bot.id, bot.owner)
