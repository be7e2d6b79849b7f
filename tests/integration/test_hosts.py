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
from realtime.postgres.pool import connect, open_pool
from realtime.postgres.schema import migrate
from tests.chaos.proxy import Proxy
from tests.clients import Socket
from tests.commands import free_port
from tests.doctor import ask, deployment, worst
from tests.names import NAME, names
from tests.platform import Platform
from tests.postgres import SETTINGS, postgres_server
from tests.serving import RunningServer, World, make_settings
from tests.waiting import LIMIT, eventually, wait_until

SECONDS = 30.0


REFUSED = r"^no host is a primary \(port 5432 of \S+ is a standby; port \d+ of \S+: \w*Error\)$"


@pytest.mark.gen_test
async def test_a_socket_is_named_in_the_error(tmp_path: Path) -> None:
    """Also one that nobody listens on; the system's own text names none."""
    dsn = f"postgresql://u@/app?host={tmp_path}&port=5433"
    path = tmp_path / ".s.PGSQL.5433"
    with pytest.raises(FileNotFoundError, match=str(path)):
        await connect(dsn, SECONDS)
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(path))
    with pytest.raises(ConnectionRefusedError, match=str(path)):
        await connect(dsn, SECONDS)


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


async def hello_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What a client says first that is let begin with TLS."""
    await reader.readexactly(8)  # whether it may
    writer.write(b"S")
    return await reader.read(4096)


@pytest.mark.gen_test
async def test_a_name_with_an_address_where_nobody_answers(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is tried beside it, by the pool too, and is where a query is cancelled."""
    proxy = Proxy(f"{parse_qs(urlsplit(database).query)['host'][0]}/.s.PGSQL.5432")
    await proxy.start()
    names(monkeypatch, "127.0.0.2", "127.0.0.1")
    dsn = f"postgresql://postgres@{NAME}:{proxy.port}{urlsplit(database).path}?sslmode=disable"
    with socket.create_server(("127.0.0.2", proxy.port)):
        connection = await connect(dsn, LIMIT)
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(3600)", timeout=0.1)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close(timeout=LIMIT)
        async with open_pool(dsn, size=1, timeout=LIMIT, is_pooled=False) as pool:
            assert await pool.fetchval("SELECT 1") == 1
    await proxy.stop()


@pytest.mark.gen_test
async def test_a_certificate_has_to_be_the_names_whatever_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name is what is asked for."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await hello_of(reader, writer))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    names(monkeypatch, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectionError):
        await connect(f"postgresql://postgres@{NAME}:{port}/app?sslmode=require", LIMIT)
    assert NAME.encode() in await heard.get()
    server.close()


@pytest.mark.gen_test
async def test_a_name_that_nobody_knows_is_away_and_one_that_is_none_is_said() -> None:
    """Whatever else is in the address."""
    with pytest.raises(socket.gaierror):
        await connect("postgresql://postgres@nobody.invalid/app", LIMIT)
    with pytest.raises(asyncpg.ClientConfigurationError, match="not one"):
        await connect(f"postgresql://postgres@{'x' * 64}.test/app", LIMIT)
