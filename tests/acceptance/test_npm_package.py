"""The JavaScript client as a front-end developer has it: packed, and in a fresh Vite application.

The application is that of the package's README. Its packages come from npm; without a network these
tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler, StaticFileHandler

from tests.acceptance.console import Chromium, sees
from tests.acceptance.test_installed_client import serving
from tests.commands import ROOT, Running, free_port, running
from tests.platform import Platform
from tests.serving import World, token
from tests.unit.test_readme import code_blocks
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from playwright.async_api import Page

CLIENT = ROOT / "clients" / "javascript"
APP = Path(__file__).parent / "javascript" / "app"
FROM_ROWS = {"permission_change", "notification", "bot_update", "document_update"}
NOT_FOR_CLIENTS = {"poll_opened", "subscribe", "unsubscribe", "subscribed", "unsubscribed"}
"""Of the platform, or of the socket that several clients share."""
OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH")


def run(*command: str, cwd: Path, **more: str) -> str:
    """Run a program to its end, with these variables; returns what it prints."""
    environ = os.environ | more
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def example() -> str:
    """The application of the README."""
    (program,) = code_blocks((CLIENT / "README.md").read_text("utf-8"), "tsx")
    return program


class Project:
    """The README's application, built, and the address of the server that it is built for."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = str(free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        shutil.copytree(APP, home, dirs_exist_ok=True)
        (home / "App.tsx").write_text(example())
        (home / ".env").write_text(f"VITE_ROWCAST={self.url}\n")
        (home / "protocol.ts").write_text(examples_of_the_protocol())
        (packed,) = json.loads(run("npm", "pack", "--json", str(CLIENT), cwd=home))
        self.files = {file["path"] for file in packed["files"]}
        self._install(packed["filename"])

    def _install(self, packed: str) -> None:
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline", f"./{packed}"]
        done = subprocess.run(
            command, cwd=self.home, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode != 0 and any(code in done.stderr for code in OFFLINE):
            pytest.skip("the packages of a Vite application cannot be fetched: no network")
        assert done.returncode == 0, done.stderr


def examples_of_the_protocol() -> str:
    """Each message of the server in docs/protocol.md: a value that must have one of the types."""
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    section = page[page.index("## Server to client") : page.index("## Order")]
    blocks = [json.loads(block) for block in code_blocks(section, "json") if '"type"' in block]
    whole = {"id": "…", "timestamp": "…"}  # what the page says once for all messages of rows
    messages = [
        {**(whole if one["type"] in FROM_ROWS else {}), **one}
        for one in blocks
        if one["type"] not in NOT_FOR_CLIENTS
        and one.get("data", {}).get("connection_type") != "multi"
    ]
    assert {one["type"] for one in messages} >= FROM_ROWS
    values = json.dumps(messages, indent=1)
    return (
        f"import type {{ ServerMessage }} from 'rowcast';\n"
        f"export const messages: ServerMessage[] = {values};\n"
    )


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Project:
    if shutil.which("npm") is None:
        pytest.skip("npm is missing")
    return Project(tmp_path_factory.mktemp("app"))


def test_the_application_has_under_forty_lines() -> None:
    """So little is needed: blank lines are none of it."""
    assert len([line for line in example().splitlines() if line]) < 40


def test_it_is_type_checked(application: Project) -> None:
    """As bundlers resolve modules, as Node does and did; the protocol's messages have the types."""
    for config in ("tsconfig.json", "tsconfig.node.json", "tsconfig.node10.json"):
        run("npx", "--no-install", "tsc", "-p", config, cwd=application.home)


def test_the_package_holds_what_it_needs_alone(application: Project) -> None:
    """Its modules, types and words; it has no dependencies."""
    package = json.loads((CLIENT / "package.json").read_text("utf-8"))
    exported = {name for one in package["exports"].values() if one for name in paths(one)}
    assert {name.removeprefix("./") for name in exported} <= application.files
    assert {"README.md", "CHANGELOG.md", "LICENSE"} <= application.files
    assert "dependencies" not in package


def test_it_renders_on_a_server(application: Project) -> None:
    """Without a window, and without a connection that would keep the process."""
    assert run("node", "ssr.mjs", cwd=application.home) == "<p>connecting, 0, function</p>\n"


def paths(entry: str | dict[str, str]) -> list[str]:
    return [entry] if isinstance(entry, str) else list(entry.values())


class Api:
    """The application's own server: its files, its tokens, and its messages with a cursor.

    It is a real one: Chromium lets a page of another network connect to no loopback address.
    """

    def __init__(self, home: Path, platform: Platform, world: World) -> None:
        self._platform = platform
        self._world = world
        self.loads = 0
        self.page: Page
        ours: dict[str, Any] = {"api": self}
        files = {"path": home / "dist", "default_filename": "index.html"}
        routes: list[Any] = [
            (r"/api/token", TokenHandler, ours),
            (r"/api/bots/[^/]+/messages", MessagesHandler, ours),
            (r"/(.*)", StaticFileHandler, files),
        ]
        sock, self._port = bind_unused_port()
        self._server = HTTPServer(Application(routes))
        self._server.add_socket(sock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/?bot={self._world.bot}"

    async def stop(self) -> None:
        self._server.stop()
        # A browser that goes leaves some of these, and they warn when they are forgotten.
        await self._server.close_all_connections()

    def token(self) -> dict[str, str]:
        return {"token": token(self._world.owner)}

    async def history(self) -> dict[str, Any]:
        self.loads += 1
        connection, world = self._platform.connection, self._world
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            cursor = await connection.fetchval("SELECT relay.cursor($1)", f"bot:{world.bot}")
            rows = await connection.fetch("SELECT id, content FROM messages ORDER BY created_at")
        messages = [{"message_id": str(row["id"]), "content": row["content"]} for row in rows]
        return {"messages": messages, "cursor": cursor}

    async def post(self, content: str) -> dict[str, Any]:
        """The socket tells of the message before this has answered."""
        world = self._world
        message = await self._platform.message(world.session, world.bot, world.owner, content)
        await sees(self.page, "p:not([data-status])", re.compile(f": {content}$"))
        return {"message_id": message}


class ApiHandler(RequestHandler):
    def initialize(self, api: Api) -> None:
        self.api = api


class TokenHandler(ApiHandler):
    def get(self) -> None:
        self.write(self.api.token())


class MessagesHandler(ApiHandler):
    async def get(self) -> None:
        self.write(await self.api.history())

    async def post(self) -> None:
        self.write(await self.api.post(self.request.body.decode()))


@pytest.fixture
def chromium(io_loop: IOLoop) -> Iterator[Chromium]:
    chromium = Chromium()
    io_loop.run_sync(chromium.start, timeout=LIMIT)
    yield chromium
    io_loop.run_sync(chromium.stop, timeout=LIMIT)


SHOWN = "[...document.querySelectorAll('p')].map((p) => p.textContent.split(': ')[1])"
"""The messages on the page, without their authors."""


async def shows(page: Page, texts: list[str]) -> None:
    """Wait until these are the messages, each once."""
    await page.wait_for_function(f"(texts) => {SHOWN}.join() === texts.join()", arg=texts)


def heard(program: Running) -> list[str]:
    return re.findall(r"^message (.*)$", program.output, re.MULTILINE)


@pytest.fixture
def api(io_loop: IOLoop, application: Project, platform: Platform, world: World) -> Iterator[Api]:
    api = Api(application.home, platform, world)
    yield api
    io_loop.run_sync(api.stop, timeout=LIMIT)


@pytest.mark.browser
@pytest.mark.gen_test
async def test_the_application_and_a_service_resume_over_a_kill(
    application: Project,
    database: str,
    platform: Platform,
    world: World,
    api: Api,
    chromium: Chromium,
) -> None:
    """A conversation in Chromium with an optimistic message, and the same in Node with ws."""
    # With React for development, whose StrictMode starts everything twice.
    build = ("npx", "--no-install", "vite", "build", "--mode", "development", "--logLevel", "error")
    run(*build, cwd=application.home, NODE_ENV="development")

    async def write(text: str) -> str:
        return await platform.message(world.session, world.bot, world.owner, text)

    api.page = page = await chromium.page()
    await write("before")
    environ = {
        **os.environ,
        # A proxy's own credentials do not replace the token.
        "URL": application.url.replace("//", "//proxy:password@"),
        "BOT": world.bot,
        "TOKEN": token(world.guest, ttl=3600),
    }
    node = ["node", "follow.mjs"]
    with running(node, cwd=application.home, env=environ) as service:
        await eventually(lambda: "close no connection could be made" in service.output)
        with serving(database, application.port) as server:
            await eventually(lambda: "open undefined" in service.output)
            await page.goto(api.url)
            await sees(page, "output", "open")
            edited = await write("live")
            await shows(page, ["before", "live"])
            await page.locator("input").fill("mine")
            await page.locator("input").press("Enter")
            await shows(page, ["before", "live", "mine"])
            os.killpg(server.process.pid, signal.SIGKILL)
            await eventually(lambda: server.process.poll() is not None)
            # The second of them once an attempt has failed, which can be soon.
            await sees(page, "output", re.compile("reconnecting|unreachable"))
        await write("meanwhile")
        await platform.execute("UPDATE messages SET content = 'edited' WHERE id = $1", edited)
        await platform.execute("DELETE FROM messages WHERE content = 'before'")
        with serving(database, application.port):
            await shows(page, ["edited", "mine", "meanwhile"])
            await eventually(lambda: heard(service) == ["live", "mine", "meanwhile"])
            assert "open true" in service.output
            assert api.loads == 1  # though StrictMode has started it twice
            await page.close()
