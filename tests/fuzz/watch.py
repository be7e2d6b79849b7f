"""What the server takes while it is attacked: memory and descriptors, from /proc, and its log."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

SAMPLE_SECONDS = 0.1
MEGABYTE = 2**20


class Watch:
    """Looks at one process again and again.

    Args:
        pid: the process's.
        log: the file that it writes its log to.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self._pid = pid
        self._log = log
        self._log_before = log.stat().st_size
        self.before = self.peak = self.recent_peak = resident_megabytes(pid)
        self.descriptors_before = descriptors(pid)

    async def keep_looking(self) -> None:
        """Take samples. Cancel to end."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self._look()

    def _look(self) -> None:
        now = resident_megabytes(self._pid)
        self.peak = max(self.peak, now)
        self.recent_peak = max(self.recent_peak, now)

    def take_peak(self) -> float:
        """The most memory since the last time that this was asked, in megabytes."""
        self._look()
        taken, self.recent_peak = self.recent_peak, 0.0
        return taken

    @property
    def now(self) -> float:
        return resident_megabytes(self._pid)

    @property
    def descriptors(self) -> int:
        return descriptors(self._pid)

    @property
    def logged_megabytes(self) -> float:
        return (self._log.stat().st_size - self._log_before) / MEGABYTE


def resident_megabytes(pid: int) -> float:
    """Resident memory; 0 for a process that is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def descriptors(pid: int) -> int:
    """How many files and sockets the process has open; 0 for one that is gone."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0
