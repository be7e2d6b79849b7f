"""What the server says of itself: `/metrics` for Prometheus, and the same figures as JSON.

Whichever process is asked answers for all. Routed by `app`.
"""

import hmac
import os
import socket

from realtime.metrics.prometheus import CONTENT_TYPE, render
from realtime.metrics.snapshot import Figures, counted
from realtime.metrics.vitals import Vitals, resident_bytes
from realtime.relay.counters import Counters
from realtime.relay.hub import Hub
from realtime.relay.protocol import bot_of
from realtime.web.endpoints import JsonHandler, users_of
from realtime.web.sink import SocketSink


def own_figures(hub: Hub, counters: Counters, vitals: Vitals, *, port: int, relay: str) -> Figures:
    """How this process is doing at the moment.

    Args:
        relay: how it waits for events, as in `Status.relay`.
    """
    here = list(hub.joined())
    sinks = (one.sink for one in hub)
    return Figures(
        hostname=socket.gethostname(),
        pid=os.getpid(),
        port=port,
        at=vitals.clock(),
        started_at=vitals.started_at,
        resident_bytes=resident_bytes(),
        loop_lag=vitals.loop_lag,
        connections=len(here),
        chats=sum(bot_of(one.topic) is not None for one in here),
        users=len(users_of(here)),
        buffered_bytes=sum(one.waiting_bytes for one in sinks if isinstance(one, SocketSink)),
        relay=relay,
        **counted(counters),
    )


class MetricsHandler(JsonHandler):
    """GET /metrics: for whoever has the METRICS_TOKEN, or anybody where the console is on."""

    async def get(self) -> None:
        self._require_token()
        body = render(await self._services.everywhere())
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(body)

    def _require_token(self) -> None:
        settings = self._services.settings
        if settings.metrics_token is None:
            if not settings.console:
                self.refuse("there is nothing at this address", 404)
            return
        expected = f"Bearer {settings.metrics_token.get_secret_value()}"
        given = self.request.headers.get("Authorization", "")
        # Bytes: compare_digest takes no text beyond ASCII, and a header may hold any.
        if not hmac.compare_digest(given.encode(), expected.encode()):
            self.set_header("WWW-Authenticate", "Bearer")
            self.refuse("needs METRICS_TOKEN as a bearer token", 401)


class FiguresHandler(JsonHandler):
    """GET /api/ws/figures: for administrators, or any valid token where the console is on."""

    async def get(self) -> None:
        identity = await self.identity()
        if not self._services.settings.console:
            self.require_admin(identity)
        figures = await self._services.everywhere()
        self.answer(
            {
                "nodes": {key: one.model_dump() for key, one in figures.nodes.items()},
                "log": None if figures.log is None else figures.log._asdict(),
            }
        )
