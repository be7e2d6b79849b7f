"""DATABASE_URL with several hosts: real servers, one of which stands by and is promoted."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from realtime.config.checks import check_database_url
from realtime.doctor.report import Level
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.hosts import first_of
from realtime.postgres.pool import connect, open_pool
from realtime.postgres.schema import migrate
from tests.clients import Socket
from tests.commands import free_port
from tests.doctor import ask, deployment, worst
from tests.platform import Platform
from tests.postgres import SETTINGS, postgres_server
from tests.serving import RunningServer, World, make_settings
from tests.waiting import LIMIT, eventually, wait_until

SECONDS = 30.0


REFUSED = r"^no host is a primary \(port 5432 of \S+ is a standby; port \d+ of \S+: \w*Error\)$"


class Pair:
    """A primary and a standby of it, which may change places."""

    def __init__(self, primary: EmbeddedPostgres, home: Path) -> None:
        self.primary = primary
        self._home = home
        self.standby = self._stand_by(home / "second")

    def _stand_by(self, directory: Path) -> EmbeddedPostgres:
        """A copy of the primary's files that follows the primary."""
        shutil.rmtree(directory, ignore_errors=True)
        program, source = self.primary.bin_dir / "pg_basebackup", f"--dbname={self.primary.dsn()}"
        options = ["--checkpoint=fast", "--no-sync", "--write-recovery-conf"]
        command = [str(program), source, f"--pgdata={directory}", *options]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
        owner = self.primary.data_directory.stat()
        for path in (directory, *directory.rglob("*")):
            shutil.chown(path, owner.st_uid, owner.st_gid)
        standby = EmbeddedPostgres(directory, bin_dir=self.primary.bin_dir, settings=SETTINGS)
        standby.start()
        return standby

    def fail_over(self) -> None:
        """The primary is gone, and the standby takes its place."""
        wait_until(self._has_followed)
        self.lose_the_primary()

    def lose_the_primary(self) -> None:
        """The same, at a moment when the standby may be behind."""
        self.primary.stop("immediate")
        self.standby.sql("SELECT pg_promote()")
        self.primary, self.standby = self.standby, self.primary

    def wait_for_the_standby(self) -> None:
        """From now on a commit is answered when the standby has it, too."""
        self.primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.sql("SELECT pg_reload_conf()")
        state = "SELECT sync_state FROM pg_stat_replication"
        wait_until(lambda: self.primary.sql(state) == "sync")

    def come_back(self) -> None:
        """The one that was gone stands by, at its former address."""
        self.standby = self._stand_by(self.standby.data_directory)

    def _has_followed(self) -> bool:
        written = self.primary.sql("SELECT pg_current_wal_flush_lsn()")
        return self.standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{written}'") == "t"


@pytest.fixture
def pair(postgres_bin: Path | None) -> Iterator[Pair]:
    with postgres_server(postgres_bin) as first:
        migrate(first.dsn())
        pair = Pair(first, first.data_directory.parent)
        try:
            yield pair
        finally:
            pair.primary.stop("immediate")
            pair.standby.stop("immediate")


def host_of(server: EmbeddedPostgres) -> str:
    return parse_qs(urlsplit(server.dsn()).query)["host"][0]


def address(server: EmbeddedPostgres, *hosts: str) -> str:
    """As somebody writes it into DATABASE_URL; a host may have its port."""
    listed = "&".join(f"host={one}" for one in hosts)
    path = urlsplit(server.dsn()).path
    url = f"postgres://postgres@{path}?{listed}&target_session_attrs=read-write"
    return check_database_url(SecretStr(url)).get_secret_value()


async def place_of(connection: Any) -> str:
    """Where the server that was reached has its files."""
    found: str = await connection.fetchval("SHOW data_directory")
    return found


@pytest.mark.gen_test(timeout=180)
async def test_the_primary_is_found_wherever_it_stands(pair: Pair) -> None:
    """Behind a standby, a port where nothing listens, and a host that never answers."""
    wanted = str(pair.primary.data_directory)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{silent.getsockname()[1]}")
        both = (host_of(pair.standby), host_of(pair.primary))
        dsn = address(pair.primary, *dead, *both)
        connection = await connect(dsn, SECONDS)
        assert await place_of(connection) == wanted
        await connection.close(timeout=LIMIT)
        async with open_pool(dsn, size=2, timeout=SECONDS, is_pooled=False) as pool:
            assert await place_of(pool) == wanted
        await asyncio.to_thread(migrate, dsn)
        for check in ("database", "primary", "one database", "full loop"):
            assert worst(await ask(check, deployment(dsn))) is Level.FINE
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched, match=REFUSED):
        await connect(address(pair.primary, both[0], dead[0]), SECONDS)


@pytest.mark.gen_test(timeout=180)
async def test_a_failover_needs_no_change_of_settings(pair: Pair) -> None:
    """The server finds the new primary, and the old one that stands by disturbs nobody."""
    first = pair.primary
    dsn = address(first, host_of(pair.standby), host_of(first))
    running = RunningServer(make_settings(dsn))
    await running.start()
    platform = await Platform.connect(first.dsn())
    owner = await platform.user("olga")
    bot = await platform.bot(owner)
    world = World(owner, owner, bot, await platform.session(bot, owner))
    chat = await running.chat(bot, owner, cursor="")
    await write(pair, world, "before")
    await chat.next("chat_message")
    platform.connection.terminate()
    await asyncio.to_thread(pair.fail_over)
    await chat.next("resync")
    await write(pair, world, "after")
    await chat.next("chat_message", 2)
    await asyncio.to_thread(pair.come_back)
    second = await eventually(lambda: opened(running, world))
    await write(pair, world, "with a standby")
    await chat.next("chat_message", 3)
    await second.next("chat_message")
    await running.stop()


@pytest.mark.gen_test(timeout=180)
async def test_a_synchronous_standby_has_all_that_anybody_knows_of(pair: Pair) -> None:
    """The primary is lost while somebody writes: what was acknowledged, or delivered, is there."""
    await asyncio.to_thread(pair.wait_for_the_standby)
    dsn = address(pair.primary, host_of(pair.standby), host_of(pair.primary))
    platform = await Platform.connect(pair.primary.dsn())
    owner = await platform.user("olga")
    bot = await platform.bot(owner)
    world = World(owner, owner, bot, await platform.session(bot, owner))
    running = RunningServer(make_settings(dsn))
    await running.start()
    chat = await running.chat(bot, owner, cursor="")
    acknowledged: list[str] = []
    writing = asyncio.create_task(write_on(platform, world, acknowledged))
    await chat.next("chat_message", 20)
    await asyncio.to_thread(pair.lose_the_primary)
    await writing
    await chat.next("resync")
    there = await Platform.connect(pair.primary.dsn())
    rows = {row["content"] for row in await there.connection.fetch("SELECT content FROM messages")}
    delivered = {one["data"]["content"] for one in chat.of_type("chat_message")}
    assert set(acknowledged) | delivered <= rows
    await write(pair, world, "after")
    await eventually(lambda: chat.messages[-1]["data"].get("content") == "after")
    platform.connection.terminate()
    await there.connection.close(timeout=LIMIT)
    await running.stop()


async def write_on(platform: Platform, world: World, acknowledged: list[str]) -> None:
    """Write messages until the database is lost."""
    try:
        while True:
            text = f"number {len(acknowledged)}"
            await platform.message(world.session, world.bot, world.owner, text)
            acknowledged.append(text)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return


async def opened(running: RunningServer, world: World) -> Socket | None:
    """A socket that is let in; None while the pool has not found the new primary."""
    chat = await running.open(f"/api/ws/chat/{world.bot}", world.owner)
    await eventually(lambda: chat.is_closed or chat.messages)
    return None if chat.is_closed else chat


async def write(pair: Pair, world: World, text: str) -> None:
    platform = await Platform.connect(pair.primary.dsn())
    await platform.message(world.session, world.bot, world.owner, text)
    await platform.connection.close(timeout=LIMIT)


class Made:
    """A connection that was made."""

    def __init__(self) -> None:
        self.is_terminated = False

    def terminate(self) -> None:
        self.is_terminated = True


@pytest.mark.gen_test
async def test_who_answers_too_late_is_closed() -> None:
    """The first that is made is taken; an attempt that cannot be stopped leaves nothing."""
    late, good = Made(), Made()
    is_late = asyncio.Event()

    async def stubborn() -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            is_late.set()
            return late

    async def quick() -> Any:
        return good

    taken: object = await first_of([stubborn, quick], stagger=0.01)
    assert taken is good
    await eventually(lambda: late.is_terminated)
    assert is_late.is_set()
    assert not good.is_terminated


@pytest.mark.gen_test
async def test_of_several_errors_the_most_useful_is_raised() -> None:
    """A wrong password says more than a host that is away."""

    async def fail(error: Exception) -> Any:
        raise error

    errors = [OSError("away"), asyncpg.InvalidPasswordError("wrong"), TimeoutError()]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await first_of([lambda one=one: fail(one) for one in errors], stagger=60)
