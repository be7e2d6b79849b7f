"""The database goes on from another history than the one that sockets and clients have seen.

A crash that forgets commits, files that were copied, a dump from elsewhere: transaction ids and ids
of events are given out again, to other rows. Whoever saw the former ones must be told; whoever saw
only what is still there must not. The servers of PostgreSQL are the tests' own, and are stopped.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.embedded.account import ServerAccount
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import migrate
from tests.acceptance.test_multi import subscribe
from tests.acceptance.test_resume import contents, leave
from tests.clients import Message, Socket
from tests.commands import ROOT
from tests.event_stream import EventStream
from tests.platform import Platform
from tests.postgres import postgres_server, restart
from tests.serving import RunningServer, World, make_settings
from tests.waiting import LIMIT, eventually

ROWS = 20
DEBIAN = Path("/usr/lib/postgresql/15/bin")
"""The oldest PostgreSQL that is supported, where it is installed."""
IS_INSTALLED = DEBIAN.exists()


@pytest.fixture
def fragile(postgres_bin: Path | None) -> Iterator[EmbeddedPostgres]:
    """A migrated server that flushes asynchronous commits late."""
    with postgres_server(postgres_bin, wal_writer_delay="10s") as server:
        migrate(server.dsn())
        yield server


@asynccontextmanager
async def serving(dsn: str, intervals: Intervals = DEFAULTS) -> AsyncIterator[RunningServer]:
    running = RunningServer(make_settings(dsn), intervals)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def writing(dsn: str) -> AsyncIterator[Platform]:
    platform = await Platform.connect(dsn)
    try:
        yield platform
    finally:
        platform.connection.terminate()
        await asyncio.sleep(0)


async def make_world(platform: Platform) -> World:
    owner, guest = await platform.user("olga"), await platform.user("gus")
    bot = await platform.bot(owner)
    await platform.permit(bot, guest, "viewer")
    return World(owner, guest, bot, await platform.session(bot, owner))


async def say(dsn: str, world: World, text: str, number: int = ROWS, *, first: str = "") -> None:
    """Many messages, each in a transaction of its own."""
    async with writing(dsn) as platform:
        if first:
            await platform.execute(first)
        for n in range(number):
            await platform.message(world.session, world.bot, world.owner, f"{text} {n}")


async def count(dsn: str, text: str) -> int:
    async with writing(dsn) as platform:
        query = "SELECT count(*) FROM messages WHERE content LIKE $1 || ' %'"
        return int(await platform.connection.fetchval(query, text))


async def is_told(socket: Socket, reason: str = "foreign") -> None:
    """It hears of the gap, and is live after it."""
    assert (await socket.next("resync"))["data"] == {"reason": reason}


async def returns(server: RunningServer, world: World, cursor: str) -> tuple[bool, str | None]:
    """What a client is told that comes back, to this server or to a new one."""
    socket = await chat(server, world, world.owner, cursor)
    said = (await socket.established())["data"]
    return said["recovered"], said.get("reason")


async def chat(server: RunningServer, world: World, user: str, cursor: str = "") -> Socket:
    return await let_in(server, f"/api/ws/chat/{world.bot}", user, cursor=cursor)


async def let_in(server: RunningServer, path: str, user: str, **query: str) -> Socket:
    """A socket that is let in; after 1013, as while PostgreSQL starts, clients come back."""
    while True:
        socket = await server.open(path, user, **query)
        await eventually(lambda one=socket: one.messages or one.is_closed)
        if socket.messages:
            return socket
        assert socket.code == 1013


async def stop_flushing(dsn: str) -> None:
    """From now on only durable commits are flushed, and what lies before them.

    Before PostgreSQL 16 each page of the log that is full wakes the writer, however long its delay.
    """
    async with writing(dsn) as platform:
        query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
        os.kill(await platform.connection.fetchval(query), signal.SIGSTOP)


@pytest.mark.gen_test(timeout=300)
async def test_a_crash_that_forgets_commits_is_told(fragile: EmbeddedPostgres) -> None:
    """Durable commits get the forgotten ids: they, a revocation too, reach everybody."""
    dsn = fragile.dsn()
    async with writing(dsn) as platform:
        world = await make_world(platform)
    # What the server writes of itself flushes all that was committed before.
    async with serving(dsn, Intervals(heartbeat=8.0, socket_table=5.0)) as server:
        for attempt in range(20):
            live = await chat(server, world, world.owner)
            revoked = await chat(server, world, world.guest)
            leaving = await chat(server, world, world.owner)
            early = await leave(await chat(server, world, world.owner))
            await stop_flushing(dsn)
            text = f"forgotten {attempt}"
            await say(dsn, world, text, first="SET synchronous_commit = off")
            await asyncio.gather(*(one.next("chat_message", ROWS) for one in (live, leaving)))
            cursor = await leave(leaving)
            await restart(fragile)
            if await count(dsn, text) == 0:
                break
            live.close()
            revoked.close()
        else:
            pytest.fail("each time the commits were flushed before the crash: this shows nothing")
        async with writing(dsn) as platform:
            await platform.revoke(world.bot, world.guest)
        await say(dsn, world, "durable")
        await is_told(live)
        assert await revoked.closed() in (4003, 1013)
        await say(dsn, world, "later", 1)
        await eventually(lambda: "later 0" in contents(live))
        assert await returns(server, world, cursor) == (False, "foreign")
        honest = await chat(server, world, world.owner, early)
        assert (await honest.established())["data"]["recovered"] is True
        await eventually(lambda: "later 0" in contents(honest))
        expected = {f"durable {n}" for n in range(ROWS)}
        assert expected <= set(contents(honest))


async def comes_back(
    way: str, server: RunningServer, world: World, cursor: str
) -> tuple[Socket | EventStream, Message]:
    """A client of one of the three kinds, and what it is told; after 1013 clients come back."""
    client: Socket | EventStream
    while True:
        if way == "socket":
            client = await chat(server, world, world.owner, cursor)
            return client, (await client.established())["data"]
        if way == "subscription":
            client = await let_in(server, "/api/ws", world.owner)
            answer = await subscribe(client, world.bot, cursor=cursor)
            if answer["type"] == "subscribed":
                return client, answer["data"]
        else:
            headers = {"Last-Event-ID": cursor}
            client = await server.events(f"chat/{world.bot}", world.owner, headers=headers)
            if client.status == 200:
                return client, (await client.next("connection_established"))["data"]


def newest_of(messages: list[Message]) -> str:
    """The cursor of a client that was cut off after these."""
    return [one["cursor"] for one in messages if "cursor" in one][-1]


@pytest.mark.gen_test(timeout=300)
@pytest.mark.parametrize("way", ["socket", "subscription", "stream"])
async def test_who_is_sent_what_a_crash_forgets_is_told(
    way: str, fragile: EmbeddedPostgres
) -> None:
    """Wherever a client that returned was cut off: one event that it was sent is enough."""
    dsn = fragile.dsn()
    async with writing(dsn) as platform:
        world = await make_world(platform)
    await say(dsn, world, "seen", 1)
    async with serving(dsn, Intervals(heartbeat=8.0, socket_table=5.0)) as server:
        for attempt in range(20):
            early = await leave(await chat(server, world, world.owner))
            await stop_flushing(dsn)
            text = f"forgotten {attempt} {'x' * 20_000}"
            await say(dsn, world, text, first="SET synchronous_commit = off")
            back, told = await comes_back(way, server, world, early)
            assert told["recovered"] is True
            await back.next("chat_message", ROWS)
            sent = back.of_type("chat_message")
            await restart(fragile)
            if await count(dsn, text) == 0:
                break
        else:
            pytest.fail("each time the commits were flushed before the crash: this shows nothing")
        for number in (1, 2, ROWS // 2, ROWS):
            _, told = await comes_back(way, server, world, newest_of(sent[:number]))
            assert (told["recovered"], told["reason"]) == (False, "foreign")
        _, told = await comes_back(way, server, world, early)
        assert told["recovered"] is True


def copy_files(server: EmbeddedPostgres, to: Path) -> None:
    shutil.copytree(server.data_directory, to, ignore=shutil.ignore_patterns("postmaster.pid"))
    _own_alike(server.data_directory, to)


def put_back(server: EmbeddedPostgres, copy: Path) -> None:
    """As from a volume's snapshot: nothing tells PostgreSQL that these are a copy."""
    server.data_directory.rename(copy.with_name(f"{copy.name}-replaced"))
    copy.rename(server.data_directory)


def _own_alike(original: Path, copy: Path) -> None:
    """The server's own account must be able to read what root has copied."""
    for path in (copy, *copy.rglob("*")):
        shutil.chown(path, *_owner_of(original))


def _owner_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


async def restart_with(
    change: Callable[[], object], server: EmbeddedPostgres, *, is_promoted: bool
) -> None:
    """Restart the server on changed files; if promoted, on their next timeline.

    There is one start, as a standby. If the server first ran on the former timeline, a relay might
    reach it then, and tell its sockets twice, or close them as its question was cut off.
    """

    def change_files() -> None:
        change()
        if is_promoted:
            (server.data_directory / "standby.signal").touch()

    await restart(server, change_files)
    if is_promoted:
        await asyncio.to_thread(server.sql, "SELECT pg_promote()")


@pytest.mark.gen_test(timeout=120)
@pytest.mark.parametrize("is_promoted", [False, True])
async def test_copied_files_are_another_history(
    fragile: EmbeddedPostgres, is_promoted: bool
) -> None:
    """Same system and timeline, other rows; also where both chose the same new timeline."""
    dsn, copy = fragile.dsn(), fragile.data_directory.with_name("copy")
    async with writing(dsn) as platform:
        world = await make_world(platform)
    await say(dsn, world, "both", 1)
    async with serving(dsn) as server:
        before = await leave(await chat(server, world, world.owner))
        await restart_with(partial(copy_files, fragile, copy), fragile, is_promoted=is_promoted)
        if is_promoted:
            await eventually(lambda: server.server.hub.position.signer.database.timeline == 2)
        live = await chat(server, world, world.owner)
        await say(dsn, world, "here")
        await eventually(lambda: f"here {ROWS - 1}" in contents(live))
        gone = await leave(await chat(server, world, world.owner))
        database = server.server.hub.position.signer.database
        await restart_with(partial(put_back, fragile, copy), fragile, is_promoted=is_promoted)
        await say(dsn, world, "there")
        await is_told(live)
        await say(dsn, world, "later", 1)
        await eventually(lambda: "later 0" in contents(live))
        assert server.server.hub.position.signer.database == database
        assert await returns(server, world, gone) == (False, "foreign")
        if not is_promoted:
            honest = await chat(server, world, world.owner, before)
            assert (await honest.established())["data"]["recovered"] is True
            await eventually(lambda: "later 0" in contents(honest))
            assert {f"there {n}" for n in range(ROWS)} <= set(contents(honest))


def dump(server: EmbeddedPostgres, database: str, *options: str) -> bytes:
    program = [server.bin_dir / "pg_dump", *options, server.dsn(database)]
    return subprocess.run(program, check=True, capture_output=True).stdout


def restore(server: EmbeddedPostgres, sql: bytes) -> None:
    program = [server.psql, "-qX", "-v", "ON_ERROR_STOP=1", server.dsn()]
    subprocess.run(program, input=sql, check=True, capture_output=True)


def restore_archive(server: EmbeddedPostgres, archive: bytes) -> None:
    program = [server.bin_dir / "pg_restore", "--exit-on-error", "--dbname", server.dsn()]
    subprocess.run(program, input=archive, check=True, capture_output=True)


async def burn(platform: Platform, ids: int) -> int:
    """Use up transaction ids; returns the next one."""
    await platform.execute(
        f"DO $$BEGIN FOR i IN 1..{ids} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END$$"
    )
    query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    return int(await platform.connection.fetchval(query))


async def age(dsn: str) -> tuple[World, int]:
    """A log with everything in it that could do harm elsewhere; and an id beyond its own."""
    async with writing(dsn) as platform:
        await burn(platform, 3000)
        world = await make_world(platform)
        await say(dsn, world, "old")
        await platform.execute("SELECT relay.eject(NULL, NULL)")
        await platform.execute("INSERT INTO relay.snapshots DEFAULT VALUES")
        await platform.execute("UPDATE relay.floor SET last = pg_current_xact_id()")
        return world, await burn(platform, 1)


def move(older: EmbeddedPostgres, younger: EmbeddedPostgres, how: str) -> None:
    """Dump the one with its own program, and restore that in the other."""
    if how == "pg_restore":
        restore_archive(younger, dump(older, "realtime", "--format=custom"))
    else:
        restore(younger, dump(older, "realtime"))


@pytest.mark.gen_test(timeout=120)
@pytest.mark.parametrize("how", ["psql", "pg_restore"])
@pytest.mark.parametrize("source", [None, DEBIAN], ids=["same", "debian"])
async def test_a_dump_restored_into_a_younger_server(
    postgres_bin: Path | None, source: Path | None, how: str
) -> None:
    """Its rows lie in the future here: when ids have caught up, none of them has any effect.

    Out of the same release of PostgreSQL, and out of the oldest one.
    """
    if source is not None and (source == postgres_bin or not IS_INSTALLED):
        pytest.skip(f"{source} is what the tests run on, or is not installed")
    with postgres_server(source or postgres_bin) as older, postgres_server(postgres_bin) as younger:
        await asyncio.to_thread(migrate, older.dsn())
        world, highest = await age(older.dsn())
        await asyncio.to_thread(move, older, younger, how)
        dsn = younger.dsn()
        async with serving(dsn) as server, writing(dsn) as platform:
            assert await burn(platform, 1) < highest, "it is not younger: this shows nothing"
            live = await chat(server, world, world.owner)
            assert await platform.connection.fetchval("SELECT count(*) FROM relay.events") == 0
            assert await burn(platform, 5000) > highest
            await say(dsn, world, "new", 3)
            await eventually(lambda: len(contents(live)) >= 3)
            assert contents(live) == ["new 0", "new 1", "new 2"]
            assert not live.of_type("resync")
            assert not live.is_closed
            cursor = await leave(live)
            assert await returns(server, world, cursor) == (True, None)


@pytest.mark.gen_test(timeout=120)
async def test_a_dump_restored_under_a_running_server(postgres_bin: Path | None) -> None:
    """Nothing of its log is delivered; everybody is told, and goes on with what is there now."""
    with postgres_server(postgres_bin) as postgres:
        dsn, elsewhere = postgres.dsn(), postgres.dsn("elsewhere")
        await asyncio.to_thread(migrate, dsn)
        async with writing(dsn) as platform:
            world = await make_world(platform)
        postgres.sql("CREATE DATABASE elsewhere TEMPLATE realtime")
        postgres.sql("SELECT relay.forget_foreign_log()", "elsewhere")
        async with serving(dsn) as server:
            live = await chat(server, world, world.owner)
            await say(dsn, world, "here", 3)
            await live.next("chat_message", 3)
            cursor = await leave(await chat(server, world, world.owner))
            await say(elsewhere, world, "there")
            sql = await asyncio.to_thread(dump, postgres, "elsewhere", "--clean", "--if-exists")
            await asyncio.to_thread(restore, postgres, sql)
            await is_told(live)
            await say(dsn, world, "later", 3)
            await eventually(lambda: "later 2" in contents(live), limit=LIMIT)
            assert not [text for text in contents(live) if text.startswith("there")]
            recovered, reason = await returns(server, world, cursor)
            assert not recovered
            assert reason in ("invalid", "foreign", "too_old")


@pytest.mark.gen_test(timeout=120)
async def test_a_writer_who_goes_on_at_once_after_a_restore_in_place(
    postgres_bin: Path | None,
) -> None:
    """The ring that comes with it is of another history: nobody is sent what it carries.

    Who has come since the dump, and is not there any more, may be one of the sockets.
    """
    with postgres_server(postgres_bin) as postgres:
        dsn = postgres.dsn()
        await asyncio.to_thread(migrate, dsn)
        async with writing(dsn) as platform:
            world = await make_world(platform)
        async with serving(dsn) as server, writing(dsn) as platform:
            live = await chat(server, world, world.owner)
            await say(dsn, world, "here")
            await live.next("chat_message", ROWS)
            sql = await asyncio.to_thread(dump, postgres, "realtime", "--clean", "--if-exists")
            newcomer = await platform.user()
            await platform.permit(world.bot, newcomer)
            late = await chat(server, world, newcomer)
            await say(dsn, world, "forgotten", 1)
            await late.next("chat_message")
            at_once = (
                "INSERT INTO public.messages (session_id, bot_id, user_id, role, content)"
                f" VALUES ('{world.session}', '{world.bot}', '{world.owner}', 'user', 'at once');"
            )
            script = b"BEGIN;\n" + sql + at_once.encode() + b"\nCOMMIT;\n"
            await asyncio.to_thread(restore, postgres, script)
            await is_told(live)
            await eventually(lambda: late.is_closed, limit=LIMIT)
            assert "at once" not in [*contents(late), *contents(live)]
            await say(dsn, world, "later", 3)
            await eventually(lambda: "later 2" in contents(live), limit=LIMIT)


def steps_of_the_page() -> tuple[str, str, str, str]:
    """The statements of docs/upgrading.md, in its order."""
    page = (ROOT / "docs" / "upgrading.md").read_text("utf-8")
    first, second, third, fourth = re.findall(r"^   ```sql\n(.*?)^   ```", page, re.M | re.S)
    return first, second, third, fourth


@pytest.mark.gen_test(timeout=120)
@pytest.mark.parametrize("source", [None, DEBIAN], ids=["same", "debian"])
async def test_a_switch_to_a_server_that_followed_by_logical_replication(
    postgres_bin: Path | None, source: Path | None
) -> None:
    """The steps of docs/upgrading.md: clients are told, and ids of events are not given twice."""
    if source is not None and (source == postgres_bin or not IS_INSTALLED):
        pytest.skip(f"{source} is what the tests run on, or is not installed")
    publish, subscribe, look, go_on = steps_of_the_page()
    with (
        postgres_server(source or postgres_bin, wal_level="logical") as older,
        postgres_server(postgres_bin) as newer,
    ):
        for one in (older, newer):
            await asyncio.to_thread(migrate, one.dsn())
        async with writing(older.dsn()) as platform:
            world = await make_world(platform)
        there = subscribe.replace("host=old.example.org dbname=chat", older.dsn())
        older.sql(publish, "realtime")
        newer.sql(there, "realtime")
        async with serving(older.dsn()) as server:
            live = await chat(server, world, world.owner)
            await say(older.dsn(), world, "here", 3)
            await live.next("chat_message", 3)
            cursor = await leave(live)
        await eventually(lambda: count_is(newer.dsn(), "here", 3))
        newer.sql(go_on.replace("1234567", older.sql(look, "realtime")), "realtime")
        newer.sql("DROP SUBSCRIPTION moving", "realtime")
        async with serving(newer.dsn()) as server:
            assert await returns(server, world, cursor) == (False, "foreign")
            live = await chat(server, world, world.owner)
            await say(newer.dsn(), world, "there", 3)
            await live.next("chat_message", 3)
            assert contents(live) == ["there 0", "there 1", "there 2"]
        first = newer.sql("SELECT min(id) FROM relay.events", "realtime")
        assert int(first) > int(older.sql("SELECT max(id) FROM relay.events", "realtime"))


async def count_is(dsn: str, text: str, wanted: int) -> bool:
    return await count(dsn, text) == wanted


def older_programs(newer: Path) -> Path | None:
    """The other PostgreSQL of the wheel, if it has one that is older."""
    beside = newer.parents[1] / "pginstall" / "bin"
    return beside if beside.exists() and beside != newer else None


def upgrade(older: EmbeddedPostgres, newer: EmbeddedPostgres) -> None:
    """pg_upgrade, as its manual says: both are stopped, and both have checksums or neither."""
    account = ServerAccount.for_data_directory(newer.data_directory)
    options: dict[str, Any] = account.for_subprocess() if account else {}
    for server in (older, newer):
        server.stop("fast")
    home = newer.data_directory.parent / "upgrade"
    home.mkdir()
    shutil.chown(home, *_owner_of(newer.data_directory))
    checksums = [older.bin_dir / "pg_checksums", "--enable", "-D", older.data_directory]
    folders = ["-d", older.data_directory, "-D", newer.data_directory]
    programs = ["-b", older.bin_dir, "-B", newer.bin_dir]
    command = [newer.bin_dir / "pg_upgrade", "-U", "postgres", "-s", home, *folders, *programs]
    for one in (checksums, command):
        done = subprocess.run(
            one, capture_output=True, cwd=home, timeout=LIMIT, check=False, **options
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gen_test(timeout=180)
async def test_pg_upgrade_gives_another_history(postgres_bin: Path | None) -> None:
    """The log is copied with all else, and none of it is delivered; clients are told."""
    with postgres_server(postgres_bin) as newer:
        programs = older_programs(newer.bin_dir)
        if programs is None:
            pytest.skip("there is no older PostgreSQL")
        with postgres_server(programs) as older:
            await asyncio.to_thread(migrate, older.dsn())
            async with writing(older.dsn()) as platform:
                world = await make_world(platform)
            async with serving(older.dsn()) as server:
                live = await chat(server, world, world.owner)
                await say(older.dsn(), world, "before", 3)
                await live.next("chat_message", 3)
                cursor = await leave(live)
            newer.sql("DROP DATABASE realtime")
            await asyncio.to_thread(upgrade, older, newer)
            await asyncio.to_thread(newer.start)
        async with serving(newer.dsn()) as server:
            assert await returns(server, world, cursor) == (False, "foreign")
            live = await chat(server, world, world.owner)
            await say(newer.dsn(), world, "after", 3)
            await live.next("chat_message", 3)
            assert contents(live) == ["after 0", "after 1", "after 2"]
            assert await count(newer.dsn(), "before") == 3
