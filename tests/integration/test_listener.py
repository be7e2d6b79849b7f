"""The listener through outages of every kind: what was committed meanwhile arrives, once."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.listener import Listener, read_position
from realtime.postgres.pool import WrongServer
from realtime.postgres.schema import SchemaError
from realtime.relay.backoff import Backoff
from realtime.relay.events import Event, Page, RowKey
from realtime.relay.large_read import Unlisted
from realtime.relay.pace import DEFAULT_LIMITS, PaceLimits
from realtime.relay.position import Lineage, Position
from realtime.relay.reader import Reader
from realtime.relay.refusals import Refusals
from tests.pgbouncer import pgbouncer
from tests.platform import Platform
from tests.postgres import restart
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from realtime.relay.hub import Hub

SEND = "INSERT INTO relay.events (topic, type, payload) SELECT 't', 'x', $1 || n"
NEVER = 1000.0


class Collected:
    """In the hub's place: takes what the relay delivers, and keeps it there when told to."""

    def __init__(self) -> None:
        self.position: Position
        self.texts: list[str] = []
        self.lost: list[str] = []
        self.reads = 0
        self.owed: list[Event] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def deliver(self, page: Page, position: Position, unlisted: Unlisted) -> None:
        self.position = position
        self.reads += page.is_last
        if self.owed or any(event.payload is None for event in page.events):
            self.owed += page.events
        else:
            self.texts += [event.payload or "" for event in page.events]
        if page.events:
            await self.may_go_on.wait()

    @property
    def subscribers(self) -> Collected:
        return self

    def topics(self) -> Sequence[str]:
        return ["t"]

    def listed(self, events: Iterable[Event], number: int) -> None:
        self.owed += events

    def end_listing(self, number: int) -> None:
        """Portions may come before it."""

    @property
    def backlog(self) -> Collected:
        return self

    def __bool__(self) -> bool:
        return bool(self.owed)

    def lose_track(self, position: Position, reason: str) -> None:
        self.position = position
        self.lost.append(reason)

    async def next_portion(self, size: int, number: int) -> tuple[str, list[RowKey]] | None:
        keys = [event.key for event in self.owed[:number]]
        return ("t", keys) if keys else None

    async def deliver_portion(self, topic: str, events: list[Event]) -> None:
        del self.owed[: len(events)]
        self.texts += [event.payload or "" for event in events]

    def due_in(self) -> float:
        return 0.0 if self.owed else math.inf


class Heard:
    """A listener that runs, what it delivers and what it says of itself."""

    def __init__(self) -> None:
        self.limits = DEFAULT_LIMITS
        self.hub = Collected()
        self.refusals = Refusals(time.monotonic)
        self.typing: list[str] = []
        self.changes: list[bool] = []
        self.listener: Listener
        self.backoff = Backoff(lambda: 0)
        self._task: asyncio.Task[Any] | None = None

    async def start(self, dsn: str, direct: str | None = None, timeout: float = 10) -> None:
        """Begin at `direct`, where that is another way to the same, and listen at `dsn`."""
        self.hub.position = await read_position(direct or dsn, 10)
        self.listener = Listener(
            dsn,
            str(uuid4()),
            timeout=timeout,
            backoff=self.backoff,
            on_typing=self.typing.append,
            on_change=self._on_change,
        )
        relay = Reader(
            cast("Hub", self.hub),
            self.refusals,
            Lineage(self.hub.position),
            monotonic=time.monotonic,
            limits=self.limits,
        )
        self._task = asyncio.create_task(self.listener.run(relay))
        await self.changes_to(True)
        await eventually(lambda: self.hub.reads)  # of what came before

    def _on_change(self, is_heard: bool) -> None:
        if [is_heard] != self.changes[-1:]:
            self.changes.append(is_heard)

    async def changes_to(self, is_heard: bool) -> None:
        def has_changed() -> bool:
            if self._task is not None and self._task.done():
                self._task.result()
            return self.changes[-1:] == [is_heard]

        await eventually(has_changed, what=f"{is_heard}, after {self.changes}")

    async def delivers(self, *texts: str) -> None:
        """Wait for these, each once, and in this order."""
        await eventually(
            lambda: len(self.hub.texts) >= len(texts), what=f"{texts}, so far {self.hub.texts}"
        )
        assert self.hub.texts == list(texts)

    async def stop(self) -> None:
        """Also when it never began."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
def heard(io_loop: IOLoop) -> Iterator[Heard]:
    async def make() -> Heard:
        return Heard()

    one = io_loop.run_sync(make)
    yield one
    io_loop.run_sync(one.stop, timeout=LIMIT)
    io_loop.run_sync(lambda: asyncio.sleep(0))  # its socket closes on the next turn


@pytest.fixture
def reads_only_when_rung(heard: Heard) -> None:
    """Nothing is read without a ring."""
    heard.limits = PaceLimits(safety_seconds=NEVER)


@pytest.fixture
def frequent_checks(heard: Heard) -> None:
    """The log is also read twenty times a second."""
    heard.limits = PaceLimits(safety_seconds=0.05)


async def send(platform: Platform, *texts: str) -> None:
    """Write to the log, without a ring."""
    for text in texts:
        await platform.execute(f"{SEND} FROM (VALUES ('')) AS one (n)", text)


async def ring(platform: Platform) -> None:
    await platform.execute("SELECT relay.tell('ring', 'test')")


async def backends(platform: Platform) -> list[Any]:
    """The server's side of this database's listeners."""
    return await platform.connection.fetch(
        "SELECT pid, state FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'realtime'"
    )


async def kill_listener(platform: Platform) -> None:
    (backend,) = await backends(platform)
    await platform.execute("SELECT pg_terminate_backend($1, 5000)", backend["pid"])


# While all is well.


@pytest.mark.gen_test
async def test_a_ring_has_the_log_read(
    heard: Heard, database: str, platform: Platform, reads_only_when_rung: None
) -> None:
    """Nothing else does, so what was written quietly comes along with the next."""
    await send(platform, "before")
    await heard.start(database)
    await send(platform, "quiet")
    await send(platform, "rung")
    await ring(platform)
    await heard.delivers("quiet", "rung")
    await send(platform, "woken")
    heard.listener.ring()
    await heard.delivers("quiet", "rung", "woken")


@pytest.mark.gen_test
async def test_the_safety_read(
    heard: Heard, database: str, platform: Platform, frequent_checks: None
) -> None:
    """It brings what was written with relay.quiet, as everything else that did not ring."""
    await heard.start(database)
    await platform.execute("SET relay.quiet = 'on'")
    topic = "bot:b0a0c8a2-31f2-4b80-9c3c-1d0b2b7a0001"
    await platform.execute("SELECT relay.emit($1, 'poll', '{}')", topic)
    await eventually(lambda: heard.hub.texts or heard.hub.backlog)
    assert len(heard.hub.texts) == 1


@pytest.mark.gen_test
async def test_no_transaction_is_left_open(
    heard: Heard, database: str, platform: Platform, reads_only_when_rung: None
) -> None:
    """Neither after a small read nor after one in pages: NOTIFY would not be heard."""
    await heard.start(database)
    for number in (1, 2500):
        heard.hub.texts.clear()
        await platform.execute(f"{SEND} FROM generate_series(1, {number}) AS n", "")
        await ring(platform)
        await heard.delivers(*(str(n + 1) for n in range(number)))

        async def is_idle() -> Any:
            return [row["state"] for row in await backends(platform)] == ["idle"]

        await eventually(is_idle)


@pytest.mark.gen_test
async def test_typing_is_passed_on(heard: Heard, database: str, platform: Platform) -> None:
    """In order, and as it is."""
    await heard.start(database)
    for payload in ("one", "", "three"):
        await platform.execute("SELECT relay.tell('typing', $1)", payload)
    await eventually(lambda: len(heard.typing) == 3)
    assert heard.typing == ["one", "", "three"]


@pytest.mark.gen_test
async def test_ending_leaves_no_connection(heard: Heard, database: str, platform: Platform) -> None:
    """Nor does a ring after the end do anything."""
    await heard.start(database)
    assert len(await backends(platform)) == 1
    await heard.stop()
    heard.listener.ring()

    async def is_gone() -> Any:
        return not await backends(platform)

    await eventually(is_gone)


@pytest.mark.gen_test
async def test_a_grant_is_read_once(
    heard: Heard, database: str, platform: Platform, reads_only_when_rung: None
) -> None:
    """Though no event comes with it: else it would undo the memory of refusals at every read."""
    await heard.start(database)
    before = heard.refusals.generation
    await platform.user()
    await eventually(lambda: heard.refusals.generation > before)
    for _ in range(3):
        reads = heard.hub.reads
        heard.listener.ring()
        await eventually(lambda reads=reads: heard.hub.reads > reads)  # type: ignore[misc]
    assert heard.refusals.generation == before + 1


@pytest.mark.gen_test
@pytest.mark.parametrize("passes", [True, False])
async def test_a_pooler_in_the_way(
    heard: Heard,
    database: str,
    platform: Platform,
    reads_only_when_rung: None,
    passes: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where no ring ever arrives, the log is polled, and it is said what to do."""
    with pgbouncer(database, passes=passes) as pooled:
        await heard.start(pooled, direct=database)
        assert not heard.listener.can_hear
        assert "listen_hears_nothing" in caplog.text
        await send(platform, "unheard")
        await heard.delivers("unheard")
        await heard.stop()


@pytest.mark.gen_test
async def test_who_cannot_listen_still_reads(
    heard: Heard,
    database: str,
    platform: Platform,
    reads_only_when_rung: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when the disk is full: LISTEN fails, so the log is polled, and that is said."""
    await platform.execute(
        "CREATE OR REPLACE FUNCTION relay.listen() RETURNS void LANGUAGE plpgsql AS $$"
        " BEGIN RAISE disk_full USING MESSAGE = 'no space left on device'; END $$"
    )
    await heard.start(database)
    assert not heard.listener.can_hear
    assert "listen_failed" in caplog.text
    await send(platform, "unheard")
    await heard.delivers("unheard")
    await heard.stop()


# Through outages.


@pytest.mark.gen_test
async def test_a_killed_connection(
    heard: Heard,
    database: str,
    platform: Platform,
    postgres: EmbeddedPostgres,
    reads_only_when_rung: None,
) -> None:
    """What is committed before it is back arrives when it is, without a ring."""
    await heard.start(database)
    await send(platform, "before")
    await ring(platform)
    await heard.delivers("before")
    name = urlsplit(database).path.strip("/")
    postgres.sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    await kill_listener(platform)
    await heard.changes_to(False)
    await send(platform, "meanwhile", "too")
    heard.listener.ring()
    postgres.sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    await heard.changes_to(True)
    await heard.delivers("before", "meanwhile", "too")
    assert heard.changes == [True, False, True]
    await send(platform, "after")
    await ring(platform)
    await heard.delivers("before", "meanwhile", "too", "after")


class Counted(Backoff):
    """Counts its waits, none of which is long, and how often the next counts as the first."""

    def __init__(self) -> None:
        super().__init__(lambda: 0)
        self.waits = self.resets = 0

    def next(self) -> float:
        self.waits += 1
        return 0.0

    def reset(self) -> None:
        self.resets += 1


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        ("ALTER TABLE relay.floor RENAME TO away", "ALTER TABLE relay.away RENAME TO floor"),
        (
            "CREATE TABLE away AS TABLE relay.floor; DELETE FROM relay.floor",
            "INSERT INTO relay.floor TABLE away",
        ),
        (
            "CREATE TABLE away AS TABLE relay.cursor_keys; DELETE FROM relay.cursor_keys;"
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            "INSERT INTO relay.cursor_keys TABLE away",
        ),
    ],
    ids=["no floor", "a floor without its row", "no keys"],
)
async def test_only_a_log_that_could_be_read_makes_the_next_wait_short(
    heard: Heard,
    database: str,
    platform: Platform,
    frequent_checks: None,
    damage: str,
    repair: str,
) -> None:
    """A database that lets it in, and fails at every read, is not asked ten times a second.

    So it is while a dump is restored in place: the tables are there before their rows.
    """
    heard.backoff = backoff = Counted()
    await heard.start(database)
    await platform.connection.execute(damage)
    await eventually(lambda: backoff.waits >= 4)
    assert backoff.resets == 1
    await platform.connection.execute(repair)
    before = heard.hub.reads
    await eventually(lambda: heard.hub.reads > before)
    await kill_listener(platform)
    await eventually(lambda: backoff.resets == 2)


@pytest.mark.gen_test
async def test_away_for_longer_than_the_log_goes_back(
    heard: Heard, database: str, platform: Platform, reads_only_when_rung: None
) -> None:
    """Then every socket is told, once, and the relay goes on from now."""
    await heard.start(database)
    writer = await Platform.connect(database)
    async with platform.connection.transaction():
        # The first reads, which nobody rings for, may not come in between.
        await platform.execute("LOCK TABLE relay.floor IN ACCESS EXCLUSIVE MODE")
        await send(writer, "removed")
        await platform.execute(
            "UPDATE relay.floor SET snapshot = pg_current_snapshot(),"
            " last = (SELECT max(xid::text::bigint)::text::xid8 FROM relay.events)"
        )
    await writer.connection.close(timeout=LIMIT)
    await ring(platform)
    await eventually(lambda: heard.hub.lost)
    await send(platform, "after")
    await ring(platform)
    await heard.delivers("after")
    assert heard.hub.lost == ["too_old"]
    assert heard.changes == [True]


class Wire:
    """The way to the server, which may fall silent without an end: nothing passes any more."""

    def __init__(self, dsn: str) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="wire-")
        host = parse_qs(urlsplit(dsn).query)["host"][0]
        self._server_path = f"{host}/.s.PGSQL.5432"
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.passes: asyncio.Event
        self.dsn = dsn.replace(host, self._home.name)

    async def open(self) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        path = f"{self._home.name}/.s.PGSQL.5432"
        self._server = await asyncio.start_unix_server(self._connect, path)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._server_path)
        self._writers += [writer, back]
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, target))
            self._tasks.add(task)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                await self.passes.wait()
                target.write(data)
                await target.drain()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        self._server.close()
        self._home.cleanup()


@pytest.fixture
def wire(io_loop: IOLoop, database: str) -> Iterator[Wire]:
    one = Wire(database)
    io_loop.run_sync(one.open)
    yield one
    io_loop.run_sync(one.close)


@pytest.mark.gen_test
@pytest.mark.parametrize("number", [1, 2500])
async def test_a_connection_that_falls_silent(
    wire: Wire, heard: Heard, database: str, platform: Platform, frequent_checks: None, number: int
) -> None:
    """No end of it is ever heard; the next read finds out, and another connection is made."""
    await heard.start(wire.dsn, direct=database, timeout=0.5)
    heard.hub.may_go_on.clear()
    await platform.execute(f"{SEND} FROM generate_series(1, {number}) AS n", "")
    await eventually(lambda: heard.hub.texts or heard.hub.backlog)  # of several pages the first
    wire.passes.clear()
    heard.hub.may_go_on.set()
    await heard.changes_to(False)
    await send(platform, "meanwhile")
    wire.passes.set()
    await heard.changes_to(True)
    await heard.delivers(*(str(n + 1) for n in range(number)), "meanwhile")


# Servers that are stopped, stand by, and are promoted.


async def write(dsn: str, *texts: str) -> None:
    platform = await Platform.connect(dsn)
    await send(platform, *texts)
    await ring(platform)
    await platform.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_a_server_that_falls_down(
    heard: Heard, stoppable_postgres: EmbeddedPostgres, reads_only_when_rung: None
) -> None:
    """It comes back, and so does the listener; nothing is lost or told twice."""
    dsn = stoppable_postgres.dsn()
    await heard.start(dsn)
    await write(dsn, "before")
    await heard.delivers("before")
    await restart(stoppable_postgres)
    await write(dsn, "after")
    await heard.delivers("before", "after")
    assert heard.changes == [True, False, True]
    assert not heard.hub.lost


@pytest.mark.gen_test
async def test_a_lost_cursor_key_is_named_and_waited_for(
    heard: Heard,
    database: str,
    platform: Platform,
    caplog: pytest.LogCaptureFixture,
    reads_only_when_rung: None,
) -> None:
    """Nobody could be welcomed. What was written meanwhile comes after."""
    await heard.start(database)
    await platform.execute("DELETE FROM relay.cursor_keys")
    await kill_listener(platform)
    await eventually(lambda: "run SELECT relay.make_cursor_key()" in caplog.text)
    await send(platform, "meanwhile")
    await platform.execute("SELECT relay.make_cursor_key()")
    await heard.changes_to(True)
    await heard.delivers("meanwhile")
    await heard.stop()


@pytest.mark.gen_test
async def test_a_standby_is_not_listened_to_until_it_is_promoted(
    heard: Heard,
    stoppable_postgres: EmbeddedPostgres,
    caplog: pytest.LogCaptureFixture,
    reads_only_when_rung: None,
) -> None:
    """It says why; after the promotion history is another, which every socket is told."""
    dsn = stoppable_postgres.dsn()
    before = (await read_position(dsn, 10)).signer.database
    await heard.start(dsn)
    await restart(stoppable_postgres, (stoppable_postgres.data_directory / "standby.signal").touch)
    await heard.changes_to(False)
    await eventually(lambda: "standby" in caplog.text)
    assert heard.changes == [True, False]
    with pytest.raises(WrongServer):
        await read_position(dsn, 10)
    stoppable_postgres.sql("SELECT pg_promote()")
    await heard.changes_to(True)
    assert heard.hub.lost == ["foreign"]
    assert (await read_position(dsn, 10)).signer.database == before._replace(
        timeline=before.timeline + 1
    )
    await write(dsn, "after")
    await heard.delivers("after")


@pytest.mark.gen_test
async def test_it_begins_nowhere_else(empty_database: str) -> None:
    """A server that is not there is said to be lost; a database without a schema, what it lacks."""
    with pytest.raises(FileNotFoundError):
        await read_position("postgresql://postgres@/none?host=/nonexistent", 5)
    with pytest.raises(SchemaError, match="bin/migrate"):
        await read_position(empty_database, 5)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await read_position(empty_database.replace("postgres@/", "postgres@/other_"), 5)
