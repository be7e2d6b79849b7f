"""Short runs of the chaos suite; `bin/chaos` makes the long ones."""

from __future__ import annotations

from tests.chaos.run import run

SEED = 7


def check(*kinds: str, seconds: float = 8.0) -> None:
    """The same faults each time; on failure the whole report is shown."""
    lines: list[str] = []
    report = run(seconds, SEED, lines.append, kinds)
    assert report.is_good, "\n".join([*lines, *report.lines()])


def test_nothing_is_lost_and_no_one_left_in_through_a_few_faults() -> None:
    """Of all kinds, whichever come first."""
    check(seconds=15.0)


def test_after_a_crash_that_forgets_commits_nothing_durable_is_missed() -> None:
    """And whoever saw what was forgotten is told."""
    check("asynchronous commits forgotten", "revoke, grant")


def test_whoever_saw_another_history_than_the_copys_is_told() -> None:
    """The data directory was replaced under running servers."""
    check("replaced by a copy")


def test_cursors_that_are_forged_or_borrowed_show_nothing() -> None:
    """Of what was written while their user was locked out."""
    check("forged and borrowed")


def test_screens_are_as_the_tables_are_whatever_triggers_a_platform_has() -> None:
    """Some edit or delete what was just written, one takes part of a role away."""
    check("role changed")


def test_state_that_was_loaded_with_a_cursor_and_events_are_the_tables() -> None:
    """Nothing is missing, and nothing comes twice, while the network breaks."""
    check("network cut", "revoke, grant")
