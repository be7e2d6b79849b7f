"""The relay processes under test: started as a host would, and ended by their pids alone.

`python -m tests.alone`, each on a port and with a way to Postgres of its own. A process that
ends without having been told to is remembered, for the verdict. Made by `arena`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.commands import ROOT, environment

START_LIMIT = 30.0
EXIT_LIMIT = 30.0
"""What hosts give a process to end after SIGTERM."""
RETRY_SECONDS = 0.3
_UNEXPECTED = ("Traceback (most recent call last)", "RuntimeWarning:", "exception was never")
_TOKEN = "eyJ"  # how the head of every JSON Web Token begins


class RelayProcess:
    """One relay, which may be killed and started again, always on the same port."""

    def __init__(self, number: int, port: int, log: Path, **settings: str) -> None:
        self.number = number
        self.port = port
        self.log = log
        self.complaints: list[str] = []
        """What it did that it must not do."""
        self.lock = asyncio.Lock()
        """Held by whatever is being done to it."""
        self._environment = environment(PORT=str(port), **settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._may_end = True

    def __str__(self) -> str:
        return f"relay {self.number}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    async def start(self) -> None:
        """Start, until it is ready. While Postgres is away it ends at once: then again.

        Raises:
            RuntimeError: it does not become ready.
        """
        try:
            async with asyncio.timeout(START_LIMIT):
                while not await self._is_ready():
                    if self.pid is None:
                        self._spawn()
                    await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            raise RuntimeError(f"{self} is not ready; its log ends:\n{self.log_end()}") from None
        self._may_end = False

    def _spawn(self) -> None:
        self._may_end = True
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.alone"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the suite
            )

    async def _is_ready(self) -> bool:
        if self.pid is None:
            return False
        try:
            status, _ = await http_get(self.port, "/api/ready", limit=2)
        except OSError:
            return False
        return status == 200

    def send(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    async def kill(self) -> None:
        """As the kernel does when memory is short."""
        self._may_end = True
        self.send(signal.SIGKILL)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait, 10)

    async def terminate(self) -> None:
        """As a deploy does. It has to end in good order, and in time."""
        if self.pid is None or self._process is None:
            return
        self._may_end = True
        self.send(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self._process.wait, EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            self.complaints.append(f"{self} did not end within {EXIT_LIMIT:.0f} s of SIGTERM")
            await self.kill()
            return
        if code != 0:
            self.complaints.append(f"{self} ended with {code} after SIGTERM: {self.log_end()}")

    def look(self) -> None:
        """Complain if it has ended by itself."""
        if not self._may_end and self.pid is None and self._process is not None:
            self._may_end = True
            code = self._process.returncode
            self.complaints.append(f"{self} ended by itself with {code}: {self.log_end()}")

    def end(self) -> None:
        """For good, whatever state it is in. Does not wait for any event loop."""
        if self.pid is not None and self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def memory_megabytes(self) -> float:
        """Resident memory now."""
        if self.pid is None:
            return 0.0
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def connections(self, token: str) -> dict[str, Any]:
        """By connection id, what the process says of its sockets.

        Raises:
            OSError: it does not say; without the database it tells nobody.
        """
        path = f"/api/ws/connections?scope=process&limit=10000&token={token}"
        status, body = await http_get(self.port, path, limit=2)
        if status != HTTPStatus.OK:
            raise OSError(f"{self} answered {status}")
        found: dict[str, Any] = json.loads(body)["connection_metadata"]
        return found

    def log_end(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def read_log(self) -> None:
        """Complain of what must not be in it; the process has ended."""
        log = self.log.read_text(errors="replace")
        for unexpected in _UNEXPECTED:
            before, found, after = log.partition(unexpected)
            if found:
                lines = [*before.splitlines()[-1:], *after.splitlines()[:40]]
                words = f"{self} logged {unexpected!r} {log.count(unexpected)} times; the first:"
                self.complaints.append("\n".join([words, *lines]))
        if _TOKEN in log:
            self.complaints.append(f"{self} logged {log.count(_TOKEN)} tokens")


async def http_get(port: int, path: str, *, limit: float) -> tuple[int, bytes]:
    """Status and body.

    Raises:
        OSError: no answer within `limit`.
    """
    async with asyncio.timeout(limit):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.transport.abort()
    if not head:
        raise ConnectionResetError("no answer")
    return int(head.split()[1]), body
