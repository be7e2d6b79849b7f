"""How much one client may send: a token bucket per socket, and when to close it.

A long message counts as several, and so does one in many frames, because to read it takes the
process as much longer.
"""

import math
from collections.abc import Callable
from enum import Enum

SHORT = 2048
"""So many characters count as one message. Whatever a client has to say but a long token fits."""
FRAME = 512
"""As so many characters counts each frame of a message at least: it costs the process the same,
however little is in it."""


class RateVerdict(Enum):
    ACCEPT = "accept"
    REFUSE = "refuse"
    """Answer with an error; the connection stays."""
    DISCONNECT = "disconnect"
    """Close: a whole burst in a row was refused."""


class TokenBucket:
    """A bucket of `burst` tokens that refills at `rate` a second.

    Args:
        clock: monotonic seconds.
    """

    __slots__ = ("_burst", "_clock", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock()

    def take(self, number: int) -> bool:
        """Take so many, if there are so many; return whether there were."""
        now = self._clock()
        refill = (now - self._filled_at) * self._rate
        self._tokens = min(self._burst, self._tokens + refill)
        self._filled_at = now
        if number > self._tokens:
            return False
        self._tokens -= number
        return True


class RateLimit(TokenBucket):
    """What one client may send. It is no second object, for each socket has one."""

    __slots__ = ("_refused",)

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        super().__init__(rate, burst, clock)
        self._refused = 0

    def judge(self, length: int = 0) -> RateVerdict:
        """Count one message, of so many characters; the longest counts as a whole burst."""
        cost = min(max(1, math.ceil(length / SHORT)), self._burst)
        if self.take(cost):
            self._refused = 0
            return RateVerdict.ACCEPT
        self._refused += cost
        return RateVerdict.REFUSE if self._refused <= self._burst else RateVerdict.DISCONNECT

    def forgive(self) -> None:
        """Do not count the short message that was judged last as refused."""
        self._refused = max(0, self._refused - 1)
