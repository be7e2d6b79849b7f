"""The browsers of the acceptance tests: one for the JavaScript clients, one for the console."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect
from tornado.ioloop import IOLoop

from realtime.config.settings import Settings
from realtime.dev.command import SERVICE_ROLE
from realtime.dev.platform import DemoTables
from tests.acceptance.console import ARGUMENTS, DESKTOP, MILLISECONDS, Chromium, OpenConsole, sees
from tests.conftest import CHROMIUM
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from playwright.async_api import Page
    from playwright.sync_api import Browser, BrowserContext


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A Chromium for one module: playwright's loop must not be running when other modules' do."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def browser_context(browser: "Browser") -> Iterator["BrowserContext"]:
    """A person's browsing of its own: no storage shared, every page closed at the end."""
    browser_context = browser.new_context(viewport={"width": 1440, "height": 900})
    browser_context.set_default_timeout(MILLISECONDS)
    yield browser_context
    browser_context.close()


@pytest.fixture
def console_server(io_loop: IOLoop, start_server: StartServer) -> RunningServer:
    """A server that serves the console."""

    async def start() -> RunningServer:
        return await start_server(CONSOLE="true")

    running: RunningServer = io_loop.run_sync(start, timeout=LIMIT)
    return running


@pytest.fixture
def demo_server(io_loop: IOLoop, start_server: StartServer, platform: Platform) -> RunningServer:
    """A server with the console, the demo's API, and a role to run SQL as, as `bin/dev` has."""

    def demo(settings: Settings) -> DemoTables:
        dsn = settings.database_url.get_secret_value()
        return DemoTables(settings, dsn.replace("//postgres@", "//demo_service@", 1))

    async def start() -> RunningServer:
        await platform.execute(SERVICE_ROLE.read_text("utf-8"))
        return await start_server(CONSOLE="true", demo=demo)

    running: RunningServer = io_loop.run_sync(start, timeout=LIMIT)
    return running


@pytest.fixture
def chromium(io_loop: IOLoop, console_server: RunningServer) -> Iterator[Chromium]:
    """Fails the test when a page complained: of its own errors, or of what its policy forbade.

    It goes before the server does, or pages would complain of that.
    """
    chromium = Chromium()
    io_loop.run_sync(chromium.start, timeout=LIMIT)
    yield chromium
    io_loop.run_sync(chromium.stop, timeout=LIMIT)
    assert chromium.complaints == []


@pytest.fixture
def open_console(console_server: RunningServer, chromium: Chromium, world: World) -> OpenConsole:
    """Opens the console as one of the people, and waits until it is live.

    Options: is_admin, and those of a page in playwright, such as viewport.
    """

    async def open_console(user_id: str, *, is_admin: bool = False, **options: Any) -> "Page":
        page = await chromium.page(**{"viewport": DESKTOP, **options})
        signed = token(user_id, is_admin=is_admin)
        await page.goto(console_server.url("/", bot=world.bot, token=signed))
        await sees(page, "#state-word", "Live")
        # On a socket of its own; a phone does not show it.
        await expect(page.locator("#notifications-state")).to_have_text("live")
        return page

    return open_console
