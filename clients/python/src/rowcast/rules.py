"""When the client waits, how long, and when it gives up: as the JavaScript client does. No I/O.

`Timings` and `CLOSE_CODES` are for applications, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

CLOSE_CODES: Final = MappingProxyType(
    {
        1000: "closed normally",
        1001: "the server is going away",
        1002: "protocol error",
        1003: "the server takes text frames only",
        1005: "closed without a code",
        1006: "the connection was cut",
        1007: "a frame was not UTF-8",
        1008: "sent more than the rate limit allows",
        1009: "a message was too large",
        1011: "the server met an unexpected error",
        1013: "the server asks to try again later",
        4000: "nothing was heard from the server any more",
        4001: "the token is missing, refused or expired, or the user is unknown or deactivated",
        4003: "no such bot, or no permission",
        4029: "this user has too many connections",
    }
)
"""What the codes that end a connection mean, in words for people."""

FINAL_CODES: Final = frozenset({1000, 4003, 4029})
NORMAL: Final = 1000
CUT: Final = 1006
RATE_LIMITED: Final = 1008
HEARD_NOTHING: Final = 4000
TOKEN_REFUSED: Final = 4001
OTHER_USER: Final = "the new token is for another user"
"""Why the server refuses an `authenticate` where another person has signed in."""
ATTEMPT_AFTER_RATE_LIMIT: Final = 4
"""Where the back-off starts for one who was sent away for sending too much."""
PATIENCE_FACTOR: Final = 4
MOST_PATIENCE: Final = 5
"""After so many connections that were given up, the client does not get more patient."""
MAX_RETRY_AFTER: Final = 3600.0
"""Seconds: a server that asks to stay away for longer is not obeyed."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Waits and limits; times in seconds."""

    ping_every: float = 25.0
    """Plus up to a fifth, so that pings of many clients spread out."""
    pong_within: float = 10.0
    """After a connection that was given up for want of an answer, four times as long, and so on: a
    large message on a slow line is silence."""
    connect_within: float = 15.0
    backoff_first: float = 1.0
    backoff_most: float = 30.0
    stable_after: float = 10.0
    ask_every: float = 30.0
    """How long an answer of `get_token` counts at most, however often the server warns."""
    typing_every: float = 2.0
    """The server shows a typist as stopped after 6 s of silence."""
    typing_stops_after: float = 4.0
    remember_ids: int = 10_000
    """How many event ids are remembered. By default the server never replays more events."""
    queue_events: int = 100
    """How far the socket may be read ahead of the application."""


class Closed(Exception):
    """Raised when the connection has ended and the client does not try again.

    Attributes:
        code: the close code; 1006 where the line was cut, 4000 where it fell silent.
        reason: the server's words, or what went wrong here; possibly none.
        retry_after: seconds that the server asks to stay away, where it refused a request so.
    """

    def __init__(self, code: int, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after

    @property
    def meaning(self) -> str:
        """The code in words for people."""
        return CLOSE_CODES.get(self.code, f"closed with code {self.code}")

    def __str__(self) -> str:
        # What the server says is more than its code says. The codes from here say more themselves.
        said = self.reason or self.meaning
        if self.reason and self.code in (CUT, HEARD_NOTHING):
            said = f"{self.meaning}: {self.reason}"
        return f"{self.code}, {said}"


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """Told when a connection was lost or could not be made, and another will be tried.

    Attributes:
        attempt: 1 for the first since the last connection that held.
        delay: seconds until then.
        code: as in `Closed`; None where no token could be had.
        reason: the server's words, or what went wrong here.
    """

    attempt: int
    delay: float
    code: int | None
    reason: str


class Backoff:
    """Full jitter: anywhere from nothing to a window that doubles, so that a crowd spreads out.

    Args:
        random: a random number from 0 to 1.
    """

    def __init__(self, timings: Timings, random: Callable[[], float]) -> None:
        self._timings = timings
        self._random = random
        self.attempts = 0

    def ended(self, code: int, open_for: float) -> None:
        """A connection ended that had been open for so many seconds.

        Not reset at the handshake: refusals complete it too, and would be repeated at full speed.
        """
        if open_for >= self._timings.stable_after:
            self.attempts = 0
        if code == RATE_LIMITED:
            self.attempts = max(self.attempts, ATTEMPT_AFTER_RATE_LIMIT)

    def next(self) -> float:
        """Seconds to wait before another attempt."""
        # The exponent is bounded: a float cannot hold what a night of attempts would double to.
        window = self._timings.backoff_first * 2.0 ** min(self.attempts, 32)
        self.attempts += 1
        return self._random() * min(self._timings.backoff_most, window)


class Patience:
    """How long an answer to a ping may take.

    A large message on a slow line is silence, and would come anew on each connection. So after each
    that was given up, the next one may take longer to answer.
    """

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._given_up = 0

    @property
    def seconds(self) -> float:
        """How long, as things are."""
        steps = min(self._given_up, MOST_PATIENCE)
        return self._timings.pong_within * float(PATIENCE_FACTOR**steps)

    def gave_up(self) -> None:
        """No answer came in time."""
        self._given_up += 1

    def answered(self) -> None:
        """An answer came."""
        self._given_up = 0


def retry_after(seconds: object) -> float:
    """How long a server that goes away asks to stay away; 0 where that is no such time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return 0.0
    return float(seconds) if 0 <= seconds <= MAX_RETRY_AFTER else 0.0
