"""Measures what large backlogs cost: `python -m tests.benchmarks.backlogs [SCENE ...]`.

Each scene has a server process and a PostgreSQL of its own, and where it says so, a slow line
between them. Memory is that of /proc, the highest of the whole run. One line of JSON a scene.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from realtime.postgres.schema import migrate
from tests.benchmarks.processes import ServerProcess, server_process
from tests.chaos.proxy import Proxy
from tests.platform import Platform
from tests.postgres import postgres_server
from tests.serving import SECRET, token
from tests.waiting import eventually

INSERT = (
    "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
    " SELECT $1, $2, $3, 'user', n || repeat('x', $5) FROM generate_series(1, $4::int) AS n"
)
PATIENCE = 240.0


class Client:
    """A WebSocket that reads at its own pace, or not at all, and keeps only what it needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._start = b""
        """How a message begins that comes in several frames."""
        self.messages = 0
        self.bytes = 0
        self.cursor = ""
        self.ended = ""
        self.last_at = 0.0

    @classmethod
    async def open(cls, port: int, bot: str, user: str, cursor: str = "") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
        request = (
            f"GET /api/ws/chat/{bot}?token={token(user)}&cursor={cursor} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        client = cls(reader, writer)
        await client.read_frame()
        return client

    async def read_frame(self, speed: float | None = None) -> None:
        first, second = await self._reader.readexactly(2)
        size = second & 127
        if size >= 126:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
        start = b""
        while size:
            data = await self._reader.read(min(size, 65536))
            size -= len(data)
            self.bytes += len(data)
            start = start or data[:2000]
            if speed is not None:
                await asyncio.sleep(len(data) / speed)
        opcode = first & 15
        if opcode >= 8:
            self._take_control(opcode, start)
            return
        self._start = self._start or start
        if first & 0x80:  # the last frame of a message
            start, self._start = self._start, b""
            self._take(start)

    def _take_control(self, opcode: int, start: bytes) -> None:
        if opcode == 8:
            self.ended = f"{int.from_bytes(start[:2])} {start[2:].decode()}"
        elif opcode == 9:
            self._writer.write(b"\x8a\x80\0\0\0\0")

    def _take(self, start: bytes) -> None:
        if b'"connection_established"' in start:
            self.cursor = json.loads(start)["data"]["cursor"]
        elif b'"chat_message"' in start:
            self.messages += 1
            self.last_at = time.monotonic()

    async def read(self, number: int, speed: float | None = None) -> None:
        """Read until so many messages have come, or the socket is closed."""
        async with asyncio.timeout(PATIENCE):
            while self.messages < number and not self.ended:
                await self.read_frame(speed)

    def close(self) -> None:
        self._writer.transport.abort()


class Stage:
    """A server, its database, and the highest memory seen."""

    def __init__(
        self, server: ServerProcess, platform: Platform, proxy: Proxy, log: Path, dsn: str
    ) -> None:
        self.server, self.platform, self.proxy, self.log = server, platform, proxy, log
        self.dsn = dsn
        """Of the database, past the proxy."""
        self.before_kb = self.peak_kb = server.memory_kb()

    async def watch(self) -> None:
        while True:
            self.peak_kb = max(self.peak_kb, self.server.memory_kb())
            await asyncio.sleep(0.02)

    async def chat(self) -> tuple[str, str, str]:
        """A bot, its owner and a session."""
        owner = await self.platform.user()
        bot = await self.platform.bot(owner)
        return bot, owner, await self.platform.session(bot, owner)

    async def write(self, chat: tuple[str, str, str], number: int, size: int) -> None:
        bot, owner, session = chat
        await self.platform.connection.execute(
            INSERT, session, bot, owner, number, size, timeout=PATIENCE
        )

    async def open(self, chat: tuple[str, str, str], cursor: str = "") -> Client:
        return await Client.open(self.server.port, chat[0], chat[1], cursor)

    async def left(self, chat: tuple[str, str, str]) -> str:
        """The cursor of a client that was here and went."""
        client = await self.open(chat)
        client.close()
        return client.cursor


@asynccontextmanager
async def stage(**settings: str) -> AsyncIterator[Stage]:
    with postgres_server(None) as postgres, tempfile.TemporaryDirectory() as directory:
        await asyncio.to_thread(migrate, postgres.dsn())
        address = urlsplit(postgres.dsn())
        options = parse_qs(address.query)
        proxy = Proxy(f"{options['host'][0]}/.s.PGSQL.{options['port'][0]}")
        await proxy.start()
        dsn = f"postgresql://{address.netloc}127.0.0.1:{proxy.port}{address.path}"
        environment = {"DATABASE_URL": dsn, "JWT_SECRET": SECRET, **settings}
        platform = await Platform.connect(postgres.dsn())
        command = [sys.executable, "-m", "tests.alone"]
        log = Path(directory) / "log"
        serving = server_process(
            command, environment, directory=Path.cwd(), log=log, ready_path="/api/health"
        )
        server = await asyncio.to_thread(serving.__enter__)
        try:
            scene = Stage(server, platform, proxy, log, postgres.dsn())
            watching = asyncio.create_task(scene.watch())
            yield scene
            watching.cancel()
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)
            await platform.connection.close()
            await proxy.stop()


async def import_over_a_slow_line() -> dict[str, object]:
    """900 rows of 30 kB in one transaction, 12 MB/s, while another bot has one every 50 ms."""
    async with stage(DATABASE_TIMEOUT_SECONDS="2") as scene:
        chat, other = await scene.chat(), await scene.chat()
        client, beside = await scene.open(chat), await scene.open(other)
        scene.proxy.slow_down(12_000_000)
        reading = asyncio.create_task(client.read(900))
        began = time.monotonic()
        await scene.write(chat, 900, 30_000)
        committed, worst = time.monotonic(), 0.0
        while not reading.done():
            sent = time.monotonic()
            await scene.write(other, 1, 10)
            await beside.read(beside.messages + 1)
            worst = max(worst, beside.last_at - sent)
            await asyncio.sleep(0.05)
        return _figures(scene, client, began=committed, worst_of_another_bot=round(worst, 3)) | {
            "write_seconds": round(committed - began, 1)
        }


async def a_million_rows() -> dict[str, object]:
    """A million short rows in one transaction, while another bot has one every 50 ms."""
    async with stage() as scene:
        chat, other = await scene.chat(), await scene.chat()
        client, beside = await scene.open(chat), await scene.open(other)
        reading = asyncio.create_task(client.read(1000))
        began = time.monotonic()
        writing = asyncio.create_task(scene.write(chat, 1_000_000, 10))
        writer = await Platform.connect(scene.dsn)
        waits: list[tuple[float, float]] = []
        while not reading.done():
            sent = time.monotonic()
            await writer.connection.execute(INSERT, other[2], other[0], other[1], 1, 10)
            await beside.read(beside.messages + 1)
            waits.append((beside.last_at - sent, sent))
            await asyncio.sleep(0.05)
        await writing
        await writer.connection.close()
        worst, at = max(waits)
        return _figures(scene, client, began=began) | {
            "worst_of_another_bot": round(worst, 3),
            "at": round(at - began, 1),
            "p99": round(sorted(wait for wait, _ in waits)[len(waits) * 99 // 100], 3),
        }


async def large_rows() -> dict[str, object]:
    """950 rows of 1 MB in one transaction, no slow line."""
    async with stage(DATABASE_TIMEOUT_SECONDS="2") as scene:
        chat = await scene.chat()
        client = await scene.open(chat)
        reading = asyncio.create_task(client.read(950))
        await scene.write(chat, 950, 1_000_000)
        began = time.monotonic()
        await reading
        return _figures(scene, client, began=began)


async def one_resume() -> dict[str, object]:
    """A client that missed 1,300 messages of 30 kB, 12 MB/s."""
    async with stage(DATABASE_TIMEOUT_SECONDS="2") as scene:
        chat = await scene.chat()
        cursor = await scene.left(chat)
        await scene.write(chat, 1300, 30_000)
        scene.proxy.slow_down(12_000_000)
        began = time.monotonic()
        client = await scene.open(chat, cursor)
        await client.read(1300)
        return _figures(scene, client, began=began)


async def resumes_that_never_read() -> dict[str, object]:
    """12 clients that missed 40 MB each, and read nothing for 20 s."""
    async with stage() as scene:
        chats = [await scene.chat() for _ in range(12)]
        cursors = [await scene.left(chat) for chat in chats]
        for chat in chats:
            await scene.write(chat, 1333, 30_000)
        scene.before_kb = scene.peak_kb = scene.server.memory_kb()
        clients = [await scene.open(*both) for both in zip(chats, cursors, strict=True)]
        await asyncio.sleep(20)
        return _figures(scene, clients[0], began=time.monotonic())


async def slow_reader() -> dict[str, object]:
    """One message of 20 MB to a client that reads 0.4 MB/s."""
    async with stage() as scene:
        chat = await scene.chat()
        client = await scene.open(chat)
        began = time.monotonic()
        await scene.write(chat, 1, 20_000_000)
        await client.read(1, speed=400_000)
        return _figures(scene, client, began=began)


async def large_message_missed() -> dict[str, object]:
    """A client that missed one message of 20 MB, and reads 0.4 MB/s."""
    async with stage() as scene:
        chat = await scene.chat()
        cursor = await scene.left(chat)
        await scene.write(chat, 1, 20_000_000)
        began = time.monotonic()
        client = await scene.open(chat, cursor)
        await client.read(1, speed=400_000)
        return _figures(scene, client, began=began)


async def users_in_collusion() -> dict[str, object]:
    """Six users with 20 sockets each that missed 20 messages of 1 MB and never read; then another
    client returns that missed the same."""
    async with stage() as scene:
        chat = await scene.chat()
        users = [await scene.platform.user() for _ in range(6)]
        for user in users:
            await scene.platform.permit(chat[0], user)
        cursor = await scene.left(chat)
        await scene.write(chat, 20, 1_000_000)
        takers = [
            await Client.open(scene.server.port, chat[0], user, cursor) for user in users * 20
        ]
        await asyncio.sleep(5)
        began = time.monotonic()
        client = await scene.open(chat, cursor)
        await client.read(1)
        first = round(client.last_at - began, 2)
        await client.read(20)
        for taker in takers:
            taker.close()
        return _figures(scene, client, began=began, first_after=first)


async def slowest_line() -> dict[str, object]:
    """60 messages of 10 kB in one transaction at 20 kB/s; then the line is half open, and heals."""
    async with stage(DATABASE_TIMEOUT_SECONDS="2") as scene:
        chat = await scene.chat()
        client = await scene.open(chat)
        scene.proxy.slow_down(20_000)
        reading = asyncio.create_task(client.read(60))
        await scene.write(chat, 60, 10_000)
        began = time.monotonic()
        await reading
        whole = round(client.last_at - began, 1)
        losses = scene.log.read_text().count("database_lost")
        scene.proxy.half_open()
        began = time.monotonic()
        await eventually(lambda: scene.log.read_text().count("database_lost") > losses)
        noticed = round(time.monotonic() - began, 1)
        scene.proxy.heal()
        return _figures(scene, client, began=began) | {
            "seconds": whole,
            "losses": losses,
            "half_open_noticed_after": noticed,
        }


def _figures(scene: Stage, client: Client, *, began: float, **more: object) -> dict[str, object]:
    return {
        "messages": client.messages,
        "mb": round(client.bytes / 1e6, 1),
        "seconds": round(client.last_at - began, 1) if client.last_at else None,
        "closed": client.ended,
        "memory_mb_before": round(scene.before_kb / 1000),
        "memory_mb_peak": round(scene.peak_kb / 1000),
        **more,
    }


SCENES: list[Callable[[], Awaitable[dict[str, object]]]] = [
    import_over_a_slow_line,
    a_million_rows,
    large_rows,
    one_resume,
    resumes_that_never_read,
    slow_reader,
    large_message_missed,
    users_in_collusion,
    slowest_line,
]


def main(chosen: list[str]) -> None:
    """Play the scenes that are named, or all."""
    for scene in SCENES:
        name = scene.__name__  # type: ignore[attr-defined]
        if not chosen or name in chosen:
            print(json.dumps({"scene": name, **asyncio.run(_play(scene))}), flush=True)


async def _play(scene: Callable[[], Awaitable[dict[str, object]]]) -> dict[str, object]:
    return await scene()


if __name__ == "__main__":
    main(sys.argv[1:])
