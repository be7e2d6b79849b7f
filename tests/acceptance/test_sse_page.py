"""What docs/clients.md says of events over HTTP, executed: by Chromium, and a shell with curl."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.console import Chromium
from tests.acceptance.test_clients_page import block_of_the_page
from tests.commands import ROOT, Running, environment, free_port, running, status_of
from tests.platform import Platform
from tests.serving import SECRET, World, token
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from playwright.async_api import Page

FOLLOW = "Last-Event-ID: $("
"""What only the script has that goes on."""


class MortalServer:
    """A server in a process of its own, which is killed and started again at the same port."""

    def __init__(self, database: str) -> None:
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        self._environ = environment(DATABASE_URL=database, PORT=str(port), JWT_SECRET=SECRET)

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """From its start to `kill -9`."""
        with running([str(ROOT / "bin" / "serve")], cwd="/", env=self._environ) as process:
            await eventually(self._is_ready)
            yield
            os.killpg(process.process.pid, signal.SIGKILL)
            process.process.wait(LIMIT)

    async def _is_ready(self) -> bool:
        return await asyncio.to_thread(status_of, f"{self.base}/api/ready") == 200


@contextmanager
def shell(script: str, server: MortalServer, world: World) -> Iterator[Running]:
    """A script of the page."""
    given = {"TOKEN": token(world.guest), "SERVER": server.base, "BOT_ID": world.bot}
    with running(["sh", "-c", script], env=os.environ | given) as process:
        yield process


def printed(process: Running) -> list[str]:
    """The contents of the messages that the script has printed."""
    lines = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    return [one["data"]["content"] for one in lines if one["type"] == "chat_message"]


async def open_page(chromium: Chromium, server: MortalServer, world: World) -> Page:
    """A page of the server's origin that runs the code of docs/clients.md."""
    page = await chromium.page()
    await page.goto(f"{server.base}/api/health")
    tokens = json.dumps([token(world.guest, ttl=ttl) for ttl in (3, 600)])
    names = f"const botId = '{world.bot}', server = '{server.base}', tokens = {tokens};"
    surroundings = """
        window.handled = []; window.fetched = 0;
        Math.random = () => 0;
        const down = () => { throw new Error('the issuer is down'); };
        const [old, fresh] = tokens;
        const answers = [() => old, down, () => old, () => fresh];
        const getToken = async () => (answers.length > 1 ? answers.shift() : answers[0])();
        const fetchState = () => { window.fetched += 1; };
        const handle = (message) => {
          if (message.type === 'chat_message') handled.push(message.data.content);
        };
        const Native = window.EventSource;
        window.sources = [];
        window.EventSource = class extends Native {
          constructor(url) { super(url); sources.push(this); }
        };
    """
    code = block_of_the_page("new EventSource", "js")
    await page.evaluate(f"async () => {{ {names} {surroundings} {code} }}")
    return page


async def open_sources(page: Page) -> int:
    """How many streams the page has that are open or will be again."""
    return int(await page.evaluate("sources.filter((one) => one.readyState !== 2).length"))


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.gen_test
async def test_the_code_of_the_page_goes_on_over_a_killed_server(
    database: str, platform: Platform, world: World
) -> None:
    """Without a gap, each message once, over the end of a token; until access is over."""
    server, chromium = MortalServer(database), Chromium()
    contents = ["1", "2", "3", "4", "5"]
    await chromium.start()
    try:
        with shell(block_of_the_page(FOLLOW, "sh"), server, world) as follower:

            def everywhere(count: int) -> Callable[[], object]:
                async def are_there() -> bool:
                    shown = await page.evaluate("handled")
                    is_printed = printed(follower) == contents[:count]
                    return bool(is_printed and shown == contents[:count])

                return are_there

            async def say(text: str) -> None:
                await platform.message(world.session, world.bot, world.owner, text)

            async with server.life():
                page = await open_page(chromium, server, world)
                await eventually(lambda: "connection_established" in follower.output)
                await page.wait_for_function("fetched === 1")
                await say("1")
                await eventually(everywhere(1))
                # The first token had three seconds.
                await page.wait_for_function("sources.length === 2")
                await say("2")
                await eventually(everywhere(2))
            await say("3")
            await say("4")
            async with server.life():
                await eventually(everywhere(4))
                await say("5")
                await eventually(everywhere(5))
                assert await open_sources(page) == 1
                assert await page.evaluate("[fetched, sources.length]") == [1, 2]
                await platform.revoke(world.bot, world.guest)
                await say("not for the guest")
                await page.wait_for_function("sources.every((one) => one.readyState === 2)")
                await eventually(lambda: follower.process.poll() is not None)
                assert follower.process.returncode == 1
                assert await everywhere(5)()
    finally:
        await chromium.stop()
