"""The log is kept as long as it must be, and no cursor is promised what is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.postgres.event_log import EventLog
from realtime.postgres.retention import PARTITIONS, Retention
from realtime.relay.cursor import Anchor, Cursor
from realtime.relay.events import Event
from realtime.relay.resume import GapReason, Unrecoverable
from tests.platform import Platform
from tests.serving import StartServer, World
from tests.waiting import eventually

KEPT = "SELECT count(*) FROM relay.events"
SLOT = "SELECT coalesce(pg_sequence_last_value('relay.current_slot'), 0)"


class Clock:
    """Makes recorded snapshots and events older, instead of waiting."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def advance(self, seconds: float) -> None:
        for change in (
            "UPDATE relay.snapshots SET recorded_at = recorded_at - make_interval(secs => $1)",
            "UPDATE relay.events SET written_at = written_at - make_interval(secs => $1)",
        ):
            await self._platform.execute(change, seconds)


@pytest.fixture
def clock(platform: Platform) -> Clock:
    return Clock(platform)


@pytest.fixture
def pool(io_loop: IOLoop, database: str):  # type: ignore[no-untyped-def]
    made: asyncpg.Pool[asyncpg.Record] = io_loop.run_sync(lambda: _pool(database))
    yield made
    io_loop.run_sync(made.close)


async def _pool(dsn: str) -> asyncpg.Pool[asyncpg.Record]:
    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=1)
    assert pool is not None
    return pool


async def emit(platform: Platform, content: str) -> None:
    await platform.execute(
        "SELECT relay.emit('user:00000000-0000-4000-8000-000000000000', $1, '{}')", content
    )


async def read(platform: Platform, cursor: Cursor) -> list[Event]:
    log = EventLog(platform.connection)
    return [event async for page in log.read_all(cursor) for event in page.events]


@pytest.mark.gen_test
async def test_what_is_older_than_the_retention_goes_and_the_rest_stays(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock
) -> None:
    """Through the whole ring, several times around."""
    retention = Retention(pool, seconds=100)
    start = await EventLog(platform.connection).current_cursor()
    for turn in range(3 * PARTITIONS):
        await emit(platform, f"event_{turn}")
        await retention.step()
        await clock.advance(60)
    kept = await platform.connection.fetchval(KEPT)
    assert 2 <= kept <= PARTITIONS
    with pytest.raises(Unrecoverable):
        await read(platform, start)


@pytest.mark.gen_test
@pytest.mark.parametrize("leap", [-3600.0, -100_000_000.0])
async def test_a_clock_that_was_set_back_keeps_nothing_for_ever(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock, leap: float
) -> None:
    """Nobody knows how old the rows and snapshots are that were made before that."""
    retention = Retention(pool, seconds=100)
    await emit(platform, "before")
    await retention.step()
    await clock.advance(leap)
    for turn in range(PARTITIONS):
        await retention.step()
        await emit(platform, f"event_{turn}")
        await clock.advance(60)
    from_the_future = "SELECT count(*) FROM {} WHERE {} > clock_timestamp()"
    for table, column in (("relay.events", "written_at"), ("relay.snapshots", "recorded_at")):
        assert not await platform.connection.fetchval(from_the_future.format(table, column))
    assert await platform.connection.fetchval(KEPT)


@pytest.mark.gen_test
async def test_a_cursor_that_claims_all_that_was_removed_is_still_good(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock
) -> None:
    """And it reads what came after, once; one from before is refused rather than served a gap."""
    retention = Retention(pool, seconds=100)
    before = await EventLog(platform.connection).current_cursor()
    await emit(platform, "old")
    for _ in range(3):
        await retention.step()
        await clock.advance(60)
    # Only now, for the clock here changes the rows, by which a cursor knows them.
    seen = await EventLog(platform.connection).current_cursor()
    await emit(platform, "new")
    await retention.step()
    assert await platform.connection.fetchval(KEPT) == 1
    assert ['"type":"new"' in event.payload for event in await read(platform, seen)] == [True]
    with pytest.raises(Unrecoverable):
        await read(platform, before)


@pytest.mark.gen_test
async def test_nothing_is_removed_that_was_not_over_one_retention_ago(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock, database: str
) -> None:
    """A transaction that wrote long ago and commits late keeps its row; writers never wait."""
    retention = Retention(pool, seconds=100)
    slow = await Platform.connect(database)
    transaction = slow.connection.transaction()
    await transaction.start()
    await emit(slow, "slow")
    for turn in range(3 * PARTITIONS):
        await emit(platform, f"event_{turn}")
        await retention.step()
        await clock.advance(60)
    await transaction.commit()
    await slow.connection.close()
    await retention.step()
    payloads = [
        row["payload"]
        for row in await platform.connection.fetch("SELECT payload FROM relay.events")
    ]
    assert any('"type":"slow"' in payload for payload in payloads)


async def empty_first(retention: Retention, platform: Platform, clock: Clock) -> None:
    """Have the partition emptied that was written to until now."""
    await retention.step()
    await clock.advance(150)
    await platform.execute("SELECT setval('relay.current_slot', 1)")
    await retention.step()


async def row_id(platform: Platform) -> int:
    newest: int = await platform.connection.fetchval("SELECT max(id) FROM relay.events")
    return newest


@pytest.mark.gen_test
async def test_what_was_open_when_the_snapshot_was_recorded_stays(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock, database: str
) -> None:
    """Also the latest transaction, which the snapshot does not even list: its id is the next."""
    retention = Retention(pool, seconds=100)
    slow = await Platform.connect(database)
    async with slow.connection.transaction():
        await emit(slow, "slow")
        xid = await slow.connection.fetchval("SELECT pg_current_xact_id()")
        await retention.step()
        snapshots = await platform.connection.fetch(
            "SELECT pg_snapshot_xmax(snapshot) AS next FROM relay.snapshots"
        )
        assert [row["next"] for row in snapshots] == [xid]
    await slow.connection.close()
    await clock.advance(150)
    await platform.execute("SELECT setval('relay.current_slot', 1)")
    await retention.step()
    assert await platform.connection.fetchval(KEPT) == 1


@pytest.mark.gen_test
async def test_the_floor_names_the_last_row_that_was_removed(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock
) -> None:
    """Of the last transaction, the highest id; a cursor of before that misses something."""
    retention = Retention(pool, seconds=100)
    await emit(platform, "first")
    between = await EventLog(platform.connection).current_cursor()
    async with platform.connection.transaction():
        xid = await platform.connection.fetchval("SELECT pg_current_xact_id()")
        for content in ("second", "third"):
            await emit(platform, content)
    last_id = await row_id(platform)
    await empty_first(retention, platform, clock)
    assert await platform.connection.fetchval(KEPT) == 0
    floor = await platform.connection.fetchrow("SELECT last, last_id FROM relay.floor")
    assert tuple(floor or ()) == (xid, last_id)
    with pytest.raises(Unrecoverable) as lost:
        await read(platform, between)
    assert lost.value.reason is GapReason.TOO_OLD


@pytest.mark.gen_test
async def test_a_cursor_that_waits_for_what_was_removed_is_refused(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock, database: str
) -> None:
    """It claims all rows up to the last one, but for the transaction that was open then."""
    retention = Retention(pool, seconds=100)
    slow = await Platform.connect(database)
    async with slow.connection.transaction():
        await emit(slow, "slow")
        xid = await slow.connection.fetchval("SELECT pg_current_xact_id()")
        await emit(platform, "quick")
        seen = await EventLog(platform.connection).current_cursor()
        assert seen.open == (xid,)
    await slow.connection.close()
    await empty_first(retention, platform, clock)
    assert await platform.connection.fetchval(KEPT) == 0
    newest = Anchor(
        *await platform.connection.fetchrow(
            "SELECT last, last_id, relay.microseconds(last_written_at) FROM relay.floor"
        )
    )
    with pytest.raises(Unrecoverable) as lost:
        await read(platform, Cursor(seen.last, seen.open, newest))
    assert lost.value.reason is GapReason.TOO_OLD


@pytest.mark.gen_test
async def test_a_floor_from_another_server_falls(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock
) -> None:
    """Or every cursor would count as too old until this server has come as far."""
    retention = Retention(pool, seconds=100)
    await emit(platform, "old")
    highest = await platform.connection.fetchval("SELECT max(xid) FROM relay.events")
    await platform.execute("UPDATE relay.floor SET last = '900000000000'")
    await empty_first(retention, platform, clock)
    assert await platform.connection.fetchval("SELECT last FROM relay.floor") == highest


@pytest.mark.gen_test
async def test_where_the_oldest_cannot_be_emptied_writing_goes_on_in_the_current_one(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock, database: str
) -> None:
    """A reader that holds a partition is not waited for, and waits for nobody."""
    retention = Retention(pool, seconds=100)
    await emit(platform, "held")
    reader = await Platform.connect(database)
    async with reader.connection.transaction():
        await reader.execute("LOCK TABLE relay.events IN ACCESS SHARE MODE")
        for turn in range(3 * PARTITIONS):
            await emit(platform, f"event_{turn}")
            await retention.step()
            await clock.advance(60)
        assert await platform.connection.fetchval(KEPT) == 3 * PARTITIONS + 1
        assert await platform.connection.fetchval(SLOT) == PARTITIONS - 1
    await reader.connection.close()
    current = await platform.connection.fetchval(
        f"SELECT count(*) FROM relay.events_{PARTITIONS - 1}"
    )
    await retention.step()
    assert await platform.connection.fetchval(KEPT) == current


@pytest.mark.gen_test
async def test_a_snapshot_from_another_server_is_not_believed(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform
) -> None:
    """As a restored dump brings it, with ids that lie in the future here."""
    retention = Retention(pool, seconds=100)
    await emit(platform, "new")
    await platform.execute(
        "INSERT INTO relay.snapshots (recorded_at, snapshot)"
        " VALUES (now() - interval '1 day', '900000000000:900000000000:')"
    )
    await platform.execute(
        "UPDATE relay.floor SET last = '900000000000', snapshot = '900000000000:900000000000:'"
    )
    await platform.execute("SELECT setval('relay.current_slot', 1)")
    await retention.step()
    assert await platform.connection.fetchval(KEPT) == 1


@pytest.mark.gen_test
async def test_nothing_is_removed_that_cannot_be_recorded(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock
) -> None:
    """The floor has no row, as for a moment while a dump is restored in place."""
    retention = Retention(pool, seconds=100)
    await emit(platform, "old")
    await platform.execute("CREATE TABLE kept AS TABLE relay.floor")
    await platform.execute("DELETE FROM relay.floor")
    for _ in range(PARTITIONS):
        await retention.step()
        await clock.advance(60)
    assert await platform.connection.fetchval(KEPT) == 1
    await platform.execute("INSERT INTO relay.floor TABLE kept")
    await retention.step()
    assert await platform.connection.fetchval(KEPT) == 0


class Watched:
    """A pool of one connection; whenever that waits for its process, the held locks are noted."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], platform: Platform) -> None:
        self._pool = pool
        self._platform = platform
        self._connection: Any = None
        self.held: list[str] = []

    @asynccontextmanager
    async def acquire(self, **options: Any) -> AsyncIterator[Watched]:
        async with self._pool.acquire(**options) as self._connection:
            yield self

    def transaction(self, **options: Any) -> Any:
        return self._connection.transaction(**options)

    async def execute(self, *statement: Any) -> Any:
        return await self._noting(self._connection.execute(*statement))

    async def fetchval(self, *statement: Any) -> Any:
        return await self._noting(self._connection.fetchval(*statement))

    async def _noting(self, asking: Awaitable[Any]) -> Any:
        try:
            return await asking
        finally:
            locks = await self._platform.connection.fetch(
                "SELECT mode FROM pg_locks WHERE relation IN (SELECT inhrelid FROM pg_inherits"
                " WHERE inhparent = 'relay.events'::regclass) AND pid <> pg_backend_pid()"
            )
            self.held += [row["mode"] for row in locks if "Exclusive" in row["mode"]]


@pytest.mark.gen_test
async def test_a_process_that_is_stopped_never_holds_what_writers_need(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform, clock: Clock
) -> None:
    """Wherever it is stopped: between two statements it has no lock on the log that excludes."""
    watched = Watched(pool, platform)
    retention = Retention(cast(Any, watched), seconds=100)
    for turn in range(2 * PARTITIONS):
        await emit(platform, f"event_{turn}")
        await retention.step()
        await clock.advance(60)
    assert 2 <= await platform.connection.fetchval(KEPT) <= PARTITIONS
    assert watched.held == []


@pytest.mark.gen_test
async def test_one_process_at_a_time_does_it(
    pool: asyncpg.Pool[asyncpg.Record], platform: Platform
) -> None:
    """The other leaves at once."""
    async with platform.connection.transaction():
        await platform.execute("LOCK TABLE relay.retention_turn IN EXCLUSIVE MODE")
        await Retention(pool, seconds=100).step()
        assert await platform.connection.fetchval("SELECT count(*) FROM relay.snapshots") == 0
    await Retention(pool, seconds=100).step()
    assert await platform.connection.fetchval("SELECT count(*) FROM relay.snapshots") == 1


@pytest.mark.gen_test
async def test_sockets_are_told_when_the_log_went_past_their_process(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """`resync` for who knows cursors, 1013 for who does not, 4003 for who lost access."""
    server = await start_server()
    knows = await server.chat(world.bot, world.owner, cursor="")
    plain = await server.chat(world.bot, world.owner)
    revoked = await server.chat(world.bot, world.guest, cursor="")
    for table in ("permissions", "messages"):
        await platform.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    await platform.revoke(world.bot, world.guest)
    await platform.execute(
        "UPDATE relay.floor SET last = pg_snapshot_xmin(pg_current_snapshot()),"
        " snapshot = pg_current_snapshot()"
    )
    await eventually(lambda: knows.of_type("resync"))
    assert knows.of_type("resync")[0]["data"] == {"reason": "too_old"}
    assert await plain.closed() == 1013
    assert await revoked.closed() == 4003
    await platform.execute("ALTER TABLE messages ENABLE TRIGGER USER")
    await platform.message(world.session, world.bot, world.owner, "after")
    assert (await knows.next("chat_message"))["data"]["content"] == "after"
