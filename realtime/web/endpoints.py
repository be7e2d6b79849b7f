"""The HTTP endpoints that tell who is connected, and whether the process is healthy and ready.

A process answers for itself from memory, and asks the database for the sockets of the others, and
whether who asks is still a user.
"""

import re
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from heapq import nsmallest
from typing import Any, TypeVar

from realtime.relay.errors import Refused
from realtime.relay.protocol import SOCKET_TOPIC, bot_of, canonical_uuid, rfc3339
from realtime.relay.remote import ConnectedSocket, RemoteCounts, connected
from realtime.web.handlers import JsonHandler

Result = TypeVar("Result")

PAGE = 1000
"""How many connections are listed unless asked otherwise."""
MAX_PAGE = 10_000
"""How many connections may be asked for at once."""


def listed(sockets: Iterable[ConnectedSocket]) -> dict[str, Any]:
    """The lists that GET /api/ws/connections answers."""
    by_bot: defaultdict[str, set[str]] = defaultdict(set)
    metadata: dict[str, Any] = {}
    for one in sockets:
        bot_ids = sorted(filter(None, map(bot_of, (one.topic, *one.topics))))
        for bot_id in bot_ids:
            by_bot[bot_id].add(one.user_id)
        metadata[one.connection_id] = {
            "user_id": one.user_id,
            "username": one.username,
            "bot_id": bot_of(one.topic),
            **({"bot_ids": bot_ids} if one.topic == SOCKET_TOPIC else {}),
            **({"transport": "sse"} if one.is_over_http else {}),
            "connected_at": rfc3339(one.opened_at),
            "node": one.node_id,
        }
    return {
        "connected_users": sorted({entry["user_id"] for entry in metadata.values()}),
        "bot_subscriptions": {bot_id: sorted(users) for bot_id, users in by_bot.items()},
        "connection_metadata": metadata,
    }


def first_of(sockets: Iterable[ConnectedSocket], limit: int) -> Sequence[ConnectedSocket]:
    """The sockets with the lowest ids, in the order of their ids."""
    return nsmallest(limit, sockets, key=lambda one: one.connection_id)


class ClusterHandler(JsonHandler):
    """Answers for all processes, or for this one where the query has `scope=process`."""

    def is_for_all(self) -> bool:
        """Whether the query asks for all processes."""
        scope = self.query("scope")
        if scope not in (None, "cluster", "process"):
            self.refuse("scope must be cluster or process", 400)
        return scope != "process"

    async def ask_database(self, query: Awaitable[Result]) -> Result:
        """Ask the database about other processes. Where it cannot be asked, the answer is 503."""
        try:
            return await query
        except Refused as refused:
            self.refuse(refused.reason, 503)


class StatsHandler(ClusterHandler):
    """GET /api/ws/stats: how many sockets, users and bots there are."""

    async def get(self) -> None:
        subject = (await self.identity()).subject
        is_for_all = self.is_for_all()
        here = list(self._services.hub.subscribers.joined())
        users = {one.user_id or "" for one in here}
        topics = {one.topic for one in here if bot_of(one.topic)}
        counts = {
            "total_connections": sum(one.is_socket for one in here),
            "connected_users": len(users),
            "bot_subscriptions": len(topics),
            "nodes": 1,
        }
        if is_for_all:
            others = await self.ask_database(self._others(subject, users, topics))
            counts["total_connections"] += others.connections
            counts["connected_users"] += others.users
            counts["bot_subscriptions"] += others.bots
            counts["nodes"] += others.nodes
        self.answer({**counts, "scope": "cluster" if is_for_all else "process"})

    async def _others(self, subject: str, users: set[str], topics: set[str]) -> RemoteCounts:
        with self._services.room.joining(subject):
            return await self._services.remote_sockets.count(users, topics)


class ConnectionsHandler(ClusterHandler):
    """GET /api/ws/connections: every socket, in pages; for administrators."""

    async def get(self) -> None:
        self.require_admin(await self.identity())
        is_for_all, after, limit = self.is_for_all(), self._after(), self._limit()
        # One more than asked for says whether there are more.
        found: list[ConnectedSocket] = []
        if is_for_all:
            found += await self.ask_database(self._services.remote_sockets.page(after, limit + 1))
        found += self._here(after)
        page = first_of(found, limit + 1)
        self.answer(
            {
                **listed(page[:limit]),
                "next": page[limit - 1].connection_id if len(page) > limit else None,
                "scope": "cluster" if is_for_all else "process",
            }
        )

    def _here(self, after: str | None) -> Iterable[ConnectedSocket]:
        here = connected(self._services.hub.subscribers.joined(), self._services.node_id)
        return (one for one in here if after is None or one.connection_id > after)

    def _after(self) -> str | None:
        given = self.query("after")
        if given is not None and canonical_uuid(given) is None:
            self.refuse("after must be a connection's id", 400)
        return None if given is None else canonical_uuid(given)

    def _limit(self) -> int:
        given = self.query("limit")
        if given is None:
            return PAGE
        # A number of many digits takes long to read.
        is_number = re.fullmatch("[0-9]{1,5}", given) is not None
        if not is_number or not 1 <= int(given) <= MAX_PAGE:
            self.refuse(f"limit must be a number from 1 to {MAX_PAGE}", 400)
        return int(given)


class HealthHandler(JsonHandler):
    """GET /api/health: whether the process answers."""

    def get(self) -> None:
        self.answer({"status": "ok"})


class ReadyHandler(JsonHandler):
    """GET /api/ready: whether new sockets should come to this process."""

    def get(self) -> None:
        status = self._services.status
        reason = status.not_ready
        if reason is not None:
            self.refuse(f"not ready: {reason}", 503, status="not ready", reason=reason)
        milliseconds = round(1000 * (status.round_trip or 0.0), 2)
        self.answer({"status": "ready", "database_ms": milliseconds, "relay": status.doorbell_mode})
