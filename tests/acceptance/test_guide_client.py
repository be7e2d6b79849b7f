"""The platform's usage guide, taken at its word: its example client and its examples of messages.

guide/chat_websocket.js is the example as client authors have it; only the address in it is replaced
when it is run, in a real browser on a page of an allowed origin.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import async_playwright
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from tests.acceptance.console import ARGUMENTS
from tests.conftest import CHROMIUM
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Playwright

pytestmark = pytest.mark.gen_test

EXAMPLE = (Path(__file__).parent / "guide" / "chat_websocket.js").read_text("utf-8")
HEARTBEAT = 30_000
# What an application does with the example: a client of its own, and its handlers. The messages and
# the codes of closes are noted on their way into it.
APPLICATION = """
([botId, token]) => {
  window.seen = { types: [], events: {}, closes: [] };
  window.client = new ChatWebSocket(botId, token);
  const handle = client.handleMessage.bind(client);
  client.handleMessage = (message) => { seen.types.push(message.type); handle(message); };
  for (const name of ['ChatMessage', 'TypingIndicator', 'PermissionChange', 'BotUpdate',
                      'DocumentUpdate']) {
    client[`on${name}`] = (data) => { seen.events[name] = data; };
  }
  client.connect();
  client.ws.addEventListener('close', ({ code, wasClean }) => seen.closes.push([code, wasClean]));
}
"""


class BlankPage(RequestHandler):
    def get(self) -> None:
        self.finish("<!doctype html><title>An application</title><link rel=icon href=data:,>")


@pytest.fixture
def origin(io_loop: IOLoop) -> Iterator[str]:
    """Where the application's page is served: not from the relay."""
    pages = HTTPServer(Application([("/", BlankPage)], log_function=lambda _: None))
    listening, port = bind_unused_port()
    pages.add_socket(listening)
    yield f"http://127.0.0.1:{port}"
    pages.stop()
    io_loop.run_sync(pages.close_all_connections)


@pytest.fixture
def server(io_loop: IOLoop, start_server: StartServer, origin: str) -> RunningServer:
    async def start() -> RunningServer:
        return await start_server(ALLOWED_ORIGINS=origin)

    running: RunningServer = io_loop.run_sync(start, timeout=LIMIT)
    return running


class Visitor:
    """A blank page, the guide's example in it, and what that wrote to the console."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lines: list[str] = []
        self.playwright: Playwright
        self.browser: Browser
        self.page: Page

    async def start(self) -> None:
        self.playwright = await async_playwright().start()
        self.browser = await self.playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS
        )
        self.page = await self.browser.new_page()
        self.page.on("console", lambda message: self.lines.append(message.text))
        await self.page.goto(self.origin)
        # The example waits by timers alone; the test's clock makes them due.
        await self.page.clock.install()

    async def stop(self) -> None:
        await self.browser.close()
        await self.playwright.stop()

    async def load_example(self, server: RunningServer) -> None:
        """Run the example as it stands, down to the lines that show its use."""
        assert EXAMPLE.count("localhost:8000") == 1
        script = EXAMPLE.replace("localhost:8000", server.base)
        await self.page.add_script_tag(content=script)

    async def types(self) -> list[str]:
        """The types of the messages that have arrived, in order."""
        found: list[str] = await self.page.evaluate("seen.types")
        return found

    async def receives(self, message_type: str) -> None:
        async def has_come() -> bool:
            return message_type in await self.types()

        await eventually(has_come, what=f"{message_type} in the browser")

    async def event(self, name: str) -> dict[str, Any]:
        """Wait for what the handler of that name was last called with."""

        async def data() -> dict[str, Any] | None:
            found: dict[str, Any] | None = await self.page.evaluate("(n) => seen.events[n]", name)
            return found

        found = await eventually(data, what=f"on{name} to be called")
        assert found
        return found

    async def says(self, line: str) -> None:
        """Wait until the example has written the line to the console."""
        await eventually(lambda: line in self.lines, what=f"{line!r}; so far: {self.lines}")


@pytest.fixture
def visitor(io_loop: IOLoop, origin: str) -> Iterator[Visitor]:
    visitor = Visitor(origin)
    io_loop.run_sync(visitor.start, timeout=LIMIT)
    yield visitor
    io_loop.run_sync(visitor.stop, timeout=LIMIT)


@pytest.fixture
def client(io_loop: IOLoop, visitor: Visitor, server: RunningServer, world: World) -> Visitor:
    """The example, connected as somebody who may watch the bot."""

    async def connect() -> None:
        await visitor.load_example(server)
        await visitor.page.evaluate(APPLICATION, [world.bot, token(world.guest)])
        await visitor.says("WebSocket connected")
        await visitor.says("Connected to bot: Ada")

    io_loop.run_sync(connect, timeout=LIMIT)
    return visitor


@pytest.mark.browser
async def test_the_example_hears_of_every_row(
    client: Visitor, platform: Platform, world: World
) -> None:
    """Each case of its handleMessage that SQL makes reaches its handler, as the guide shows."""
    message_id = await platform.message(world.session, world.bot, world.owner, "Hello world!")
    newcomer = await platform.user("nina")
    await platform.permit(world.bot, newcomer, "editor")
    await platform.execute("UPDATE bots SET name = 'New Bot Name' WHERE id = $1", world.bot)
    await platform.execute(
        "INSERT INTO documents (bot_id, uploaded_by, filename) VALUES ($1, $2, 'document.pdf')",
        world.bot,
        world.owner,
    )
    message = await client.event("ChatMessage")
    assert (message["message_id"], message["username"]) == (message_id, "olga")
    assert (message["content"], message["metadata"]) == ("Hello world!", {})
    change = await client.event("PermissionChange")
    assert (change["target_user_id"], change["action"]) == (newcomer, "granted")
    assert change["details"]["role"] == "editor"
    update = await client.event("BotUpdate")
    assert (update["update_type"], update["details"]) == ("config", {"name": "New Bot Name"})
    document = await client.event("DocumentUpdate")
    assert (document["action"], document["user_id"]) == ("uploaded", world.owner)
    assert document["document"]["filename"] == "document.pdf"
    assert await client.types() == [
        "connection_established",
        "chat_message",
        "permission_change",
        "bot_update",
        "document_update",
    ]


@pytest.mark.browser
async def test_the_example_types_and_sees_typing(
    client: Visitor, server: RunningServer, world: World
) -> None:
    """What it sends is shown to another, and another's to it; its own never comes back."""
    owner = await server.chat(world.bot, world.owner)
    await client.page.evaluate("client.sendTypingIndicator(true)")
    shown = await owner.next("typing_indicator")
    assert shown["data"] == {"user_id": world.guest, "username": "gus", "is_typing": True}
    await client.page.evaluate("client.sendTypingIndicator(false)")
    assert (await owner.next("typing_indicator", 2))["data"]["is_typing"] is False
    await owner.send({"type": "typing", "data": {"is_typing": True}})
    seen = await client.event("TypingIndicator")
    assert seen == {"user_id": world.owner, "username": "olga", "is_typing": True}
    assert (await client.types()).count("typing_indicator") == 1


@pytest.mark.browser
async def test_the_example_is_answered_with_pong_and_error(client: Visitor) -> None:
    """Its heartbeat comes back; and an error is words for its console, the connection stays."""
    await client.page.clock.fast_forward(HEARTBEAT)
    await client.receives("pong")
    await client.page.evaluate("client.ws.send('not JSON')")
    await client.says("WebSocket error: the message is not valid JSON")
    await client.page.clock.fast_forward(HEARTBEAT)

    async def pongs() -> bool:
        return (await client.types()).count("pong") == 2

    await eventually(pongs)


@pytest.mark.browser
async def test_the_example_disconnects(
    client: Visitor, server: RunningServer, world: World
) -> None:
    """A close without a code, as its `ws.close()` sends, is answered in kind: 1005, and clean."""
    await client.page.evaluate("client.disconnect()")
    await eventually(lambda: server.server.hub.subscribers.count_of(world.guest) == 0)

    async def closes() -> list[list[object]]:
        found: list[list[object]] = await client.page.evaluate("seen.closes")
        return found

    assert await eventually(closes) == [[1005, True]]


@pytest.mark.browser
async def test_the_example_comes_back_and_is_served_as_before(
    client: Visitor, server: RunningServer, platform: Platform, world: World
) -> None:
    """It knows no cursors: after a close it opens a new connection and is sent what is live."""
    await platform.execute("SELECT relay.eject($1::uuid, NULL)", world.guest)
    await client.says("WebSocket closed: 1013 access changed and is still given: connect again")
    await client.page.clock.fast_forward(2_000)
    await eventually(lambda: server.server.hub.subscribers.count_of(world.guest) == 1)
    await platform.message(world.session, world.bot, world.owner, "again")
    assert (await client.event("ChatMessage"))["content"] == "again"


@pytest.mark.browser
async def test_the_lines_that_show_its_use_are_refused_politely(
    visitor: Visitor, server: RunningServer
) -> None:
    """They name no bot and no token: 4001 in the page's own hands, each time that they try."""
    await visitor.load_example(server)
    for delay in (2_000, 2_000):
        visitor.lines.clear()
        await visitor.page.clock.fast_forward(delay)
        await visitor.says("WebSocket closed: 4001 token invalid")


def has_shape(example: Any, actual: Any) -> bool:
    """Whether every field of the example is there, with a value of the same JSON type."""
    if isinstance(example, dict):
        return isinstance(actual, dict) and all(
            name in actual and has_shape(value, actual[name]) for name, value in example.items()
        )
    return type(example) is type(actual)


async def test_the_notifications_examples_hold(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Each message of the guide's notifications endpoint arrives with all that it shows."""
    bell = await server.notifications(world.guest)
    await platform.permit(await platform.bot(world.owner), world.guest, "editor")
    notice = await bell.next("notification")
    await bell.send({"type": "ping", "timestamp": "2023-01-01T00:00:00Z"})
    established = {
        "type": "connection_established",
        "data": {
            "user_id": "uuid",
            "connection_id": "uuid",
            "connection_type": "notifications",
        },
    }
    notification = {
        "type": "notification",
        "notification_type": "permission_change",
        "data": {"bot_id": "uuid", "action": "granted", "details": {"role": "editor"}},
        "timestamp": "2023-01-01T00:00:00Z",
    }
    assert has_shape(established, bell.messages[0])
    assert bell.messages[0]["data"]["connection_type"] == "notifications"
    assert has_shape(notification, notice)
    assert notice["notification_type"] == "permission_change"
    assert (notice["data"]["action"], notice["data"]["details"]["role"]) == ("granted", "editor")
    pong = await bell.next("pong")
    assert pong["timestamp"] == "2023-01-01T00:00:00Z"
