"""The benchmarks' PostgreSQL: three databases with the same rows, and pgbench as the writers.

`ours` has this server's schema, `notify` a trigger that sends each message as NOTIFY's payload
(what the peers are fed by), and `none` no trigger at all.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import migrate
from tests.benchmarks.paths import ROOT, SQL

OURS, NOTIFY, NONE = "ours", "notify", "none"
TABLES = ROOT / "migrations" / "sql" / "0001" / "reference" / "tables.sql"
SETTINGS = {"max_connections": "200"}
"""All else is PostgreSQL's default: fsync and synchronous_commit are on."""
PGBENCH_LIMIT = 900
CONNECT_LIMIT = 2.0
"""Seconds that the writers are given to connect. Few who write little may be gone before."""
WARM_UP = 1.0
"""Seconds until the writers begin, who write as fast as they can: each has connected by then, and
its first statement is over. Else these would be planned at the cost of the others' inserts."""
NICENESS = 10
"""Of PostgreSQL. In life it is another machine than the servers and their clients."""
WRITERS_NICENESS = 19
"""Of the writers and their sessions. 32 that run leave others on the same cores little time, and
the load generator would read late: that would count as the server's delay."""
_WRITERS_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'"
_RATE = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)


class Database:
    """A running server with the three databases in it.

    Args:
        postgres: started; the databases are made in it.
    """

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres

    def make(self) -> None:
        """Make the databases and fill them."""
        postmaster = (self._postgres.data_directory / "postmaster.pid").read_text("utf-8")
        os.setpriority(os.PRIO_PROCESS, int(postmaster.splitlines()[0]), NICENESS)
        for name, script in ((NONE, None), (NOTIFY, "notify.sql"), (OURS, "ours.sql")):
            self._postgres.sql(f"CREATE DATABASE {name}")
            if name == OURS:
                migrate(self.dsn(OURS))
            else:
                self._run(TABLES, name)
            self._run(SQL / "seed.sql", name)
            if script:
                self._run(SQL / script, name)
            self._postgres.sql("VACUUM ANALYZE", name)

    def _run(self, script: Path, database: str) -> None:
        self._postgres.sql(script.read_text(encoding="utf-8"), database)

    def dsn(self, database: str) -> str:
        return self._postgres.dsn(database)

    def sql(self, statement: str, database: str) -> str:
        return self._postgres.sql(statement, database)

    def version(self) -> str:
        return self._postgres.sql("SHOW server_version")

    def environment(self, database: str) -> dict[str, str]:
        """How a server is told of a database, in whichever form it reads."""
        parts = urlsplit(self.dsn(database))
        query = parse_qs(parts.query)
        return {
            "DATABASE_URL": self.dsn(database),
            "PGHOST": query["host"][0],
            "PGPORT": query["port"][0],
            "PGUSER": "postgres",
            "PGDATABASE": database,
        }

    def rest(self) -> None:
        """Begin each measurement alike: small tables, and no checkpoint soon."""
        for name in (NONE, NOTIFY, OURS):
            self._postgres.sql("TRUNCATE messages, bare_messages", name)
        self._postgres.sql("CHECKPOINT")

    @contextmanager
    def writing(
        self,
        database: str,
        script: str,
        *,
        clients: int,
        each: int | None = None,
        seconds: int | None = None,
        rate: float | None = None,
        bots: int = 1,
    ) -> Iterator[Writers]:
        """Writers at work.

        Args:
            script: of `sql/`, without its ending.
            each: how many messages each client writes; or for how many `seconds` all write.
            rate: messages a second of all together; None: as fast as they can.
        """
        is_race = each is not None and rate is None
        command = [
            str(self._postgres.bin_dir / "pgbench"),
            "--no-vacuum",
            "--protocol=prepared",
            f"--file={SQL / script}.sql",
            f"--client={clients}",
            f"--jobs={min(clients, 2)}",
            f"--define=bots={bots}",
            "--define=is_warm=0",
            f"--define=begin={time.time() + WARM_UP if is_race else 0}",
        ]
        if each is not None:
            command.append(f"--transactions={each}")
        if seconds is not None:
            command.append(f"--time={seconds}")
        if rate is not None:
            command.append(f"--rate={rate}")
        with subprocess.Popen(
            [*command, self.dsn(database)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            os.setpriority(os.PRIO_PROCESS, process.pid, WRITERS_NICENESS)
            try:
                self._hold_back(clients, database)
                yield Writers(process)
            finally:
                process.kill()

    def _hold_back(self, clients: int, database: str) -> None:
        """Give the writers' sessions their priority, as soon as all are there."""
        ends = time.monotonic() + CONNECT_LIMIT
        sessions: list[str] = []
        while len(sessions) < clients and time.monotonic() < ends:
            sessions = self.sql(_WRITERS_SESSIONS, database).split()
        for session in sessions:
            with suppress(ProcessLookupError):  # it has written everything already
                os.setpriority(os.PRIO_PROCESS, int(session), WRITERS_NICENESS)


class Writers:
    """One run of pgbench."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def finish(self) -> float:
        """Wait for the end; transactions a second.

        Raises:
            RuntimeError: pgbench failed.
        """
        output, _ = self._process.communicate(timeout=PGBENCH_LIMIT)
        found = _RATE.search(output)
        if self._process.returncode or found is None:
            raise RuntimeError(f"pgbench failed: {output}")
        return float(found[1])
