"""How long to wait before trying again."""

from collections.abc import Callable

FIRST_SECONDS = 0.1
MAX_SECONDS = 5.0


class Backoff:
    """Waits that double from 0.1 s to 5 s, each shortened at random so that processes spread out.

    Args:
        random: a random number from 0 to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._attempts = 0

    def reset(self) -> None:
        """It worked: the next failure counts as the first."""
        self._attempts = 0

    def next(self) -> float:
        """Seconds to wait after another failure: between half of the step and all of it."""
        step = min(FIRST_SECONDS * 2.0**self._attempts, MAX_SECONDS)
        self._attempts = min(self._attempts + 1, 16)
        return step * (0.5 + self._random() / 2)
