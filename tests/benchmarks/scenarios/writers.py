"""What the triggers cost the platform: commits a second, by pgbench."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.contenders import PEERS_MEASURED, THIS, Contender
from tests.benchmarks.database import NONE, NOTIFY, OURS
from tests.benchmarks.scenarios.base import Bench, Figures
from tests.benchmarks.triggers import trigger_of

SECONDS = 4
NO_TRIGGER: Final = Contender("none", "no trigger", "bare")
FORMER_TRIGGER: Final = Contender("former", "the trigger of 0.1.0", "bare")
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
    contenders: tuple[Contender, ...] = (THIS, FORMER_TRIGGER, NOTIFY_TRIGGER, NO_TRIGGER)
    rounds: int | None = None

    def describe(self, is_quick: bool) -> str:
        clients = ", ".join(map(str, QUICK_CLIENTS if is_quick else CLIENTS))
        return f"one insert a transaction for {1 if is_quick else SECONDS} s; {clients} clients"

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        if contender is NO_TRIGGER:
            bench.database.rest()
            return _write(bench, NONE)
        if contender is NOTIFY_TRIGGER:
            with bench.contest(LISTENER):
                return _write(bench, NOTIFY)
        is_former = contender is FORMER_TRIGGER
        with _former_trigger(bench) if is_former else nullcontext(), bench.contest(THIS):
            return _write(bench, OURS)


@contextmanager
def _former_trigger(bench: Bench) -> Iterator[None]:
    """That of 0.1.0 in place of this release's, for as long as this lasts."""
    bench.database.sql(trigger_of("0001"), OURS)
    try:
        yield
    finally:
        bench.database.sql(trigger_of("0002"), OURS)


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
