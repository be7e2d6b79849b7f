"""How the process is doing: since when it runs, its memory, and whether its event loop keeps up.

Made by `server`, which keeps `run` going and takes the figures down with each heartbeat.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

EVERY_SECONDS = 0.5
REMEMBERED = 20
"""Of these measurements the worst is told, so that one of short scrapes is not all that is seen."""
_STATM = Path("/proc/self/statm")


class Vitals:
    """One process's.

    Args:
        clock: epoch seconds.
        monotonic: seconds.
    """

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.clock = clock
        self.started_at = clock()
        """Epoch seconds."""
        self._monotonic = monotonic
        self._lags: deque[float] = deque([0.0], maxlen=REMEMBERED)

    @property
    def loop_lag(self) -> float:
        """Seconds that a task had to wait for its turn, at worst, lately."""
        return max(self._lags)

    async def run(self) -> NoReturn:
        """Measure for ever. Cancel to end."""
        while True:
            due = self._monotonic() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            self._lags.append(max(0.0, self._monotonic() - due))


def resident_bytes() -> int | None:
    """Memory of this process; None: this system does not tell it as Linux does."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
