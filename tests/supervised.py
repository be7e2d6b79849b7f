"""`bin/serve` with its workers, for the tests that kill, reload and stop it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realtime.auth.tokens import mint_token
from tests.clients import Socket
from tests.commands import (
    ROOT,
    SECRET,
    Running,
    environment,
    free_port,
    lives,
    running,
    status_of,
)
from tests.serving import World
from tests.waiting import wait_until

SETTINGS = {"JWT_SECRET": SECRET, "WEB_CONCURRENCY": "2", "DRAIN_SECONDS": "1"}


class Served:
    """A supervisor and its processes."""

    def __init__(self, running: Running, port: int, count: int) -> None:
        self.running = running
        self.port = port
        self._count = count

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def pids(self) -> dict[int, int]:
        """The newest process of each worker, by the worker's number, as the log says."""
        started = r"worker_started\W.*?worker\W+(\d+).*?pid\W+(\d+)"
        said = re.findall(started, self.running.output)
        return {int(number): int(pid) for number, pid in said}

    def all_up(self) -> bool:
        return len(self.pids()) == self._count and all(lives(pid) for pid in self.pids().values())

    def is_replaced(self, number: int, pid: int) -> bool:
        return not lives(pid) and self.pids()[number] != pid

    async def chat(self, world: World, cursor: str = "") -> Socket:
        chat = await Socket.open(chat_url(self.port, world, cursor))
        await chat.established()
        return chat


def chat_url(port: int, world: World, cursor: str = "") -> str:
    """The address of the guest's chat."""
    token = mint_token(SECRET, world.guest, ttl=600, now=time.time())
    return f"ws://127.0.0.1:{port}/api/ws/chat/{world.bot}?token={token}&cursor={cursor}"


@contextmanager
def served(
    dsn: str,
    *,
    root: Path = ROOT,
    preexec_fn: Callable[[], None] | None = None,
    passed: socket.socket | None = None,
    port: int = 0,
    has_tracebacks: bool = False,
    **more: str,
) -> Iterator[Served]:
    """`bin/serve` of a checkout, up.

    Args:
        passed: a listening socket that is handed over as systemd does it.
        port: one of the test's choice.
    """
    port = passed.getsockname()[1] if passed else port or free_port()
    environ = environment(DATABASE_URL=dsn, PORT=str(port), **SETTINGS | more)
    command = [str(root / "bin" / "serve")]
    options: dict[str, Any] = {"cwd": "/", "env": environ, "preexec_fn": preexec_fn}
    if passed:
        number = passed.fileno()
        command = ["bash", "-c", f'LISTEN_PID=$$ exec "$0" 3<&{number}', *command]
        options["pass_fds"] = [number]
    with running(command, **options) as started:
        found = Served(started, port, int(environ["WEB_CONCURRENCY"]))
        wait_until(lambda: started.process.poll() is not None or found.all_up())
        assert found.all_up(), started.output
        wait_until(lambda: status_of(found.url("/api/ready")) == 200)
        yield found
        wait_until(started.is_gone)
        assert has_tracebacks == ("Traceback" in started.output)
