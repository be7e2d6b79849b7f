"""What one client can take from the others: memory, room, files, and what a refusal tells.

    python -m tests.benchmarks.hostile [--checkout DIRECTORY]

Makes a PostgreSQL of its own and runs `bin/serve` of this checkout, or of another one to compare
with. Memory is from `/proc`, twenty times a second, over each part. The figures are in
docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from uuid import uuid4

import click

from realtime.embedded.server import EmbeddedPostgres
from tests.clients import Socket
from tests.commands import Running, environment, free_port, run_script, running, status_of
from tests.platform import Platform
from tests.serving import SECRET, token
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 2**20
FILES = 256
ATTEMPTS = 40
ROOM = 300


class Server:
    """One process of the server, and the ways to reach it."""

    def __init__(self, process: Running, port: int) -> None:
        self._process = process
        self.port = port

    def url(self, path: str, subject: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}?token={token(subject)}"

    @property
    def log_bytes(self) -> int:
        return len(self._process.output)

    @property
    def memory(self) -> float:
        """Resident, in MB: of what was started, and of the worker where that is another process."""
        pid = self._process.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pages = sum(
            int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in [pid, *workers]
        )
        return pages * resource.getpagesize() / MEGABYTE

    @asynccontextmanager
    async def growing(self, what: str) -> AsyncIterator[None]:
        """Print by how much its memory grew meanwhile, at most."""
        before, peak = self.memory, 0.0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, self.memory - before)
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        yield
        watching.cancel()
        click.echo(f"{what}: memory grew by {peak:.1f} MB at most")


@contextmanager
def serving(checkout: Path, dsn: str, files: int, **settings: str) -> Iterator[Server]:
    port = free_port()
    given = environment(
        DATABASE_URL=dsn, JWT_SECRET=SECRET, PORT=str(port), DRAIN_SECONDS="0", **settings
    )
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files))
    with running([str(checkout / "bin" / "serve")], env=given, preexec_fn=limit) as process:
        wait_until(lambda: status_of(f"http://127.0.0.1:{port}/api/ready") == 200)
        yield Server(process, port)


async def unfinished_bodies(server: Server) -> None:
    """Three requests of 100 MB that are never complete."""

    async def send() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /api/ws/stats HTTP/1.1\r\nHost: x\r\nContent-Length: {100 * MEGABYTE}\r\n\r\n"
        with suppress(ConnectionError):
            writer.write(head.encode())
            for _ in range(99):
                writer.write(bytes(MEGABYTE))
                await writer.drain()
            await asyncio.sleep(10)
        writer.transport.abort()

    async with server.growing("three unfinished bodies of 100 MB"):
        await asyncio.gather(*(send() for _ in range(3)))


async def refused_sockets(server: Server, bot: str, stranger: str, owner: str) -> None:
    """More than MAX_CONNECTIONS of them, none of which answers its close."""
    request = (
        f"GET /api/ws/chat/{bot}?token={token(stranger)} HTTP/1.1\r\nHost: x\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with server.growing("2,000 refused sockets of one token"):
        writers = []
        for _ in range(2000):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request.encode())
            writers.append(writer)
        guest = await Socket.open(server.url(f"/api/ws/chat/{bot}", owner))
        with suppress(AssertionError):
            await guest.established()
        is_in = bool(guest.of_type("connection_established"))
        said = "let in" if is_in else f"refused: {guest.reason}"
        click.echo(f"2,000 refused sockets, MAX_CONNECTIONS={ROOM}: another user is {said}")
        for writer in writers:
            writer.transport.abort()


async def no_files(server: Server, platform: Platform, bot: str, owner: str) -> None:
    """More connections than files; how much is logged, and whether an open socket goes on."""
    session = await platform.session(bot, owner)
    chat = await Socket.open(server.url(f"/api/ws/chat/{bot}", owner))
    await chat.established()
    with ExitStack() as stack:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2 * FILES)]
        for _, writer in idle:
            stack.callback(writer.transport.abort)
        before, began, late = server.log_bytes, time.monotonic(), []
        for number in range(1, 26):
            sent = time.monotonic()
            await platform.message(session, bot, owner)
            await chat.next("chat_message", number)
            late.append(time.monotonic() - sent)
            await asyncio.sleep(0.2)
        rate = (server.log_bytes - before) / (time.monotonic() - began)
        ready = await asyncio.to_thread(status_of, f"http://127.0.0.1:{server.port}/api/ready")
    click.echo(
        f"no file left: {rate:,.0f} bytes of log a second, an open socket's message takes"
        f" {1000 * median(late):.1f} ms, /api/ready answers {ready or 'nothing'}"
    )
    chat.close()


async def refusal_times(server: Server, platform: Platform, bot: str, stranger: str) -> None:
    """How long a stranger waits for a 4003, by what there is to tell."""

    async def refused(asked: str) -> float:
        began = time.monotonic()
        socket = await Socket.open(server.url(f"/api/ws/chat/{asked}", stranger))
        assert await socket.closed() == 4003
        return time.monotonic() - began

    async def granted() -> float:
        await platform.permit(bot, await platform.user())
        await asyncio.sleep(0.1)
        return await refused(bot)

    missing = str(uuid4())
    await refused(missing)
    for name, ask in (
        ("a bot that is not there, asked for the first time", lambda: refused(str(uuid4()))),
        ("the same one again and again", lambda: refused(missing)),
        ("one that is there, again and again", lambda: refused(bot)),
        ("one that somebody else was just granted", granted),
    ):
        times = [1000 * await ask() for _ in range(ATTEMPTS)]
        p95 = quantiles(times, n=20)[-1]
        click.echo(
            f"4003 for {name}: {min(times):.0f} to {max(times):.0f} ms,"
            f" median {median(times):.1f}, p95 {p95:.1f}"
        )


async def besiege(checkout: Path, dsn: str) -> None:
    platform = await Platform.connect(dsn)
    owner, stranger = await platform.user("olga"), await platform.user("sam")
    bot = await platform.bot(owner)
    with serving(checkout, dsn, 10_000, MAX_CONNECTIONS=str(ROOM)) as server:
        await refusal_times(server, platform, bot, stranger)
        await refused_sockets(server, bot, stranger, owner)
        await unfinished_bodies(server)
    with serving(checkout, dsn, FILES) as server:
        await no_files(server, platform, bot, owner)
    await platform.connection.close()


@click.command()
@click.option("--checkout", type=click.Path(path_type=Path), default=ROOT, help="Whose bin/serve.")
def main(checkout: Path) -> None:
    """Measure what one client can take from the others."""
    with tempfile.TemporaryDirectory(prefix="rowcast-hostile-") as directory:
        postgres = EmbeddedPostgres(Path(directory) / "data", say=lambda _: None)
        postgres.start()
        try:
            postgres.sql("CREATE DATABASE hostile")
            dsn = postgres.dsn("hostile")
            done = run_script("migrate", root=checkout.resolve(), DATABASE_URL=dsn)
            assert done.returncode == 0, done.stderr
            asyncio.run(besiege(checkout.resolve(), dsn))
        finally:
            postgres.stop("immediate")


if __name__ == "__main__":
    main()
