"""The simulation on real tables: every kind of event, few rows, nobody else's touched."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.dev import command as dev
from realtime.embedded.server import EmbeddedPostgres
from realtime.simulate import cast, corpus
from realtime.simulate.cast import Cast
from realtime.simulate.plan import timeline
from realtime.simulate.player import AWAY, Player, SimulateError
from realtime.simulate.progress import Progress
from tests.platform import Platform
from tests.postgres import restart
from tests.waiting import eventually

EVERY_EVENT = {
    "chat_message",
    "chat_message_update",
    "permission_change",
    "bot_update",
    "document_update",
    "notification",
    "poll_opened",
    "poll_closed",
    "eject",
    "recheck",
    "grant",
}
OTHERS = """
SELECT jsonb_build_object('users', (SELECT jsonb_agg(u ORDER BY id) FROM users AS u),
    'bots', (SELECT jsonb_agg(b ORDER BY id) FROM bots AS b),
    'permissions', (SELECT jsonb_agg(p ORDER BY id) FROM permissions AS p),
    'sessions', (SELECT jsonb_agg(s ORDER BY id) FROM sessions AS s),
    'messages', (SELECT jsonb_agg(m ORDER BY id) FROM messages AS m),
    'documents', (SELECT jsonb_agg(d ORDER BY id) FROM documents AS d))::text"""


class Simulation:
    """A player whose every statement is due at once, and what it said."""

    def __init__(
        self, dsn: str, *, is_guest: bool = False, clock: Callable[[], float] | None = None
    ) -> None:
        self.said: list[str] = []
        guest_at = (UUID(dev.BOT_ID), UUID(dev.SESSION_ID)) if is_guest else None
        self.cast: Cast = cast.build(corpus.read(), bots=3, people=7, guest_at=guest_at)
        hurried = count(step=1_000_000)
        self.clock = clock or (lambda: float(next(hurried)))
        self.progress = Progress(lambda: 0.0)
        self.player = Player(dsn, self.cast, self.progress, self.said.append, self.clock)
        self.stop = asyncio.Event()
        self.plan = timeline(random.Random(1), self.cast, rate=5, new_id=uuid4)

    async def play(self, statements: int) -> None:
        await self.player.play(islice(self.plan, statements), self.stop)


Simulate = Callable[..., Simulation]


@pytest.fixture
def simulate(io_loop: IOLoop) -> Iterator[Simulate]:
    """Makes simulations, and closes what they opened."""
    made: list[Simulation] = []

    def make(dsn: str, **more: Any) -> Simulation:
        made.append(Simulation(dsn, **more))
        return made[-1]

    async def close() -> None:
        for simulation in made:
            simulation.player.close()
        await asyncio.sleep(0)  # the sockets close on the next turn

    yield make
    io_loop.run_sync(close)


@pytest.mark.gen_test
async def test_every_kind_of_event_and_nothing_left(
    platform: Platform, database: str, simulate: Simulate
) -> None:
    """Played beside bin/dev's demo, whose people and rows are as before at its end."""
    await platform.execute(dev.DEMO.read_text("utf-8"))
    await platform.message(dev.SESSION_ID, dev.BOT_ID, dev.PEOPLE["ada"], "mine")
    before = await platform.connection.fetchval(OTHERS)
    simulation = simulate(database, is_guest=True)
    await simulation.player.open()
    await simulation.play(8000)
    await all_kinds_are_there(platform)
    assert await simulation.player.clear_away()
    assert simulation.said == []
    assert await platform.connection.fetchval(OTHERS) == before


async def all_kinds_are_there(platform: Platform) -> None:
    rows = await platform.connection.fetch("SELECT DISTINCT type FROM relay.events")
    assert {row["type"] for row in rows} >= EVERY_EVENT
    actions = await platform.connection.fetch(
        "SELECT DISTINCT payload::json #>> '{data,action}' AS action FROM relay.events"
        " WHERE payload IS NOT NULL"
    )
    assert {row["action"] for row in actions} >= {
        *("edited", "deleted", "granted", "updated", "revoked"),
        *("uploaded", "processing", "processed", "failed"),
    }
    demo = "SELECT count(*) FROM relay.events WHERE topic = $1 AND type = 'chat_message_update'"
    assert await platform.connection.fetchval(demo, f"bot:{dev.BOT_ID}") > 100


@pytest.mark.gen_test
async def test_the_people_of_the_demo_keep_their_access(
    platform: Platform, database: str, simulate: Simulate
) -> None:
    """Not for a moment: no row of the log ends it or has it checked."""
    await platform.execute(dev.DEMO.read_text("utf-8"))
    simulation = simulate(database, is_guest=True)
    await simulation.player.open()
    await simulation.play(4000)
    first, last = cast.every("a")
    lost = await platform.connection.fetchval(
        "SELECT count(*) FROM relay.events WHERE code IS NOT NULL"
        " AND (user_id IS NULL OR NOT user_id BETWEEN $1 AND $2) AND topic = $3",
        *(first, last, f"bot:{dev.BOT_ID}"),
    )
    everywhere = await platform.connection.fetchval(
        "SELECT count(*) FROM relay.events WHERE code IS NOT NULL AND topic IS NULL"
        " AND (user_id IS NULL OR NOT user_id BETWEEN $1 AND $2)",
        *(first, last),
    )
    assert (lost, everywhere) == (0, 0)
    roles = "SELECT count(*) FROM relay.authorize($1, $2)"
    for person in dev.PEOPLE.values():
        assert await platform.connection.fetchval(roles, person, dev.BOT_ID) == 1


@pytest.mark.gen_test
async def test_rows_stay_few(
    platform: Platform, database: str, monkeypatch: pytest.MonkeyPatch, simulate: Simulate
) -> None:
    """The oldest are deleted while it goes on; those of others do not count."""
    monkeypatch.setattr(cast, "MAX_MESSAGES", 20)
    await platform.execute(dev.DEMO.read_text("utf-8"))
    for number in range(30):
        await platform.message(dev.SESSION_ID, dev.BOT_ID, dev.PEOPLE["ada"], str(number))
    simulation = simulate(database, is_guest=True)
    await simulation.player.open()
    for _ in range(5):
        await simulation.play(1500)
        # Between two times of tidying there are some changes.
        assert await platform.connection.fetchval("SELECT count(*) FROM messages") <= 150
    assert await platform.connection.fetchval("SELECT count(*) FROM bots") <= 5
    assert await platform.connection.fetchval("SELECT count(*) FROM sessions") <= 10
    mine = "SELECT count(*) FROM messages WHERE user_id = $1"
    assert await platform.connection.fetchval(mine, dev.PEOPLE["ada"]) == 30


@pytest.mark.gen_test
async def test_a_run_goes_on_with_what_another_left(
    platform: Platform, database: str, simulate: Simulate
) -> None:
    """As after a kill: bots, people and sessions are there once."""
    for _ in range(2):
        simulation = simulate(database)
        await simulation.player.open()
        await simulation.play(1000)
        simulation.player.close()
    assert await platform.connection.fetchval("SELECT count(*) FROM users") == 7
    assert await platform.connection.fetchval("SELECT count(*) FROM users WHERE is_active") >= 5


@pytest.mark.gen_test
async def test_whom_somebody_deletes_enters_again(
    platform: Platform, database: str, simulate: Simulate
) -> None:
    """A developer tries out what happens; the simulation goes on."""
    simulation = simulate(database)
    await simulation.player.open()
    for table in ("users", "bots", "sessions"):
        await platform.execute(f"DELETE FROM {table}")
        await simulation.play(2000)
        assert await platform.connection.fetchval("SELECT count(*) FROM users") == 7
        assert await platform.connection.fetchval("SELECT count(*) FROM messages") > 0
    assert simulation.progress.outages == 0


@pytest.mark.gen_test
async def test_a_demo_that_is_gone_is_talked_about_once(
    platform: Platform, database: str, simulate: Simulate
) -> None:
    """Its people talk on in bots of their own."""
    await platform.execute(dev.DEMO.read_text("utf-8"))
    simulation = simulate(database, is_guest=True)
    await simulation.player.open()
    assert len(simulation.cast.stages) == 4
    await platform.execute("DELETE FROM bots WHERE id = $1", dev.BOT_ID)
    await simulation.play(2000)
    assert len(simulation.cast.stages) == 3
    assert simulation.said == [f"the session {dev.SESSION_ID} is gone; they talk elsewhere"]


@pytest.mark.gen_test
async def test_an_outage_is_said_and_waited_for(
    stoppable_postgres: EmbeddedPostgres, simulate: Simulate
) -> None:
    """It goes on with the statement that it was at, and counts the time."""
    simulation = simulate(stoppable_postgres.dsn(), clock=asyncio.get_running_loop().time)
    await simulation.player.open()
    playing = asyncio.create_task(simulation.player.play(simulation.plan, simulation.stop))
    await eventually(lambda: simulation.progress.counts.total() > 3)
    await restart(stoppable_postgres)
    await eventually(lambda: any("is back after" in line for line in simulation.said))
    counted = simulation.progress.counts.total()
    await eventually(lambda: simulation.progress.counts.total() > counted + 3)
    simulation.stop.set()
    await playing
    assert "the database is away" in simulation.said[0]
    assert simulation.progress.outages >= 1
    assert simulation.progress.seconds_away > 0


@pytest.mark.gen_test
async def test_tables_that_are_not_there_are_named(empty_database: str, simulate: Simulate) -> None:
    """And what makes them."""
    simulation = simulate(empty_database)
    with pytest.raises(SimulateError, match=r"reference tables .*users.*bin/migrate makes them"):
        await simulation.player.open()


@pytest.mark.gen_test
async def test_a_function_that_is_gone_is_named(
    platform: Platform, database: str, simulate: Simulate
) -> None:
    """The tables are there: nobody is told to make them."""
    await platform.execute("ALTER FUNCTION relay.readable(text) RENAME TO gone")
    await platform.execute(
        "CREATE OR REPLACE FUNCTION relay.users_inserted() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM relay.readable(''x''); RETURN NULL; END'"
    )
    simulation = simulate(database)
    with pytest.raises(SimulateError) as refused:
        await simulation.player.open()
    assert "function relay.readable(" in str(refused.value)
    assert "bin/doctor" in str(refused.value)
    assert "reference tables" not in str(refused.value)


@pytest.mark.gen_test
async def test_a_refusal_is_one_line(platform: Platform, database: str, simulate: Simulate) -> None:
    """As where one of the names is taken."""
    await platform.user(corpus.read().username(0))
    simulation = simulate(database)
    with pytest.raises(SimulateError, match=r"the database refused: .*username"):
        await simulation.player.open()
    simulation.player.close()
    await platform.execute("DELETE FROM users")
    await simulation.player.open()
    await platform.execute("DROP TABLE documents")
    with pytest.raises(SimulateError, match="documents"):
        await simulation.play(4000)


@pytest.mark.gen_test
async def test_clearing_away_without_a_database_says_so(database: str, simulate: Simulate) -> None:
    """Rather than failing at the end of all."""
    simulation = simulate(database.replace("/test_", "/none_"))
    with pytest.raises(SimulateError):
        await simulation.player.open()
    assert not await simulation.player.clear_away()


def test_what_passes_is_told_from_what_does_not() -> None:
    """A server that restarts or is stopped is waited for; tables that are missing are not."""
    assert issubclass(asyncpg.CannotConnectNowError, AWAY)
    assert issubclass(asyncpg.AdminShutdownError, AWAY)
    assert not issubclass(asyncpg.UndefinedTableError, AWAY)


@pytest.mark.gen_test
async def test_postgresql_ends_what_the_simulation_has_given_up(
    database: str, simulate: Simulate
) -> None:
    """A statement that waits for a lock, or goes on for long."""
    simulation = simulate(database)
    await simulation.player.open()
    connection = simulation.player._connection
    assert connection is not None
    limits = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    found = [await connection.fetchval(f"SHOW {limit}") for limit in limits]
    assert found == ["5s", "10500ms", "30s"]
