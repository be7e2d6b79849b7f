"""Running the scripts in bin/ as a user would: in their own processes, in a clean environment."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import asyncpg

from realtime.config.settings import Settings
from tests.waiting import LIMIT, wait_until

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a secret of at least thirty-two bytes, for tests"


def environment(**ours: str) -> dict[str, str]:
    """The tests' environment without settings of ours, with this Python in place of .venv's.

    What bin/test adds to Python's path is for the tests: what they run finds its client itself.
    """
    names = {name.upper() for name in Settings.model_fields} | {"PYTHONPATH"}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    return clean | {"REALTIME_VENV": sys.prefix} | ours


def run_script(
    name: str, *arguments: str, root: Path = ROOT, **ours: str
) -> subprocess.CompletedProcess[str]:
    """Run `bin/name` to its end."""
    return subprocess.run(
        [str(root / "bin" / name), *arguments],
        cwd="/",
        env=environment(**ours),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def execute(dsn: str, statement: str) -> None:
    """Run SQL over a connection of its own."""

    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The command failed, and said why in one line that holds these parts."""
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


class Running:
    """A command that runs in a session of its own, with what it has printed so far."""

    def __init__(self, command: list[str], output: IO[bytes], **options: Any) -> None:
        self._output = Path(output.name)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str, limit: float = LIMIT) -> None:
        """Until `text` was printed; an error if the command ends before."""

        def printed() -> bool:
            ended = self.process.poll() is not None
            if text in self.output:
                return True
            assert not ended, f"ended before it printed {text!r}:\n{self.output}"
            return False

        wait_until(printed, limit=limit, what=f"{text!r} in the output")

    def stop(self, number: int = signal.SIGINT, limit: float = LIMIT) -> int:
        """Signal the whole foreground, as Ctrl-C in a terminal does; the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(limit)

    def is_gone(self) -> bool:
        """Whether nothing is left of the command's session."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[Running]:
    """A command for as long as a test needs it."""
    with tempfile.NamedTemporaryFile(prefix="realtime-test-") as output:
        started = Running(command, output, **options)
        try:
            yield started
        finally:
            if not started.is_gone():
                os.killpg(started.process.pid, signal.SIGTERM)
                started.process.wait(LIMIT)


def free_port() -> int:
    """A port that stays free while its server is down.

    Not one that the system hands out: those it also gives to whoever connects somewhere.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("none of a hundred ports is free")


def status_of(url: str) -> int:
    """The HTTP status, or 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def lives(pid: int) -> bool:
    """Whether a process runs. A dead one that nobody has collected yet does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def processes_of(directory: Path) -> list[str]:
    """The command lines of everything that works in `directory` or was told of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            place = (process / "cwd").readlink()
        except OSError:  # it has ended, or is another user's
            continue
        if place.is_relative_to(directory) or str(directory) in " ".join(words):
            found.append(" ".join(words))
    return found
