"""`relay.cursor(topic)`: the cursor of the snapshot that a statement reads in.

Python reads what SQL wrote, and would have written the same. What the log returns for a cursor is
for the tests of `postgres.event_log` to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.pool import identify
from realtime.postgres.schema import migrate
from realtime.relay.cursor import MAX_CURSOR_LENGTH, Anchor, Cursor, InvalidCursor, Key, Signer
from tests.integration.sql_log import bot_topic, user_topic
from tests.postgres import postgres_server, restart
from tests.waiting import eventually

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

TOPIC = bot_topic("11111111-1111-4111-8111-aaaaaaaaaaaa")
OTHER = user_topic("11111111-1111-4111-8111-aaaaaaaaaaaa")
CURSOR = "SELECT relay.cursor($1)"
INSERT = "INSERT INTO relay.events (topic, type, payload) VALUES ($1, 'x', 'm')"
WRITE = f"""{INSERT}
    RETURNING xid, id, (extract(epoch FROM written_at) * 1000000)::bigint AS written_at"""
XID = "SELECT pg_current_xact_id()::text::bigint"


@asynccontextmanager
async def connections(dsn: str, count: int) -> AsyncIterator[list[Connection]]:
    opened = [await asyncpg.connect(dsn, timeout=10) for _ in range(count)]
    try:
        yield opened
    finally:
        for one in opened:
            one.terminate()
        await asyncio.sleep(0)


async def signer_of(connection: Connection) -> Signer:
    rows = await connection.fetch(
        "SELECT inner_key, outer_key FROM relay.cursor_keys ORDER BY signs DESC"
    )
    keys = tuple(Key(row["inner_key"], row["outer_key"]) for row in rows)
    return Signer(await identify(connection), keys)


async def cursor_of(connection: Connection, topic: str = TOPIC) -> Cursor:
    """What `relay.cursor` says here and now; Python accepts it, and writes the same text."""
    text = await connection.fetchval(CURSOR, topic)
    signer = await signer_of(connection)
    cursor = signer.read(text, topic)
    assert signer.write(cursor, topic) == text
    return cursor


async def write(connection: Connection) -> Anchor:
    row = await connection.fetchrow(WRITE, TOPIC)
    assert row is not None
    return Anchor(*row)


@pytest.mark.gen_test
async def test_an_empty_log(database: str) -> None:
    """Nothing was seen, so there is no newest row either."""
    async with connections(database, 1) as [reader]:
        assert await cursor_of(reader) == Cursor(0)


@pytest.mark.gen_test
async def test_the_newest_row_is_the_anchor(database: str) -> None:
    """By transaction first and by id second, whichever was written last."""
    async with connections(database, 3) as [writer, slow, reader]:
        await slow.execute("BEGIN")
        xid = await slow.fetchval(XID)
        newest = await write(writer)
        assert await cursor_of(reader) == Cursor(newest.xid, (xid,), newest)
        late = await write(slow)
        await slow.execute("COMMIT")
        assert late.id > newest.id
        assert await cursor_of(reader) == Cursor(newest.xid, (), newest)


@pytest.mark.gen_test
async def test_a_row_of_the_future_was_not_seen(database: str) -> None:
    """It came with a dump, or was written by hand: to claim it would hide all that comes now."""
    async with connections(database, 2) as [writer, reader]:
        newest = await write(writer)
        future = "INSERT INTO relay.events (xid, topic, type, payload) VALUES ($1, $2, 'x', 'm')"
        await writer.execute(future, newest.xid + 1_000_000, TOPIC)
        cursor = await cursor_of(reader)
        assert cursor.anchor == newest
        assert not cursor.covers((await write(writer)).xid)


@pytest.mark.gen_test
async def test_a_cursor_is_of_one_topic(database: str) -> None:
    """Borrowed for another it is refused, as is one whose text was edited."""
    async with connections(database, 1) as [reader]:
        await write(reader)
        text = await reader.fetchval(CURSOR, TOPIC)
        signer = await signer_of(reader)
        assert signer.read(await reader.fetchval(CURSOR, TOPIC.replace("a", "A")), TOPIC)
        with pytest.raises(InvalidCursor):
            signer.read(text, OTHER)
        with pytest.raises(InvalidCursor):
            signer.read(text.replace(".", ".1", 4).replace(".1", ".", 3), TOPIC)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="topic"):
            await reader.fetchval(CURSOR, "everything")


@pytest.mark.gen_test
@pytest.mark.parametrize("savepoint", ["SELECT 1", "SAVEPOINT here"])
async def test_the_transactions_own_rows_are_never_covered(database: str, savepoint: str) -> None:
    """They may yet be rolled back: the transaction is open, and no row of it is the anchor."""
    async with connections(database, 2) as [loader, writer]:
        first = await write(writer)
        await loader.execute("BEGIN")
        await loader.execute(savepoint)
        own = await write(loader)
        assert await cursor_of(loader) == Cursor(first.xid, (), first)
        newest = await write(writer)
        assert await cursor_of(loader) == Cursor(newest.xid, (own.xid,), newest)
        await write(loader)
        assert await cursor_of(loader) == Cursor(newest.xid, (own.xid,), newest)


@pytest.mark.gen_test
async def test_a_repeatable_read_that_began_long_ago(database: str) -> None:
    """The cursor is of its snapshot, not of the moment of the call."""
    async with connections(database, 3) as [loader, writer, slow]:
        await slow.execute("BEGIN")
        open_then = await slow.fetchval(XID)
        first = await write(writer)
        await loader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await loader.fetchval("SELECT count(*) FROM relay.events")
        await write(slow)
        await slow.execute("COMMIT")
        await write(writer)
        await write(loader)
        assert await cursor_of(loader) == Cursor(first.xid, (open_then,), first)


@pytest.mark.gen_test
async def test_a_statement_that_waited(database: str) -> None:
    """What was committed after the statement began is not covered: the function is STABLE."""
    query = "SELECT relay.cursor($1) FROM (SELECT pg_advisory_lock(1) OFFSET 0) AS waited"
    async with connections(database, 2) as [loader, writer]:
        first = await write(writer)
        await writer.execute("SELECT pg_advisory_lock(1)")
        loading = asyncio.ensure_future(loader.fetchval(query, TOPIC))

        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        await eventually(lambda: writer.fetchval(waits))
        await write(writer)
        await writer.execute("SELECT pg_advisory_unlock(1)")
        text = await loading
        assert (await signer_of(loader)).read(text, TOPIC) == Cursor(first.xid, (), first)


@pytest.mark.gen_test
async def test_a_prepared_transaction_is_open(database: str) -> None:
    """It may be committed days later."""
    async with connections(database, 2) as [writer, reader]:
        await writer.execute("BEGIN")
        prepared = await write(writer)
        await writer.execute("PREPARE TRANSACTION 'cursor'")
        try:
            newest = await write(reader)
            assert await cursor_of(reader) == Cursor(newest.xid, (prepared.xid,), newest)
        finally:
            await writer.execute("ROLLBACK PREPARED 'cursor'")


@pytest.mark.gen_test
async def test_the_floor_is_the_anchor_of_an_emptied_log(database: str) -> None:
    """It names the newest row that was removed, also where 0.1.0 raised it."""
    async with connections(database, 1) as [connection]:
        await write(connection)
        async with connection.transaction():
            await write(connection)
            newest = await write(connection)
        await connection.execute(
            "UPDATE relay.floor SET last = $1, snapshot = pg_current_snapshot()", newest.xid
        )
        await connection.execute("TRUNCATE relay.events")
        assert await cursor_of(connection) == Cursor(newest.xid, (), newest)


@pytest.mark.gen_test
async def test_a_floor_without_a_row(database: str) -> None:
    """Where the row is not to be found any more, no reader's anchor is named by accident."""
    async with connections(database, 1) as [connection]:
        newest = await write(connection)
        await connection.execute("TRUNCATE relay.events")
        await connection.execute("UPDATE relay.floor SET last = $1", newest.xid)
        anchor = (await cursor_of(connection)).anchor
        assert anchor is not None
        assert anchor.xid == newest.xid
        assert anchor != newest


@pytest.mark.gen_test
async def test_none_for_a_log_from_elsewhere(database: str) -> None:
    """Until a server has begun it anew; then old cursors are no good."""
    async with connections(database, 1) as [connection]:
        await write(connection)
        old = await connection.fetchval(CURSOR, TOPIC)
        await connection.execute("UPDATE relay.floor SET database = database::bigint + 1")
        assert await connection.fetchval(CURSOR, TOPIC) is None
        assert await connection.fetchval("SELECT relay.forget_foreign_log()") is True
        assert await connection.fetchval("SELECT count(*) FROM relay.events") == 0
        cursor = await cursor_of(connection)
        assert cursor.anchor is not None
        assert cursor.last == cursor.anchor.xid > 0
        with pytest.raises(InvalidCursor):
            (await signer_of(connection)).read(old, TOPIC)
        assert await connection.fetchval("SELECT relay.forget_foreign_log()") is False


@pytest.mark.gen_test(timeout=60)
async def test_on_a_standby_it_is_an_error(stoppable_postgres: EmbeddedPostgres) -> None:
    """Its snapshots do not list what is open; the hint says where to ask."""
    standby = stoppable_postgres.data_directory / "standby.signal"
    await restart(stoppable_postgres, standby.touch)
    async with connections(stoppable_postgres.dsn(), 1) as [reader]:
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="standby") as refused:
            await reader.fetchval(CURSOR, TOPIC)
        assert "primary" in (refused.value.hint or "")


@pytest.mark.gen_test(timeout=60)
async def test_a_cursor_is_never_cut(postgres_bin: Path | None) -> None:
    """Where the list of open transactions does not fit, there is none."""
    with postgres_server(postgres_bin, max_prepared_transactions="600") as server:
        await asyncio.to_thread(migrate, server.dsn())
        async with connections(server.dsn(), 1) as [connection]:
            fitted = 0
            for number in range(600):
                await connection.execute("BEGIN")
                await connection.execute("SELECT pg_current_xact_id()")
                await connection.execute(f"PREPARE TRANSACTION 'open {number}'")
                if number % 50 == 49:
                    await write(connection)
                    text = await connection.fetchval(CURSOR, TOPIC)
                    if text is None:
                        break
                    assert len((await cursor_of(connection)).open) == number + 1
                    fitted = len(text)
            assert text is None
            assert MAX_CURSOR_LENGTH - 110 < fitted <= MAX_CURSOR_LENGTH


@pytest.mark.gen_test
async def test_only_those_who_may(database: str) -> None:
    """The function works for whoever was granted it; keys and channels nobody else may read."""
    async with connections(database, 1) as [connection]:
        await write(connection)
        await connection.execute("CREATE ROLE cursor_caller")
        try:
            await connection.execute("GRANT USAGE ON SCHEMA relay TO cursor_caller")
            await connection.execute("SET ROLE cursor_caller")
            for query in (
                "SELECT relay.cursor('user:11111111-1111-4111-8111-aaaaaaaaaaaa')",
                "SELECT * FROM relay.cursor_keys",
                "SELECT last_value FROM relay.ring_channel",
                "SELECT last_value FROM relay.typing_channel",
                "SELECT relay.make_cursor_key()",
                "SELECT relay.forget_foreign_log()",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.fetch(query)
            await connection.execute("RESET ROLE")
            await connection.execute("GRANT EXECUTE ON FUNCTION relay.cursor TO cursor_caller")
            await connection.execute("SET ROLE cursor_caller")
            assert await connection.fetchval(CURSOR, TOPIC)
        finally:
            await connection.execute("RESET ROLE")
            await connection.execute("DROP OWNED BY cursor_caller; DROP ROLE cursor_caller")
