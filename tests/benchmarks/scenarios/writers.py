"""What the triggers cost the platform: commits a second, by pgbench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.benchmarks.contenders import PEERS_MEASURED, THIS, Contender
from tests.benchmarks.database import NONE, NOTIFY, OURS
from tests.benchmarks.scenarios.base import Bench, Figures

SECONDS = 4
NO_TRIGGER: Final = Contender("none", "no trigger", "bare")
NOTIFY_TRIGGER: Final = Contender("notify", "NOTIFY with the payload", "python")
LISTENER: Final = PEERS_MEASURED[0]
"""Who listens to the NOTIFY trigger: the platform's present server."""
TABLES: Final = {"fk": "write_messages", "bare": "write_bare_messages"}
CLIENTS: Final = (1, 8, 32, 64)
QUICK_CLIENTS: Final = (1, 32)


@dataclass(frozen=True)
class WritersScenario:
    """Inserts as fast as they go, with the relay running that the trigger feeds, and no sockets."""

    name: str = "writers"
    title: str = "Writers"
    contenders: tuple[Contender, ...] = (THIS, NOTIFY_TRIGGER, NO_TRIGGER)
    rounds: int | None = None

    def describe(self, is_quick: bool) -> str:
        clients = ", ".join(map(str, QUICK_CLIENTS if is_quick else CLIENTS))
        return f"one insert a transaction for {1 if is_quick else SECONDS} s; {clients} clients"

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        if contender is NO_TRIGGER:
            bench.database.rest()
            return _write(bench, NONE)
        is_ours = contender is THIS
        with bench.contest(THIS if is_ours else LISTENER):
            return _write(bench, OURS if is_ours else NOTIFY)


def _write(bench: Bench, database: str) -> Figures:
    figures = {}
    for table, script in TABLES.items():
        for clients in QUICK_CLIENTS if bench.is_quick else CLIENTS:
            with bench.database.writing(
                database, script, clients=clients, seconds=1 if bench.is_quick else SECONDS
            ) as writers:
                figures[f"{table}_{clients}"] = writers.finish()
    return figures


WRITERS = WritersScenario()
