"""The doctor behind a real PgBouncer: where a ring on one connection is not heard on another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from realtime.doctor.checkup import examine
from realtime.doctor.report import Level
from tests.doctor import deployment, finds
from tests.pgbouncer import pgbouncer


@pytest.fixture
def pooled_database(database: str) -> Iterator[str]:
    """The test's database through a transaction-mode pooler."""
    with pgbouncer(database) as dsn:
        yield dsn


@pytest.mark.gen_test
async def test_a_pooler_in_the_way_of_listen(pooled_database: str) -> None:
    """Named, with what else is lost behind it, and the setting that leads past it."""
    await finds(
        Level.PROBLEM,
        "listening",
        deployment(pooled_database),
        "transaction-mode pooler",
        "prepared statements",
        "set DATABASE_DIRECT_URL",
    )


@pytest.mark.gen_test
async def test_a_pooler_and_a_way_past_it(pooled_database: str, database: str) -> None:
    """That is how it should be: every check is well."""
    there = deployment(pooled_database, DATABASE_DIRECT_URL=database)
    await finds(Level.FINE, "listening", there, "past the pooler")
    await finds(Level.FINE, "one database", there, "leads to the same database")
    report = await examine(there)
    assert report.count(Level.FINE) == len(report.lines), report.text()


@pytest.mark.gen_test
async def test_a_direct_address_that_is_not_direct(pooled_database: str, database: str) -> None:
    """As where somebody set both to addresses of the pooler."""
    other = f"{pooled_database}?application_name=direct"
    there = deployment(pooled_database, DATABASE_DIRECT_URL=other)
    await finds(Level.PROBLEM, "listening", there, "DATABASE_DIRECT_URL leads through")
    there = deployment(database, DATABASE_DIRECT_URL=pooled_database)
    await finds(Level.PROBLEM, "listening", there, "DATABASE_DIRECT_URL leads through")


@pytest.mark.gen_test
async def test_the_loop_behind_a_pooler(pooled_database: str) -> None:
    """The event is written and read, and its ring is not heard."""
    await finds(Level.PROBLEM, "full loop", deployment(pooled_database), "its ring was not heard")


@pytest.mark.gen_test
async def test_a_session_mode_pooler_is_in_nobodys_way(database: str) -> None:
    """Each client has a session of its own there, which LISTEN and statements stay in."""
    with pgbouncer(database, mode="session") as dsn:
        await finds(Level.FINE, "listening", deployment(dsn), "heard on another")


@pytest.mark.gen_test
async def test_a_session_mode_pooler_with_too_few_sessions(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the others waiting; what a process may open is what counts."""
    monkeypatch.setattr("realtime.doctor.pooler.ROOM_SECONDS", 2.0)
    with pgbouncer(database, mode="session", size=4) as dsn:
        told = "of the 5 connections that one process may open by DATABASE_URL, 4 are served"
        await finds(Level.WARNING, "pool size", deployment(dsn), told, "default_pool_size")
        fewer = deployment(dsn, DATABASE_POOL_SIZE="3")
        await finds(Level.FINE, "pool size", fewer, "all 4 connections")
    with pgbouncer(database, mode="session", size=2) as dsn:
        told = "only 2 connections by DATABASE_URL are served at once"
        await finds(Level.PROBLEM, "pool size", deployment(dsn), told, "nothing is delivered")


@pytest.mark.gen_test
async def test_a_pooler_that_takes_no_settings(database: str) -> None:
    """It refuses connections that say more at their start than it knows; the doctor's do not."""
    with pgbouncer(database, passes=False) as dsn:
        await finds(Level.FINE, "database", deployment(dsn))
        await finds(Level.PROBLEM, "listening", deployment(dsn), "transaction-mode pooler")


@pytest.mark.gen_test
async def test_two_databases(database: str, empty_database: str) -> None:
    """Events would be written in the one and looked for in the other."""
    there = deployment(database, DATABASE_DIRECT_URL=empty_database)
    await finds(Level.PROBLEM, "one database", there, "lead to different databases")
