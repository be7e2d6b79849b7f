"""The Python client as a service has it: its wheel in a fresh environment, and its README."""

from __future__ import annotations

import os
import re
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.commands import ROOT, Running, environment, free_port, running
from tests.installed import Installed
from tests.platform import Platform
from tests.serving import SECRET, World, token
from tests.unit.test_readme import code_blocks
from tests.waiting import eventually

CLIENT = ROOT / "clients" / "python"
SERVE = str(ROOT / "bin" / "serve")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("client"), CLIENT)


def example() -> str:
    """The program of the README."""
    (program,) = code_blocks((CLIENT / "README.md").read_text("utf-8"), "python")
    return program


def test_it_is_the_wheel_that_is_used(installed: Installed) -> None:
    """With the types beside it, and nothing of the checkout."""
    found = installed.run("python", "-c", "import rowcast; print(rowcast.__file__)")
    package = Path(found.strip()).parent
    assert package.is_relative_to(installed.venv)
    assert (package / "py.typed").exists()


def test_the_program_has_ten_lines() -> None:
    """So little is needed: blank lines are none of it."""
    assert len([line for line in example().splitlines() if line]) <= 10


def serving(database: str, port: str) -> AbstractContextManager[Running]:
    ours = environment(DATABASE_URL=database, JWT_SECRET=SECRET, PORT=port)
    return running([SERVE], cwd="/", env=ours)


def contents(program: Running) -> list[str]:
    """Of the chat messages that it printed."""
    return re.findall(r"^chat_message .*'content': '([^']*)'", program.output, re.MULTILINE)


@pytest.mark.gen_test
async def test_ten_lines_follow_a_bot_over_a_kill(
    installed: Installed, database: str, platform: Platform, world: World
) -> None:
    """The server dies by `kill -9`; what is written before, meanwhile and after comes once each."""
    port = str(free_port())
    texts = ["before", *(f"meanwhile {number}" for number in range(5)), "after"]
    follows = environment(
        URL=f"http://127.0.0.1:{port}", TOKEN=token(world.guest, ttl=3600), BOT=world.bot
    )
    command = installed.command("python", "-u", "-c", example())
    with running(command, cwd=installed.elsewhere, env=follows) as program:
        with serving(database, port) as server:
            await eventually(lambda: "connection_established" in program.output)
            await platform.message(world.session, world.bot, world.owner, texts[0])
            await eventually(lambda: contents(program) == texts[:1])
            os.killpg(server.process.pid, signal.SIGKILL)
            await eventually(lambda: server.process.poll() is not None)
        for text in texts[1:-1]:
            await platform.message(world.session, world.bot, world.owner, text)
        with serving(database, port):
            await eventually(lambda: contents(program) == texts[:-1])
            await platform.message(world.session, world.bot, world.owner, texts[-1])
            await eventually(lambda: contents(program) == texts)
            assert "'recovered': True" in program.output
