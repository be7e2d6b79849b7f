"""The HTTP endpoints: who is connected, and how the process is.

Answered from memory. Routed by `app`.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, Finish

from realtime.auth import Identity, TokenError, token_from_request
from realtime.keys import KeysUnavailable
from realtime.relay.hub import Hub
from realtime.relay.protocol import bot_of, rfc3339
from realtime.web.handlers import CarefulHandler
from realtime.web.services import Services


def stats(hub: Hub) -> dict[str, int]:
    """The counts of GET /api/ws/stats."""
    everyone = list(hub.identified())
    return {
        "total_connections": len(everyone),
        "connected_users": len({one.user_id for one in everyone}),
        "bot_subscriptions": len({one.topic for one in everyone if bot_of(one.topic)}),
    }


def connections(hub: Hub) -> dict[str, Any]:
    """The lists of GET /api/ws/connections."""
    by_bot: defaultdict[str, set[str]] = defaultdict(set)
    metadata: dict[str, Any] = {}
    for one in hub.identified():
        bot_id = bot_of(one.topic)
        user_id = one.user_id or ""
        if bot_id is not None:
            by_bot[bot_id].add(user_id)
        metadata[one.connection_id] = {
            "user_id": user_id,
            "bot_id": bot_id,
            "connected_at": rfc3339(one.opened_at),
        }
    return {
        "connected_users": sorted({entry["user_id"] for entry in metadata.values()}),
        "bot_subscriptions": {bot_id: sorted(users) for bot_id, users in by_bot.items()},
        "connection_metadata": metadata,
    }


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

    def options(self) -> None:
        self.set_status(204)
        self.finish()

    def answer(self, body: Mapping[str, Any], status: int = 200) -> None:
        self.set_status(status)
        self.finish(json.dumps(body) + "\n")

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
            self.answer({"error": error.reason}, 401)
        except KeysUnavailable:
            self.answer({"error": "tokens cannot be verified at the moment"}, 503)
        raise Finish


class StatsHandler(JsonHandler):
    async def get(self) -> None:
        await self.identity()
        self.answer(stats(self._services.hub))


class ConnectionsHandler(JsonHandler):
    async def get(self) -> None:
        if not (await self.identity()).is_admin:
            claim = self._services.settings.jwt_admin_claim
            self.answer({"error": f"for administrators: a token with {claim!r}: true"}, 403)
            return
        self.answer(connections(self._services.hub))


class HealthHandler(JsonHandler):
    """Whether the process answers, which it does by answering."""

    def get(self) -> None:
        self.answer({"status": "ok"})


class ReadyHandler(JsonHandler):
    """Whether new sockets should come here."""

    def get(self) -> None:
        status = self._services.status
        if status.is_ready:
            seconds = status.round_trip() or 0.0
            self.answer({"status": "ready", "database_ms": round(1000 * seconds, 2)})
        else:
            why = "draining" if status.is_draining else "not connected to the database"
            self.answer({"status": "not ready", "reason": why}, 503)


class NotFoundHandler(JsonHandler):
    def prepare(self) -> None:
        self.answer({"error": "there is nothing at this address"}, 404)
        raise Finish
