"""`bin/tail` as a user runs it: in a terminal of its own, against a real server."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.commands import ROOT, Running, environment, free_port, running
from tests.platform import Platform
from tests.serving import SECRET, RunningServer, StartServer, World
from tests.waiting import LIMIT, eventually

TAIL = str(ROOT / "bin" / "tail")


def arguments(server: RunningServer, world: World, *more: str) -> list[str]:
    return [TAIL, world.bot, "--url", f"http://{server.base}", "--user", world.guest, *more]


async def printed(tail: Running, text: str) -> None:
    """Without holding up the server, which is in this process."""
    await eventually(lambda: text in tail.output, what=f"{text!r} in {tail.output!r}")


@pytest.mark.gen_test
async def test_it_prints_what_happens_until_ctrl_c(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Through a restart of the server, of which it tells; Ctrl-C is no error."""
    port = str(free_port())
    server = await start_server(PORT=port)
    with running(arguments(server, world), cwd="/", env=environment(JWT_SECRET=SECRET)) as tail:
        await printed(tail, "as viewer")
        await platform.message(world.session, world.bot, world.owner, "before")
        await printed(tail, "olga: before")
        await server.stop()
        await printed(tail, "trying again")
        await platform.message(world.session, world.bot, world.owner, "missed")
        await start_server(PORT=port)
        await printed(tail, "olga: missed")
        await printed(tail, "nothing was missed")
        assert tail.output.count("olga:") == 2
        assert tail.stop(signal.SIGINT) == 0
        assert "Abort" not in tail.output
        assert "Traceback" not in tail.output


@pytest.mark.gen_test
async def test_a_pipe_gets_json_and_nothing_else(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """One object a line on standard output, talk on standard error; a revoke ends it with 1."""
    with running(
        ["sh", "-c", '"$@" 2>/dev/null', "-", *arguments(server, world, "--json")],
        cwd="/",
        env=environment(JWT_SECRET=SECRET),
    ) as tail:
        await printed(tail, "connection_established")
        await platform.message(world.session, world.bot, world.owner, "two\nlines")
        await printed(tail, "chat_message")  # a revoke in the same read would come before it
        await platform.revoke(world.bot, world.guest)
        await eventually(lambda: tail.process.poll() is not None)
        assert tail.process.returncode == 1
        said = [json.loads(line) for line in tail.output.splitlines()]
    kinds = ["connection_established", "chat_message", "permission_change"]
    assert [one["type"] for one in said] == kinds
    assert said[1]["data"]["content"] == "two\nlines"


@pytest.mark.gen_test
async def test_a_final_close_is_one_clear_line(server: RunningServer, world: World) -> None:
    """A token that is refused, on standard error, with exit code 1."""
    command = [TAIL, world.bot, "--url", f"http://{server.base}", "--token", "stale"]
    with running(command, cwd="/", env=environment()) as tail:
        await eventually(lambda: tail.process.poll() is not None)
        assert tail.process.returncode == 1
        assert tail.output.startswith("error: 4001, token invalid. Check that JWT_SECRET")
        assert tail.output.count("\n") == 1


def test_its_help_says_what_it_needs() -> None:
    """Without a server or a setting."""
    done = subprocess.run(
        [TAIL, "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert "--user" in done.stdout
