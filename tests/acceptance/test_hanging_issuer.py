"""The JavaScript client where a request for a token hangs, in a browser with its HTTP cache.

Chromium holds a request back while there is an unfinished one of the same address, for 20 seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler, StaticFileHandler

from realtime.installation import JAVASCRIPT_CLIENT
from tests.acceptance.console import Chromium
from tests.waiting import LIMIT

CONNECT = """async () => {
    const { connect } = await import('/static/realtime.js');
    class Socket {
        constructor(url, [, token]) {
            window.token = token;
        }
    }
    const getToken = async ({ signal }) => (await fetch('/token', { signal })).text();
    const timings = { connectWithin: 500 }; // the usual limit is shorter than the browser's, too
    connect({ botId: 'bot', getToken, WebSocket: Socket, random: () => 1, timings });
}"""


class Issuer:
    """Answers no question but the second."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        ours = {"issuer": self}
        files = {"path": JAVASCRIPT_CLIENT}
        routes = [("/token", TokenHandler, ours), (r"/static/(.*)", StaticFileHandler, files)]
        sock, port = bind_unused_port()
        self.url = f"http://127.0.0.1:{port}"
        self._server = HTTPServer(Application(routes))
        self._server.add_socket(sock)

    async def stop(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()


class TokenHandler(RequestHandler):
    def initialize(self, issuer: Issuer) -> None:
        self._heard = issuer.heard
        self._left = asyncio.Event()

    async def get(self) -> None:
        self._heard.append("asked")
        if self._heard.count("asked") == 1:
            await self._left.wait()
        else:
            self.write("good")

    def on_connection_close(self) -> None:
        self._heard.append("left")
        self._left.set()


@pytest.fixture
def issuer(io_loop: IOLoop) -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    io_loop.run_sync(issuer.stop, timeout=LIMIT)


@pytest.fixture
def lone_chromium(io_loop: IOLoop) -> Iterator[Chromium]:
    """Without a server of Rowcast."""
    chromium = Chromium()
    io_loop.run_sync(chromium.start, timeout=LIMIT)
    yield chromium
    io_loop.run_sync(chromium.stop, timeout=LIMIT)


@pytest.mark.browser
@pytest.mark.gen_test
async def test_a_request_that_hangs_does_not_hold_back_the_next_one(
    issuer: Issuer, lone_chromium: Chromium
) -> None:
    """The client ends the first, so the second reaches the issuer, and its answer is used."""
    page = await lone_chromium.page()
    await page.goto(f"{issuer.url}/static/realtime.js")
    await page.evaluate(CONNECT)
    await page.wait_for_function("window.token === 'good'")
    assert issuer.heard == ["asked", "left", "asked"]
