"""Both clients, each in a process of its own, through the scenarios of clients/conformance."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from conformance.play import play_all

from tests.commands import ROOT

DRIVERS = ROOT / "clients" / "conformance"
SOURCES = {"PYTHONPATH": str(ROOT / "clients" / "python" / "src")}
NODE = ["node", "--experimental-websocket", "--no-warnings"]
"""With a WebSocket as browsers have it: Node has one from 20.10 on, by itself from 22 on."""
NOT_YET = {
    "A server that goes away says when to return, once",
    "A question that fails is asked again",
    "A refused authenticate does not condemn the old token",
    "A token that came too late is tried in a handshake",
    "A token that the application gives while another is asked for wins",
    "An expiring token is renewed on the open connection",
    "A bad answer is asked for again, and the connection goes on",
    "A bad answer is asked for again after the old token's end",
    "An answer that the server refuses is not sent again",
    "Who is signed out is asked once for a token",
    "A token that the application gives wins over an older question",
    "A server that warns at once of each new token is no loop",
    "A warning counts for the token in use only",
}
"""What the JavaScript client does not do yet."""


async def failures(*command: str, without: frozenset[str] = frozenset()) -> list[str]:
    """How many scenarios were played, and what failed."""
    played = 0
    failed = []
    async for name, failure in play_all([*command], without=without, env=SOURCES):
        played += 1
        if failure is not None:
            failed.append(f"{name}: {failure}")
    assert played > 50
    return failed


@pytest.mark.gen_test
async def test_the_python_client_plays_every_scenario() -> None:
    """As it is in this checkout."""
    assert await failures(sys.executable, str(DRIVERS / "driver.py")) == []


def has_node() -> bool:
    if shutil.which("node") is None:
        return False
    done = subprocess.run([*NODE, "-e", ""], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not has_node(), reason="there is no Node of 20.10 or newer")
@pytest.mark.gen_test
async def test_the_javascript_client_plays_every_scenario() -> None:
    """In Node, with the WebSocket of browsers."""
    node = shutil.which("node")
    assert node is not None
    command = [node, *NODE[1:], str(DRIVERS / "driver.mjs")]
    assert await failures(*command, without=frozenset(NOT_YET)) == []
