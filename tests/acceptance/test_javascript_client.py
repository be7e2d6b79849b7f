"""realtime.js, run in a real browser against a clock and sockets that obey the test.

The scenarios are JavaScript, in javascript/scenarios.js: one promise of the client each, in a world
of its own. Their page is answered from the files here, so that no server and no port is needed.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from realtime.installation import JAVASCRIPT_CLIENT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route, WebSocketRoute

pytestmark = pytest.mark.browser

HERE = Path(__file__).parent / "javascript"
ORIGIN = "http://client.test"
FOLDERS = {"static": JAVASCRIPT_CLIENT, "javascript": HERE}
NAMES = re.findall(
    r"^scenario\(\s*'(.+)',", (HERE / "scenarios.js").read_text("utf-8"), re.MULTILINE
)


def serve_file(route: "Route") -> None:
    """Answer a request of the page from the folder that its path names."""
    _, folder, name = route.request.url.removeprefix(ORIGIN).split("/", 2)
    route.fulfill(path=FOLDERS[folder] / name)


def play_server(socket: "WebSocketRoute") -> None:
    """The least server that a client can talk to: it greets, says one thing, and answers pings."""

    def answer(text: str | bytes) -> None:
        timestamp = json.loads(text)["timestamp"]
        say(socket, {"type": "pong", "timestamp": timestamp})
        say(socket, {"type": "chat_message", "id": "1", "data": {"content": "hello"}})

    socket.on_message(answer)
    say(socket, {"type": "connection_established", "data": {"bot_name": "Ada", "cursor": "c"}})


def say(socket: "WebSocketRoute", message: dict[str, Any]) -> None:
    socket.send(json.dumps(message))


@pytest.fixture(scope="module")
def harness(browser: "Browser") -> "Page":
    """The page in which the scenarios are loaded."""
    page = browser.new_page()
    page.route(f"{ORIGIN}/**", serve_file)
    page.route_web_socket("**/api/ws/**", play_server)
    page.goto(f"{ORIGIN}/javascript/harness.html")
    return page


def test_scenarios_are_found() -> None:
    """The names are read out of the JavaScript, and a change of its form must not lose them."""
    assert len(NAMES) == (HERE / "scenarios.js").read_text("utf-8").count("\nscenario(") > 30


@pytest.mark.parametrize("name", NAMES)
def test_client(harness: "Page", name: str) -> None:
    """The client keeps the promise that the scenario's name tells."""
    harness.evaluate("(name) => window.runScenario(name)", name)
