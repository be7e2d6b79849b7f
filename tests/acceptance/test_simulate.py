"""`bin/simulate` as a user runs it, beside a real server. `bin/dev --simulate`: test_commands."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import signal
import subprocess

import pytest

from realtime.simulate import cast
from tests.commands import ROOT, assert_one_line, environment, run_script, running
from tests.platform import Platform
from tests.serving import RunningServer
from tests.waiting import LIMIT, eventually

SIMULATE = str(ROOT / "bin" / "simulate")
FIRST_BOT = "51a7ed00-0000-4000-8000-b00000000001"
EVERYBODY = "SELECT count(*) FROM users"


@pytest.mark.gen_test
async def test_a_socket_sees_it_and_nothing_is_left(
    server: RunningServer, platform: Platform, database: str
) -> None:
    """For as long as was said; exit code 0, a summary, and the bot is deleted at the end."""
    command = [SIMULATE, "--seconds", "2", "--rate", "50", "--bots", "1", "--seed", "1"]
    with running(command, cwd="/", env=environment(DATABASE_URL=database)) as simulate:
        bots = "SELECT count(*) FROM bots WHERE id = $1"
        await eventually(lambda: platform.connection.fetchval(bots, FIRST_BOT))
        watcher = await platform.user("watcher")
        await platform.permit(FIRST_BOT, watcher)
        socket = await server.chat(FIRST_BOT, watcher)
        await eventually(
            lambda: any(
                update["data"].get("role") == "assistant"
                for update in socket.of_type("chat_message_update")
            )
        )
        assert await socket.closed() == 4003
        assert await asyncio.to_thread(simulate.process.wait, 30) == 0
        assert "--seed 1" in simulate.output
        owner = FIRST_BOT.replace("-b00000000001", "-a00000000000")
        assert f"bin/tail {FIRST_BOT} --user {owner}" in simulate.output
        assert "changes in 2 s" in simulate.output
        assert "All rows that it made are deleted again" in simulate.output
    assert await platform.connection.fetchval(EVERYBODY) == 1


@pytest.mark.gen_test
async def test_ctrl_c_ends_it_quietly(platform: Platform, database: str) -> None:
    """With exit code 0 and no traceback; with --keep the rows are still there."""
    env = environment(DATABASE_URL=database)
    with running([SIMULATE, "--keep"], cwd="/", env=env) as simulate:
        messages = "SELECT count(*) FROM messages"
        await eventually(lambda: platform.connection.fetchval(messages))
        assert simulate.stop(signal.SIGINT) == 0
        assert "The rows stay" in simulate.output
        assert "Traceback" not in simulate.output
    assert await platform.connection.fetchval(EVERYBODY) == 8


def test_a_terminal_shows_one_live_line(database: str) -> None:
    """It is cleared before each new state of it."""
    ours, theirs = pty.openpty()
    command = [SIMULATE, "--seconds", "1"]
    env = environment(DATABASE_URL=database, COLUMNS="80")
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        assert process.wait(LIMIT) == 0
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert shown.count("\x1b[2K00:0") >= 2
    lines = shown.split("\r\x1b[2K")
    assert all("\n" not in line and len(line) < 80 for line in lines if line.startswith("00:"))


@pytest.mark.skipif(not shutil.which("node"), reason="node is not there")
def test_the_console_tells_its_people_apart() -> None:
    """Their ids begin alike, and so do those of the demo; others are told by their beginning."""
    code = (ROOT / "realtime" / "web" / "static" / "console" / "dom.js").read_text("utf-8")
    people = [str(cast.identity("a", number)) for number in (1, 2)]
    ids = [*people, "00000000-0000-4000-8000-0000000000a1", "65388b40-bbb0-4ea2-8ec6-8e22eb947134"]
    show = "console.log(process.argv.slice(1).map(short).join());"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code + show, "--", *ids],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert done.stdout == "…000001,…000002,…0000a1,65388b40\n"


def test_a_database_without_the_tables_is_one_line(empty_database: str) -> None:
    """That says what makes them."""
    done = run_script("simulate", DATABASE_URL=empty_database)
    assert_one_line(done, "error: this database does not have the reference tables", "bin/migrate")
