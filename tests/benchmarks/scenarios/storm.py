"""Everybody comes back at once, with cursors, after much has happened; beside this server, a bare
sender of as many bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.benchmarks.contenders import BARE, THIS, Contender
from tests.benchmarks.database import OURS
from tests.benchmarks.scenarios.base import Bench, Figures
from tests.benchmarks.tally import now

WRITERS = 8
JOINED = 500
"""How many events the bare sender sends at once: about as many as a portion has."""
LOOKS = """
SELECT max(t.seq_scan + i.idx_scan)
FROM pg_stat_user_tables AS t JOIN pg_stat_user_indexes AS i USING (relid)
WHERE t.schemaname = 'relay' AND i.indexrelname LIKE 'events%topic%'
"""
"""How often the log was read by topic: the past is, and nothing else."""
TRANSACTIONS = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'ours'"
STATISTICS_SECONDS = 1.5
"""PostgreSQL's sessions report what they did with about a second's delay."""


@dataclass(frozen=True)
class StormScenario:
    """Sockets leave, events are written, and all sockets come back at the same moment."""

    name: str = "storm"
    title: str = "Storm"
    contenders: tuple[Contender, ...] = (THIS, BARE)
    rounds: int | None = None

    def describe(self, is_quick: bool) -> str:
        sockets, events = _size(is_quick)
        return f"{sockets:,} sockets come back at once, each with a cursor {events:,} events old"

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        if contender is BARE:
            return self._measure_bare(bench, *_size(bench.is_quick))
        sockets, events = _size(bench.is_quick)
        with bench.contest(contender) as (server, generator):
            opened = generator.open([contender.path(n, 0) for n in range(sockets)])
            generator.close_all()
            with bench.database.writing(
                OURS, "write_messages", clients=WRITERS, each=events // WRITERS
            ) as writers:
                writers.finish()
            cursor = opened["cursors"][0]
            paths = [contender.path(n, 0, cursor) for n in range(sockets)]
            looks, transactions = self._count(bench)
            memory, cpu = server.memory_kb(), server.cpu_seconds()
            generator.measure(events * sockets)
            generator.begin_to_open(paths, sampled=10, in_flight=sockets)
            back = generator.opened(sockets)
            result = generator.result()
            growth, cpu = server.memory_kb() - memory, server.cpu_seconds() - cpu
            looks_after, transactions_after = self._count(bench)
        return {
            "storm_seconds": (result["last_received"] - back["started"]) / 1_000_000,
            "let_in_seconds": back["seconds"],
            "deliveries": result["deliveries"],
            "missing": result["expected"] - result["deliveries"],
            "log_queries": looks_after - looks,
            "transactions": transactions_after - transactions,
            "server_cpu_seconds": cpu,
            "memory_growth_mb": growth / 1000,
            "generator_busy": result["generator_busy"],
            "lost_sockets": result["lost_sockets"],
        }

    def _measure_bare(self, bench: Bench, sockets: int, events: int) -> Figures:
        arguments = (str(sockets), str(events), str(events * events), str(JOINED))
        with bench.contest(BARE, arguments=arguments) as (server, generator):
            generator.open([BARE.path(n, 0) for n in range(sockets)])
            generator.measure(events * sockets)
            cpu, started = server.cpu_seconds(), now()
            server.tell("go\n")
            result = generator.result()
            return {
                "storm_seconds": (result["last_received"] - started) / 1_000_000,
                "missing": result["expected"] - result["deliveries"],
                "server_cpu_seconds": server.cpu_seconds() - cpu,
                "generator_busy": result["generator_busy"],
            }

    def _count(self, bench: Bench) -> tuple[int, int]:
        time.sleep(STATISTICS_SECONDS)
        looks = int(bench.database.sql(LOOKS, OURS))
        return looks, int(bench.database.sql(TRANSACTIONS, OURS))


def _size(is_quick: bool) -> tuple[int, int]:
    return (50, 200) if is_quick else (1000, 5000)


STORM = StormScenario()
