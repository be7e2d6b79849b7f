"""The Tornado application: which address leads to which handler, and the log line of a request."""

import json
import logging
import re
from http.client import OK
from pathlib import Path
from typing import Any

from tornado.web import Application, RequestHandler, StaticFileHandler

from realtime.installation import JAVASCRIPT_CLIENT
from realtime.log_line import LogLine
from realtime.web import demo, endpoints, metrics
from realtime.web.handlers import CarefulHandler, NotFoundHandler, log, logged_path
from realtime.web.presence import PresenceHandler
from realtime.web.services import Services
from realtime.web.sockets import SocketHandler, Sockets
from realtime.web.sse import ChatEvents, EventsHandler, NotificationsEvents

FIGURES = "/api/ws/figures"
PROBES = ("/health", "/api/ready", "/metrics", FIGURES)
"""The ends of addresses that machines, and every open console, ask for all day: a good answer is
logged for debugging only."""
STATIC = Path(__file__).parent / "static"
# 'self' does not cover ws: in every browser; the console connects only to where it came from.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class StaticHandler(CarefulHandler, StaticFileHandler):
    """Serves the JavaScript client and the console's files, to pages of any origin."""

    def get_content_type(self) -> str:
        # Of `.ts`, systems say that it is video.
        is_types = self.absolute_path is not None and self.absolute_path.endswith(".d.ts")
        return "application/typescript; charset=utf-8" if is_types else super().get_content_type()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps({"error": self._reason}) + "\n")

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")


class ConsoleHandler(StaticHandler):
    """Serves the console's page."""

    def set_extra_headers(self, path: str) -> None:
        super().set_extra_headers(path)
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.clear_header("Access-Control-Allow-Origin")


def make_app(services: Services, sockets: Sockets) -> Application:
    """Make the application of one process."""
    given: dict[str, Any] = {"services": services}
    client = {"path": JAVASCRIPT_CLIENT}
    base = re.escape(services.settings.base_path)
    probes: list[Any] = [
        (r"/(?:api/)?health", endpoints.HealthHandler, given),
        (r"/api/ready", endpoints.ReadyHandler, given),
    ]
    below = [
        (r"/api/sse/chat/([^/]+)", EventsHandler, {**given, "kind": ChatEvents}),
        (r"/api/sse/notifications", EventsHandler, {**given, "kind": NotificationsEvents}),
        (r"/api/ws/stats", endpoints.StatsHandler, given),
        (r"/api/ws/connections", endpoints.ConnectionsHandler, given),
        (r"/api/ws/presence/([^/]+)", PresenceHandler, given),
        (FIGURES, metrics.ClusterMetricsHandler, given),
        (r"/metrics", metrics.PrometheusHandler, given),
        *probes,
        (r"/static/(realtime\.(?:js|d\.ts))", StaticHandler, client),
        (r"/static/(client/[a-z_]+\.js)", StaticHandler, client),
    ]
    if services.settings.console:
        below += [
            (r"/static/(console(?:/[a-z_]+)?\.(?:js|css|svg))", StaticHandler, {"path": STATIC}),
            (r"/static/(vendor/uplot/uplot\.(?:js|css))", StaticHandler, {"path": STATIC}),
            (r"/demo", demo.DemoHandler, given),
            (r"/demo/sign-in", demo.DemoSignIn, given),
            (r"/demo/bots/([^/]+)/messages", demo.DemoMessages, given),
            (r"/demo/sql", demo.DemoSql, given),
            (r"/demo/actions", demo.DemoAction, given),
            (r"/()", ConsoleHandler, {"path": STATIC, "default_filename": "console.html"}),
        ]
    routes = [
        *(
            (route.address.pattern, SocketHandler, {"sockets": sockets, "kind": route.kind})
            for route in sockets.routes
        ),
        *((base + pattern, handler, arguments) for pattern, handler, arguments in below),
        *(probes if base else ()),  # who probes a process may not know its base path
    ]
    return Application(
        routes,
        default_handler_class=NotFoundHandler,
        default_handler_args=given,
        log_function=log_request,
    )


def log_request(handler: RequestHandler) -> None:
    """One line a request, without its query: there may be a token in it.

    A socket that is opened has lines of its own.
    """
    request, status = handler.request, handler.get_status()
    took = round(1000 * request.request_time(), 1)
    is_news = not request.path.endswith(PROBES) or status != OK
    log.log(
        logging.INFO if is_news else logging.DEBUG,
        LogLine(
            "request_answered",
            method=logged_path(request.method or ""),
            path=logged_path(request.path),
            status=status,
            ms=took,
        ),
    )
