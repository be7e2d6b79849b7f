"""A server whose log nobody reads: its pipe is full, and it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from tornado.ioloop import IOLoop

from tests.clients import Socket
from tests.commands import ROOT, environment, free_port, status_of
from tests.serving import World
from tests.supervised import SETTINGS, chat_url
from tests.waiting import LIMIT, eventually, wait_until


class Unread:
    """`bin/serve` into a pipe that was full before."""

    def __init__(self, dsn: str, workers: int) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * 4096)
        os.set_blocking(writer, True)
        self.port = free_port()
        self._read = b""
        settings = SETTINGS | {"WEB_CONCURRENCY": str(workers)}
        self.process = subprocess.Popen(
            [str(ROOT / "bin" / "serve")],
            env=environment(DATABASE_URL=dsn, PORT=str(self.port), **settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writer,
        )
        os.close(writer)

    def log(self) -> str:
        """What there was to read until now."""
        with suppress(BlockingIOError):
            while found := os.read(self._reader, 65_536):
                self._read += found
        return self._read.decode().lstrip(".")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT)
        os.close(self._reader)


@contextmanager
def unread(dsn: str, workers: int) -> Iterator[Unread]:
    server = Unread(dsn, workers)
    try:
        ready = f"http://127.0.0.1:{server.port}/api/ready"
        wait_until(lambda: status_of(ready) == 200, what="an answer of the server")
        yield server
    finally:
        server.close()


async def come_and_go(server: Unread, world: World) -> None:
    for _ in range(5):
        chat = await Socket.open(chat_url(server.port, world))
        await chat.established()
        chat.close()
        await chat.closed()


@pytest.mark.parametrize("workers", [1, 2])
def test_it_serves_and_ends(io_loop: IOLoop, database: str, world: World, workers: int) -> None:
    """Each socket is a line, and so is its end."""
    with unread(database, workers) as server:
        io_loop.run_sync(lambda: come_and_go(server, world), timeout=LIMIT)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0


def test_who_reads_again_is_told_how_much_is_missing(
    io_loop: IOLoop, database: str, world: World
) -> None:
    """Before the next line."""

    async def come_before_and_after(server: Unread) -> None:
        await come_and_go(server, world)
        assert "socket_opened" not in server.log()
        await come_and_go(server, world)
        await eventually(lambda: "socket_ended" in server.log())

    with unread(database, 1) as server:
        io_loop.run_sync(lambda: come_before_and_after(server), timeout=LIMIT)
        log = server.log()
    assert " WARNING realtime.log log_lines_lost " in log.partition(" socket_opened ")[0]
