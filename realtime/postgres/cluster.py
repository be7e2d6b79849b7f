"""The processes over one database: who else is there, and what they tell each other of typing.

Each process keeps a row in `relay.nodes` fresh; one that stops doing so is gone. Typing crosses as
small JSON batches by NOTIFY, from the pool (each NOTIFY takes the commit lock: a few a second, and
none while this process is alone). Run by `server`.
"""

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import uuid4

from realtime.postgres.connection import ACQUIRE_SECONDS, LOST
from realtime.postgres.doorbell import ALIVE_SECONDS, TYPING_CHANNEL
from realtime.relay.typing_indicators import Indicator

if TYPE_CHECKING:
    from realtime.postgres.connection import Pool

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
TYPING_SECONDS = 0.25
"""How often typing is told to other processes."""
MAX_PAYLOAD = 7900
"""NOTIFY takes less than 8000 bytes: https://www.postgresql.org/docs/current/sql-notify.html"""
MAX_NAME = 200

_BEAT = """
WITH mine AS (
    INSERT INTO relay.nodes (id, started_at, heartbeat_at) VALUES ($1, now(), now())
    ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()
), gone AS (
    DELETE FROM relay.nodes WHERE id <> $1 AND heartbeat_at < now() - make_interval(secs => 10 * $2)
)
SELECT count(*) FROM relay.nodes
 WHERE id <> $1 AND heartbeat_at > now() - make_interval(secs => $2)
"""


class Cluster:
    """This process among the others."""

    def __init__(self, pool: "Pool") -> None:
        self.node_id = str(uuid4())
        self._pool = pool
        self._others = 0
        self._outbox: dict[tuple[str, str], Indicator] = {}

    async def keep_alive(self) -> None:
        """Beat for ever."""
        while True:
            try:
                async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                    self._others = await connection.fetchval(_BEAT, self.node_id, ALIVE_SECONDS)
            except LOST as error:
                log.warning("heartbeat failed: %s", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def leave(self) -> None:
        """Say that this process is gone; if it cannot be said, time will."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                await connection.execute("DELETE FROM relay.nodes WHERE id = $1", self.node_id)
        except LOST as error:
            log.info("could not take this process off relay.nodes: %s", error)

    def tell(self, indicators: Iterable[Indicator]) -> None:
        """Pass this process's own indicators on with the next batch; the newest state wins."""
        if self._others:
            for one in indicators:
                if one.is_local:
                    self._outbox[one.bot_id, one.user_id] = one

    async def keep_telling(self) -> None:
        """Send what was told, a few times a second."""
        while True:
            await asyncio.sleep(TYPING_SECONDS)
            if self._outbox:
                batch, self._outbox = list(self._outbox.values()), {}
                await self._notify(batch)

    async def _notify(self, batch: list[Indicator]) -> None:
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                for payload in pack(self.node_id, batch):
                    await connection.execute("SELECT pg_notify($1, $2)", TYPING_CHANNEL, payload)
        except LOST as error:
            log.warning("typing was not told to other processes: %s", error)


def pack(node_id: str, batch: Iterable[Indicator]) -> list[str]:
    """The batch as NOTIFY payloads, each short enough."""
    payloads: list[str] = []
    rows: list[list[object]] = []
    for one in batch:
        row = [one.bot_id, one.user_id, one.username[:MAX_NAME], one.is_typing]
        if rows and len(json.dumps([node_id, [*rows, row]])) > MAX_PAYLOAD:
            payloads.append(json.dumps([node_id, rows]))
            rows = []
        rows.append(row)
    return [*payloads, json.dumps([node_id, rows])]


def unpack(node_id: str, payload: str) -> list[tuple[str, str, str, bool]]:
    """What another process packed: bot, user, username, whether typing.

    Nothing for our own echo, or for what is no such batch.
    """
    try:
        sender, rows = json.loads(payload)
        batch = [(str(b), str(u), str(name), bool(typing)) for b, u, name, typing in rows]
    except (ValueError, TypeError, RecursionError):
        log.warning("not a typing batch: %.80r", payload)
        return []
    return [] if sender == node_id else batch
