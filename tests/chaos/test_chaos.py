"""A short run of the chaos suite; `bin/chaos` makes the long ones."""

from __future__ import annotations

from tests.chaos.run import run

SECONDS = 15.0
SEED = 7


def test_nothing_is_lost_and_no_one_left_in_through_a_few_faults() -> None:
    """The same faults each time; on failure the whole report is shown."""
    lines: list[str] = []
    report = run(SECONDS, SEED, lines.append)
    assert report.is_good, "\n".join([*lines, *report.lines()])
