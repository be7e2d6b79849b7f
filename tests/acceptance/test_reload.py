"""SIGHUP to `bin/serve`: new code and new settings on a port that is never closed.

`bin/test tests/acceptance/test_reload.py -s` prints how long clients were away.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from tests.clients import Socket
from tests.commands import ROOT, lives, status_of
from tests.platform import Platform
from tests.serving import World
from tests.supervised import Served, served
from tests.waiting import LIMIT, eventually, wait_until

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".data", "*cache*", ".hypothesis", "tests")
CLIENTS = 100
PROBE_SECONDS = 0.02


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A copy of the project whose code a test may change."""
    with tempfile.TemporaryDirectory(prefix="realtime-test-") as home:
        root = Path(home) / "release"
        shutil.copytree(ROOT, root, ignore=NOT_COPIED)
        yield root


def change(root: Path, old: str, new: str) -> None:
    """Another release: it answers /api/health differently."""
    path = root / "realtime" / "web" / "endpoints.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


class Probe:
    """Asks /api/health over a new connection, again and again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_over = False
        self.answers: list[bytes] = []
        """The bodies, or what went wrong."""

    async def run(self) -> None:
        while not self._is_over:
            self.answers.append(await self._ask())
            await asyncio.sleep(PROBE_SECONDS)

    def end(self) -> None:
        self._is_over = True

    async def _ask(self) -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        except OSError as error:
            return repr(error).encode()
        return answer.rpartition(b"\r\n\r\n")[2]


class Returning:
    """A client that does as it is told: it comes back with its cursor after a `going_away`."""

    def __init__(self, open_chat: Callable[[str], object]) -> None:
        self._open_chat = open_chat
        self.contents: list[str] = []
        self.away: list[float] = []
        """For how long it was away, each time."""
        self.waits: list[float] = []
        """How long it was told to wait."""
        self.sockets: list[Socket] = []

    async def run(self) -> None:
        cursor, left_at = "", 0.0
        while True:
            chat: Socket = await self._open_chat(cursor)  # type: ignore[misc]
            self.sockets.append(chat)
            await chat.established()
            if left_at:
                self.away.append(time.monotonic() - left_at)
            assert await chat.closed() == 1001
            left_at = time.monotonic()
            told = [one.get("cursor") or one["data"].get("cursor") for one in chat.messages]
            cursor = [one for one in told if one][-1]
            (going,) = chat.of_type("going_away")
            self.waits.append(going["data"]["retry_after_seconds"])
            await asyncio.sleep(self.waits[-1])

    def received(self) -> list[str]:
        """What it was sent, each event once: one that came ahead of a read may come again."""
        messages = [one for chat in self.sockets for one in chat.of_type("chat_message")]
        by_id = {one["id"]: one["data"]["content"] for one in reversed(messages)}
        return [*reversed(by_id.values())]


@pytest.mark.gen_test(timeout=120)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_reload_refuses_nobody_and_loses_nothing(
    database: str, platform: Platform, world: World, checkout: Path, workers: str
) -> None:
    """A hundred clients come back at once, to new code; the port answers all the time."""

    async def write(server: Served, written: list[str]) -> None:
        while any(lives(pid) for pid in before):
            content = f"number {len(written)}"
            await platform.message(world.session, world.bot, world.owner, content)
            written.append(content)
            await asyncio.sleep(0.01)

    settings = {
        "WEB_CONCURRENCY": workers,
        "DRAIN_SECONDS": "5",
        "MAX_CONNECTIONS_PER_USER": str(3 * CLIENTS),
    }
    with served(database, root=checkout, **settings) as server:
        probe = Probe(server.port)
        before = set(server.pids().values())
        clients = [
            Returning(lambda cursor: server.chat(world, cursor=cursor)) for _ in range(CLIENTS)
        ]
        tasks = [asyncio.create_task(one.run()) for one in (probe, *clients)]
        await eventually(lambda: all(one.sockets for one in clients))
        change(checkout, '"ok"', '"new"')
        written: list[str] = []
        os.kill(server.running.process.pid, signal.SIGHUP)
        await write(server, written)
        await eventually(lambda: all(set(one.received()) >= set(written) for one in clients))
        probe.end()
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in clients:
            one.sockets[-1].close()
            await one.sockets[-1].closed()
        assert await asyncio.to_thread(server.running.stop, signal.SIGTERM) == 0
        assert set(probe.answers) == {b'{"status": "ok"}\n', b'{"status": "new"}\n'}
        assert [one.received() for one in clients] == [written] * CLIENTS
        assert {wait for one in clients for wait in one.waits} == {0}
        away = sorted(seconds for one in clients for seconds in one.away)
        assert len(away) == CLIENTS
        print(
            f"\n{workers} workers: {len(probe.answers)} probes, {len(written)} events;"
            f" away for {away[len(away) // 2]:.3f} s (median), {away[-1]:.3f} s (longest)"
        )


def test_new_processes_that_fail_leave_the_old_ones(database: str, checkout: Path) -> None:
    """Code that cannot be imported, then a setting that is wrong; the log says which, and why."""
    settings = checkout / "settings.env"
    settings.write_text("# nothing yet\n")

    given = {"ENV_FILE": str(settings)}
    with served(database, root=checkout, has_tracebacks=True, **given) as server:

        def reload(until: str) -> None:
            seen = len(server.running.output)
            os.kill(server.running.process.pid, signal.SIGHUP)
            wait_until(lambda: until in server.running.output[seen:])
            assert status_of(server.url("/api/health")) == 200

        before = server.pids()
        change(checkout, '"ok"', "?")
        reload("reload_failed")
        assert "worker_failed" in server.running.output
        assert "SyntaxError" in server.running.output
        change(checkout, "?}", '"ok"}')
        settings.write_text("export MAX_CONNECTIONS='none'\n")
        reload("reload_failed")
        assert (
            'worker_start_refused worker=1 reason="MAX_CONNECTIONS must be' in server.running.output
        )
        assert server.pids() == before
        settings.write_text('METRICS_TOKEN="printable"\nWEB_CONCURRENCY=1\n')
        assert status_of(server.url("/metrics")) == 404
        reload("reload_finished workers=1")
        wait_until(lambda: not any(lives(pid) for pid in before.values()))
        assert status_of(server.url("/metrics")) == 401
        assert server.running.stop(signal.SIGTERM) == 0


class ServiceSocket:
    """A stand-in for systemd's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._said: list[str] = []

    def said(self) -> list[str]:
        """The lines so far, but for the watchdog's."""
        with suppress(BlockingIOError):
            while True:
                self._said += self._socket.recv(4096).decode().splitlines()
        return [
            one for one in self._said if one.partition("=")[0] in ("READY", "RELOADING", "STOPPING")
        ]

    @property
    def is_alive(self) -> bool:
        self.said()
        return "WATCHDOG=1" in self._said

    def close(self) -> None:
        self._socket.close()


def test_systemd_is_told_and_its_socket_is_used(database: str, tmp_path: Path) -> None:
    """As a unit of Type=notify with a socket unit and a watchdog: READY, RELOADING, STOPPING."""
    manager = ServiceSocket(tmp_path / "notify")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        environ = {
            "NOTIFY_SOCKET": str(manager.path),
            "WATCHDOG_USEC": "4000000",
            "LISTEN_FDS": "1",
            "WEB_CONCURRENCY": "1",
        }
        with served(database, passed=listening, **environ) as server:
            wait_until(lambda: manager.said() == ["READY=1"])
            wait_until(lambda: manager.is_alive)
            (old,) = server.pids().values()
            os.kill(server.running.process.pid, signal.SIGHUP)
            wait_until(lambda: manager.said() == ["READY=1", "RELOADING=1", "READY=1"])
            wait_until(lambda: not lives(old))
            (stuck,) = server.pids().values()
            os.kill(stuck, signal.SIGSTOP)
            wait_until(lambda: server.is_replaced(1, stuck))
            assert "worker_stuck" in server.running.output
            assert server.running.stop(signal.SIGTERM) == 0
            assert manager.said()[-1] == "STOPPING=1"
    manager.close()


def test_a_new_process_that_cannot_serve_is_given_no_client(
    io_loop: IOLoop, database: str, world: World, tmp_path: Path
) -> None:
    """It hears the database, and cannot ask it: while it is waited for, the old ones serve all."""
    settings = tmp_path / "settings"
    settings.write_text(f"DATABASE_URL='{database}'\nDATABASE_DIRECT_URL='{database}'\n")

    async def come(server: Served) -> None:
        for _ in range(20):
            chat = await server.chat(world)
            chat.close()
            assert await asyncio.to_thread(status_of, server.url("/api/ready")) == 200

    with served("", ENV_FILE=str(settings), WEB_CONCURRENCY="1") as server:
        begun = server.running.output.count("database_connected")
        name = database.partition("?")[0].rpartition("/")[2]
        elsewhere = database.replace(name, "nowhere")
        settings.write_text(f"DATABASE_URL='{elsewhere}'\nDATABASE_DIRECT_URL='{database}'\n")
        server.running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.running.output.count("database_connected") > begun)
        io_loop.run_sync(lambda: come(server), timeout=LIMIT)
        assert "reload_failed" not in server.running.output
        server.running.process.send_signal(signal.SIGTERM)
        assert server.running.process.wait(LIMIT) == 0
