"""What one measurement of the load generator has counted so far."""

from __future__ import annotations

import re
import time
from array import array
from typing import Any

STAMP = re.compile(rb"\^at=(\d{16})")
"""The writers put the microsecond at which the statement began into each message's content."""
STALLED_SECONDS = 15.0


def now() -> int:
    """Microseconds since the epoch: the clock that PostgreSQL stamps with."""
    return time.time_ns() // 1000


def percentile(ordered: list[int], share: float) -> float:
    """A percentile in milliseconds."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1000 if ordered else 0.0


class Counters:
    """Deliveries of all sockets; the delays of those that are sampled.

    Args:
        expected: where the measurement ends; None: not known yet.
        limit: seconds after which it ends in any case.
        window: seconds of the first and last part, whose delays are reported on their own.
    """

    def __init__(self, expected: int | None, limit: float, window: float) -> None:
        self.expected = expected
        self.deliveries = 0
        self.last_received = 0
        self._window = int(window * 1_000_000)
        self._sent = array("q")
        self._delays = array("q")
        self._begun = time.monotonic()
        self._cpu = time.process_time()
        self._deadline = self._begun + limit

    def sample(self, data: bytes, end: int) -> None:
        """Note the delays of the events in `data[:end]`, which was received just now."""
        received = self.last_received
        for stamp in STAMP.findall(data, 0, end):
            sent = int(stamp)
            self._sent.append(sent)
            self._delays.append(received - sent)

    def is_over(self) -> bool:
        if self.expected is not None and self.deliveries >= self.expected:
            return True
        if time.monotonic() > self._deadline:
            return True
        silence = now() - self.last_received if self.last_received else 0
        return self.expected is not None and silence > STALLED_SECONDS * 1_000_000

    def result(self) -> dict[str, Any]:
        """All that there is to say, in one object."""
        wall = time.monotonic() - self._begun
        first, last = min(self._sent, default=0), max(self._sent, default=0)
        delays = sorted(self._delays)
        return {
            "deliveries": self.deliveries,
            "expected": self.expected,
            "seconds": (self.last_received - first) / 1_000_000,
            "written_seconds": (last - first) / 1_000_000,
            "last_received": self.last_received,
            "p50_ms": percentile(delays, 0.5),
            "p99_ms": percentile(delays, 0.99),
            "first_p99_ms": self._p99_of(first, first + self._window),
            "last_p99_ms": self._p99_of(last - self._window, last),
            "samples": len(delays),
            "generator_busy": (time.process_time() - self._cpu) / wall,
        }

    def _p99_of(self, begin: int, end: int) -> float:
        pairs = zip(self._sent, self._delays, strict=True)
        return percentile(sorted(d for sent, d in pairs if begin <= sent <= end), 0.99)
