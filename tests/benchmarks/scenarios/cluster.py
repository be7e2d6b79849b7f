"""What an event costs each of several processes: its own CPU, and that of its PostgreSQL sessions.

One socket, on the first process, wants the events. The other processes only find out that nobody
of theirs does. What all of them need while nothing happens is taken off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.benchmarks.contenders import THIS, Contender, running
from tests.benchmarks.database import OURS, Database
from tests.benchmarks.generator import load_generator
from tests.benchmarks.processes import ServerProcess, cpu_seconds
from tests.benchmarks.scenarios.base import Bench, Figures

SECONDS: Final = 5
RATES: Final = (20, 200, 1000)
COUNTS: Final = {
    THIS: 1,
    **{Contender(f"{n}", f"{n} processes", "bare"): n for n in (2, 4, 8)},
}
_SESSIONS: Final = """
SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@dataclass(frozen=True)
class ClusterScenario:
    """One row for each number of processes."""

    name: str = "cluster"
    title: str = "Cost per process"
    contenders: tuple[Contender, ...] = tuple(COUNTS)
    rounds: int | None = None

    def describe(self, is_quick: bool) -> str:
        rates = ", ".join(map(str, RATES[:1] if is_quick else RATES))
        return (
            "1 socket on the first process; inserts one by one,"
            f" {rates} a second for {1 if is_quick else SECONDS} s"
        )

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        seconds = 1 if bench.is_quick else SECONDS
        bench.database.rest()
        with ExitStack() as stack:
            servers = [
                stack.enter_context(running(THIS, bench.database, bench.packages))
                for _ in range(COUNTS[contender])
            ]
            generator = stack.enter_context(load_generator(servers[0].port, THIS.dialect))
            generator.open([THIS.path(0, 0)])
            figures: Figures = {}
            for rate in RATES[:1] if bench.is_quick else RATES:
                sessions = bench.database.sql(_SESSIONS, OURS).split()
                idle = _cost(servers, sessions, lambda: time.sleep(seconds))
                generator.measure(rate * seconds)
                busy = _cost(servers, sessions, partial(_write, bench.database, rate, seconds))
                generator.result()
                events = rate * seconds * len(servers)
                for kind, before, after in zip(("process", "postgres"), idle, busy, strict=True):
                    figures[f"{kind}_{rate}"] = (after - before) * 1e6 / events
            return figures


def _cost(
    servers: Sequence[ServerProcess], sessions: Sequence[str], act: Callable[[], None]
) -> tuple[float, float]:
    """CPU seconds that the processes, and their sessions, need while `act` runs."""
    before = sum(one.cpu_seconds() for one in servers), sum(map(cpu_seconds, sessions))
    act()
    after = sum(one.cpu_seconds() for one in servers), sum(map(cpu_seconds, sessions))
    return after[0] - before[0], after[1] - before[1]


def _write(database: Database, rate: int, seconds: int) -> None:
    with database.writing(
        OURS, "write_messages", clients=1, each=rate * seconds, rate=rate
    ) as writers:
        writers.finish()


CLUSTER: Final = ClusterScenario()
