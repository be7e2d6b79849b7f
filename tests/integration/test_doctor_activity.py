"""The doctor on what holds the relay back: transactions that do not end, a queue that fills."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from realtime.doctor.checkup import examine
from realtime.doctor.report import Level
from tests.doctor import ask, deployment, finds, said, worst
from tests.platform import Platform
from tests.waiting import LIMIT


@pytest.fixture
def every_transaction_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every transaction counts as long."""
    monkeypatch.setattr("realtime.doctor.activity.LONG_SECONDS", 0.0)


@asynccontextmanager
async def another(database: str) -> AsyncIterator[Platform]:
    one = await Platform.connect(database)
    yield one
    await one.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_a_transaction_that_does_not_end(
    database: str, platform: Platform, every_transaction_is_long: None
) -> None:
    """Whose it is, and how to end it; one that wrote nothing is in nobody's way."""
    async with another(database) as writer:
        pid = writer.connection.get_server_pid()
        async with writer.connection.transaction():
            await writer.execute("SET LOCAL application_name = 'night job'")
            await writer.execute("SELECT 1")
            assert f"process {pid}" not in said(await ask("transactions", deployment(database)))
            await writer.user()
            await finds(
                Level.WARNING,
                "transactions",
                deployment(database),
                f"process {pid} (postgres, night job, idle in transaction) has been in a",
                f"SELECT pg_terminate_backend({pid})",
            )
    assert f"process {pid}" not in said(await ask("transactions", deployment(database)))


@pytest.fixture
def every_lock_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lock counts as held for long."""
    monkeypatch.setattr("realtime.doctor.activity.LOCKED_SECONDS", 0.0)
    monkeypatch.setattr("realtime.doctor.activity.LOOK_AGAIN_SECONDS", 0.0)


@pytest.mark.gen_test
@pytest.mark.parametrize("table", ["relay.connections", "permissions"])
async def test_a_table_that_somebody_has_locked(
    database: str, platform: Platform, every_lock_is_long: None, table: str
) -> None:
    """One of the log's or one with triggers: whose lock it is. Ordinary writers are in no way."""
    async with another(database) as other:
        pid = other.connection.get_server_pid()
        async with other.connection.transaction():
            await other.user()
            assert f"process {pid}" not in said(await ask("locks", deployment(database)))
            await other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await finds(
                Level.PROBLEM,
                "locks",
                deployment(database),
                f"{table} stay locked by process {pid}",
                "pg_terminate_backend",
            )
    assert f"process {pid}" not in said(await ask("locks", deployment(database)))


@pytest.mark.gen_test
async def test_a_prepared_transaction_that_was_forgotten(
    database: str, platform: Platform, every_transaction_is_long: None
) -> None:
    """By its name; what it says to run ends it."""
    name = f"it's {platform.connection.get_server_pid()}"
    literal = name.replace("'", "''")
    await platform.execute("BEGIN; SET LOCAL relay.two_phase = 'on'")
    await platform.user()
    await platform.execute(f"PREPARE TRANSACTION '{literal}'")
    findings = await ask("transactions", deployment(database))
    (mine,) = (one for one in findings if str(platform.connection.get_server_pid()) in one.cure)
    assert worst([mine]) is Level.WARNING
    assert "prepared transaction" in mine.said
    await platform.execute(mine.cure.removeprefix("COMMIT PREPARED or "))
    text = said(await ask("transactions", deployment(database)))
    assert str(platform.connection.get_server_pid()) not in text


@pytest.mark.gen_test
async def test_young_transactions_are_fine(database: str, platform: Platform) -> None:
    """For the first minutes."""
    async with platform.connection.transaction():
        await platform.user()
        await finds(Level.FINE, "transactions", deployment(database))


@pytest.mark.gen_test
async def test_a_listener_that_sleeps_in_a_transaction(
    database: str, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the queue of notifications, which then fills; it is among the suspects."""
    await finds(Level.FINE, "notify queue", deployment(database))
    monkeypatch.setattr("realtime.doctor.activity.QUEUE_WARNING", 0.0)
    async with another(database) as sleeper:
        await sleeper.execute("LISTEN anything")
        await sleeper.execute("BEGIN")
        for number in range(8):
            await platform.execute("SELECT pg_notify('anything', $1)", f"{number}" * 7000)
        await finds(
            Level.WARNING,
            "notify queue",
            deployment(database),
            "end the session that LISTENs",
            str(sleeper.connection.get_server_pid()),
        )
        monkeypatch.setattr("realtime.doctor.activity.QUEUE_PROBLEM", 0.0)
        await finds(Level.PROBLEM, "notify queue", deployment(database))


# How the server is set.


@pytest.mark.gen_test
@pytest.mark.parametrize(("off", "side"), [(90, "ahead of"), (-90, "behind")])
async def test_clocks_that_differ(database: str, off: float, side: str) -> None:
    """By how much, and which is ahead; the way there and back is not counted."""
    there = deployment(database, clock=lambda: time.time() + off)
    await finds(Level.WARNING, "clock", there, f"90.0 s {side} the database's")
    await finds(Level.FINE, "clock", deployment(database))


@pytest.mark.gen_test
async def test_commits_that_may_be_lost(database: str, platform: Platform) -> None:
    """synchronous_commit = off is worth a note, whoever it is set for."""
    await finds(Level.FINE, "durability", deployment(database))
    name = await platform.connection.fetchval("SELECT current_database()")
    await platform.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await finds(Level.WARNING, "durability", deployment(database), "synchronous_commit is off")


@pytest.mark.gen_test
async def test_more_connections_than_the_server_grants(database: str, platform: Platform) -> None:
    """Of all processes together: those of WEB_CONCURRENCY, or those that are alive."""
    much = {"DATABASE_POOL_SIZE": "20", "WEB_CONCURRENCY": "4"}
    await finds(Level.FINE, "connections", deployment(database), "1 process wants up to 5")
    await finds(Level.FINE, "connections", deployment(database, **much), "up to 84")
    await platform.execute(
        "INSERT INTO relay.nodes (id) SELECT gen_random_uuid() FROM generate_series(1, 12)"
    )
    await finds(Level.PROBLEM, "connections", deployment(database, **much), "12 processes want")
    name = await platform.connection.fetchval("SELECT current_database()")
    await platform.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 50")
    await finds(Level.PROBLEM, "connections", deployment(database), "grants 50 in all")


@pytest.mark.gen_test
async def test_a_database_that_does_not_answer_is_not_waited_for(
    database: str, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds a lock on what a check reads: the checkup goes on without it, and ends."""
    monkeypatch.setattr("realtime.doctor.deployment.STATEMENT_SECONDS", 0.3)
    async with platform.connection.transaction():
        await platform.execute("LOCK TABLE relay.events, relay.nodes IN ACCESS EXCLUSIVE MODE")
        text = (await examine(deployment(database))).text()
    assert "did not answer in time" in text
    assert "PostgreSQL 1" in text
