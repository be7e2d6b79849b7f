"""What the peers need, installed once into .data/bench: a virtual environment and node_modules.

What cannot be installed or run here is a reason to skip a peer, never an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.paths import DATA, PEERS

INSTALL_SECONDS = 600
Say = Callable[[str], None]


class Unavailable(Exception):
    """A peer cannot run on this machine; the text says why."""


class Packages:
    """The peers' packages, installed when first asked for."""

    def __init__(self, say: Say, data: Path = DATA) -> None:
        self._say = say
        self._venv = data / "venv"
        self._node = data / "node"

    def python(self) -> str:
        """The Python that has the Python peers' packages.

        Raises:
            Unavailable: they could not be installed.
        """
        wanted = PEERS / "requirements.txt"
        python = self._venv / "bin" / "python"
        if not _is_current(self._venv, wanted):
            self._say("Installing the Python peers, once, into .data/bench/venv")
            _run([sys.executable, "-m", "venv", "--clear", str(self._venv)])
            _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(wanted)])
            _mark_current(self._venv, wanted)
        return str(python)

    def node(self) -> tuple[str, dict[str, str]]:
        """Node, and the environment in which it finds the Node peers' packages.

        Raises:
            Unavailable: there is no Node or npm, or they could not be installed.
        """
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise Unavailable("node and npm are not on PATH")
        lock = PEERS / "package-lock.json"
        if not _is_current(self._node, lock):
            self._say("Installing the Node peers, once, into .data/bench/node")
            self._node.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", lock.name):
                shutil.copy(PEERS / name, self._node)
            _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], self._node)
            _mark_current(self._node, lock)
        return node, {"NODE_PATH": str(self._node / "node_modules"), "NODE_ENV": "production"}


def _run(command: Sequence[str], directory: Path | None = None) -> None:
    try:
        subprocess.run(
            command,
            cwd=directory,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        last = os.fsdecode(error.output).strip().rpartition("\n")[2]
        raise Unavailable(f"{Path(command[0]).name} failed: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error


def _digest(wanted: Path) -> str:
    return hashlib.sha256(wanted.read_bytes()).hexdigest()


def _is_current(directory: Path, wanted: Path) -> bool:
    mark = directory / "installed"
    return mark.exists() and mark.read_text() == _digest(wanted)


def _mark_current(directory: Path, wanted: Path) -> None:
    (directory / "installed").write_text(_digest(wanted))
