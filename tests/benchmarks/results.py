"""What was measured: kept round by round, and looked at through medians."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.scenarios.base import Figures

Wanted = Callable[[str], bool]


@dataclass
class Measured:
    """One scenario of one run.

    Attributes:
        rounds: by contender, the figures of each round.
        skipped: by contender, why it was not measured.
    """

    load: str
    when: str
    command: str
    machine: dict[str, str]
    labels: dict[str, str]
    kinds: dict[str, str]
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def median(self, contender: str, figure: str) -> float | None:
        """The median over the rounds; None where there is no such figure."""
        values = [
            figures[figure] for figures in self.rounds.get(contender, ()) if figure in figures
        ]
        return median(values) if values else None

    def peers(self, *kinds: str) -> list[str]:
        """The peers that were measured, of these kinds or of all."""
        wanted = kinds or ("python", "node")
        return [name for name in self.rounds if self.kinds[name] in wanted]

    def best_peer(self, figure: str, *kinds: str, highest: bool) -> str | None:
        """Who of them has the best median."""
        ranked = [
            (value, name)
            for name in self.peers(*kinds)
            if (value := self.median(name, figure)) is not None
        ]
        if not ranked:
            return None
        return (max if highest else min)(ranked)[1]


Results = dict[str, Measured]


def write_results(path: Path, results: Results) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(each) for name, each in results.items()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read_results(path: Path) -> Results:
    """What `write_results` wrote; nothing where there is no file."""
    if not path.exists():
        return {}
    read: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {name: Measured(**each) for name, each in read.items()}
