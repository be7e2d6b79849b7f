"""Servers as processes: started, waited for, looked at in /proc, and ended by their own id."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.commands import free_port

START_LIMIT = 30.0
STOP_LIMIT = 20.0
PAUSE = 0.05
PAGE = os.sysconf("SC_PAGE_SIZE")


class ServerProcess:
    """A server that serves on `port`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process = process
        self._log = log
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        """User and system time of all its threads up to now."""
        return cpu_seconds(self.pid)

    def memory_kb(self) -> float:
        """Resident memory, in units of 1,000 bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE / 1000

    def tell(self, line: str) -> None:
        """Write to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def wait_until_ready(self, ready_path: str | None) -> None:
        """Until it accepts connections, and answers 200 at the path where one is given.

        Raises:
            RuntimeError: it ended, or took too long.
        """
        deadline = time.monotonic() + START_LIMIT
        while not self._is_ready(ready_path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(PAUSE)

    def _is_ready(self, path: str | None) -> bool:
        try:
            if path is None:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=1) as response:
                return bool(response.status == 200)
        except (OSError, URLError):
            return False


def cpu_seconds(pid: int | str) -> float:
    """User and system time of the threads that a process has; 0: there is no such process.

    By the scheduler's count, in nanoseconds: the ticks of /proc/…/stat are ten milliseconds long.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            total += int(task.read_text().split()[0])
    return total / 1e9


@contextmanager
def server_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    directory: Path,
    log: Path,
    ready_path: str | None,
) -> Iterator[ServerProcess]:
    """A server for as long as a scenario needs it. `PORT` tells it where to serve."""
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environment, "PORT": str(port)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            server = ServerProcess(process, port, log)
            server.wait_until_ready(ready_path)
            yield server
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
