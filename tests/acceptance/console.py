"""The console page in a real browser, for the tests of it; the fixtures are in `conftest`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from playwright.async_api import async_playwright, expect

from tests.conftest import CHROMIUM
from tests.platform import Platform
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from playwright.async_api import Browser, ConsoleMessage, Page, Playwright

ARGUMENTS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
MILLISECONDS = 1000 * LIMIT
"""What Playwright waits for anything."""
expect.set_options(timeout=MILLISECONDS)

OpenConsole = Callable[..., Awaitable["Page"]]


class Chromium:
    """A browser on the test's own event loop, and what its pages complained about."""

    def __init__(self) -> None:
        self.playwright: Playwright
        self.browser: Browser
        self.complaints: list[str] = []

    async def start(self, **options: Any) -> None:
        """Options are those of playwright's `launch`."""
        self.playwright = await async_playwright().start()
        self.browser = await self.playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, **options
        )

    async def stop(self) -> None:
        await self.browser.close()
        await self.playwright.stop()

    async def page(self, **options: Any) -> Page:
        """A page of a person of its own: nothing is shared with other pages."""
        page = await self.browser.new_page(**options)
        page.set_default_timeout(MILLISECONDS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


async def sees(page: Page, selector: str, text: str | re.Pattern[str]) -> None:
    """Wait until one element that matches shows the text."""
    await expect(page.locator(selector).filter(has_text=text).first).to_be_visible()


async def run_as_psql_would(platform: Platform, sql: str) -> None:
    """Statement by statement, each its own transaction; its pauses are for people only."""
    hurried = re.sub(r"pg_sleep\([\d.]+\)", "pg_sleep(0)", sql)
    statements = [hurried] if hurried.startswith("DO") else hurried.split(";\n")
    for statement in statements:
        await platform.execute(statement)
