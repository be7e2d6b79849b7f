"""What a run found, and what it measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.fuzz.witness import Latencies

WORST_SECONDS = 2.0
"""The longest that a message of the client that behaves may take."""
GROWTH_MEGABYTES = 128.0
"""How much the server's memory may grow while it is attacked."""
LOG_MEGABYTES_PER_SECOND = 1.0
SPARE_DESCRIPTORS = 10
"""The pool's connections come and go."""


@dataclass(frozen=True, slots=True)
class Round:
    """A part of the run, with attacks of one kind or of all."""

    name: str
    attacks: int
    latencies: Latencies
    peak: float
    """The server's memory, megabytes."""

    def line(self) -> str:
        took = self.latencies
        times = "".join(f"{1000 * one:9.1f}" for one in (took.median, took.p99, took.worst))
        return f"{self.name:<10}{self.attacks:9,}{took.messages:10,}{times}{self.peak:9.0f}"


HEAD = f"{'':<10}{'attacks':>9}{'messages':>10}{'p50 ms':>9}{'p99 ms':>9}{'worst':>9}{'peak MB':>9}"


@dataclass(slots=True)
class Report:
    """One run."""

    seed: int
    seconds: float
    rounds: list[Round] = field(default_factory=list)
    memory: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Before, at most, and afterwards; megabytes."""
    descriptors: tuple[int, int] = (0, 0)
    """Before and afterwards."""
    logged: float = 0.0
    """Megabytes."""
    complaints: list[str] = field(default_factory=list)
    """What the server, or the client that behaves, did wrong."""
    forgeries: list[str] = field(default_factory=list)
    """Cursors and tokens that should not have been good."""

    @property
    def of_life_and_memory(self) -> list[str]:
        """What was found that no busy machine explains: errors, and what the server takes."""
        before, peak, _ = self.memory
        found = list(self.complaints)
        if peak - before > GROWTH_MEGABYTES:
            found.append(f"memory grew from {before:.0f} to {peak:.0f} MB")
        if self.descriptors[1] > self.descriptors[0] + SPARE_DESCRIPTORS:
            found.append("{} files and sockets open before, {} after".format(*self.descriptors))
        if self.logged > LOG_MEGABYTES_PER_SECOND * self.seconds:
            found.append(f"{self.logged:.0f} MB of log in {self.seconds:.0f} s")
        return found

    @property
    def of_latency(self) -> list[str]:
        """Where the client that behaves noticed the attacks."""
        return [
            f"a message took {one.latencies.worst:.1f} s during {one.name}"
            for one in self.rounds
            if one.latencies.worst > WORST_SECONDS
        ]

    @property
    def findings(self) -> list[str]:
        return [*self.of_life_and_memory, *self.forgeries, *self.of_latency]

    def lines(self) -> list[str]:
        before, peak, after = self.memory
        findings = self.findings
        return [
            HEAD,
            *(one.line() for one in self.rounds),
            f"memory: {before:.0f} MB before, {peak:.0f} at most, {after:.0f} after",
            "open files and sockets: {} before, {} after".format(*self.descriptors),
            f"log: {self.logged:.1f} MB",
            *(f"FOUND: {one}" for one in findings),
            f"seed {self.seed}: {len(findings) or 'nothing'} found",
        ]
