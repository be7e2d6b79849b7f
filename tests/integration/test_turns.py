"""A role that may only connect stops nobody, and what a process gives up is over on the server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.config.intervals import DEFAULTS
from realtime.embedded.server import EmbeddedPostgres
from realtime.installation import PROJECT
from realtime.postgres.doorbell import TAKE_TURN, Doorbell
from realtime.postgres.nodes import Nodes
from realtime.postgres.pool import connect, connect_command, limits, open_pool
from realtime.postgres.retention import Retention
from realtime.relay.position import Lineage
from tests.clients import Socket
from tests.pgbouncer import pgbouncer
from tests.platform import Platform
from tests.serving import StartServer, World
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

KEYS = (
    int.from_bytes(b"doorbell"),
    0x7265_6C61_79,
    7_310_594_301_118_720,
    7_310_594_301_118_721,
)
"""Of the advisory locks that release 0.1.0 took turns by."""
SOURCES = (".py", ".sql")
RELEASE_TURN = """
CREATE SCHEMA relay;
CREATE TABLE relay.alembic_version (
    version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
"""
_OURS = """
SELECT count(*) FROM pg_stat_activity
 WHERE application_name LIKE 'realtime%' AND datname = current_database()
"""
_MIGRATE = "import sys; from realtime.postgres.schema import migrate; migrate(sys.argv[1])"


@pytest.fixture
def stranger(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The name of a role that may log in, and was granted nothing."""
    name = f"stranger_{uuid4().hex[:8]}"
    postgres.sql(f"CREATE ROLE {name} LOGIN")
    yield name
    postgres.sql(f"DROP ROLE {name}")


class Nuisance:
    """Sessions of a role without rights, which hold whatever they can get."""

    def __init__(self, dsn: str, role: str) -> None:
        self._dsn = dsn
        self._role = role
        self._sessions: list[Connection] = []

    async def begin(self) -> None:
        """Take the advisory locks, listen, and notify, in a transaction that stays open."""
        session = await self._connect()
        for key in KEYS:
            await session.execute("SELECT pg_advisory_lock($1)", key)
        await session.execute("LISTEN relay; LISTEN relay_typing")
        talker = await self._connect()
        await talker.execute("SELECT pg_notify('relay', 'x'), pg_notify('relay_typing', 'x')")
        await talker.execute("BEGIN")
        await talker.execute("SELECT pg_notify('relay_typing', 'y')")

    async def may(self, statement: str) -> bool:
        """Whether the role may do this, at once."""
        session = await self._connect()
        try:
            await session.execute(f"BEGIN; SET LOCAL lock_timeout = 1000; {statement}; ROLLBACK")
        except asyncpg.InsufficientPrivilegeError:
            return False
        return True

    async def _connect(self) -> Connection:
        session = await asyncpg.connect(self._dsn, user=self._role)
        self._sessions.append(session)
        return session

    def end(self) -> None:
        for session in self._sessions:
            session.terminate()


@pytest.fixture
def nuisance(io_loop: IOLoop, database: str, stranger: str) -> Iterator[Nuisance]:
    made = Nuisance(database, stranger)
    yield made
    made.end()
    io_loop.run_sync(lambda: asyncio.sleep(0))


def has(chat: Socket, messages: int) -> bool:
    """Whether a socket was sent so many."""
    return len(chat.of_type("chat_message")) == messages


async def count_ours(platform: Platform) -> int:
    """How many sessions the programs of this project have."""
    number: int = await platform.connection.fetchval(_OURS)
    return number


@pytest.mark.gen_test
async def test_servers_go_on_whatever_a_stranger_holds(
    nuisance: Nuisance, start_server: StartServer, platform: Platform, world: World
) -> None:
    """Two of them: they deliver, sleep and wake, and empty the log; no session piles up."""
    await nuisance.begin()
    one, other = await start_server(), await start_server()
    chats = [await server.chat(world.bot, world.owner) for server in (one, other)]
    before = await count_ours(platform)
    for number in range(30):
        await platform.message(world.session, world.bot, world.owner, f"message {number}")
    for chat in chats:
        await eventually(partial(has, chat, 30))
    await eventually(
        lambda: (
            {one.server.relaying.reader.state.value, other.server.relaying.reader.state.value}
            == {"asleep"}
        )
    )
    await platform.message(world.session, world.bot, world.owner, "woken")
    for chat in chats:
        await eventually(partial(has, chat, 31))
    await one.server.database.retention.step()
    assert await platform.connection.fetchval("SELECT count(*) FROM relay.snapshots") >= 1
    assert await count_ours(platform) <= before + 4, "the pools grow, nothing else"


@pytest.mark.gen_test
@pytest.mark.parametrize("table", ["doorbell_turn", "retention_turn", "alembic_version"])
async def test_a_stranger_may_not_lock_what_turns_are_taken_by(
    nuisance: Nuisance, platform: Platform, stranger: str, table: str
) -> None:
    """Nor one who may read it: that is no lock which keeps anybody waiting."""
    await platform.execute(f"GRANT USAGE ON SCHEMA relay TO {stranger}")
    assert not await nuisance.may(f"LOCK TABLE relay.{table} IN ACCESS SHARE MODE")
    await platform.execute(f"GRANT SELECT ON relay.{table} TO {stranger}")
    assert await nuisance.may(f"LOCK TABLE relay.{table} IN ACCESS SHARE MODE")
    assert not await nuisance.may(f"LOCK TABLE relay.{table} IN SHARE MODE")
    assert not await nuisance.may(f"SELECT FROM relay.{table} FOR UPDATE")
    await platform.execute(f"DROP OWNED BY {stranger}")


@pytest.mark.gen_test
async def test_a_release_phase_goes_on_whatever_a_stranger_holds(
    empty_database: str, stranger: str
) -> None:
    """On an empty database, twice."""
    nuisance = Nuisance(empty_database, stranger)
    await nuisance.begin()
    try:
        for _ in range(2):
            run = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _MIGRATE, empty_database, cwd=PROJECT
            )
            assert await run.wait() == 0
    finally:
        nuisance.end()


@pytest.mark.gen_test
async def test_a_release_phase_minds_no_defaults(empty_database: str) -> None:
    """It waits for another one for longer than the database lets a statement take."""
    name = urlsplit(empty_database).path[1:]
    other = await asyncpg.connect(empty_database, timeout=LIMIT)
    await other.execute(f"ALTER DATABASE {name} SET statement_timeout = '2s'")
    await other.execute(RELEASE_TURN)
    turn = other.transaction()
    await turn.start()
    await other.execute("LOCK TABLE relay.alembic_version IN EXCLUSIVE MODE")
    run = [sys.executable, "-c", _MIGRATE, empty_database]
    phase = await asyncio.create_subprocess_exec(*run, cwd=PROJECT)
    waits = """SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = $1
        AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '3s'"""

    async def has_ended_or_waited() -> bool:
        await other.execute("SELECT pg_stat_clear_snapshot()")
        return phase.returncode is not None or bool(await other.fetchval(waits, name))

    await eventually(has_ended_or_waited)
    assert phase.returncode is None, "the migration keeps to a limit of the database's"
    await turn.commit()
    assert await asyncio.wait_for(phase.wait(), LIMIT) == 0
    await other.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_what_waits_for_a_turn_is_over_soon(database: str, platform: Platform) -> None:
    """Where its process gave up and went: no session is left that still waits."""
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'relay.doorbell_turn'::regclass"
    async with platform.connection.transaction():
        await platform.execute(TAKE_TURN)
        for _ in range(3):
            connection = await connect(database, 0.3)
            with pytest.raises((TimeoutError, asyncpg.PostgresError)):
                await Doorbell(connection, str(uuid4()), lambda _: None).ring_on()
            connection.terminate()

        async def only_ours() -> Any:
            return await platform.connection.fetchval(waiting) == 1

        await eventually(only_ours)


@pytest.mark.gen_test
@pytest.mark.parametrize("kind", ["listener", "pool", "command"])
async def test_every_session_has_limits_of_its_own(
    kind: str, database: str, platform: Platform
) -> None:
    """Whatever the database says for all."""
    name = await platform.connection.fetchval("SELECT current_database()")
    for setting in limits(1):
        await platform.execute(f"ALTER DATABASE {name} SET {setting} = 0")
    expected = {"statement_timeout": "3500ms", "lock_timeout": "1500ms"}
    expected |= {"idle_in_transaction_session_timeout": "30s"}
    async with open_pool(database, size=1, timeout=3, is_pooled=False) as pool:
        opened: dict[str, Callable[[], Any]] = {
            "listener": lambda: connect(database, 3),
            "command": lambda: connect_command(database, 3, "realtime test"),
            "pool": pool.acquire,
        }
        connection = await opened[kind]()
        for setting, value in expected.items():
            assert await connection.fetchval(f"SHOW {setting}") == value
        connection.terminate()


@pytest.mark.gen_test
async def test_a_log_that_is_not_emptied_is_told_of(
    database: str, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """By each process, while another one has the turn and does nothing with it."""
    await platform.execute("SELECT relay.emit('bot:' || gen_random_uuid(), 'old', '{}')")
    await platform.execute("UPDATE relay.events SET written_at = written_at - interval '1 h'")
    async with (
        open_pool(database, size=1, timeout=3, is_pooled=False) as pool,
        platform.connection.transaction(),
    ):
        await platform.execute("LOCK TABLE relay.retention_turn IN EXCLUSIVE MODE")
        await Retention(pool, seconds=3600).step()
        assert "retention_overdue" not in caplog.text
        await Retention(pool, seconds=60).step()
        assert "retention_overdue" in caplog.text


def test_no_turn_is_taken_by_an_advisory_lock() -> None:
    """In no statement of the server, of a command or of the schema as it is now."""
    folders = [PROJECT / "realtime", PROJECT / "migrations"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCES]
    assert files
    assert not [path for path in files if "pg_advisory" in path.read_text("utf-8")]


@pytest.mark.gen_test
@pytest.mark.parametrize("is_pooled", [True, False])
async def test_the_log_is_emptied_through_a_pooler(
    database: str, platform: Platform, lineage: Lineage, is_pooled: bool
) -> None:
    """One in transaction mode that takes no settings, whether the server was told of it or not."""
    with pgbouncer(database, passes=False) as dsn:
        async with open_pool(dsn, size=2, timeout=3, is_pooled=is_pooled) as pool:
            await Retention(pool, seconds=100).step()
            await Nodes(pool, str(uuid4()), DEFAULTS, lineage).leave()
            async with platform.connection.transaction():
                await platform.execute("LOCK TABLE relay.retention_turn IN EXCLUSIVE MODE")
                await Retention(pool, seconds=100).step()
    assert await platform.connection.fetchval("SELECT count(*) FROM relay.snapshots") == 1
