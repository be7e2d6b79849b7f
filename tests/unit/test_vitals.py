"""Whether the event loop keeps up, and how much memory the process has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from realtime.metrics.vitals import Vitals, resident_bytes
from tests.unit.relay_fakes import run, while_running


@pytest.mark.parametrize(("kept", "told"), [(1000_000, 0.75), (2, 0.0)])
def test_the_worst_of_lately_is_told(kept: int, told: float) -> None:
    """And forgotten in time."""
    first = iter([0.0, 0.75, 1.0, 1.25])
    asked: list[float] = []

    def monotonic() -> float:
        asked.append(next(first, 1.25))
        return asked[-1]

    measured = Vitals(lambda: 99.0, monotonic, seconds=0.0, kept=kept)
    assert measured.started_at == 99.0
    assert measured.loop_lag == 0.0
    run(while_running(measured.run(), lambda: len(asked) > 20))
    assert measured.loop_lag == told


@pytest.mark.parametrize(("late", "told"), [(4.0, []), (30.0, [30.0])])
def test_a_standstill_is_told(late: float, told: list[float]) -> None:
    """So late is nobody for load alone."""
    first = iter([0.0, late])
    asked: list[float] = []
    found: list[float] = []

    def monotonic() -> float:
        asked.append(next(first, late))
        return asked[-1]

    measured = Vitals(lambda: 99.0, monotonic, seconds=0.0, on_standstill=found.append)
    run(while_running(measured.run(), lambda: len(asked) > 20))
    assert found == told


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_read_where_linux_tells_it() -> None:
    """A Python process has some megabytes; elsewhere it is not known."""
    assert 2**20 < (resident_bytes() or 0) < 2**40
    assert resident_bytes(Path("/nowhere/at/all")) is None
