"""The channels' names are secrets that change, and no server has to be started anew for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from realtime.doctor.report import Level
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.doorbell import RING_CHANNEL, TYPING_CHANNEL
from realtime.postgres.schema import migrate
from tests.doctor import deployment, finds
from tests.platform import Platform
from tests.postgres import postgres_server
from tests.serving import StartServer, World
from tests.waiting import eventually

SEQUENCES = ("relay.ring_channel", "relay.typing_channel")
FUNCTIONS = (
    "relay.listen()",
    "relay.is_listening()",
    "relay.epoch_as_told()",
    "relay.tell('ring', 'x')",
    "relay.ring('x')",
    "relay.ring_event('x', 'x')",
    "relay.carry('x', 'x')",
    "relay.rotate_channels()",
)


@pytest.fixture
def stranger(postgres: EmbeddedPostgres, database: str) -> Iterator[str]:
    """The name of a role that may use the schema, and nothing in it."""
    name = f"stranger_{uuid4().hex[:8]}"
    postgres.sql(f"CREATE ROLE {name} LOGIN")
    yield name
    postgres.sql(f"DROP OWNED BY {name}", database.split("/")[3].split("?")[0])
    postgres.sql(f"DROP ROLE {name}")


async def numbers(platform: Platform) -> list[int]:
    """What the names end in."""
    query = "SELECT last_value FROM "
    return [await platform.connection.fetchval(query + sequence) for sequence in SEQUENCES]


@pytest.mark.gen_test
async def test_names_are_random_and_never_where_a_sequence_starts(platform: Platform) -> None:
    """pg_sequences shows anybody where a sequence starts, and so does a dump of the schema."""
    first = await numbers(platform)
    assert len(set(first)) == 2
    assert all(number > 2**40 for number in first)
    starts = await platform.connection.fetch(
        "SELECT seqstart FROM pg_sequence WHERE seqrelid = ANY ($1::text[]::regclass[])", SEQUENCES
    )
    assert [row["seqstart"] for row in starts] == [1, 1]
    await platform.execute("SELECT relay.rotate_channels()")
    assert not set(first) & set(await numbers(platform))


@pytest.mark.gen_test
async def test_who_may_do_nothing_learns_no_name(
    database: str, platform: Platform, stranger: str
) -> None:
    """Neither from the sequences nor from the functions, with the right to use the schema."""
    await platform.execute(f"GRANT USAGE ON SCHEMA relay TO {stranger}")
    session = await asyncpg.connect(database, user=stranger)
    try:
        for sequence in SEQUENCES:
            for query in (
                f"SELECT last_value FROM {sequence}",
                f"SELECT nextval('{sequence}')",
                f"SELECT currval('{sequence}')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await session.execute(query)
            seen = "SELECT last_value FROM pg_sequences WHERE sequencename = $1"
            assert await session.fetchval(seen, sequence.removeprefix("relay.")) is None
        for function in FUNCTIONS:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await session.execute(f"SELECT {function}")
    finally:
        await session.close()


@pytest.mark.gen_test
async def test_default_privileges_give_no_name_away(
    empty_database: str, postgres: EmbeddedPostgres
) -> None:
    """A database in which everybody may read every new sequence and table."""
    name = empty_database.split("/")[3].split("?")[0]
    for what in ("SEQUENCES", "TABLES"):
        postgres.sql(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {what} TO PUBLIC", name)
    await asyncio.to_thread(migrate, empty_database)
    query = "SELECT has_sequence_privilege('public', '{}', 'SELECT, USAGE, UPDATE')"
    for sequence in SEQUENCES:
        assert postgres.sql(query.format(sequence), name) == "f"
    for table in ("doorbell_turn", "retention_turn"):
        right = f"SELECT has_table_privilege('public', 'relay.{table}', 'UPDATE, DELETE, TRUNCATE')"
        assert postgres.sql(right, name) == "f"


@pytest.mark.gen_test
async def test_no_message_of_the_database_holds_a_name(platform: Platform, world: World) -> None:
    """With everything switched on that tells of statements and notifications."""
    said: list[str] = []
    platform.connection.add_log_listener(lambda _, message: said.append(str(message.as_dict())))
    for setting in ("client_min_messages = debug5", "trace_notify = on", "log_statement = 'all'"):
        await platform.execute(f"SET {setting}")
    payloads = await platform.hear(RING_CHANNEL)
    await platform.message(world.session, world.bot, world.owner)
    await platform.execute("SELECT relay.tell('typing', 'x')")
    await eventually(lambda: payloads)
    for setting in ("client_min_messages", "trace_notify", "log_statement"):
        await platform.execute(f"RESET {setting}")
    assert said, "debug messages were asked for"
    for number in await numbers(platform):
        assert str(number) not in "".join(said)
    shown = await platform.connection.fetchval("SELECT string_agg(query, '') FROM pg_stat_activity")
    assert not re.search(r"relay_(ring|typing)_\d", shown)


@pytest.fixture(scope="module")
def recording(postgres_bin: Path | None, postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a server whose pg_stat_statements records all statements."""
    is_there = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'"
    if postgres.sql(is_there) == "0":
        pytest.skip("this PostgreSQL has no pg_stat_statements: see TEST_POSTGRES_BIN")
    settings = {
        "shared_preload_libraries": "pg_stat_statements",
        "pg_stat_statements.track": "all",
    }
    with postgres_server(postgres_bin, **settings) as server:
        migrate(server.dsn())
        server.sql("CREATE EXTENSION pg_stat_statements", server.dsn().split("/")[3].split("?")[0])
        yield server.dsn()


@pytest.mark.gen_test
async def test_no_statistics_of_statements_hold_a_name(recording: str) -> None:
    """As far as the owner may say so; if not, the doctor says what helps."""
    platform = await Platform.connect(recording)

    async def is_recorded() -> Any:
        await platform.execute("SELECT relay.rotate_channels()")
        await platform.execute("SELECT relay.listen()")
        numbers_now = [str(number) for number in await numbers(platform)]
        seen = "SELECT count(*) FROM pg_stat_statements WHERE query ~ $1"
        return await platform.connection.fetchval(seen, "|".join(numbers_now)) > 0

    try:
        assert not await is_recorded()
        await finds(Level.FINE, "channels", deployment(recording))
        await platform.execute(
            "CREATE ROLE plain; GRANT USAGE ON SCHEMA relay TO plain;"
            " GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO plain;"
            " ALTER SEQUENCE relay.ring_channel OWNER TO plain;"
            " ALTER SEQUENCE relay.typing_channel OWNER TO plain;"
            " ALTER FUNCTION relay.listen() OWNER TO plain"
        )
        assert await is_recorded()
        cure = "GRANT SET ON PARAMETER pg_stat_statements.track TO plain"
        await finds(Level.PROBLEM, "channels", deployment(recording), "pg_read_all_stats", cure)
        silent = deployment(recording, CARRY_EVENTS="false")
        await finds(Level.WARNING, "channels", silent, cure)
        await platform.execute(cure)
        assert not await is_recorded()
        await finds(Level.FINE, "channels", deployment(recording))
    finally:
        await platform.connection.close()


@pytest.mark.gen_test
async def test_without_a_name_nobody_rings_and_writers_go_on(
    platform: Platform, world: World
) -> None:
    """And who listens next makes one."""
    for sequence in SEQUENCES:
        await platform.execute(f"ALTER SEQUENCE {sequence} RESTART")
    await platform.message(world.session, world.bot, world.owner)
    await platform.execute("SELECT relay.tell('typing', 'x')")
    assert not await platform.connection.fetchval("SELECT relay.is_listening()")
    payloads = await platform.hear(RING_CHANNEL)
    assert await platform.connection.fetchval("SELECT relay.is_listening()")
    await platform.message(world.session, world.bot, world.owner)
    await eventually(lambda: len(payloads) == 1)


@pytest.mark.gen_test
async def test_listening_anew_leaves_the_old_names(platform: Platform) -> None:
    """Two channels, whatever there were; and nothing of anybody else's."""
    await platform.execute("LISTEN theirs")
    for _ in range(3):
        await platform.execute("SELECT relay.listen()")
        await platform.execute("SELECT relay.rotate_channels()")
    assert not await platform.connection.fetchval("SELECT relay.is_listening()")
    await platform.execute("SELECT relay.listen()")
    rows = await platform.connection.fetch("SELECT pg_listening_channels() AS name")
    ring, typing = await numbers(platform)
    names = {f"{RING_CHANNEL}{ring}", f"{TYPING_CHANNEL}{typing}", "theirs"}
    assert {row["name"] for row in rows} == names


@pytest.mark.gen_test
async def test_servers_hear_the_new_names(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Without a start: rings and typing, on both of two, and events in the meantime."""
    one, other = await start_server(), await start_server()
    typist = await one.chat(world.bot, world.guest)
    watcher = await other.chat(world.bot, world.owner)
    for number in range(2):
        await platform.execute("SELECT relay.rotate_channels()")
        await platform.message(world.session, world.bot, world.owner, f"after rotation {number}")
        await eventually(lambda number=number: len(watcher.of_type("chat_message")) == number + 1)
        before = len(watcher.of_type("typing_indicator"))

        async def is_shown(before: int = before) -> Any:
            await typist.send({"type": "typing", "data": {"is_typing": True}})
            await typist.send({"type": "typing", "data": {"is_typing": False}})
            return len(watcher.of_type("typing_indicator")) > before

        await eventually(is_shown)
        rings = [server.server.relaying.counters.rings for server in (one, other)]
        await eventually(
            lambda: {s.server.relaying.reader.state.value for s in (one, other)} == {"asleep"}
        )

        async def has_rung(rings: list[int] = rings) -> Any:
            await platform.execute("SELECT relay.tell('ring', 'x')")
            now = [server.server.relaying.counters.rings for server in (one, other)]
            return all(after > before for before, after in zip(rings, now, strict=True))

        await eventually(has_rung)
