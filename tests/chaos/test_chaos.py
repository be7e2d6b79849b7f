"""Short runs of the chaos suite; `bin/chaos` makes the long ones."""

from __future__ import annotations

from tests.chaos.run import run

SECONDS = 15.0
SEED = 7


def check(*kinds: str) -> None:
    """The same faults each time; on failure the whole report is shown."""
    lines: list[str] = []
    report = run(SECONDS, SEED, lines.append, kinds)
    assert report.is_good, "\n".join([*lines, *report.lines()])


def test_nothing_is_lost_and_no_one_left_in_through_a_few_faults() -> None:
    """Of all kinds, whichever come first."""
    check()


def test_after_a_crash_that_forgets_commits_nothing_durable_is_missed() -> None:
    """And whoever saw what was forgotten is told."""
    check("asynchronous commits forgotten", "revoke, grant")


def test_whoever_saw_another_history_than_the_copys_is_told() -> None:
    """The data directory was replaced under running servers."""
    check("replaced by a copy")
