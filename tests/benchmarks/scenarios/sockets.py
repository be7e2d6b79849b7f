"""What a socket costs: memory while idle, and time to open."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.benchmarks.contenders import PEERS_MEASURED, THIS, Contender
from tests.benchmarks.scenarios.base import Bench, Figures

BOTS = 500
SETTLING_SECONDS = 2.0


@dataclass(frozen=True)
class SocketsScenario:
    """Sockets of as many users, spread over the bots, that are only opened."""

    name: str
    title: str
    sockets: int
    contenders: tuple[Contender, ...] = (THIS, *PEERS_MEASURED)
    rounds: int | None = None

    def describe(self, is_quick: bool) -> str:
        return f"{self._count(is_quick):,} sockets on {BOTS} bots"

    def _count(self, is_quick: bool) -> int:
        return 200 if is_quick else self.sockets

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        count = self._count(bench.is_quick)
        paths = [contender.path(n, n % BOTS) for n in range(count)]
        with bench.contest(contender) as (server, generator):
            before, cpu = server.memory_kb(), server.cpu_seconds()
            opened = generator.open(paths)
            cpu = server.cpu_seconds() - cpu
            # Whatever is done late for a new socket shall count.
            time.sleep(SETTLING_SECONDS)
            return {
                "handshakes_per_s": count / opened["seconds"],
                "cpu_us": cpu * 1_000_000 / count,
                "kb_per_connection": (server.memory_kb() - before) / count,
            }


IDLE = SocketsScenario("idle", "Idle", 4000)
CONNECT = SocketsScenario("connect", "Connect", 1000)
