"""What a socket costs: memory while idle, time to open, and time until all are back."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.benchmarks.contenders import PEERS_MEASURED, THIS, Contender
from tests.benchmarks.scenarios.base import Bench, Figures

BOTS = 500
SETTLING_SECONDS = 2.0
BACKLOG = 500
"""So many wait to be let in at once: as much as every server's listening socket holds."""


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
                "handshake_cpu_us": cpu * 1_000_000 / count,
                "kb_per_connection": (server.memory_kb() - before) / count,
            }


@dataclass(frozen=True)
class ReturnScenario:
    """A server ends, and all its sockets come to the next one at the same moment."""

    name: str = "return"
    title: str = "Return"
    contenders: tuple[Contender, ...] = (THIS, *PEERS_MEASURED)
    rounds: int | None = None

    def describe(self, is_quick: bool) -> str:
        return (
            f"{_returning(is_quick):,} sockets on {BOTS} bots, whose server ends, all come to the"
            " next one at once; this server's with their cursors"
        )

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        numbers = range(_returning(bench.is_quick))
        with bench.contest(contender) as (_, generator):
            cursors = generator.open([contender.path(n, n % BOTS) for n in numbers])["cursors"]
        paths = [contender.path(n, n % BOTS, cursors[n]) for n in numbers]
        with bench.contest(contender) as (server, generator):
            cpu = server.cpu_seconds()
            opened = generator.open(paths, in_flight=min(len(paths), BACKLOG))
            cpu = server.cpu_seconds() - cpu
            return {
                "return_seconds": opened["seconds"],
                "handshake_cpu_us": cpu * 1_000_000 / len(paths),
            }


def _returning(is_quick: bool) -> int:
    return 200 if is_quick else 4000


RETURN = ReturnScenario()
IDLE = SocketsScenario("idle", "Idle", 4000)
CONNECT = SocketsScenario("connect", "Connect", 1000)
