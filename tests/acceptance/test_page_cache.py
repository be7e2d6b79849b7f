"""The JavaScript client in a page that the browser puts into its cache and takes out again.

The browser closes the sockets of such a page, or freezes it with them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from tests.acceptance.console import Chromium
from tests.platform import Platform
from tests.serving import RunningServer, World, token
from tests.waiting import LIMIT

FOLLOW = """async ([botId, token]) => {
    const { connect } = await import('/static/realtime.js');
    window.heard = [];
    window.cameBack = [];
    addEventListener('pageshow', ({ persisted }) => cameBack.push(persisted));
    window.chat = connect({ botId, token });
    chat.on('chat_message', ({ data }) => heard.push(data.content));
    await new Promise((resolve) => chat.once('open', resolve));
}"""


@pytest.fixture
def caching_chromium(io_loop: IOLoop) -> Iterator[Chromium]:
    """As people have it: Playwright switches the cache off."""
    chromium = Chromium()
    io_loop.run_sync(
        lambda: chromium.start(ignore_default_args=["--disable-back-forward-cache"]), timeout=LIMIT
    )
    yield chromium
    io_loop.run_sync(chromium.stop, timeout=LIMIT)


@pytest.mark.browser
@pytest.mark.gen_test
async def test_a_page_that_comes_back_goes_on_without_a_gap(
    server: RunningServer, platform: Platform, world: World, caching_chromium: Chromium
) -> None:
    """Each message once, without a reload of the page."""

    async def write(text: str) -> None:
        await platform.message(world.session, world.bot, world.owner, text)

    page = await caching_chromium.page()
    await page.goto(server.url("/static/realtime.js"))
    await page.evaluate(FOLLOW, [world.bot, token(world.guest)])
    await write("before")
    await page.wait_for_function("heard.length === 1")
    await page.goto(server.url("/api/health"))
    await write("meanwhile")
    await page.evaluate("history.back()")
    await page.wait_for_function("window.cameBack?.length === 1 && heard.length === 2")
    await write("after")
    await page.wait_for_function("heard.length === 3")
    assert await page.evaluate("[cameBack, heard]") == [[True], ["before", "meanwhile", "after"]]
