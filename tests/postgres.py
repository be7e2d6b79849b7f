"""Fixtures that give a PostgreSQL: servers, and fresh databases on the worker's own server.

pytest-xdist's workers share no server: a transaction that is open in one test would be seen in the
snapshots of all others. For the same reason nothing is made or dropped while a test runs.

`TEST_POSTGRES_BIN` names other PostgreSQL programs than the embedded ones, for example Debian's
`/usr/lib/postgresql/15/bin`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import migrate

SETTINGS = {
    "fsync": "off",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "max_wal_size": "128MB",
    # The statistics it collects take transaction ids, at moments of its own.
    "autovacuum": "off",
    "wal_level": "replica",
}
MEMORY = Path("/dev/shm")
ROOM = 2 * 1024**3
"""Bytes: a server needs about 200 MB, and a few run at once."""


def _place() -> Path | None:
    """Where a server's files go: memory, where a database is copied five times as fast as on disk.

    None: the usual place, because there is no such memory or it is small, as in many containers.
    """
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM:
        return None
    return MEMORY


_CLEAN_UP = """cat  # until the other end of the pipe is gone
if pid=$(sed -n 1p "$0/postgres/postmaster.pid" 2>/dev/null); then
  sockets=$(sed -n 5p "$0/postgres/postmaster.pid")
  kill -QUIT "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
  rm -rf "$sockets"
fi
rm -rf "$0"
"""


@contextmanager
def _cleaned_up(home: Path) -> Iterator[None]:
    """What runs and lies in `home` goes with this process, also when that is killed.

    As pytest-xdist does with its workers some seconds after an interrupt.
    """
    watcher = ["/bin/sh", "-c", _CLEAN_UP, str(home)]
    with subprocess.Popen(watcher, stdin=subprocess.PIPE, start_new_session=True):
        yield


@contextmanager
def postgres_server(bin_dir: Path | None, **settings: str) -> Iterator[EmbeddedPostgres]:
    """A server with the tests' settings and more, gone without a trace afterwards."""
    with tempfile.TemporaryDirectory(prefix="realtime-test-", dir=_place()) as home:
        Path(home).chmod(0o711)  # as root, the server's own account must get in
        server = EmbeddedPostgres(
            Path(home) / "postgres", bin_dir=bin_dir, settings={**SETTINGS, **settings}
        )
        with _cleaned_up(Path(home)):
            server.start()
            try:
                yield server
            finally:
                server.stop("immediate")


@pytest.fixture(scope="session")
def postgres_bin() -> Path | None:
    """Which PostgreSQL programs the tests run on; None: the embedded ones."""
    named = os.environ.get("TEST_POSTGRES_BIN")
    return Path(named) if named else None


@pytest.fixture(scope="session")
def postgres(postgres_bin: Path | None) -> Iterator[EmbeddedPostgres]:
    """The worker's server. It is never stopped, and its settings stay."""
    with postgres_server(postgres_bin) as server:
        yield server


@pytest.fixture(scope="module")
def stoppable_postgres(postgres_bin: Path | None) -> Iterator[EmbeddedPostgres]:
    """A server of the module's own, migrated, that a test may stop at any time."""
    with postgres_server(postgres_bin) as server:
        migrate(server.dsn())
        yield server


async def restart(server: EmbeddedPostgres, then: Callable[[], object] = lambda: None) -> None:
    """Stop the server as if the power had failed, and start it again after `then`."""
    await asyncio.to_thread(server.stop, "immediate")
    then()
    await asyncio.to_thread(server.start)


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database that `database` copies. Nobody connects to it."""
    postgres.sql("CREATE DATABASE migrated")
    migrate(postgres.dsn("migrated"))
    return "migrated"


@pytest.fixture(scope="session")
def core_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database with the log alone, as `bin/migrate --core` leaves it."""
    postgres.sql("CREATE DATABASE core_alone")
    migrate(postgres.dsn("core_alone"), core_alone=True)
    return "core_alone"


# Or a server would take the copy's log for that of a restored dump.
_OWN = "UPDATE relay.floor SET (system, database) = (SELECT system, oid FROM relay.this_database())"


@contextmanager
def copy_of(template: str, postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a copy of `template`, for as long as it is needed."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    # Copying files is quicker than copying through the log, which is the default.
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    if template != "template1":
        postgres.sql(_OWN, name)
    try:
        yield postgres.dsn(name)
    finally:
        postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The address of a fresh, migrated database of the test's own."""
    with copy_of(migrated_template, postgres) as dsn:
        yield dsn


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database that nothing has migrated."""
    with copy_of("template1", postgres) as dsn:
        yield dsn


@pytest.fixture
def core_database(postgres: EmbeddedPostgres, core_template: str) -> Iterator[str]:
    """The address of a database with the log and its functions, and no tables of anybody's."""
    with copy_of(core_template, postgres) as dsn:
        yield dsn
