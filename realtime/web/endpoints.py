"""The HTTP endpoints: who is connected, and how the process is.

A process answers for itself from memory, and asks the database for the sockets of the others.
Routed by `app`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Any, NoReturn, TypeVar

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, Finish

from realtime.auth.keys import KeysUnavailable
from realtime.auth.tokens import Identity, TokenError, token_from_request
from realtime.relay.errors import Refused
from realtime.relay.protocol import bot_of, canonical_uuid, rfc3339
from realtime.web.handlers import CarefulHandler
from realtime.web.services import Connection, Services

Answer = TypeVar("Answer")

PAGE = 1000
"""How many connections are listed unless asked otherwise."""
MAX_PAGE = 10_000


def users_of(connections: Iterable[Connection]) -> set[str]:
    """Whose sockets these are."""
    return {one.user_id or "" for one in connections}


def bots_of(connections: Iterable[Connection]) -> set[str]:
    """The topics of bots among theirs."""
    return {one.topic for one in connections if bot_of(one.topic)}


def listed(connections: Iterable[tuple[Connection, str]]) -> dict[str, Any]:
    """The lists of GET /api/ws/connections, from sockets and their nodes."""
    by_bot: defaultdict[str, set[str]] = defaultdict(set)
    metadata: dict[str, Any] = {}
    for one, node_id in connections:
        bot_id = bot_of(one.topic)
        user_id = one.user_id or ""
        if bot_id is not None:
            by_bot[bot_id].add(user_id)
        metadata[one.connection_id] = {
            "user_id": user_id,
            "username": one.username,
            "bot_id": bot_id,
            "connected_at": rfc3339(one.opened_at),
            "node": node_id,
        }
    return {
        "connected_users": sorted({entry["user_id"] for entry in metadata.values()}),
        "bot_subscriptions": {bot_id: sorted(users) for bot_id, users in by_bot.items()},
        "connection_metadata": metadata,
    }


def first_of(
    connections: Iterable[tuple[Connection, str]], limit: int
) -> Sequence[tuple[Connection, str]]:
    """Those with the lowest ids, in their order."""
    return nsmallest(limit, connections, key=lambda pair: pair[0].connection_id)


class JsonHandler(CarefulHandler):
    """Answers in JSON, errors included, to any page that may connect here."""

    def __init__(
        self, application: Application, request: HTTPServerRequest, *, services: Services
    ) -> None:
        self._services = services
        super().__init__(application, request)

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        origin = self.request.headers.get("Origin")
        allowed = self._services.settings.allowed_origins
        if origin is not None and (allowed is None or origin in allowed):
            # No cookies are involved: what a page may read depends on the token that it sends.
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type")
            self.set_header("Vary", "Origin")

    def options(self, *path: str) -> None:
        self.set_status(204)
        self.finish()

    def answer(self, body: Mapping[str, Any], status: int = 200) -> None:
        self.set_status(status)
        self.finish(json.dumps(body) + "\n")

    def refuse(self, error: str, status: int) -> NoReturn:
        """Answer with an error, and end the request."""
        self.answer({"error": error}, status)
        raise Finish

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.answer({"error": self._reason}, status_code)

    async def identity(self) -> Identity:
        """Whose token came with the request; without a good one the answer is 401 (or 503)."""
        token = token_from_request(
            self.query("token"), self.request.headers.get("Authorization"), []
        )
        try:
            return await self._services.verifier.verify(token or "")
        except TokenError as error:
            self.set_header("WWW-Authenticate", "Bearer")
            self.refuse(error.reason, 401)
        except KeysUnavailable:
            self.refuse("tokens cannot be verified at the moment", 503)

    def require_admin(self, identity: Identity) -> None:
        """Without the admin claim the answer is 403."""
        if not identity.is_admin:
            claim = self._services.settings.jwt_admin_claim
            self.refuse(f"for administrators: a token with {claim!r}: true", 403)


class ClusterHandler(JsonHandler):
    """Answers for all processes, or for this one where the query has `scope=process`."""

    def is_for_all(self) -> bool:
        """What `scope` says."""
        scope = self.query("scope")
        if scope not in (None, "cluster", "process"):
            self.refuse("scope must be cluster or process", 400)
        return scope != "process"

    async def asked(self, question: Awaitable[Answer]) -> Answer:
        """What the database knows of the others; if it cannot be asked, the answer is 503."""
        try:
            return await question
        except Refused as refused:
            self.refuse(f"{refused.reason}; scope=process asks this process alone", 503)


class StatsHandler(ClusterHandler):
    async def get(self) -> None:
        await self.identity()
        is_for_all = self.is_for_all()
        here = list(self._services.hub.joined())
        users, bots = users_of(here), bots_of(here)
        counts = {
            "total_connections": len(here),
            "connected_users": len(users),
            "bot_subscriptions": len(bots),
            "nodes": 1,
        }
        if is_for_all:
            others = await self.asked(self._services.connections.count(users, bots))
            counts["total_connections"] += others.connections
            counts["connected_users"] += others.users
            counts["bot_subscriptions"] += others.bots
            counts["nodes"] += others.nodes
        self.answer({**counts, "scope": "cluster" if is_for_all else "process"})


class ConnectionsHandler(ClusterHandler):
    async def get(self) -> None:
        self.require_admin(await self.identity())
        is_for_all, after, limit = self.is_for_all(), self._after(), self._limit()
        # One more than asked for says whether there are more.
        found: list[tuple[Connection, str]] = []
        if is_for_all:
            others = await self.asked(self._services.connections.page(after, limit + 1))
            found += [(one, one.node_id) for one in others]
        found += self._here(after)
        page = first_of(found, limit + 1)
        self.answer(
            {
                **listed(page[:limit]),
                "next": page[limit - 1][0].connection_id if len(page) > limit else None,
                "scope": "cluster" if is_for_all else "process",
            }
        )

    def _here(self, after: str | None) -> Iterable[tuple[Connection, str]]:
        here: Iterable[Connection] = self._services.hub.joined()
        return (
            (one, self._services.node_id)
            for one in here
            if after is None or one.connection_id > after
        )

    def _after(self) -> str | None:
        given = self.query("after")
        if given is not None and canonical_uuid(given) is None:
            self.refuse("after must be a connection's id", 400)
        return None if given is None else canonical_uuid(given)

    def _limit(self) -> int:
        given = self.query("limit") or str(PAGE)
        # A number of many digits takes long to read.
        is_number = re.fullmatch("[0-9]{1,5}", given) is not None
        if not is_number or not 1 <= int(given) <= MAX_PAGE:
            self.refuse(f"limit must be a number from 1 to {MAX_PAGE}", 400)
        return int(given)


class HealthHandler(JsonHandler):
    """Whether the process answers, which it does by answering."""

    def get(self) -> None:
        self.answer({"status": "ok"})


class ReadyHandler(JsonHandler):
    """Whether new sockets should come here."""

    def get(self) -> None:
        status = self._services.status
        if status.is_ready:
            milliseconds = round(1000 * (status.round_trip or 0.0), 2)
            self.answer(
                {"status": "ready", "database_ms": milliseconds, "relay": status.doorbell_mode}
            )
        else:
            why = "draining" if status.is_draining else "not connected to the database"
            self.answer({"status": "not ready", "reason": why}, 503)


class NotFoundHandler(JsonHandler):
    def prepare(self) -> None:
        self.refuse("there is nothing at this address", 404)
