"""The Python client where the server's certificate is believed by a context of the application."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from rowcast import Reconnecting, SharedConnection, connect
from tests.proxies import make_certificate
from tests.waiting import LIMIT, eventually

GREETING = '{"type": "connection_established", "data": {"user_id": "u"}}'


class Greeter(WebSocketHandler):
    def open(self) -> None:
        self.write_message(GREETING)


class Stream(RequestHandler):
    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.write(f"data: {GREETING}\n\n")
        await self.flush()
        self._left = asyncio.Event()
        await self._left.wait()

    def on_connection_close(self) -> None:
        self._left.set()


@asynccontextmanager
async def greeting(home: Path) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """A server with a certificate of its own; yields its address, and who believes that."""
    make_certificate(certificate := home / "certificate.pem")
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate)
    routes = [("/api/ws.*", Greeter), ("/api/sse/.*", Stream)]
    server = HTTPServer(Application(routes), ssl_options=ours)
    listening, port = bind_unused_port()
    server.add_socket(listening)
    try:
        yield f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=str(certificate))
    finally:
        server.stop()
        await server.close_all_connections()


@pytest.mark.parametrize("sse", [False, True])
@pytest.mark.gen_test
async def test_a_context_of_the_application_is_used(tmp_path: Path, sse: bool) -> None:
    """On either transport; without it, the certificate is nobody's."""
    lost: list[Reconnecting] = []
    async with greeting(tmp_path) as (url, believing):
        async with connect(url, token="t", bot_id="b", sse=sse, ssl=believing) as events:
            event = await asyncio.wait_for(anext(events), LIMIT)
            assert event.type == "connection_established"
        async with connect(url, token="t", bot_id="b", sse=sse, on_reconnecting=lost.append):
            await eventually(lambda: lost)
            assert "CERTIFICATE_VERIFY_FAILED" in lost[0].reason


@pytest.mark.gen_test
async def test_a_shared_connection_uses_it_too(tmp_path: Path) -> None:
    """For all of its clients."""
    async with (
        greeting(tmp_path) as (url, believing),
        SharedConnection(url, token="t", ssl=believing) as shared,
    ):
        await eventually(lambda: shared.state == "open")
