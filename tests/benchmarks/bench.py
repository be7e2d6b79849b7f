"""The run: scenarios, in rounds, everybody in turn."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from tests.benchmarks.contenders import Contender
from tests.benchmarks.figures import COLUMNS, FIGURES
from tests.benchmarks.generator import GeneratorError
from tests.benchmarks.packages import Unavailable
from tests.benchmarks.results import Measured, Results
from tests.benchmarks.scenarios import Bench, Figures, Scenario


def say(line: str) -> None:
    """Tell whoever waits what is happening; results go to standard output."""
    print(line, file=sys.stderr, flush=True)


def run(
    bench: Bench,
    scenarios: list[Scenario],
    *,
    rounds: int,
    only: frozenset[str],
    command: str,
    machine: dict[str, str],
) -> Results:
    """Measure, and return what was found.

    Args:
        only: names of contenders; empty: all.
    """
    results: Results = {}
    for scenario in scenarios:
        contenders = [c for c in scenario.contenders if not only or c.name in only]
        measured = Measured(
            load=scenario.describe(bench.is_quick),
            when=datetime.now(UTC).date().isoformat(),
            command=command,
            machine=machine,
            labels={contender.name: contender.label for contender in contenders},
            kinds={contender.name: contender.kind for contender in contenders},
        )
        bench.say(f"{scenario.title}: {measured.load}")
        results[scenario.name] = measured
        for number in range(1, min(rounds, scenario.rounds or rounds) + 1):
            for contender in contenders:
                if contender.name not in measured.skipped:
                    _measure(bench, scenario, contender, measured, number)
    return results


def _measure(
    bench: Bench, scenario: Scenario, contender: Contender, measured: Measured, number: int
) -> None:
    try:
        figures = scenario.measure(bench, contender)
    except (Unavailable, GeneratorError, RuntimeError) as error:
        reason = str(error).strip()
        bench.say(f"  skipped {contender.label}: {reason}")
        measured.skipped[contender.name] = reason.rpartition("\n")[2]
        return
    measured.rounds.setdefault(contender.name, []).append(figures)
    bench.say(f"  round {number}  {contender.label:30} {_line(scenario.name, figures)}")


def _line(scenario: str, figures: Figures) -> str:
    shown = [name for name in (*COLUMNS[scenario], "missing") if figures.get(name)]
    return "   ".join(f"{FIGURES[n].heading} {FIGURES[n].show(figures[n])}" for n in shown)
