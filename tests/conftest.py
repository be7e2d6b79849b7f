"""Fixtures for every test: one PostgreSQL a session, one fresh migrated database a test.

`TEST_POSTGRES_BIN` names other PostgreSQL programs than the embedded ones, for example Debian's
`/usr/lib/postgresql/15/bin`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from realtime.embedded.server import EmbeddedPostgres

# Here and not by `-p`, which would import the relay before its coverage is measured.
pytest_plugins = ["tests.mortal", "tests.serving"]

CHROMIUM = Path("/usr/bin/chromium")
TEST_SETTINGS = {
    "fsync": "off",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "wal_level": "replica",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives a real Chromium")
    # Or pytest-tornado's first loop makes asyncio make another, which nobody closes.
    asyncio.set_event_loop(None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs a browser is skipped without one, but never silently in CI."""
    if item.get_closest_marker("browser") is None or CHROMIUM.exists():
        return
    reason = f"{CHROMIUM} is missing: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres_bin() -> Path | None:
    """Which PostgreSQL programs the tests run on; None: the embedded ones."""
    named = os.environ.get("TEST_POSTGRES_BIN")
    return Path(named) if named else None


@pytest.fixture(scope="session")
def postgres(postgres_bin: Path | None) -> Iterator[EmbeddedPostgres]:
    """A server for the whole session, gone without a trace after it."""
    with tempfile.TemporaryDirectory(prefix="realtime-test-") as home:
        Path(home).chmod(0o711)  # as root, the server's own account must get in
        data = Path(home) / "postgres"
        server = EmbeddedPostgres(data, bin_dir=postgres_bin, settings=TEST_SETTINGS)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database that `database` clones. Never connect to it."""
    from realtime.postgres.schema import migrate

    postgres.sql("CREATE DATABASE migrated")
    migrate(postgres.dsn("migrated"))
    return "migrated"


@contextmanager
def new_database(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """The address of a copy of `template`, for as long as it is needed."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield postgres.dsn(name)
    finally:
        postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """The address of a fresh, migrated database of the test's own."""
    with new_database(postgres, template) as dsn:
        yield dsn


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database that nothing has migrated."""
    with new_database(postgres, "template1") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def core_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database with the log alone, as `alembic upgrade core@head` leaves it."""
    from alembic import command
    from alembic.config import Config

    from realtime.postgres.schema import PROJECT

    postgres.sql("CREATE DATABASE core_alone")
    config = Config(PROJECT / "alembic.ini")
    config.attributes["dsn"] = postgres.dsn("core_alone")
    command.upgrade(config, "core@head")
    return "core_alone"


@pytest.fixture
def core_database(postgres: EmbeddedPostgres, core_template: str) -> Iterator[str]:
    """The address of a database with the log and its functions, and no tables of anybody's."""
    with new_database(postgres, core_template) as dsn:
        yield dsn
