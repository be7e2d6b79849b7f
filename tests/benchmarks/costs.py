"""What single things cost, in CPU time and bytes: the figures that docs/operations.md sizes with.

    python -m tests.benchmarks.costs

CPU time is nearly the same on a busy machine, and on one with more cores; elapsed time is not. So
these figures carry further than those of `bin/bench`. Each is what a load took, less what the
simpler ones account for, divided by how often the thing happened; the median of a few rounds. The
last two lines hold the sum of them against a load that none was made from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from realtime.auth.tokens import mint_token
from tests.benchmarks.__main__ import database
from tests.benchmarks.bench import say
from tests.benchmarks.contenders import SECRET, THIS, TOKEN_SECONDS, bot_id, user_id
from tests.benchmarks.database import NONE, OURS, Database
from tests.benchmarks.generator import LoadGenerator
from tests.benchmarks.packages import Packages
from tests.benchmarks.processes import ServerProcess
from tests.benchmarks.scenarios.base import Bench
from tests.benchmarks.scenarios.ways import MULTI

TICKS = os.sysconf("SC_CLK_TCK")

ROUNDS = 3
SOCKETS = 2000
BOTS = 500
SUBSCRIPTIONS = 100
"""Of a socket for many topics."""
PAGES = 200
"""How many such sockets."""
USERS_EACH = 8
"""Of a bot."""
IDLE_SECONDS = 26.0
"""All sockets are pinged once."""
SETTLING_SECONDS = 1.0
UNITS = {"MB": 1.0, "kB": 1.0, "bytes": 1.0, "%": 100.0, "µs": 1e6}


@dataclass(frozen=True)
class Load:
    """So many inserts, to so many bots; `rate` a second, or as fast as they can."""

    writers: int
    inserts: int
    rate: int | None = None
    bots: int = BOTS


QUIET, BUSY = Load(1, 2000, 200), Load(8, 8000)
ONE_BOT, ONE_BOT_BUSY = Load(1, 200, 20, bots=1), Load(8, 800, bots=1)
CHECK = Load(2, 4000, 400, bots=100)


@dataclass
class Spent:
    """What a load took: CPU seconds of the server, of PostgreSQL, of its part that the server asks
    for; bytes; seconds."""

    server: float = 0.0
    postgres: float = 0.0
    readers: float = 0.0
    wal: int = 0
    seconds: float = 0.0


class Round:
    """One time through everything; `found` has the costs, in seconds of CPU and bytes."""

    def __init__(self, made: Database) -> None:
        self._database = made
        self._bench = Bench(made, Packages(say), False, 0, say)
        self.found: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        """Measure, the simple before what needs it."""
        self._database.rest()
        plain = {load: self._spend(None, load, name=NONE) for load in (QUIET, BUSY)}
        with self._bench.contest(THIS) as (server, generator):
            self._without_sockets(server, plain)
            self._with_sockets(server, generator)
        with self._bench.contest(THIS) as (server, generator):
            self._fan_out(server, generator)
        with self._bench.contest(MULTI) as (server, generator):
            self._subscriptions(server, generator)
        with self._bench.contest(THIS) as (server, generator):
            self._check(server, generator)
        return self.found

    def _without_sockets(self, server: ServerProcess, plain: dict[Load, Spent]) -> None:
        found = self.found
        with self._spending(server) as idle:
            time.sleep(IDLE_SECONDS / 2)
        found["process, idle, %"] = idle.server / idle.seconds
        found["PostgreSQL: a process, idle, %"] = idle_postgres = idle.postgres / idle.seconds
        found["process, MB"] = server.memory_kb() / 1000
        for word, load in (("quiet", QUIET), ("busy", BUSY)):
            spent = self._spend(server, load)
            found[f"event read, {word}, µs"] = self._less_idle(spent) / load.inserts
            # What the log and its reader cost beside the platform's own rows.
            more = spent.postgres - plain[load].postgres - spent.seconds * idle_postgres
            found[f"PostgreSQL: a {word} event, one process, µs"] = more / load.inserts
            found[f"PostgreSQL: of it the reading, {word}, µs"] = spent.readers / load.inserts
        found["PostgreSQL: WAL of an event, bytes"] = (spent.wal - plain[BUSY].wal) / BUSY.inserts
        found["PostgreSQL: an event in the log, bytes"] = self._number(
            "SELECT sum(pg_total_relation_size(c.oid)) / (SELECT count(*) FROM relay.events)"
            " FROM pg_class AS c WHERE c.oid::regclass::text ~ '^relay.events_[0-3]$'"
        )

    def _with_sockets(self, server: ServerProcess, generator: LoadGenerator) -> None:
        """Handshakes, idle sockets, and events with an audience of four."""
        found, memory = self.found, server.memory_kb()
        with self._spending(server) as opening:
            self._open(generator, BOTS)
            time.sleep(SETTLING_SECONDS)  # until the comings are written down
        with self._spending(server) as idle:
            time.sleep(IDLE_SECONDS)
        found["socket, kB"] = (server.memory_kb() - memory) / SOCKETS
        found["handshake, µs"] = opening.server / SOCKETS
        found["PostgreSQL: a handshake, µs"] = opening.postgres / SOCKETS
        found["socket, idle for a second, µs"] = self._less_idle(idle) / SOCKETS / idle.seconds
        spent = self._spend(server, QUIET, generator=generator)
        each = self._less_idle(spent, SOCKETS) / QUIET.inserts
        self._audience = each - found["event read, quiet, µs"]

    def _fan_out(self, server: ServerProcess, generator: LoadGenerator) -> None:
        """Every event to all sockets, one by one or many at a time."""
        self._open(generator, 1)
        found = self.found
        for word, load in (("quiet", ONE_BOT), ("busy", ONE_BOT_BUSY)):
            spent = self._less_idle(self._spend(server, load, generator=generator), SOCKETS)
            rest = spent - load.inserts * found[f"event read, {word}, µs"]
            found[f"delivery, {word}, µs"] = rest / load.inserts / SOCKETS
        less = SOCKETS // BOTS * found["delivery, quiet, µs"]
        found["event with an audience, more, µs"] = self._audience - less

    def _subscriptions(self, server: ServerProcess, generator: LoadGenerator) -> None:
        """Sockets with as many as they may have."""
        found, memory = self.found, server.memory_kb()
        bots = [bot_id(number) for number in range(SUBSCRIPTIONS)]
        token = mint_token(SECRET, user_id(0), ttl=TOKEN_SECONDS, now=time.time())
        with self._spending(server) as opening:
            generator.open([f"/api/ws?token={token}"] * PAGES, sampled=50, bots=bots)
            time.sleep(SETTLING_SECONDS)  # until they are written down
        number = PAGES * SUBSCRIPTIONS
        more = server.memory_kb() - memory - PAGES * found["socket, kB"]
        found["subscription, kB"] = more / number
        found["subscription, µs"] = (opening.server - PAGES * found["handshake, µs"]) / number

    def _check(self, server: ServerProcess, generator: LoadGenerator) -> None:
        self._open(generator, CHECK.bots)
        spent = self._spend(server, CHECK, generator=generator)
        found, events = self.found, CHECK.inserts / spent.seconds
        each = found["event read, quiet, µs"] + found["event with an audience, more, µs"]
        each += SOCKETS / CHECK.bots * found["delivery, quiet, µs"]
        idle = found["process, idle, %"] + SOCKETS * found["socket, idle for a second, µs"]
        found["check: by the model, %"] = idle + events * each
        found["check: measured, %"] = spent.server / spent.seconds

    # Loads, and what they take.

    def _less_idle(self, spent: Spent, sockets: int = 0) -> float:
        each = self.found["socket, idle for a second, µs"] if sockets else 0.0
        return spent.server - spent.seconds * (self.found["process, idle, %"] + sockets * each)

    def _open(self, generator: LoadGenerator, bots: int) -> None:
        # User n may watch bot n modulo 500, see `seed.sql`.
        people = [n % bots + BOTS * (n // bots % USERS_EACH) for n in range(SOCKETS)]
        generator.open([THIS.path(user, user % BOTS) for user in people], sampled=50)

    def _spend(
        self,
        server: ServerProcess | None,
        load: Load,
        *,
        name: str = OURS,
        generator: LoadGenerator | None = None,
    ) -> Spent:
        script = "write_messages" if load.bots == 1 else "write_many"
        each = load.inserts // load.writers
        if generator:
            generator.measure(load.inserts * SOCKETS // load.bots)
        with self._spending(server) as spent:
            with self._database.writing(
                name, script, clients=load.writers, each=each, rate=load.rate, bots=load.bots
            ) as writers:
                writers.finish()
            if generator:
                result = generator.result()
                assert result["deliveries"] == result["expected"], result
            else:
                time.sleep(SETTLING_SECONDS)  # until it has been read
        return spent

    @contextmanager
    def _spending(self, server: ServerProcess | None) -> Iterator[Spent]:
        def of_server() -> float:
            return server.cpu_seconds() if server else 0.0

        spent = Spent()
        before = (of_server(), self._cpu_of_postgres(), self._wal(), self._cpu_of_readers())
        begun = time.monotonic()
        yield spent
        spent.seconds = time.monotonic() - begun
        spent.server = of_server() - before[0]
        spent.postgres = self._cpu_of_postgres() - before[1]
        spent.wal = self._wal() - before[2]
        spent.readers = self._cpu_of_readers() - before[3]

    def _number(self, question: str) -> float:
        return float(self._database.sql(question, OURS))

    def _wal(self) -> int:
        return int(self._number("SELECT pg_current_wal_insert_lsn() - '0/0'"))

    def _cpu_of_readers(self) -> float:
        """Of the backends that the server holds."""
        pids = self._database.sql(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'realtime'", OURS
        )
        stats = [_stat(int(pid)) for pid in pids.split()]
        return sum(int(one[11]) + int(one[12]) for one in stats if one) / TICKS

    def _cpu_of_postgres(self) -> float:
        """Of all its processes, those included that have ended."""
        question = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
        postmaster = int(_stat(int(self._number(question)))[1])
        ticks = sum(map(int, _stat(postmaster)[11:15]))
        for process in Path("/proc").glob("[0-9]*"):
            fields = _stat(int(process.name))
            if fields and int(fields[1]) == postmaster:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS


def _stat(pid: int) -> list[str]:
    """A process's line in /proc after its name; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def table(rounds: list[dict[str, float]], write: Callable[[str], None]) -> None:
    """One row a figure: the median, and all rounds."""
    for name in rounds[0]:
        unit = name.rpartition(", ")[2]
        values = [found[name] * UNITS[unit] for found in rounds]
        write(f"{name:54} {median(values):9.1f}   ({', '.join(f'{one:.1f}' for one in values)})")


def main() -> None:
    with database() as made:
        rounds = []
        for number in range(1, ROUNDS + 1):
            say(f"round {number} of {ROUNDS}")
            rounds.append(Round(made).run())
    table(rounds, print)


if __name__ == "__main__":
    main()
