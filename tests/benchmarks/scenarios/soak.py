"""A long, even load with short retention: does anything grow? This server alone."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.benchmarks.contenders import THIS, Contender
from tests.benchmarks.database import OURS
from tests.benchmarks.processes import ServerProcess
from tests.benchmarks.scenarios.base import Bench, Figures
from tests.benchmarks.scenarios.delivery import figures_of

RATE = 500
SOCKETS = 100
WRITERS = 8
RETENTION_SECONDS = 10
LOG_SIZE = """
SELECT sum(pg_total_relation_size(inhrelid)) / 1e6 FROM pg_inherits
WHERE inhparent = 'relay.events'::regclass
"""


@dataclass(frozen=True)
class SoakScenario:
    """Memory and the log's size are looked at all the time; delays of the first and last minute."""

    name: str = "soak"
    title: str = "Soak"
    contenders: tuple[Contender, ...] = (THIS,)
    rounds: int | None = 1

    def describe(self, is_quick: bool) -> str:
        return (
            f"{SOCKETS} sockets; {WRITERS} writers, {RATE} inserts a second;"
            f" RETENTION_SECONDS={RETENTION_SECONDS}"
        )

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        seconds = 12 if bench.is_quick else bench.soak_seconds
        each = RATE * seconds // WRITERS
        settings = {"RETENTION_SECONDS": str(RETENTION_SECONDS)}
        with bench.contest(contender, settings=settings) as (server, generator):
            generator.open([contender.path(n, 0) for n in range(SOCKETS)], sampled=4)
            generator.measure(
                each * WRITERS * SOCKETS, limit=seconds * 1.5 + 60, window=min(60, seconds / 4)
            )
            with bench.database.writing(
                OURS, "write_messages", clients=WRITERS, each=each, rate=RATE
            ) as writers:
                sizes, memory = _watch(bench, server, seconds)
                writers.finish()
            result = generator.result()
        # What earlier scenarios left in the log is gone when a quarter of the time has passed.
        quarter = len(sizes) // 4
        return figures_of(result) | {
            "soak_seconds": seconds,
            "first_p99_ms": result["first_p99_ms"],
            "last_p99_ms": result["last_p99_ms"],
            "first_log_mb": max(sizes[quarter : 2 * quarter]),
            "last_log_mb": max(sizes[-quarter:]),
            "first_memory_mb": max(memory[quarter : 2 * quarter]),
            "last_memory_mb": max(memory[-quarter:]),
        }


def _watch(bench: Bench, server: ServerProcess, seconds: int) -> tuple[list[float], list[float]]:
    """The log's size and the server's memory, about sixty times in all, in MB."""
    begun, pause = time.monotonic(), max(1.0, seconds / 60)
    sizes, memory = [], []
    while (passed := time.monotonic() - begun) < seconds - pause:
        time.sleep(pause)
        sizes.append(float(bench.database.sql(LOG_SIZE, OURS)))
        memory.append(server.memory_kb() / 1000)
        if len(sizes) % 10 == 0:
            bench.say(f"  {passed:5.0f} s   log {sizes[-1]:.1f} MB   memory {memory[-1]:.1f} MB")
    return sizes, memory


SOAK = SoakScenario()
