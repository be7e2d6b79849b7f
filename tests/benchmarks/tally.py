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


def stamps_of(data: bytes, end: int) -> array[int]:
    """When the events in `data[:end]` were written."""
    return array("q", map(int, STAMP.findall(data, 0, end)))


class Counters:
    """Deliveries of all sockets; the delays of those that are sampled.

    Args:
        expected: where the measurement ends; None: not known yet.
        limit: seconds after which it ends in any case.
        window: seconds of the first and last part, whose delays are reported on their own.
        settle: seconds of the beginning whose delays are not counted.
    """

    def __init__(
        self, expected: int | None, limit: float, window: float, settle: float = 0.0
    ) -> None:
        self.expected = expected
        self.deliveries = 0
        self.last_received = 0
        self._window = int(window * 1_000_000)
        self._settle = int(settle * 1_000_000)
        self._sent = array("q")
        self._received = array("q")
        self._cpu = time.process_time()
        self._deadline = time.monotonic() + limit

    def sample(self, stamps: array[int]) -> None:
        """Note when events that were received just now had been written."""
        self._sent.extend(stamps)
        self._received.extend(array("q", (self.last_received,)) * len(stamps))

    def is_over(self) -> bool:
        if self.expected is not None and self.deliveries >= self.expected:
            return True
        if time.monotonic() > self._deadline:
            return True
        silence = now() - self.last_received if self.last_received else 0
        return self.expected is not None and silence > STALLED_SECONDS * 1_000_000

    def result(self) -> dict[str, Any]:
        """All that there is to say, in one object."""
        cpu = time.process_time() - self._cpu
        first, last = min(self._sent, default=0), max(self._sent, default=0)
        seconds = (self.last_received - first) / 1_000_000
        pairs = zip(self._received, self._sent, strict=True)
        delays = [received - sent for received, sent in pairs]
        pairs = zip(self._sent, delays, strict=True)
        ordered = sorted(delay for sent, delay in pairs if sent >= first + self._settle)
        return {
            "deliveries": self.deliveries,
            "expected": self.expected,
            "seconds": seconds,
            "written_seconds": (last - first) / 1_000_000,
            "last_received": self.last_received,
            "p50_ms": percentile(ordered, 0.5),
            "p99_ms": percentile(ordered, 0.99),
            "first_p99_ms": self._p99_of(delays, first, first + self._window),
            "last_p99_ms": self._p99_of(delays, last - self._window, last),
            "samples": len(delays),
            "generator_busy": cpu / max(0.001, seconds),
        }

    def _p99_of(self, delays: list[int], begin: int, end: int) -> float:
        pairs = zip(self._sent, delays, strict=True)
        return percentile(sorted(d for sent, d in pairs if begin <= sent <= end), 0.99)
