"""The HTTP endpoints that show metrics: `/metrics` for Prometheus, and the same as JSON.

Whichever process is asked answers for all of them.
"""

import hmac

from realtime.auth.tokens import token_from_request
from realtime.metrics.prometheus import CONTENT_TYPE, render
from realtime.web.handlers import JsonHandler


class PrometheusHandler(JsonHandler):
    """GET /metrics: for a client with the METRICS_TOKEN, or for anybody if the console is on."""

    async def get(self) -> None:
        self._require_token()
        body = render(await self._services.metrics.of_cluster())
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(body)

    def _require_token(self) -> None:
        settings = self._services.settings
        if settings.metrics_token is None:
            if not settings.console:
                self.refuse("there is nothing at this address", 404)
            return
        expected = settings.metrics_token.get_secret_value()
        given = token_from_request(None, self.request.headers.get("Authorization"), []) or ""
        # Bytes: compare_digest takes no text beyond ASCII, and a header may hold any.
        if not hmac.compare_digest(given.encode(), expected.encode()):
            self.refuse("needs METRICS_TOKEN as a bearer token", 401)


class ClusterMetricsHandler(JsonHandler):
    """GET /api/ws/figures: for administrators, or any valid token where the console is on."""

    async def get(self) -> None:
        identity = await self.identity()
        if not self._services.settings.console:
            self.require_admin(identity)
        metrics = await self._services.metrics.of_cluster()
        self.answer(
            {
                "nodes": {key: one.model_dump() for key, one in metrics.nodes.items()},
                "log": None if metrics.log is None else metrics.log._asdict(),
            }
        )
