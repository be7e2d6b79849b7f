"""The tests' own ground: each gets a migrated database that no other test touches."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from realtime.embedded.server import EmbeddedPostgres


def ask(dsn: str, statement: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def test_the_database_is_migrated(database: str) -> None:
    """The event log and the reference tables are there."""
    found = ask(database, "SELECT to_regclass('relay.events') IS NOT NULL")
    assert found is True
    assert ask(database, "SELECT to_regclass('public.messages') IS NOT NULL") is True


def test_the_first_of_two_tests_writes(database: str) -> None:
    """What is written here is not there in the next test."""
    assert ask(database, "SELECT count(*) FROM users") == 0
    ask(database, "INSERT INTO users (username) VALUES ('only here') RETURNING 1")


def test_the_second_of_two_tests_finds_nothing(database: str) -> None:
    """The order of the two does not matter: each starts from the template."""
    assert ask(database, "SELECT count(*) FROM users") == 0
    ask(database, "INSERT INTO users (username) VALUES ('only here') RETURNING 1")


def test_the_server_is_set_up_for_tests(postgres: EmbeddedPostgres) -> None:
    """Fast, and ready for two-phase commit and many clients."""
    names = ("fsync", "max_prepared_transactions", "max_connections", "wal_level")
    assert [postgres.sql(f"SHOW {name}") for name in names] == ["off", "20", "200", "replica"]


def test_an_empty_database_is_empty(empty_database: str) -> None:
    """For tests of what happens before a migration."""
    assert ask(empty_database, "SELECT to_regnamespace('relay') IS NULL") is True
