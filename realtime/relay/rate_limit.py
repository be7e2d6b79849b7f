"""How much one client may send: a token bucket per socket, and when to close it."""

from collections.abc import Callable
from enum import Enum


class RateVerdict(Enum):
    ACCEPT = "accept"
    REFUSE = "refuse"
    """Answer with an error; the connection stays."""
    DISCONNECT = "disconnect"
    """Close: a whole burst of messages in a row was refused."""


class RateLimit:
    """A bucket of `burst` tokens that refills at `rate` a second.

    Args:
        clock: monotonic seconds.
    """

    __slots__ = ("_burst", "_clock", "_filled_at", "_rate", "_refused", "_tokens")

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock()
        self._refused = 0

    def judge(self) -> RateVerdict:
        """Count one message."""
        now = self._clock()
        refill = (now - self._filled_at) * self._rate
        self._tokens = min(self._burst, self._tokens + refill)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            self._refused = 0
            return RateVerdict.ACCEPT
        self._refused += 1
        return RateVerdict.REFUSE if self._refused <= self._burst else RateVerdict.DISCONNECT

    def forgive(self) -> None:
        """Do not count the message that was judged last as refused."""
        self._refused = max(0, self._refused - 1)
