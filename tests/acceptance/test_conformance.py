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


async def failures(*command: str) -> list[str]:
    """How many scenarios were played, and what failed."""
    played = 0
    failed = []
    async for name, failure in play_all([*command], env=SOURCES):
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
    assert await failures(*command) == []
