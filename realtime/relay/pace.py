"""When to read the log next: woken by the bell when quiet, polling with it silenced when busy.

Network cards do the same: interrupts when quiet, polling when busy. This is pure state. It is told
what each read found, and the reader does what it says. Nothing is lost, whatever writers do, by
three rules:

- A writer inserts into the log first and looks at the bell after it. One that found the bell silent
  had its transaction id before it looked.
- Before the relay sleeps, it switches the bell on. Then it takes a transaction id of its own, the
  fence. So every writer that found the bell silent has an id below the fence.
- The relay sleeps only after a read whose snapshot shows that every transaction below the fence has
  ended: that read has returned their events. (A snapshot's xmax cannot be the fence: it is one past
  the latest *completed* transaction, and running writers may have higher ids.)

    asleep ──busy──▶ awake ──quiet──▶ fenced ──all below the fence over──▶ asleep
                       ▲                │
                       └──────busy──────┘
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

BUSY_TRANSACTIONS = 2
"""If a read finds so many transactions, rings come faster than they are answered."""
QUIET_READS = 8
"""Empty reads in a row after which the bell is switched on again."""
MIN_PAUSE = 0.002
"""Seconds between reads while busy: events collect, so each socket gets several at once."""
SAFETY_SECONDS = 2.0
"""The log is read, and the bell looked at, at least this often: for what was written with
`relay.quiet`, for a ring that went unheard, for a bell that somebody else silenced. Also the
longest pause while fenced behind somebody's long transaction."""


class PaceState(Enum):
    ASLEEP = "asleep"
    """The bell rings; nothing to do until it does."""
    AWAKE = "awake"
    """It reads again and again. The bell may be silent."""
    FENCED = "fenced"
    """The bell is on again, but a writer that found it silent may not have committed yet."""


class Action(Enum):
    WAIT = "wait"
    """Until the bell rings, at most for `Step.seconds`."""
    PAUSE = "pause"
    """For `Step.seconds`, whether the bell rings or not."""
    SILENCE = "silence"
    """Say that this process is awake, silence the bell if all are, and tell `Pace.silenced`."""
    RING = "ring"
    """Say that this process goes to sleep, switch the bell on, take a fence: `Pace.fenced`."""
    CHECK = "check"
    """See that the bell is on and this process known to sleep: `Pace.checked`, else as `RING`."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do before the next read."""

    action: Action
    seconds: float = 0.0


class Pace:
    """What to do after each read, over one connection.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.state = PaceState.ASLEEP
        self._monotonic = monotonic
        self._check_at = 0.0
        self._empty_reads = 0
        self._fence = 0
        self._pause = MIN_PAUSE

    def begin(self) -> Step:
        """The first step over a new listening connection: the bell's state is not known."""
        return Step(Action.RING)

    def fenced(self, fence: int) -> None:
        """`Action.RING` was done.

        Args:
            fence: the transaction id that was taken after it.
        """
        self.state = PaceState.FENCED
        self._fence = fence
        self._pause = MIN_PAUSE
        self.checked()

    def silenced(self) -> None:
        """`Action.SILENCE` was done."""
        self.state = PaceState.AWAKE
        self._empty_reads = 0
        self.checked()

    def checked(self) -> None:
        """`Action.CHECK` found the bell in order."""
        self._check_at = self._monotonic() + SAFETY_SECONDS

    def after_read(self, found: int, xmin: int) -> Step:
        """Decide what comes next.

        Args:
            found: of how many transactions the read returned something.
            xmin: of its snapshot: every transaction with a lower id was over.
        """
        if self.state is PaceState.FENCED and xmin > self._fence:
            self.state = PaceState.ASLEEP
        if self.state is PaceState.AWAKE:
            return self._while_awake(found)
        if found >= BUSY_TRANSACTIONS:
            return Step(Action.SILENCE)
        if self._is_check_due():
            return Step(Action.CHECK)
        return self._while_fenced(found) if self.state is PaceState.FENCED else self._while_asleep()

    def _while_awake(self, found: int) -> Step:
        self._empty_reads = 0 if found else self._empty_reads + 1
        if self._empty_reads >= QUIET_READS:
            return Step(Action.RING)
        if self._is_check_due():
            # Once more: who slept when it was tried may be gone, or awake.
            return Step(Action.SILENCE)
        # The longer nothing comes, the longer it may take: 2, 2, 4, 6, 8 … ms.
        return Step(Action.PAUSE, MIN_PAUSE * max(1, self._empty_reads))

    def _while_fenced(self, found: int) -> Step:
        # The longer nothing comes; a ring that brought something says nothing of the fence.
        pause = self._pause
        if not found:
            self._pause = min(pause * 2, SAFETY_SECONDS)
        return Step(Action.WAIT, pause)

    def _while_asleep(self) -> Step:
        return Step(Action.WAIT, max(0.0, self._check_at - self._monotonic()))

    def _is_check_due(self) -> bool:
        return self._monotonic() >= self._check_at
