"""docs/clients.md: the API loads the state with a cursor, and the clients connect with that cursor.

The page's own code, against a real database and server. While the API's answer is on its way, more
is written, and a transaction that was open during the load is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tornado.ioloop import IOLoop

from rowcast import RealtimeClient, connect
from tests.acceptance.console import Chromium
from tests.acceptance.test_clients_page import PAGE, block_of_the_page
from tests.platform import Platform
from tests.serving import RunningServer, World, token
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from playwright.async_api import Page, Route

EXPECTED = ["before", "while loading", "after the load", "live"]
NO_CURSOR = """CREATE OR REPLACE FUNCTION relay.cursor(topic text) RETURNS text
    LANGUAGE sql STABLE AS 'SELECT NULL::text'"""
FORGET = {
    "foreign": "DELETE FROM relay.events WHERE payload LIKE '%before%'",
    "too_old": "UPDATE relay.floor SET snapshot = pg_current_snapshot(),"
    " last = (SELECT xid FROM relay.events ORDER BY xid DESC LIMIT 1)",
}


class Api:
    """The platform's API, and what happens while its first answer is on its way."""

    def __init__(self, http: httpx.AsyncClient, world: World, writer: Platform, slow: Platform):
        self._http = http
        self._world = world
        self._writer = writer
        self._slow = slow
        self.loads = 0
        self._refusal: tuple[str, RunningServer] | None = None

    def is_to_be_refused(self, reason: str, server: RunningServer) -> None:
        """The first answer's cursor does not hold any more when the client has it."""
        self._refusal = reason, server

    async def say(self, text: str) -> None:
        world = self._world
        await self._writer.message(world.session, world.bot, world.owner, text)

    async def begin(self) -> None:
        """Write what is there at the load, and what is not committed yet."""
        world = self._world
        await self.say("before")
        await self._slow.execute("BEGIN")
        await self._slow.message(world.session, world.bot, world.owner, "while loading")

    async def load(self, bot_id: str) -> dict[str, Any]:
        answer = await self._http.get(f"/api/bots/{bot_id}/messages")
        answer.raise_for_status()
        self.loads += 1
        if self.loads == 1:
            await self.say("after the load")
            await self._slow.execute("COMMIT")
            if self._refusal is not None:
                await self._forget(*self._refusal)
        return dict(answer.json())

    async def _forget(self, reason: str, server: RunningServer) -> None:
        """Once the server is past it, so that only the client is concerned."""
        newest = await self._writer.connection.fetchval(
            "SELECT xid::text::bigint FROM relay.events ORDER BY xid DESC LIMIT 1"
        )

        def is_past() -> bool:
            cursor = server.server.hub.position.cursor
            return cursor.last >= newest and not cursor.open

        await eventually(is_past)
        await self._writer.execute(FORGET[reason])


@pytest.fixture
def api(
    io_loop: IOLoop,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    platform: Platform,
    world: World,
) -> Iterator[Api]:
    """The page's application, asked without a port."""
    monkeypatch.setenv("DATABASE_URL", database)
    names: dict[str, Any] = {}
    exec(compile(block_of_the_page("FastAPI("), str(PAGE), "exec"), names)
    app = names["app"]
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api.test")
    stack = AsyncExitStack()

    async def start() -> Api:
        await stack.enter_async_context(app.router.lifespan_context(app))
        await stack.enter_async_context(http)
        slow = await Platform.connect(database)
        stack.push_async_callback(slow.connection.close, timeout=LIMIT)
        api = Api(http, world, platform, slow)
        await api.begin()
        return api

    yield io_loop.run_sync(start, timeout=LIMIT)
    io_loop.run_sync(stack.aclose, timeout=LIMIT)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Until the test has seen enough; raises what the work raised."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Screen:
    """What the page leaves to the application: `show` and `add`, and what they were given."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.messages: dict[str, str] = {}

    def show(self, messages: list[dict[str, Any]]) -> None:
        for one in messages:
            self.add(one)

    def add(self, message: dict[str, Any]) -> None:
        self.given.append(message["content"])
        self.messages[message["message_id"]] = message["content"]


def following(server: RunningServer, world: World, api: Api, screen: Screen) -> Any:
    """The page's `load_then_stream`, as the world's guest."""
    names: dict[str, Any] = {
        "connect": connect,
        "server": f"http://{server.base}",
        "token": token(world.guest),
        "load": api.load,
        "show": screen.show,
        "add": screen.add,
    }
    exec(compile(block_of_the_page("def load_then_stream("), str(PAGE), "exec"), names)
    return names["load_then_stream"](world.bot)


@pytest.mark.gen_test
async def test_python_sees_each_message_once(
    server: RunningServer,
    world: World,
    api: Api,
) -> None:
    """Loaded or sent, never both: also what was committed between the two."""
    screen = Screen()
    async with running(following(server, world, api, screen)):
        await eventually(lambda: len(screen.given) >= 3, what=f"{screen.given}")
        await api.say("live")
        await eventually(lambda: "live" in screen.given)
        assert sorted(screen.given) == sorted(EXPECTED)
        assert screen.given[0] == "before"
        assert api.loads == 1


@pytest.mark.gen_test
async def test_the_api_says_who_wrote_a_message_and_when(world: World, api: Api) -> None:
    """Under the names of an event's members: a page shows both in one way."""
    first = (await api.load(world.bot))["messages"][0]
    assert (first["content"], first["user_id"]) == ("before", world.owner)
    assert first["username"]
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None


@pytest.mark.parametrize("reason", ["foreign", "too_old", None])
@pytest.mark.gen_test
async def test_python_loads_again_where_the_cursor_does_not_hold(
    server: RunningServer, platform: Platform, world: World, api: Api, reason: str | None
) -> None:
    """Refused at the first connection, or none was given: after it the state is loaded again."""
    screen = Screen()
    if reason is None:
        await platform.execute(NO_CURSOR)
    else:
        api.is_to_be_refused(reason, server)
    async with running(following(server, world, api, screen)):
        await eventually(lambda: len(screen.messages) == 3)
        await api.say("live")
        await eventually(lambda: "live" in screen.given)
    assert sorted(screen.messages.values()) == sorted(EXPECTED)
    assert screen.given.count("live") == 1
    assert api.loads == 2


@pytest.mark.parametrize("reason", ["foreign", "too_old"])
@pytest.mark.gen_test
async def test_python_tells_why_a_first_cursor_was_refused(
    server: RunningServer, world: World, api: Api, reason: str
) -> None:
    """The `resync` comes before all else."""
    api.is_to_be_refused(reason, server)
    cursor = (await api.load(world.bot))["cursor"]
    client: RealtimeClient = connect(
        f"http://{server.base}", token=token(world.guest), bot_id=world.bot, cursor=cursor
    )
    async with client as events:
        first, second = await anext(events), await anext(events)
    assert (first.type, first.data) == ("resync", {"reason": reason})
    assert (second.type, second.data["recovered"]) == ("connection_established", False)


SURROUNDINGS = """
window.given = [];
window.messages = {};
window.add = (message) => {
  given.push(message.content);
  messages[message.message_id] = message.content;
};
window.show = (all) => all.forEach(add);
"""


async def open_page(chromium: Chromium, server: RunningServer, world: World, api: Api) -> Page:
    """The console's page, with the code of docs/clients.md in place of its own."""

    async def nothing(route: Route) -> None:
        await route.fulfill(body="", content_type="text/javascript")

    async def answer(route: Route) -> None:
        assert route.request.url.endswith(f"/api/bots/{world.bot}/messages")
        await route.fulfill(json=await api.load(world.bot))

    page = await chromium.page(bypass_csp=True)
    await page.route("**/static/console.js", nothing)
    await page.route("**/api/bots/**", answer)
    await page.add_init_script(SURROUNDINGS)
    await page.goto(server.url("/"))
    known = f"window.botId = '{world.bot}'; window.token = '{token(world.guest)}';"
    await page.evaluate(known)
    await page.add_script_tag(type="module", content=block_of_the_page("import { connect }", "js"))
    return page


@pytest.mark.browser
@pytest.mark.gen_test
async def test_a_browser_sees_each_message_once(
    console_server: RunningServer, chromium: Chromium, world: World, api: Api
) -> None:
    """As with the Python client."""
    page = await open_page(chromium, console_server, world, api)
    await page.wait_for_function("given.length >= 3")
    await api.say("live")
    await page.wait_for_function("given.includes('live')")
    given = await page.evaluate("given")
    assert sorted(given) == sorted(EXPECTED)
    assert given[0] == "before"
    assert api.loads == 1


@pytest.mark.browser
@pytest.mark.parametrize("reason", ["foreign", "too_old", None])
@pytest.mark.gen_test
async def test_a_browser_loads_again_where_the_cursor_does_not_hold(
    console_server: RunningServer,
    chromium: Chromium,
    platform: Platform,
    world: World,
    api: Api,
    reason: str | None,
) -> None:
    """As with the Python client."""
    if reason is None:
        await platform.execute(NO_CURSOR)
    else:
        api.is_to_be_refused(reason, console_server)
    page = await open_page(chromium, console_server, world, api)
    await page.wait_for_function("Object.keys(messages).length === 3")
    await api.say("live")
    await page.wait_for_function("given.includes('live')")
    assert sorted((await page.evaluate("messages")).values()) == sorted(EXPECTED)
    assert (await page.evaluate("given")).count("live") == 1
    assert api.loads == 2
