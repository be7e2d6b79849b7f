"""A short run of the fuzz suite; `bin/fuzz` makes the long ones."""

from __future__ import annotations

from tests.fuzz.run import run

SECONDS = 10.0
SEED = 7


def test_the_server_lives_through_what_it_should_not_be_sent() -> None:
    """The same attacks each time. Latency is not judged: the machine may do other work."""
    lines: list[str] = []
    report = run(SECONDS, SEED, lines.append)
    found = [*report.of_life_and_memory, *report.forgeries]
    assert not found, "\n".join([*lines, *report.lines()])
    assert all(one.attacks > 0 for one in report.rounds[1:])
