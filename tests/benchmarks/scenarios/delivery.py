"""Messages from writers to sockets: quiet, burst, wide burst, steady, many bots."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tests.benchmarks.contenders import BARE, PEERS_MEASURED, THIS, Contender
from tests.benchmarks.generator import LoadGenerator
from tests.benchmarks.processes import ServerProcess
from tests.benchmarks.scenarios.base import Bench, Figures


@dataclass(frozen=True)
class Load:
    """How much of everything.

    Attributes:
        rate: inserts a second of all writers together; None: as fast as they can.
    """

    sockets: int
    writers: int
    inserts: int
    bots: int = 1
    rate: int | None = None

    @property
    def inserts_each(self) -> int:
        return math.ceil(self.inserts / self.writers)

    @property
    def settle(self) -> float:
        """Seconds at the beginning whose delays are not counted."""
        return settling(self.inserts, self.rate) if self.rate else 0.0

    @property
    def deliveries(self) -> int:
        return self.inserts_each * self.writers * self.sockets // self.bots

    def describe(self) -> str:
        count = f"{self.inserts_each * self.writers:,} inserts"
        pace = f"{self.rate:,} a second" if self.rate else "as fast as they can"
        place = f"{self.sockets:,} sockets on {self.bots:,} bot{'s' if self.bots > 1 else ''}"
        by = f"{self.writers} writer{'s' if self.writers > 1 else ''}"
        return f"{place}; {by}, {count}, {pace}"


@dataclass(frozen=True)
class DeliveryScenario:
    """A load of messages, and everybody who can be put under it."""

    name: str
    title: str
    load: Load
    quick_load: Load
    contenders: tuple[Contender, ...] = (THIS, *PEERS_MEASURED)
    rounds: int | None = None

    def describe(self, is_quick: bool) -> str:
        return self._load(is_quick).describe()

    def _load(self, is_quick: bool) -> Load:
        return self.quick_load if is_quick else self.load

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        load = self._load(bench.is_quick)
        arguments: tuple[str, ...] = ()
        if contender is BARE:
            arguments = (str(load.sockets), str(load.inserts), str(load.rate))
        with bench.contest(contender, arguments=arguments) as (server, generator):
            generator.open(
                [contender.path(n, n % load.bots) for n in range(load.sockets)],
                sampled=min(load.sockets, 100),
            )
            return deliver(bench, contender, load, server, generator)


def deliver(
    bench: Bench,
    contender: Contender,
    load: Load,
    server: ServerProcess,
    generator: LoadGenerator,
) -> Figures:
    """Put the load on a contender whose sockets are open."""
    generator.measure(load.deliveries, settle=load.settle)
    before = server.cpu_seconds()
    if contender is BARE:
        server.tell("go\n")
        result = generator.result()
    else:
        with bench.database.writing(
            contender.database,
            "write_messages" if load.bots == 1 else "write_many",
            clients=load.writers,
            each=load.inserts_each,
            rate=load.rate,
            bots=load.bots,
        ) as writers:
            writers.finish()
            result = generator.result()
    cpu = server.cpu_seconds() - before
    return figures_of(result) | {
        "cpu_us": cpu * 1_000_000 / max(1, result["deliveries"]),
        "server_busy": cpu / max(0.001, result["seconds"]),
    }


def settling(inserts: int, rate: int) -> float:
    """How many seconds at the beginning are not counted where so many are inserted a second.

    The writers' first statements take long, and what is due meanwhile is made up for at once.
    """
    return inserts / rate / 10


def figures_of(result: dict[str, float]) -> Figures:
    """The generator's result in the tables' figures."""
    return {
        "deliveries_per_s": result["deliveries"] / max(0.001, result["seconds"]),
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
        "seconds": result["seconds"],
        "written_seconds": result["written_seconds"],
        "generator_busy": result["generator_busy"],
        "missing": (result["expected"] or 0) - result["deliveries"],
        "lost_sockets": result["lost_sockets"],
    }


_QUIET = Load(sockets=100, writers=1, inserts=200, rate=20)
_BURST = Load(sockets=100, writers=32, inserts=3000)
_MANY = Load(sockets=2000, bots=500, writers=8, inserts=10_000, rate=1000)
DELIVERIES = (
    DeliveryScenario("quiet", "Quiet", _QUIET, replace(_QUIET, sockets=20, inserts=20)),
    DeliveryScenario("burst", "Burst", _BURST, replace(_BURST, sockets=20, inserts=320)),
    DeliveryScenario(
        "wide",
        "Wide burst",
        replace(_BURST, sockets=1000),
        replace(_BURST, sockets=200, inserts=320),
    ),
    DeliveryScenario(
        "steady",
        "Steady",
        replace(_QUIET, sockets=1000),
        replace(_QUIET, sockets=100, inserts=20),
        contenders=(THIS, *PEERS_MEASURED, BARE),
    ),
    DeliveryScenario("many", "Many bots", _MANY, replace(_MANY, sockets=500, inserts=1000)),
)
