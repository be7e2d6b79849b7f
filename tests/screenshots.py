"""Takes the pictures of the console in docs/images: `python -m tests.screenshots [DIRECTORY]`.

On a database of its own, with several processes, people who talk (`bin/dev --simulate`) and people
who listen. Look at every picture before it is committed.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from playwright.async_api import async_playwright, expect

from realtime.auth.tokens import mint_token
from realtime.dev.demo import BOT_ID, PEOPLE
from realtime.embedded.server import EmbeddedPostgres
from tests.acceptance.console import ARGUMENTS, PHONE
from tests.clients import Socket
from tests.commands import ROOT, SECRET, environment, free_port, running
from tests.conftest import CHROMIUM

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 300_000
DESKTOP = {"width": 1280, "height": 800}
LANDSCAPE = {"width": 740, "height": 360}
MORE_PROCESSES = 2
"""Beside that of `bin/dev`."""
DEV = """
import sys
from pathlib import Path
from realtime import installation
installation.DATA = Path(sys.argv[1])
from realtime.cli.commands import main
main(["dev", "--simulate"])
"""
"""`bin/dev --simulate` with its data elsewhere."""
LISTENERS = 36
FILLED_SECONDS = 125
"""Until the charts are full."""


@dataclass(frozen=True)
class Stage:
    """Where the console is served, and from which database."""

    dsn: str
    port: int
    ports: tuple[int, ...]
    """Of all processes."""

    def console(self, name: str) -> str:
        return f"http://localhost:{self.port}/?bot={BOT_ID}&token={token(PEOPLE[name])}"

    def chat(self, user_id: str) -> str:
        host = f"ws://localhost:{random.choice(self.ports)}"
        return f"{host}/api/ws/chat/{BOT_ID}?presence=true&token={token(user_id)}"


def token(user_id: str) -> str:
    return mint_token(SECRET, user_id, ttl=8 * 3600, now=time.time(), is_admin=True)


@contextmanager
def stage() -> Iterator[Stage]:
    """The demo with people who talk, and more processes beside it; all is gone afterwards."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="realtime-pictures-")))
        home.chmod(0o711)
        port, *others = (free_port() for _ in range(1 + MORE_PROCESSES))
        environ = environment(JWT_SECRET=SECRET, PORT=str(port))
        command = [sys.executable, "-c", DEV, str(home)]
        dev = stack.enter_context(running(command, cwd=str(ROOT), env=environ))
        dev.wait_for("in the demo bot, too")
        dsn = EmbeddedPostgres(home / "postgres").running_dsn()
        assert dsn
        for other in others:
            environ = environment(JWT_SECRET=SECRET, DATABASE_URL=dsn, PORT=str(other))
            serve = [str(ROOT / "bin" / "serve")]
            stack.enter_context(running(serve, cwd="/", env=environ)).wait_for("database_connected")
        yield Stage(dsn, port, (port, *others))


async def people_of(dsn: str) -> list[str]:
    """Everybody with a permission on the demo bot."""
    connection = await asyncpg.connect(dsn)
    try:
        query = "SELECT user_id::text FROM permissions WHERE bot_id = $1"
        return [row[0] for row in await connection.fetch(query, BOT_ID)]
    finally:
        await connection.close()


@asynccontextmanager
async def listeners(stage: Stage) -> AsyncIterator[None]:
    """Sockets of several people, who leave at the end."""
    people = (await people_of(stage.dsn))[:4]
    users = [random.choice(people) for _ in range(LISTENERS)]
    sockets = [await Socket.open(stage.chat(user_id)) for user_id in users]
    try:
        yield
    finally:
        for socket in sockets:
            socket.close()


async def open_page(browser: Browser, address: str, **options: Any) -> Page:
    page = await browser.new_page(**options)
    await page.goto(address)
    await expect(page.locator("#state-word")).to_have_text("Live")
    return page


async def picture(page: Page, directory: Path, name: str) -> None:
    path = directory / f"console-{name}.png"
    await page.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path}: {size / 1000:.0f} kB")
    assert size <= MAX_BYTES


async def resumed(page: Page) -> None:
    """The demonstration, played to its end."""
    await page.locator("#resume summary").click()
    await page.locator("#cut").click()
    await page.locator("#resume-sql .run").click()
    await expect(page.locator("#resume-sql .run")).to_have_text("Done")
    await page.locator("#mend").click()
    await expect(page.locator("#resume-result")).to_have_text(re.compile("^10 of 10.*recovered"))
    await asyncio.sleep(0.5)  # the bubbles come in softly


async def inspected(page: Page) -> None:
    await page.locator("#show-typing_indicator").uncheck()
    await page.locator(".event[data-type=chat_message] button").last.click()
    await expect(page.locator("#inspector")).to_be_visible()


async def take(stage: Stage, browser: Browser, directory: Path) -> None:
    desktop: Any = {"viewport": DESKTOP}
    dark = {**desktop, "color_scheme": "dark"}
    phone: Any = {"viewport": PHONE, "device_scale_factor": 2}
    aside: Any = {"viewport": LANDSCAPE, "device_scale_factor": 2}
    pages = {
        "cluster": await open_page(browser, stage.console("ada"), **desktop),
        "dark": await open_page(browser, stage.console("grace"), **dark),
        "cluster-dark": await open_page(browser, stage.console("ada"), **dark),
        "phone": await open_page(browser, stage.console("ada"), **phone),
        "phone-dark": await open_page(
            browser, stage.console("grace"), **{**phone, "color_scheme": "dark"}
        ),
        "landscape": await open_page(browser, stage.console("ada"), **aside),
        "landscape-dark": await open_page(
            browser, stage.console("grace"), **{**aside, "color_scheme": "dark"}
        ),
        "phone-cluster": await open_page(browser, stage.console("ada"), **phone),
    }
    for name in ("cluster", "cluster-dark", "phone-cluster"):
        await pages[name].locator(".tabs [data-tab=cluster]").click()
    resume = await open_page(browser, stage.console("ada"), **desktop)
    await asyncio.sleep(FILLED_SECONDS)
    await resumed(resume)
    await picture(resume, directory, "resume")
    await inspected(pages["dark"])
    for name, page in pages.items():
        await page.bring_to_front()
        await picture(page, directory, name)


async def main(directory: Path) -> None:
    with stage() as made:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            async with listeners(made):
                await take(made, browser, directory)
            await browser.close()


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    where.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(where))
