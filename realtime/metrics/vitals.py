"""Measures the process itself: how long it runs, its memory, and how late its event loop is."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

KEPT_MEASUREMENTS = 20
"""How many measurements are kept. The worst of them is told, so that a short stall is still seen by
a scrape that comes seconds later."""
STOOD_STILL_SECONDS = 5.0
"""So late is no task for load alone: the process was stopped, or its machine was."""
STATM = Path("/proc/self/statm")


class Vitals:
    """The measurements of this process.

    Args:
        clock: epoch seconds.
        monotonic: seconds.
        seconds: the time between two measurements.
        on_standstill: called with the seconds for which the process itself stood still.
        kept: how many measurements are kept.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        *,
        seconds: float,
        kept: int = KEPT_MEASUREMENTS,
        on_standstill: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._on_standstill = on_standstill
        self.clock = clock
        self.started_at = clock()
        """When the process started, in epoch seconds."""
        self._monotonic = monotonic
        self._seconds = seconds
        self._lags: deque[float] = deque([0.0], maxlen=kept)

    @property
    def loop_lag(self) -> float:
        """The longest time, in seconds, that a task lately had to wait for its turn."""
        return max(self._lags)

    async def run(self) -> NoReturn:
        """Measure until cancelled."""
        while True:
            due = self._monotonic() + self._seconds
            await asyncio.sleep(self._seconds)
            late = max(0.0, self._monotonic() - due)
            self._lags.append(late)
            if late > STOOD_STILL_SECONDS:
                self._on_standstill(late)


def resident_bytes(statm: Path = STATM) -> int | None:
    """Memory of this process; None where the system does not tell it as Linux does."""
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
