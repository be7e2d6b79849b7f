"""Reads of the log: in one trip, in pages, behind open transactions, and what they leave behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.postgres import event_log
from realtime.postgres.event_log import PAGE_ROWS, EventLog
from realtime.postgres.pool import connect
from realtime.postgres.schema import SchemaError
from realtime.relay.carried import Ahead
from realtime.relay.cursor import Cursor, Snapshot
from realtime.relay.events import AccessKind, Page
from realtime.relay.large_read import LargeRead
from realtime.relay.resume import GapReason, Unrecoverable
from tests.platform import Platform
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    Connection = asyncpg.Connection[asyncpg.Record]

SEND = "INSERT INTO relay.events (topic, type, payload) VALUES ('t', 'x', $1)"
SEND_MANY = "INSERT INTO relay.events (topic, type, payload) SELECT 't', 'x', n::text"
EJECT = "INSERT INTO relay.events (topic, type, code) SELECT 't', $1, 4003"
FUTURE = (
    "INSERT INTO relay.events (xid, topic, type, payload) VALUES ($1::xid8, 't', 'x', 'future')"
)


class Writing(Platform):
    """A connection that writes to the log itself."""

    async def send(self, *texts: str) -> None:
        for text in texts:
            await self.execute(SEND, text)

    async def send_many(self, number: int) -> None:
        await self.execute(f"{SEND_MANY} FROM generate_series(1, $1::int) AS n", number)

    async def change_access(self, number: int = 1, kind: str = "eject") -> None:
        await self.execute(f"{EJECT} FROM generate_series(1, {number})", kind)


@pytest.fixture
def reading(io_loop: IOLoop, database: str) -> Iterator[Connection]:
    """The connection of a log, as the listener makes it."""
    connection = io_loop.run_sync(lambda: connect(database, 10))
    yield connection
    io_loop.run_sync(lambda: connection.close(timeout=LIMIT))


@pytest.fixture
def log(reading: Connection) -> EventLog:
    return EventLog(reading)


@pytest.fixture
def writing(platform: Platform) -> Writing:
    return Writing(platform.connection)


@pytest.fixture
def other(io_loop: IOLoop, database: str) -> Iterator[Writing]:
    """A second writer."""
    connected = io_loop.run_sync(lambda: Writing.connect(database))
    yield Writing(connected.connection)
    io_loop.run_sync(lambda: connected.connection.close(timeout=LIMIT))


async def pages_of(log: EventLog, cursor: Cursor) -> list[Page]:
    """All pages of a read, with the payloads that did not come along."""
    return [await whole(log, page, cursor) async for page in log.read_all(cursor)]


async def whole(log: EventLog, page: Page, cursor: Cursor) -> Page:
    if all(event.payload is not None for event in page.events):
        return page
    keys = [event.key for event in page.events]
    return page._replace(events=tuple(await log.payloads(keys, cursor)))


def texts(pages: list[Page]) -> list[str]:
    return [event.payload or "" for page in pages for event in page.events]


def place_after(cursor: Cursor, pages: list[Page]) -> Cursor:
    """The cursor after a whole read."""
    newest = max(filter(None, (page.newest for page in pages)), default=None)
    return cursor.after(pages[-1].snapshot, newest)


async def state_of(platform: Platform, connection: Connection) -> Any:
    return await platform.connection.fetchval(
        "SELECT state FROM pg_stat_activity WHERE pid = $1", connection.get_server_pid()
    )


# In one trip.


@pytest.mark.gen_test
async def test_a_row_that_says_infinity(log: EventLog, writing: Writing) -> None:
    """It was written by hand; it is read like any other, and may be the newest that was seen."""
    cursor = await log.current_cursor()
    for time_ in ("infinity", "-infinity", "294276-12-31", "0044-03-15 BC"):
        insert = "INSERT INTO relay.events (topic, type, payload, written_at)"
        await writing.execute(f"{insert} VALUES ('t', 'x', '{time_[:3]}', '{time_}')")
        pages = await pages_of(log, cursor)
        assert texts(pages) == [time_[:3]]
        cursor = place_after(cursor, pages)
        assert await log.current_cursor() == cursor
        assert await writing.connection.fetchval(f"SELECT relay.cursor('bot:{uuid4()}')")


@pytest.mark.gen_test
async def test_who_begins_now_has_seen_the_last_row_of_a_transaction(writing: Writing) -> None:
    """Also where it is read without the index, which has the rows of each in their order."""
    await writing.send_many(5)
    for kind in ("indexscan", "indexonlyscan", "bitmapscan"):
        await writing.execute(f"SET enable_{kind} = off")
    cursor = await EventLog(writing.connection).current_cursor()
    newest = await writing.connection.fetchval("SELECT max(id) FROM relay.events")
    assert cursor.anchor is not None
    assert cursor.anchor.id == newest


@pytest.mark.gen_test
async def test_a_row_that_was_seen_besides_must_be_there(log: EventLog, writing: Writing) -> None:
    """Else a crash has forgotten it, and what is there may be another history."""
    start = await log.current_cursor()
    await writing.send("seen")
    (page,) = await pages_of(log, start)
    newest = page.newest
    assert newest is not None
    (again,) = [one async for one in log.read(start, newest)]
    assert texts([again]) == ["seen"]
    with pytest.raises(Unrecoverable) as caught:
        [one async for one in log.read(start, newest._replace(written_at=newest.written_at + 1))]
    assert caught.value.reason is GapReason.FOREIGN


@pytest.mark.gen_test
async def test_a_read_that_finds_nothing_still_tells_its_snapshot(
    log: EventLog, writing: Writing
) -> None:
    """One page without rows, whose snapshot is the server's."""
    (page,) = await pages_of(log, await log.current_cursor())
    text = await writing.connection.fetchval("SELECT pg_current_snapshot()::text")
    expected = Page(Snapshot.parse(text), (), (), is_last=True)
    assert page == expected._replace(clock_offset=page.clock_offset, seconds=page.seconds)
    assert page.seconds == log.round_trip > 0


@pytest.mark.gen_test
async def test_what_was_delivered_ahead_is_found_and_not_brought(
    log: EventLog, writing: Writing
) -> None:
    """Only the rest comes; and the read says so, or it is another history."""
    start = await log.current_cursor()
    await writing.send("first", "second", "third")
    await writing.change_access()
    (page,) = await pages_of(log, start)
    first, second, third = (event.anchor for event in page.events)
    (rest,) = [one async for one in log.read(start, None, {first, third})]
    assert [event.anchor for event in rest.events] == [second]
    assert (rest.confirmed, rest.changes) == ({first, third}, page.changes)
    (nothing,) = [one async for one in log.read(start, None, {first, second, third})]
    assert (nothing.events, len(nothing.changes)) == ((), 1)


@pytest.mark.gen_test
@pytest.mark.parametrize("field", ["xid", "id", "written_at"])
async def test_what_was_delivered_ahead_and_is_not_there_is_another_history(
    log: EventLog, writing: Writing, field: str
) -> None:
    """After a crash, an id may be given again: nothing of such a log is delivered."""
    start = await log.current_cursor()
    await writing.send("first", "second")
    (page,) = await pages_of(log, start)
    first, second = (event.anchor for event in page.events)
    forgotten = first._replace(**{field: getattr(first, field) - 1})
    with pytest.raises(Unrecoverable) as failure:
        [one async for one in log.read(start, None, {forgotten, second})]
    assert failure.value.reason is GapReason.FOREIGN


@pytest.mark.gen_test
async def test_a_large_read_lists_what_was_delivered_ahead(log: EventLog, writing: Writing) -> None:
    """It is looked for where the events are listed: here, some of it may not be in sight."""
    start = await log.current_cursor()
    await writing.send("first")
    (page,) = await pages_of(log, start)
    ahead = {event.anchor for event in page.events}
    await writing.send_many(PAGE_ROWS)
    (last,) = [one async for one in log.read(start, None, ahead)]
    assert (last.end is not None, last.confirmed) == (True, frozenset())
    assert texts(await pages_of(log, start))[0] == "first"


@pytest.mark.gen_test
async def test_the_age_of_an_event_is_told_by_the_databases_own_clock(
    log: EventLog, writing: Writing
) -> None:
    """Whatever this host's clock says: at least what has passed, at most the read's time more."""
    start = await log.current_cursor()
    before = time.monotonic()
    await writing.connection.execute(
        "INSERT INTO relay.events (topic, type, payload) VALUES ('t', 'x', '{}')"
    )
    written = time.monotonic()
    await writing.connection.execute("SELECT pg_sleep(0.05)")
    (page,) = await pages_of(log, start)
    written_here = page.events[0].written_at / 1e6 + page.clock_offset
    assert before - page.seconds <= written_here <= written


@pytest.mark.gen_test
async def test_a_small_read_is_one_statement(
    log: EventLog, reading: Connection, writing: Writing
) -> None:
    """Rows and snapshot come in one round trip, so that they are of one moment."""
    start = await log.current_cursor()
    await pages_of(log, start)  # the first time, asyncpg asks for types
    await writing.send("one", "two")
    statements: list[str] = []
    with reading.query_logger(lambda record: statements.append(record.query)):
        pages = await pages_of(log, start)
    assert texts(pages) == ["one", "two"]
    await eventually(lambda: statements)
    assert statements == [event_log._READ]


@pytest.mark.gen_test
async def test_an_event_is_what_was_written(log: EventLog, writing: Writing) -> None:
    """Id, transaction, topic, payload, of which thing it tells, and its author.

    Whom it grants comes apart from it.
    """
    start = await log.current_cursor()
    author = "b0a0c8a2-31f2-4b80-9c3c-1d0b2b7a0003"
    user, thing = "b0a0c8a2-31f2-4b80-9c3c-1d0b2b7a0001", "b0a0c8a2-31f2-4b80-9c3c-1d0b2b7a0002"
    row = await writing.connection.fetchrow(
        "INSERT INTO relay.events (topic, type, payload, user_id, subject, author)"
        " VALUES ('t', 'x', '{}', $1, $2, $3) RETURNING id, xid,"
        " (extract(epoch FROM written_at) * 1000000)::bigint AS written_at",
        user,
        thing,
        author,
    )
    assert row is not None
    (page,) = await pages_of(log, start)
    written_at = row["written_at"]
    assert page.events == ((row["id"], row["xid"], "t", "{}", thing, written_at, 2, author),)
    assert [(grant.id, grant.topic, grant.user_id) for grant in page.grants] == [
        (row["id"], "t", user)
    ]


@pytest.mark.gen_test
async def test_access_changes_come_apart_from_events(log: EventLog, writing: Writing) -> None:
    """Both kinds of them, with everything they say."""
    start = await log.current_cursor()
    user = "b0a0c8a2-31f2-4b80-9c3c-1d0b2b7a0001"
    await writing.execute(
        "INSERT INTO relay.events (topic, type, user_id, code, payload)"
        " VALUES ('t', 'eject', $1, 4003, 'bye')",
        user,
    )
    await writing.send("event")
    await writing.execute("INSERT INTO relay.events (type, code) VALUES ('recheck', 4001)")
    (page,) = await pages_of(log, start)
    assert texts([page]) == ["event"]
    said = [one._replace(id=0, xid=0, written_at=0) for one in page.changes]
    assert said == [
        (0, 0, "t", user, AccessKind.REVOKE, 4003, "bye", 0),
        (0, 0, None, None, AccessKind.RECHECK, 4001, None, 0),
    ]
    assert page.changes[0].id < page.events[0].id < page.changes[1].id


@pytest.mark.gen_test
async def test_what_is_open_comes_when_it_commits(
    log: EventLog, writing: Writing, other: Writing
) -> None:
    """Later events do not wait for it, and are not read again with it."""
    start = await log.current_cursor()
    await other.execute("BEGIN")
    await other.send("slow")
    await writing.send("fast")
    pages = await pages_of(log, start)
    cursor = place_after(start, pages)
    assert texts(pages) == ["fast"]
    assert texts(await pages_of(log, cursor)) == []
    await other.execute("COMMIT")
    pages = await pages_of(log, cursor)
    assert texts(pages) == ["slow"]
    assert texts(await pages_of(log, place_after(cursor, pages))) == []


@pytest.mark.gen_test
async def test_events_are_in_the_order_of_their_writing(
    log: EventLog, writing: Writing, other: Writing
) -> None:
    """Not in that of their transactions: the later one's event may have been seen by the other."""
    start = await log.current_cursor()
    await other.execute("BEGIN")
    await other.execute("SELECT pg_current_xact_id()")
    await writing.send("seen")
    await other.send("answer")
    await other.execute("COMMIT")
    (page,) = await pages_of(log, start)
    assert texts([page]) == ["seen", "answer"]
    assert page.events[0].xid > page.events[1].xid


@pytest.mark.gen_test
async def test_what_was_undone_is_never_read(
    log: EventLog, writing: Writing, other: Writing
) -> None:
    """By a rollback or to a savepoint, below the cursor or above."""
    start = await log.current_cursor()
    await other.execute("BEGIN")
    await other.send("kept")
    await other.execute("SAVEPOINT s")
    await other.send("undone")
    await writing.send("first")
    pages = await pages_of(log, start)
    cursor = place_after(start, pages)
    await other.execute("ROLLBACK TO s")
    await other.execute("COMMIT")
    await other.execute("BEGIN")
    await other.send("undone")
    await other.execute("ROLLBACK")
    await writing.send("last")
    assert texts([*pages, *await pages_of(log, cursor)]) == ["first", "kept", "last"]


# In pages.


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("number", "sizes"),
    [
        (PAGE_ROWS - 10, [PAGE_ROWS - 10]),
        (PAGE_ROWS, [PAGE_ROWS]),
        (PAGE_ROWS + 1, [PAGE_ROWS, 1, 0]),
        (2 * PAGE_ROWS, [PAGE_ROWS, PAGE_ROWS, 0]),
        (2 * PAGE_ROWS + 500, [PAGE_ROWS, PAGE_ROWS, 500, 0]),
    ],
)
async def test_a_large_read_comes_in_pages(
    log: EventLog, writing: Writing, number: int, sizes: list[int]
) -> None:
    """Only the last, which is empty, says so, and nothing follows it."""
    start = await log.current_cursor()
    await writing.send_many(number)
    pages = await pages_of(log, start)
    assert [len(page.events) for page in pages] == sizes
    assert [page.is_last for page in pages] == [False] * (len(sizes) - 1) + [True]
    assert len({page.snapshot for page in pages}) == 1
    assert texts(pages) == [str(n) for n in range(1, number + 1)]
    assert texts(await pages_of(log, place_after(start, pages))) == []


@pytest.mark.gen_test
async def test_all_access_changes_come_before_all_events(log: EventLog, writing: Writing) -> None:
    """Also those that were written after more events than a page holds."""
    start = await log.current_cursor()
    await writing.send_many(PAGE_ROWS + 500)
    await writing.change_access()
    await writing.send("last")
    await writing.change_access(kind="recheck")
    pages = await pages_of(log, start)
    before = [page for page in pages if page.changes]
    assert pages[: len(before)] == before
    assert [one.is_recheck for page in before for one in page.changes] == [False, True]
    assert not [event for page in before for event in page.events]
    assert texts(pages)[-1] == "last"


@pytest.mark.gen_test
async def test_a_read_may_be_all_changes(log: EventLog, writing: Writing) -> None:
    """More of them than a page holds of events; an empty page ends the read."""
    start = await log.current_cursor()
    await writing.change_access(PAGE_ROWS + 500)
    pages = await pages_of(log, start)
    assert [(len(page.changes), page.is_last) for page in pages] == [
        (PAGE_ROWS, False),
        (500, False),
        (0, True),
    ]
    (nothing,) = await pages_of(log, place_after(start, pages))
    assert nothing.is_last
    assert not nothing.changes


@pytest.mark.gen_test
async def test_a_large_read_tells_of_grants_before_its_events(
    log: EventLog, writing: Writing
) -> None:
    """Those that are rows of their own, and those that are events besides."""
    start = await log.current_cursor()
    ada, grace = str(uuid4()), str(uuid4())
    await writing.send_many(PAGE_ROWS + 500)
    await writing.execute(
        "INSERT INTO relay.events (topic, type, payload, user_id) VALUES ('t', 'grant', NULL, $1),"
        " ('t', 'x', '{}', $2)",
        ada,
        grace,
    )
    pages = await pages_of(log, start)
    assert not pages[0].events
    assert [(one.kind, one.topic, one.user_id) for one in pages[0].grants] == [
        (AccessKind.GRANT, "t", ada),
        (AccessKind.GRANT, "t", grace),
    ]
    assert texts(pages)[-1] == "{}"


@pytest.mark.gen_test
async def test_no_access_change_is_too_large_for_a_page(log: EventLog, writing: Writing) -> None:
    """A page has one at least, also where its final message is more than is asked for at once."""
    start = await log.current_cursor()
    await writing.send_many(PAGE_ROWS + 1)
    await writing.execute(
        "INSERT INTO relay.events (topic, type, code, payload)"
        " SELECT 't', 'eject', 4003, repeat('x', $1::int) FROM generate_series(1, 2)",
        2 * log.portion_bytes,
    )
    pages = await pages_of(log, start)
    assert [len(page.changes) for page in pages if page.changes] == [1, 1]


@pytest.mark.gen_test
async def test_a_large_transaction_below_the_cursor_comes_in_pages(
    log: EventLog, writing: Writing, other: Writing
) -> None:
    """It was open when later ones were read."""
    start = await log.current_cursor()
    await other.execute("BEGIN")
    await other.send_many(PAGE_ROWS + 200)
    await writing.send("fast")
    pages = await pages_of(log, start)
    cursor = place_after(start, pages)
    await other.execute("COMMIT")
    await writing.send("after")
    late = await pages_of(log, cursor)
    assert texts(pages) == ["fast"]
    assert [len(page.events) for page in late] == [PAGE_ROWS, 201, 0]
    assert texts(late)[-1] == "after"


@pytest.mark.gen_test
async def test_pages_are_of_one_moment(log: EventLog, writing: Writing) -> None:
    """What commits between two of them is not in them; the next read brings it, once."""
    start = await log.current_cursor()
    await writing.send_many(2 * PAGE_ROWS)
    pages: list[Page] = []
    async for page in log.read_all(start):
        pages.append(page)
        await writing.send("meanwhile")
        await writing.change_access()
    assert "meanwhile" not in texts(pages)
    assert not pages[0].changes
    (after,) = await pages_of(log, place_after(start, pages))
    assert texts([after]) == ["meanwhile"] * len(pages)
    assert len(after.changes) == len(pages)


@pytest.mark.gen_test
async def test_the_end_of_a_large_read_is_no_row_that_was_open_when_it_began(
    log: EventLog, writing: Writing, other: Writing
) -> None:
    """Else the cursor would cover a transaction that committed between two pages."""
    start = await log.current_cursor()
    await writing.send_many(PAGE_ROWS + 1)
    await writing.change_access()
    await other.execute("BEGIN")
    await other.send("meanwhile")
    await writing.execute("SELECT pg_current_xact_id()")
    pages: list[Page] = []
    async for page in log.read_all(start):
        if not pages:
            await other.execute("COMMIT")
        pages.append(page)
    assert "meanwhile" not in texts(pages)
    assert texts(await pages_of(log, place_after(start, pages))) == ["meanwhile"]


@pytest.mark.gen_test
async def test_the_first_events_of_topics_are_those_that_the_large_read_has(
    log: EventLog, writing: Writing, other: Writing
) -> None:
    """Also of a transaction that was open at the cursor; none that it covers or that came later."""
    await other.execute("BEGIN")
    await other.send("from an open one")
    await writing.send("seen")
    cursor = await log.current_cursor()
    await other.execute("COMMIT")
    await writing.send("one", "two")
    (last,) = [page async for page in log.read(cursor)]
    await writing.send("later")
    large = LargeRead(1, cursor, last.snapshot, Ahead())
    found = await log.first_of(["t", "nothing"], 9, large)
    read = await log.payloads([event.key for event in found], cursor)
    assert sorted(event.payload or "" for event in read) == ["from an open one", "one", "two"]
    assert len(await log.first_of(["t"], 2, large)) == 2


# What a read leaves behind.


@pytest.mark.gen_test
@pytest.mark.parametrize("number", [0, 1, PAGE_ROWS + 1])
async def test_a_read_leaves_no_transaction_open(
    log: EventLog, reading: Connection, writing: Writing, number: int
) -> None:
    """An open one would hold back vacuum, and the delivery of NOTIFY."""
    start = await log.current_cursor()
    assert await state_of(writing, reading) == "idle"
    await writing.send_many(number)
    await pages_of(log, start)
    assert await state_of(writing, reading) == "idle"


@pytest.mark.gen_test
async def test_a_read_broken_off_leaves_no_transaction_open(
    log: EventLog, reading: Connection, writing: Writing
) -> None:
    """The same connection then reads all of it again."""
    start = await log.current_cursor()
    await writing.send_many(2 * PAGE_ROWS)
    all_of_it = cast("AsyncGenerator[Page, None]", log.read_all(start))
    async with aclosing(all_of_it) as pages:
        async for page in pages:
            if page.events:
                break
    assert not reading.is_in_transaction()
    assert len(texts(await pages_of(log, start))) == 2 * PAGE_ROWS


@pytest.mark.gen_test
async def test_a_read_cancelled_while_it_waits_leaves_no_transaction_open(
    log: EventLog, reading: Connection, writing: Writing, other: Writing
) -> None:
    """Here it waits for a lock, between its pages, until it is cancelled."""
    start = await log.current_cursor()
    await writing.send_many(2 * PAGE_ROWS)
    await other.execute("BEGIN; LOCK TABLE relay.events IN ACCESS EXCLUSIVE MODE")
    task = asyncio.create_task(pages_of(log, start))
    await eventually(lambda: is_waiting(writing, reading))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await other.execute("COMMIT")
    assert len(texts(await pages_of(log, start))) == 2 * PAGE_ROWS
    assert await state_of(writing, reading) == "idle"


async def is_waiting(platform: Platform, connection: Connection) -> Any:
    return await platform.connection.fetchval(
        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1",
        connection.get_server_pid(),
    )


# Where to begin, and rows that lie in the future.


@pytest.mark.gen_test
async def test_one_who_begins_now_is_given_what_comes(
    log: EventLog, writing: Writing, other: Writing
) -> None:
    """Nothing committed before; all that is open or comes later."""
    assert (await log.current_cursor()).last == 0
    await writing.send("before")
    await other.execute("BEGIN")
    await other.send("open")
    await writing.send("before, too")
    start = await log.current_cursor()
    assert len(start.open) == 1
    await writing.send("after")
    await other.execute("COMMIT")
    assert texts(await pages_of(log, start)) == ["open", "after"]


@pytest.mark.gen_test
@pytest.mark.parametrize("number", [1, PAGE_ROWS + 1])
async def test_rows_from_the_future_are_not_delivered(
    log: EventLog, writing: Writing, number: int
) -> None:
    """A restored dump brings them; they neither arrive nor move the cursor, in pages or not."""
    start = await log.current_cursor()
    await writing.execute(FUTURE, 2**40)
    await writing.send_many(number)
    pages = await pages_of(log, start)
    assert texts(pages) == [str(n) for n in range(1, number + 1)]
    assert (await log.current_cursor()).last == place_after(start, pages).last < 2**40


@pytest.mark.gen_test
async def test_a_row_at_xmax_lies_in_the_future(log: EventLog, writing: Writing) -> None:
    """The next transaction id is the first that no snapshot covers yet."""
    start = await log.current_cursor()
    await writing.execute("BEGIN")
    mine = await writing.connection.fetchval("SELECT pg_current_xact_id()")
    await writing.execute(FUTURE, mine + 1)
    await writing.send("present")
    await writing.execute("COMMIT")
    (page,) = await pages_of(log, start)
    assert (texts([page]), page.snapshot.xmax) == (["present"], mine + 1)


# What retention has removed.

EMPTY = """BEGIN; LOCK TABLE relay.events_0 IN ACCESS EXCLUSIVE MODE NOWAIT;
    UPDATE relay.floor SET snapshot = pg_current_snapshot(), last = (
        SELECT xid FROM relay.events_0 ORDER BY xid DESC LIMIT 1);
    TRUNCATE relay.events_0; COMMIT"""


@pytest.mark.gen_test
async def test_a_gap_is_never_silent(log: EventLog, writing: Writing, other: Writing) -> None:
    """Who has not seen what was removed is told; who has, and who begins now, reads on."""
    start = await log.current_cursor()
    await other.execute("BEGIN")
    await other.send("open")
    await writing.send("removed")
    behind = place_after(start, await pages_of(log, start))
    await other.execute("COMMIT")
    now = await log.current_cursor()
    await writing.execute(EMPTY)
    assert await log.current_cursor() == now
    for cursor in (start, behind):
        with pytest.raises(Unrecoverable) as caught:
            await pages_of(log, cursor)
        assert caught.value.reason is GapReason.TOO_OLD
    await writing.send("after")
    assert texts(await pages_of(log, now)) == ["after"]


class Interrupted:
    """A connection to which something happens after the first statement of a transaction."""

    def __init__(self, connection: Connection, happens: str, writing: Writing) -> None:
        self._connection = connection
        self._happens: str | None = happens
        self._writing = writing

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._connection, name)
        if not name.startswith(("fetch", "execute")):
            return method

        async def call(*arguments: Any, **options: Any) -> Any:
            result = await method(*arguments, **options)
            if self._connection.is_in_transaction() and self._happens:
                statements, self._happens = self._happens, None
                # As retention does: it gives way to a reader.
                with suppress(asyncpg.LockNotAvailableError):
                    await self._writing.execute(statements)
            return result

        return call


@pytest.mark.gen_test
async def test_a_gap_is_not_silent_between_pages(
    log: EventLog, reading: Connection, writing: Writing
) -> None:
    """TRUNCATE shows in older snapshots, too: a read in pages has to be sure of its rows."""
    start = await log.current_cursor()
    await writing.send_many(PAGE_ROWS + 200)
    interrupted = EventLog(cast("Connection", Interrupted(reading, EMPTY, writing)))
    found: list[Page] = []
    with suppress(Unrecoverable):
        found = await pages_of(interrupted, start)
        assert len(texts(found)) == PAGE_ROWS + 200


@pytest.mark.gen_test
async def test_a_log_from_elsewhere_is_not_read(log: EventLog, writing: Writing) -> None:
    """A restored dump brings it, floor and all: it is emptied, and then all is as ever."""
    start = (await log.start()).cursor
    await writing.send("old")
    await writing.execute(
        "UPDATE relay.floor SET last = '1000000', snapshot = '9:9:', system = system + 1"
    )
    with pytest.raises(Unrecoverable) as caught:
        await pages_of(log, start)
    assert caught.value.reason is GapReason.FOREIGN
    start = (await log.start()).cursor
    await writing.send("after")
    assert texts(await pages_of(log, start)) == ["after"]


@pytest.mark.gen_test
async def test_without_the_floors_row_nothing_is_read_and_nothing_emptied(
    log: EventLog, writing: Writing
) -> None:
    """As for a moment while a dump is restored in place: whose log it is cannot be known."""
    start = (await log.start()).cursor
    await writing.send("before")
    await writing.execute("CREATE TABLE kept AS TABLE relay.floor")
    await writing.execute("DELETE FROM relay.floor")
    with pytest.raises(SchemaError, match=r"relay\.floor has lost its row"):
        await pages_of(log, start)
    with pytest.raises(SchemaError, match=r"relay\.floor has lost its row"):
        await log.current_cursor()
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await log.start()
    cursor = await writing.connection.fetchval("SELECT relay.cursor($1)", f"user:{uuid4()}")
    assert cursor is None
    await writing.execute("INSERT INTO relay.floor TABLE kept")
    assert texts(await pages_of(log, start)) == ["before"]


# Behind slow transactions, in a full log.


async def fill(writing: Writing, number: int) -> Cursor:
    """A log of many transactions, and the place of one who has seen all of it."""
    await writing.execute("ALTER TABLE relay.events_0 SET (autovacuum_enabled = off)")
    await writing.execute(
        "INSERT INTO relay.events (xid, topic, type, payload)"
        " SELECT (3 + n / 100)::text::xid8, 't', 'x', n::text"
        " FROM generate_series(1, $1::int) AS n",
        number,
    )
    await writing.send("newest")
    return await EventLog(writing.connection).current_cursor()


async def plan_of(connection: Connection, query: str, cursor: Cursor, mode: str) -> str:
    await connection.execute(f"SET plan_cache_mode = {mode}")
    types = "xid8[], bigint[], xid8, xid8[], bigint, xid8[], bigint[], bigint[]"
    await connection.execute(f"PREPARE read ({types}) AS {query}")
    opened = ",".join(map(str, cursor.open))
    rows = await connection.fetch(
        f"EXPLAIN EXECUTE read ('{{5}}', '{{5}}', '{cursor.last}', '{{{opened}}}', 9,"
        " '{7}', '{7}', '{7}')"
    )
    return "\n".join(row[0] for row in rows)


@pytest.mark.gen_test
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("opened", [1, 30, 300])
@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_a_read_behind_slow_transactions_stays_indexed(
    reading: Connection, writing: Writing, opened: int, mode: str, is_analyzed: bool
) -> None:
    """Whatever is known of the log's contents, and however many transactions are open."""
    cursor = await fill(writing, 50_000)
    if is_analyzed:
        await writing.execute("ANALYZE relay.events")
    cursor = Cursor(cursor.last, tuple(range(cursor.last - opened, cursor.last)))
    plan = await plan_of(reading, event_log._READ, cursor, mode)
    # The other partitions are empty, and read in whatever way.
    assert plan.count("on events_0 ") == 3, plan
    assert "Seq Scan on events_0" not in plan, plan


@pytest.mark.gen_test
@pytest.mark.parametrize("query", [*event_log._READ_ACCESS, event_log._READ_EVENTS])
async def test_a_page_of_a_large_transaction_sorts_nothing(
    reading: Connection, writing: Writing, query: str
) -> None:
    """Each page would cost all that is left, and everybody would wait for minutes."""
    await fill(writing, 1000)
    await writing.execute(
        "INSERT INTO relay.events (topic, type, payload)"
        " SELECT 't', 'x', 'x' FROM generate_series(1, 50000)"
    )
    types = "xid8[], bigint[], xid8, xid8[], text, xid8, bigint, bigint"
    await reading.execute(f"PREPARE page ({types}) AS {query}")
    rows = await reading.fetch("EXPLAIN EXECUTE page ('{}', '{}', '5', '{}', '9:9:', '5', 5, 5)")
    plan = "\n".join(row[0] for row in rows)
    assert "on events_0 " in plan
    assert "->  Sort" not in plan, plan
