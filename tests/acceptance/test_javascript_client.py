"""The JavaScript client, run in a real browser against a clock and sockets that obey the test.

The scenarios are JavaScript, in javascript/scenarios.js, bot_chat.js and message_list.js: one
promise of the client each, in a world of its own. Their page is answered from the files here, so
that no server and no port is needed.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from realtime.installation import JAVASCRIPT_CLIENT
from tests.commands import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route, WebSocketRoute

pytestmark = pytest.mark.browser

HERE = Path(__file__).parent / "javascript"
ORIGIN = "http://client.test"
FOLDERS = {"static": JAVASCRIPT_CLIENT, "javascript": HERE}
FILES = ("scenarios.js", "bot_chat.js", "message_list.js")
SOURCES = [(HERE / name).read_text("utf-8") for name in FILES]
NAMES = [
    name
    for source in SOURCES
    for name in re.findall(r"^scenario\(\s*'(.+)',", source, re.MULTILINE)
]

OUR_RULES = """async () => {
    const rules = await import('/static/client/rules.js');
    return { ...rules, final: [...rules.FINAL_CODES], unknown: rules.meaningOf('{code}') };
}"""
NUMBERS = {
    "ping_spread": "PING_SPREAD",
    "patience_factor": "PATIENCE_FACTOR",
    "most_patience": "MOST_PATIENCE",
    "attempts_after_rate_limit": "ATTEMPT_AFTER_RATE_LIMIT",
    "max_token_refusals": "MOST_REFUSALS",
    "other_user_reason": "OTHER_USER",
    "max_cursor_characters": "LONGEST_CURSOR",
    "max_retry_after_seconds": "MOST_RETRY_AFTER_SECONDS",
}


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


def test_the_rules_are_those_of_both_clients(harness: "Page") -> None:
    """What clients/rules.json says, under the names of JavaScript."""
    given = json.loads((ROOT / "clients" / "rules.json").read_text("utf-8"))
    ours = harness.evaluate(OUR_RULES)
    codes = given["close_codes"]
    assert ours["CLOSE_CODES"] == {code: rule["meaning"] for code, rule in codes.items()}
    assert sorted(ours["final"]) == [
        int(code) for code, rule in codes.items() if rule["then"] == "stop"
    ]
    timings = {**given["timings"], "remember_ids": given["remember_ids"]}
    assert ours["TIMINGS"] == {camel(name): value for name, value in timings.items()}
    assert ours["unknown"] == given["any_other_code"]["meaning"]
    for name, value in NUMBERS.items():
        assert ours[value] == given[name], name


def camel(name: str) -> str:
    return re.sub(r"_(.)", lambda found: found[1].upper(), name)


def test_scenarios_are_found() -> None:
    """The names are read out of the JavaScript, and a change of its form must not lose them."""
    assert len(NAMES) == sum(source.count("\nscenario(") for source in SOURCES) > 60


@pytest.mark.parametrize("name", NAMES)
def test_client(harness: "Page", name: str) -> None:
    """The client keeps the promise that the scenario's name tells."""
    harness.evaluate("(name) => window.runScenario(name)", name)


def test_a_policy_that_forbids_the_connection_is_told_and_ends_the_client(
    browser: "Browser",
) -> None:
    """Browsers tell the socket nothing of it; the client must not try for ever."""
    page = browser.new_page()
    page.route(f"{ORIGIN}/**", serve_file)
    page.goto(f"{ORIGIN}/javascript/policy.html")
    ended = page.wait_for_function("window.ended").json_value()
    meaning = ended.pop("meaning")
    assert ended == {"state": "closed", "final": True, "failure": "blocked"}
    assert "Content-Security-Policy" in meaning
