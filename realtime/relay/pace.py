"""When to read the log next: woken by the bell when quiet, polling with it silenced when busy.

Borrowed from network cards: interrupts when quiet, polling when busy. Pure state, told what each
read found; `relay` does what it says. Correct whatever writers do, because of three rules:

- A writer inserts into the log first and looks at the bell after. One that found the bell silent
  had its transaction id before it looked.
- Going to sleep, the bell is switched on first; then a transaction id of our own is taken, the
  fence. Every writer that found the bell silent has an id below it.
- Only when a snapshot shows that everything below the fence is over, and has thus been read, may
  we sleep. (A snapshot's xmax would not do as a fence: it is one past the latest *completed*
  transaction, and running writers may sit above it.)
"""

from dataclasses import dataclass
from enum import Enum

BUSY_EVENTS = 2
"""A read that finds this many says that rings come faster than they are answered."""
QUIET_READS = 8
"""Empty reads in a row after which the bell is switched on again."""
SHORTEST_PAUSE = 0.002
"""Seconds between reads while busy: events gather, so that each socket gets several at once."""
LONGEST_PAUSE = 2.0
"""Seconds between reads while fenced behind somebody's long transaction; the bell rings by then."""


class State(Enum):
    ASLEEP = "asleep"
    """The bell rings; nothing to do until it does."""
    AWAKE = "awake"
    """Reading again and again; the bell may be silent."""
    FENCED = "fenced"
    """The bell rings again, but somebody who found it silent may not have committed yet."""


class Action(Enum):
    WAIT = "wait"
    """Sleep until the bell rings."""
    PAUSE = "pause"
    """Wait for `Step.seconds`, or the bell."""
    SILENCE = "silence"
    """Say that this process is awake, and silence the bell if all are; then read."""
    RING = "ring"
    """Say that this process goes to sleep, switch the bell on, and take a fence; then read."""


@dataclass(frozen=True, slots=True)
class Step:
    action: Action
    seconds: float = 0.0


class Pace:
    """What to do after each read."""

    def __init__(self) -> None:
        self.state = State.ASLEEP
        self._empty_reads = 0
        self._fence = 0
        self._pause = SHORTEST_PAUSE

    def start_over(self) -> None:
        """The connection is new, the bell was switched on with it: asleep, once fenced."""
        self.__init__()  # type: ignore[misc]

    def fenced(self, fence: int) -> None:
        """`Action.RING` was done.

        Args:
            fence: the transaction id taken after it.
        """
        self.state = State.FENCED
        self._fence = fence
        self._pause = SHORTEST_PAUSE

    def silenced(self) -> None:
        """`Action.SILENCE` was done."""
        self.state = State.AWAKE
        self._empty_reads = 0

    def after_read(self, found: int, xmin: int) -> Step:
        """Decide what comes next.

        Args:
            found: how many events and ejections the read returned.
            xmin: of its snapshot: every transaction with a lower id was over.
        """
        if self.state is State.AWAKE:
            return self._while_awake(found)
        if found >= BUSY_EVENTS:
            return Step(Action.SILENCE)
        if self.state is State.FENCED:
            return self._while_fenced(xmin)
        return Step(Action.WAIT)

    def _while_awake(self, found: int) -> Step:
        self._empty_reads = 0 if found else self._empty_reads + 1
        if self._empty_reads >= QUIET_READS:
            return Step(Action.RING)
        # The longer nothing comes, the longer it may take: 2, 2, 4, 6, 8 … ms.
        return Step(Action.PAUSE, SHORTEST_PAUSE * max(1, self._empty_reads))

    def _while_fenced(self, xmin: int) -> Step:
        if xmin > self._fence:
            self.state = State.ASLEEP
            return Step(Action.WAIT)
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return Step(Action.PAUSE, pause)
