"""A release while others use it: docs/upgrading.md, step by step, with real processes."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from realtime.auth.tokens import mint_token
from tests.adopted import MAPPING, SCHEMA, Adopted
from tests.clients import Message, Socket
from tests.commands import (
    ROOT,
    SECRET,
    Running,
    assert_one_line,
    environment,
    free_port,
    run_script,
    running,
    status_of,
)
from tests.platform import Platform
from tests.serving import World
from tests.waiting import LIMIT, eventually, wait_until

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".data", "*cache*", ".hypothesis", "tests")
NEXT_REVISION = '''"""What a later release adds: columns, and a word about a function."""

from alembic import op

from migrations.scripts import mark

revision = "core_later"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE relay.events ADD COLUMN later text")
    op.execute("ALTER TABLE relay.nodes ADD COLUMN later text NOT NULL DEFAULT ''")
    op.execute("COMMENT ON FUNCTION relay.ring(text) IS 'of the later release'")
    mark(revision, "9.9", serves_from="{head}")
'''


@pytest.fixture(scope="module")
def later_release() -> Iterator[Path]:
    """A checkout of a later release: this one, and a migration after its last."""
    with tempfile.TemporaryDirectory(prefix="realtime-test-") as home:
        root = Path(home) / "later"
        shutil.copytree(ROOT, root, ignore=NOT_COPIED)
        versions = root / "migrations" / "versions"
        head = max(path.stem for path in versions.glob("core_*.py"))
        (versions / "core_later.py").write_text(NEXT_REVISION.format(head=head))
        yield root


class Release:
    """A server of one of the releases."""

    def __init__(self, running: Running, port: int) -> None:
        self.running = running
        self.port = port

    async def chat(self, world: World, cursor: str = "") -> Socket:
        token = mint_token(SECRET, world.guest, ttl=600, now=time.time())
        path = f"/api/ws/chat/{world.bot}?token={token}&cursor={cursor}"
        socket = await Socket.open(f"ws://127.0.0.1:{self.port}{path}")
        await socket.established()
        return socket


@contextmanager
def serving(root: Path, dsn: str, **more: str) -> Iterator[Release]:
    port = free_port()
    settings = {"JWT_SECRET": SECRET, "DRAIN_SECONDS": "1", "PORT": str(port)}
    environ = environment(DATABASE_URL=dsn, **settings | more)
    with running([str(root / "bin" / "serve")], cwd="/", env=environ) as started:
        ready = f"http://127.0.0.1:{port}/api/ready"
        wait_until(lambda: started.process.poll() is not None or status_of(ready) == 200)
        assert started.process.poll() is None, started.output
        yield Release(started, port)


def contents(socket: Socket) -> list[str]:
    return [message["data"]["content"] for message in socket.of_type("chat_message")]


def newest_cursor(socket: Socket) -> str:
    told = [message.get("cursor") for message in socket.messages if message.get("cursor")]
    first: Message = socket.messages[0]
    return str(told[-1] if told else first["data"]["cursor"])


@pytest.mark.gen_test
async def test_a_release_loses_nothing(
    database: str, platform: Platform, world: World, later_release: Path
) -> None:
    """Migrated while the old process serves, then replaced: its client goes on with its cursor."""

    async def write(content: str) -> None:
        await platform.message(world.session, world.bot, world.owner, content)

    with serving(ROOT, database) as old:
        there = await old.chat(world)
        await write("before")
        await asyncio.to_thread(script("migrate", root=later_release, DATABASE_URL=database))
        await write("old process, new schema")
        await there.next("chat_message", 2)
        with serving(later_release, database) as new:
            beside = await new.chat(world)
            await write("old and new process")
            await there.next("chat_message", 3)
            await beside.next("chat_message")
            old.running.process.send_signal(signal.SIGTERM)
            assert await there.closed() == 1001
            await write("while the client is away")
            back = await new.chat(world, newest_cursor(there))
            assert back.messages[0]["data"]["recovered"] is True
            # What was sent ahead of a read may come once more.
            await eventually(lambda: contents(back)[-1:] == ["while the client is away"])
            assert contents(there) == ["before", "old process, new schema", "old and new process"]
            for socket in (beside, back):
                socket.close()
                await socket.closed()


@pytest.mark.gen_test(timeout=120)
async def test_the_release_before_starts_on_additions(
    database: str, platform: Platform, world: World, later_release: Path
) -> None:
    """As on a host that moves it after the release step. Where it cannot, a line says so."""
    await asyncio.to_thread(script("migrate", root=later_release, DATABASE_URL=database))
    await asyncio.to_thread(script("migrate", DATABASE_URL=database))
    with serving(ROOT, database) as old:
        there = await old.chat(world)
        await platform.message(world.session, world.bot, world.owner, "newer schema")
        await there.next("chat_message")
        there.close()
        await there.closed()
    await platform.execute("UPDATE relay.releases SET serves_from = 'core_later'")
    for name in ("serve", "migrate"):
        done = run_script(name, DATABASE_URL=database, JWT_SECRET=SECRET, PORT="0")
        assert_one_line(done, "a newer release migrated the database", "core_later", "9.9")


class Writer:
    """Somebody who goes on writing, and notes what was committed."""

    def __init__(self, write: Callable[[str], Awaitable[object]]) -> None:
        self._write = write
        self._stopped = False
        self.written: list[str] = []

    async def run(self) -> None:
        while not self._stopped:
            content = f"number {len(self.written)}"
            await self._write(content)
            self.written.append(content)
            await asyncio.sleep(0.01)

    async def during(self, *steps: Callable[[], None]) -> list[str]:
        """Write while the steps are taken; what was written."""
        writing = asyncio.create_task(self.run())
        for step in steps:
            await asyncio.to_thread(step)
        self._stopped = True
        await writing
        return self.written


def script(name: str, *arguments: str, root: Path = ROOT, **settings: str) -> Callable[[], None]:
    """A step that has to succeed."""

    def run() -> None:
        done = run_script(name, *arguments, root=root, **settings)
        assert done.returncode == 0, done.stderr

    return run


@pytest.mark.gen_test
async def test_the_release_step_again_disturbs_nobody(
    database: str, platform: Platform, world: World
) -> None:
    """`bin/migrate` beside a server and a writer: every event, once, in order."""

    async def write(content: str) -> None:
        await platform.message(world.session, world.bot, world.owner, content)

    with serving(ROOT, database) as server:
        chat = await server.chat(world)
        migrate = script("migrate", DATABASE_URL=database)
        written = await Writer(write).during(migrate, migrate)
        await chat.next("chat_message", len(written))
        assert contents(chat) == written
        chat.close()
        await chat.closed()


@pytest.mark.gen_test
async def test_attaching_again_disturbs_nobody(core_database: str, tmp_path: Path) -> None:
    """`bin/attach --apply` with another mapping: new triggers, and never none."""
    adopted = Adopted(await asyncpg.connect(core_database, timeout=LIMIT))
    await adopted.execute(SCHEMA)
    owner = await adopted.insert("users", username="olga")
    bot = await adopted.insert("bots", name="Ada", owner_id=owner)
    other = tmp_path / "other.toml"
    other.write_text(MAPPING.read_text().replace("api_key", "settings"))
    assert other.read_text() != MAPPING.read_text()
    await asyncio.to_thread(script("attach", str(MAPPING), "--apply", DATABASE_URL=core_database))

    async def write(content: str) -> None:
        await adopted.insert("messages", bot_id=bot, user_id=owner, content=content)

    with serving(ROOT, core_database, JWT_SUBJECT="username") as server:
        chat = await server.chat(World("", "olga", bot, ""))
        steps = [
            script("attach", str(path), "--apply", DATABASE_URL=core_database)
            for path in (other, MAPPING)
        ]
        written = await Writer(write).during(*steps)
        await chat.next("chat_message", len(written))
        assert contents(chat) == written
        chat.close()
        await chat.closed()
    await adopted.connection.close(timeout=LIMIT)
