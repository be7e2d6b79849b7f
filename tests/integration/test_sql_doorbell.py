"""When a writer rings, and when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.postgres.doorbell import RING_CHANNEL
from realtime.postgres.event_log import EventLog
from realtime.relay.carried import parse_ring
from tests.integration.sql_log import Log, insert_messages
from tests.platform import Platform
from tests.serving import World
from tests.waiting import LIMIT


class Listener:
    """A connection of its own that hears the doorbell."""

    def __init__(self, platform: Platform) -> None:
        self._connection = platform.connection
        self._platform = platform
        self._heard: list[str] = []

    async def listen(self) -> None:
        self._heard = await self._platform.hear(RING_CHANNEL)

    async def heard(self, writer: Platform) -> list[str]:
        """What has rung until now: notifications arrive in the order of their commits."""
        await writer.execute("SELECT relay.tell('ring', 'end')")
        async with asyncio.timeout(LIMIT):
            while "end" not in self._heard:
                await self._connection.fetchval("SELECT 1")
        heard = self._heard[:-1]
        self._heard.clear()
        return heard


@pytest.fixture
def listener(io_loop: IOLoop, database: str) -> Iterator[Listener]:
    platform = io_loop.run_sync(lambda: Platform.connect(database))
    listener = Listener(platform)
    io_loop.run_sync(listener.listen)
    yield listener
    io_loop.run_sync(platform.connection.close)


@pytest.mark.gen_test
async def test_a_transaction_rings_once_a_table(
    platform: Platform, world: World, listener: Listener
) -> None:
    """With the table's name, however many rows; and not at all when nothing was written."""
    async with platform.connection.transaction():
        await insert_messages(platform, world, 3)
        await insert_messages(platform, world, 3)
        await platform.execute("UPDATE bots SET name = 'Eve'")
        await platform.execute("DELETE FROM documents")
    assert await listener.heard(platform) == ["messages", "bots"]
    await insert_messages(platform, world, 0)
    await platform.execute("UPDATE bots SET name = name")
    await platform.execute("UPDATE users SET email = 'x'")
    assert await listener.heard(platform) == []


@pytest.mark.gen_test
async def test_a_silent_bell_does_not_ring(
    platform: Platform, world: World, listener: Listener
) -> None:
    """2 silences it for everyone at once, also for a transaction with an old snapshot."""
    async with platform.connection.transaction(isolation="repeatable_read"):
        await platform.execute("SELECT FROM users")
        await platform.execute("SELECT setval('relay.bell', 2)")
        await insert_messages(platform, world, 1)
    assert await listener.heard(platform) == []
    await platform.execute("SELECT setval('relay.bell', 1)")
    await insert_messages(platform, world, 2)
    assert await listener.heard(platform) == ["messages"]


@pytest.mark.gen_test
async def test_a_quiet_transaction_is_logged_but_does_not_ring(
    platform: Platform, world: World, listener: Listener
) -> None:
    """So a transaction can be prepared for two-phase commit, which refuses NOTIFY."""
    epoch = await epoch_of(platform)
    log = await Log.since_now(platform)
    await platform.execute("BEGIN")
    await platform.execute("SET LOCAL relay.quiet = 'on'")
    await insert_messages(platform, world, 1)
    await platform.execute("PREPARE TRANSACTION 'quiet'")
    await platform.execute("COMMIT PREPARED 'quiet'")
    assert len(await log.messages()) == 1
    assert await listener.heard(platform) == []
    assert await epoch_of(platform) == epoch + 1


@pytest.mark.gen_test
@pytest.mark.parametrize("switch", ["relay.quiet", "relay.two_phase"])
async def test_a_switch_is_read_as_postgres_reads_booleans(
    platform: Platform, world: World, listener: Listener, switch: str
) -> None:
    """What is no boolean fails the writer, and says which setting it is."""
    change = f"DELETE FROM permissions WHERE user_id = '{world.guest}'"
    on, off = ("on", "TRUE", "1", " y ", "t"), ("off", "f", "0", "No", "")
    for value in (*on, *off):
        epoch = await epoch_of(platform)
        async with platform.connection.transaction():
            await platform.execute("SELECT set_config($1, $2, true)", switch, value)
            await insert_messages(platform, world, 1)
        heard = await listener.heard(platform)
        is_on = value in on
        assert (not heard, await epoch_of(platform) > epoch) == (is_on, is_on), value
    for value in ("maybe", "o", " ", "2"):
        for statement in (change, f"SELECT relay.emit('bot:{world.bot}', 'x')"):
            await platform.execute("BEGIN")
            await platform.execute("SELECT set_config($1, $2, true)", switch, value)
            with pytest.raises(asyncpg.InvalidParameterValueError, match=switch) as refused:
                await platform.execute(statement)
            await platform.execute("ROLLBACK")
            assert refused.value.hint == f"SET LOCAL {switch} = 'on'"
    # Once it was set in a transaction, PostgreSQL says '' and not null.
    await insert_messages(platform, world, 1)
    assert await listener.heard(platform)


async def epoch_of(platform: Platform) -> int:
    """Its number."""
    query = "SELECT coalesce(pg_sequence_last_value('relay.epoch'), 0)"
    epoch: int = await platform.connection.fetchval(query)
    return epoch


@pytest.mark.gen_test
async def test_an_epoch_is_of_one_sequence(platform: Platform) -> None:
    """A log that is restored into the same database counts on from the same number in another."""
    sequence = await platform.connection.fetchval("SELECT 'relay.epoch'::regclass::oid::text")
    told = await platform.connection.fetchval("SELECT relay.epoch_as_told()")
    assert told == f"{sequence}.{await epoch_of(platform)}"


@pytest.mark.gen_test
async def test_a_ring_carries_one_plain_event(
    platform: Platform, world: World, listener: Listener
) -> None:
    """As the log has it, with the epoch; whether a row was written or relay.emit was called.

    Who reads the ring gets the event that who reads the log gets.
    """
    log = EventLog(platform.connection)
    start = await log.start()
    last = await platform.connection.fetchval("SELECT max(id) FROM relay.events")
    await insert_messages(platform, world, 1)
    await platform.execute(f"SELECT relay.emit('bot:{world.bot}', 'poll', '{{}}', '{world.guest}')")
    await platform.execute(f"SELECT relay.notify_user('{world.guest}', 'quota', '{{}}')")
    rows = await platform.connection.fetch(
        "SELECT *, relay.microseconds(written_at) AS at FROM relay.events"
        " WHERE id > $1 ORDER BY id",
        last,
    )
    epoch = await platform.connection.fetchval("SELECT relay.epoch_as_told()")
    assert len(rows) == 3
    heard = await listener.heard(platform)
    assert heard == [
        f"{epoch} {row['id']} {row['xid']} {row['at']} {row['author'] or '-'} {row['topic']}"
        f" {row['payload']}"
        for row in rows
    ]
    (page,) = [one async for one in log.read(start.cursor, None)]
    assert [ring and ring.event for ring in map(parse_ring, heard)] == list(page.events)


@pytest.mark.gen_test
async def test_what_is_more_than_one_plain_event_rings_bare(
    platform: Platform, world: World, listener: Listener
) -> None:
    """Two rows, one with a subject, a change of access, and any while the bell says 3."""
    await insert_messages(platform, world, 2)
    await platform.execute(
        "UPDATE messages SET content = 'x' WHERE id = (SELECT id FROM messages LIMIT 1)"
    )
    assert await listener.heard(platform) == ["messages", "messages"]
    await platform.permit(world.bot, await platform.user())
    assert await listener.heard(platform) == ["users", "permissions"]
    await platform.execute("SELECT setval('relay.bell', 3)")
    await insert_messages(platform, world, 1)
    await platform.execute("INSERT INTO documents (bot_id, filename) VALUES ($1, 'a')", world.bot)
    await platform.execute(f"SELECT relay.emit('bot:{world.bot}', 'poll', '{{}}')")
    heard = await listener.heard(platform)
    assert len(heard) == 3
    assert not any(" " in ring for ring in heard)


@pytest.mark.gen_test
async def test_two_documents_of_a_statement_ring_bare(
    platform: Platform, world: World, listener: Listener
) -> None:
    """A ring with one of them would stand for both."""
    insert = "INSERT INTO documents (bot_id, filename) SELECT $1, 'a' FROM generate_series(1, $2)"
    for count in (1, 2, 3):
        await platform.execute(insert, world.bot, count)
        is_bare = [ring == "documents" for ring in await listener.heard(platform)]
        assert is_bare == [count > 1]


@pytest.mark.gen_test
async def test_no_text_is_made_that_no_ring_carries(platform: Platform) -> None:
    """Only a bell that is at 1, or was never touched, carries what was written."""
    bells = {bell: await carries_at(platform, bell) for bell in (1, 2, 3)}
    assert bells == {1: True, 2: False, 3: False}
    await platform.execute("ALTER SEQUENCE relay.bell RESTART")
    assert await platform.connection.fetchval("SELECT relay.carries()")


async def carries_at(platform: Platform, bell: int) -> bool:
    await platform.execute("SELECT setval('relay.bell', $1)", bell)
    answer: bool = await platform.connection.fetchval("SELECT relay.carries()")
    return answer


@pytest.mark.gen_test
async def test_a_long_ring_is_bare(platform: Platform, world: World, listener: Listener) -> None:
    """PostgreSQL refuses 8,000 bytes, and then the writer's transaction would fail."""
    await platform.message(world.session, world.bot, world.owner, "")
    (ring,) = await listener.heard(platform)
    for length in (7997, 7999, 8001):
        content = "\u00e9" * ((length - len(ring)) // 2) + "x" * ((length - len(ring)) % 2)
        await platform.message(world.session, world.bot, world.owner, content)
        (told,) = await listener.heard(platform)
        assert len(told.encode()) == (length if length < 8000 else len("messages"))


@pytest.mark.gen_test
async def test_a_transaction_carries_sixteen_events(
    platform: Platform, world: World, listener: Listener
) -> None:
    """What comes after them is for a read. A savepoint that is rolled back takes none."""
    async with platform.connection.transaction():
        await platform.execute("SAVEPOINT one")
        await insert_messages(platform, world, 1)
        await platform.execute("ROLLBACK TO one")
        for _ in range(20):
            await insert_messages(platform, world, 1)
    heard = await listener.heard(platform)
    assert [ring == "messages" for ring in heard] == [False] * 16 + [True]
    await insert_messages(platform, world, 1)
    assert await listener.heard(platform) != ["messages"]


ACCESS = (
    "DELETE FROM permissions",
    "UPDATE users SET is_active = false",
    "SELECT relay.eject(gen_random_uuid(), NULL)",
    "SELECT relay.grant(gen_random_uuid(), NULL)",
    "DELETE FROM bots",
    "TRUNCATE permissions",
    # Names nobody: whoever may read it by another table of the platform's was refused until now.
    "ALTER TABLE bots ALTER owner_id DROP NOT NULL; INSERT INTO bots (name) VALUES ('nobody''s')",
)


@pytest.mark.gen_test
@pytest.mark.parametrize("change", ACCESS)
@pytest.mark.parametrize("silence", ["SELECT setval('relay.bell', 2)", "SET relay.quiet = 'on'"])
async def test_changes_of_access_always_ring(
    platform: Platform, world: World, listener: Listener, change: str, silence: str
) -> None:
    """Bare, also while the bell is silent or relay.quiet is on, and only these do."""
    await platform.execute(silence)
    try:
        await insert_messages(platform, world, 1)
        await platform.execute("UPDATE bots SET name = 'Eve'")
        assert await listener.heard(platform) == []
        await platform.execute(change)
        heard = await listener.heard(platform)
        assert heard
        assert not any(" " in ring for ring in heard)
    finally:
        await platform.execute("RESET relay.quiet; SELECT setval('relay.bell', 1)")


@pytest.mark.gen_test
@pytest.mark.parametrize("silence", ["SELECT setval('relay.bell', 2)", "SET relay.quiet = 'on'"])
async def test_an_event_that_gives_access_always_rings(
    platform: Platform, world: World, listener: Listener, silence: str
) -> None:
    """A permission: what is told of it names the user, and no other row does."""
    user = await platform.user()
    await listener.heard(platform)
    await platform.execute(silence)
    try:
        await platform.permit(world.bot, user)
        assert await listener.heard(platform) == ["permissions"]
    finally:
        await platform.execute("RESET relay.quiet; SELECT setval('relay.bell', 1)")


@pytest.mark.gen_test
@pytest.mark.parametrize("change", ACCESS)
async def test_two_phase_commit_never_rings(
    platform: Platform, world: World, listener: Listener, change: str
) -> None:
    """Whatever it changes; but it advances the epoch."""
    epoch = await epoch_of(platform)
    await platform.execute("BEGIN; SET LOCAL relay.two_phase = 'on'")
    await insert_messages(platform, world, 1)
    await platform.execute(change)
    await platform.execute("PREPARE TRANSACTION 'silent'")
    await platform.execute("COMMIT PREPARED 'silent'")
    assert await listener.heard(platform) == []
    assert await epoch_of(platform) >= epoch + 2


@pytest.mark.gen_test
async def test_a_trigger_of_the_release_before_rings_for_access(
    platform: Platform, world: World, listener: Listener
) -> None:
    """It calls relay.ring with the table's name alone, and knows nothing of the epoch."""
    await platform.execute("SELECT setval('relay.bell', 2)")
    row = (
        "INSERT INTO relay.events (topic, type, payload, code) VALUES ('user:x', '{}', '{{}}', {})"
    )
    async with platform.connection.transaction():
        await platform.execute(row.format("notification", "NULL") + "; SELECT relay.ring('theirs')")
    assert await listener.heard(platform) == []
    async with platform.connection.transaction():
        await platform.execute(row.format("eject", 4003) + "; SELECT relay.ring('theirs')")
    assert await listener.heard(platform) == ["theirs"]
