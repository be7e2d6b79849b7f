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

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """When a process counts as busy or as quiet, and how long it waits between reads."""

    busy_transactions: int = 100
    busy_seconds: float = 0.05
    """Who finds this many within that time is busy: the bell is silenced. Not much earlier, for
    rings carry events, which is cheaper for a process than to read them one by one. Not much later,
    for they cost writers more than rows in the log."""
    waited_seconds: float = 0.005
    """One that is heard so much later than it was written counts as one more, after twice the time
    as four more: where commits that ring wait for each other, few of them come."""
    max_waited: float = 0.02
    """A longer wait counts as this: it only says that the transaction took long."""
    confirm_seconds: float = 1.0
    """Not longer after an event was delivered ahead of a read, the log is read."""
    confirm_transactions: int = 250
    """Nor after more of them. What comes during that read waits for it, so it must be a small one:
    one answer (`event_log.PAGE_ROWS`), in which they are only counted."""
    fence_seconds: float = 0.5
    """Not more often is a fence taken because a ring had another epoch."""
    quiet_reads: int = 8
    """After this many empty reads in a row the bell is switched on again."""
    calm_transactions: int = 60
    calm_seconds: float = 0.05
    """So it is when fewer than this many were found in that time: a hiccup made them look fast, or
    the rush is over. That is well below what counts as busy, or it would go back and forth."""
    calm_times: int = 8
    """Who has to silence the bell again soon looks twice as long as before, up to so many times."""
    min_pause: float = 0.002
    """Seconds between reads while busy: events gather, so that each socket gets several at once."""
    max_pause: float = 0.01
    pause_times: float = 2.0
    """A pause is so many times as long as the read before it took, with its delivery, up to
    `max_pause`: what takes long shows that machines are busy, and reads take time from writers."""
    safety_seconds: float = 2.0
    """The log is read, and the bell checked, at least this often. It finds what was written with
    `relay.quiet`, a ring that nobody heard, and a bell that somebody else silenced. It is also the
    longest pause while fenced behind a long transaction."""


DEFAULT_LIMITS = PaceLimits()


class PaceState(Enum):
    ASLEEP = "asleep"
    """The bell rings; nothing to do until it does."""
    AWAKE = "awake"
    """It reads again and again. The bell may be silent."""
    FENCED = "fenced"
    """The bell is on again, but a writer that found it silent may not have committed yet."""


class Action(Enum):
    WAIT = "wait"
    """Wait until the bell rings, at most for `Step.seconds`."""
    PAUSE = "pause"
    """Wait for `Step.seconds`, whether the bell rings or not."""
    SILENCE = "silence"
    """Say that this process is awake, silence the bell if all are, and tell `Pace.silenced`."""
    RING = "ring"
    """Say that this process goes to sleep, switch the bell on, take a fence: `Pace.fenced`."""
    FENCE = "fence"
    """See that the bell is on, and take a fence anew: `Pace.fenced_anew`."""
    CHECK = "check"
    """See that the bell is on and this process known to sleep: `Pace.checked`, else as `RING`."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do before the next read."""

    action: Action
    seconds: float = 0.0


class Rate:
    """Whether transactions come fast.

    Args:
        number, seconds: so many within this time are fast.
    """

    def __init__(self, number: int, seconds: float) -> None:
        self._number, self._seconds = number, seconds
        self._began = float("-inf")
        self._found = 0.0

    def count(self, found: float, now: float) -> bool:
        """Count these, and say whether they make it fast.

        Args:
            now: monotonic, in seconds.
        """
        if now - self._began >= self._seconds:
            self._began, self._found = now, 0.0
        self._found += found
        return self._found >= self._number


class Calm:
    """Whether transactions come so slowly that rings may carry them again.

    Args:
        monotonic: seconds.
        number, seconds: fewer within this time are calm.
        most: how many times as long it looks where calm did not last.
    """

    def __init__(
        self, monotonic: Callable[[], float], number: int, seconds: float, most: int
    ) -> None:
        self._monotonic = monotonic
        self._number, self._seconds, self._most = number, seconds, most
        self._times = 1
        self._calm_since = float("-inf")
        self._count_anew()

    def begin(self) -> None:
        """Transactions come fast: count from now on."""
        lasted = self._monotonic() - self._calm_since
        is_soon = lasted < 2 * self._times * self._seconds
        self._times = min(2 * self._times, self._most) if is_soon else 1
        self._count_anew()

    def count(self, found: int) -> bool:
        """Count these, and say, each time that the time is over, whether they were few."""
        self._found += found
        now = self._monotonic()
        if now - self._began < self._times * self._seconds:
            return False
        is_calm = self._found < self._times * self._number
        self._count_anew()
        if is_calm:
            self._calm_since = now
        return is_calm

    def _count_anew(self) -> None:
        self._began = self._monotonic()
        self._found = 0


class Pace:
    """What to do after each read, over one connection.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float], limits: PaceLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self.state = PaceState.ASLEEP
        self._monotonic = monotonic
        self._check_at = 0.0
        self._empty_reads = 0
        self._fence = 0
        self._pause = self._limits.min_pause
        self._read_at = math.inf
        """When the pause is over and a read begins, while awake."""
        self._rate = Rate(limits.busy_transactions, limits.busy_seconds)
        self._calm = Calm(
            monotonic, limits.calm_transactions, limits.calm_seconds, limits.calm_times
        )
        self._fence_at = 0.0
        self._confirm_at = math.inf
        self._unconfirmed = 0

    def begin(self) -> Step:
        """The first step over a new listening connection: the bell's state is not known."""
        return Step(Action.RING)

    def fenced(self, fence: int) -> None:
        """Note that `Action.RING` was done.

        Args:
            fence: the transaction id that was taken after it.
        """
        self.fenced_anew(fence)
        self.checked()

    def fenced_anew(self, fence: int) -> None:
        """Note that `Action.FENCE` was done. The check of the bell is as due as it was."""
        self.state = PaceState.FENCED
        self._fence = fence
        self._pause = self._limits.min_pause
        self._fence_at = self._monotonic() + self._limits.fence_seconds

    def silenced(self) -> None:
        """Note that `Action.SILENCE` was done."""
        if self.state is not PaceState.AWAKE:
            self._calm.begin()
        self.state = PaceState.AWAKE
        self._read_at = math.inf
        self._empty_reads = 0
        self.checked()

    def checked(self) -> None:
        """Note that `Action.CHECK` found the bell in order."""
        self._check_at = self._monotonic() + self._limits.safety_seconds

    def waited(self, seconds: float) -> float:
        """How many extra transactions it counts for that one was heard so long after its writing.

        By the square: a queue of commits is told from ordinary delays by its length.
        """
        counted = min(max(seconds, 0.0), self._limits.max_waited)
        return (counted / self._limits.waited_seconds) ** 2

    def after_read(
        self, found: int, xmin: int, is_stale: bool = False, waited: float = 0.0
    ) -> Step:
        """Decide what comes next.

        Args:
            found: of how many transactions the read returned something new.
            xmin: of its snapshot: every transaction with a lower id was over.
            is_stale: whether a ring had another epoch than the one of the fence.
            waited: as how many more they count, all together, because they `waited`.
        """
        self._confirm_at, self._unconfirmed = math.inf, 0
        if self.state is PaceState.FENCED and xmin > self._fence:
            self.state = PaceState.ASLEEP
        if self.state is PaceState.AWAKE:
            # All that it finds has waited for the pause: that does not make it busy afterwards.
            return self._while_awake(found)
        is_busy = self._rate.count(found + waited, self._monotonic())
        if found and is_busy:
            return Step(Action.SILENCE)
        if self._is_check_due():
            return Step(Action.CHECK)
        if is_stale and self._monotonic() >= self._fence_at:
            return Step(Action.FENCE)
        return self._while_fenced(found) if self.state is PaceState.FENCED else self._while_asleep()

    def after_carried(self, found: int, waited: float = 0.0) -> Step | None:
        """Decide what comes after events were delivered ahead of a read. None: a read, at once.

        Args:
            found: of how many transactions they were.
            waited: as for `after_read`.
        """
        now = self._monotonic()
        if self._rate.count(found + waited, now):
            return Step(Action.SILENCE)
        if not self._unconfirmed:
            self._confirm_at = now + self._limits.confirm_seconds
        self._unconfirmed += found
        due_in = min(self._check_at, self._confirm_at) - now
        if due_in <= 0 or self._unconfirmed >= self._limits.confirm_transactions:
            return None
        return Step(Action.WAIT, due_in)

    def _while_awake(self, found: int) -> Step:
        self._empty_reads = 0 if found else self._empty_reads + 1
        is_calm = self._calm.count(found)
        if is_calm or self._empty_reads >= self._limits.quiet_reads:
            return Step(Action.RING)
        if self._is_check_due():
            # Once more: who slept when it was tried may be gone, or awake.
            return Step(Action.SILENCE)
        return Step(Action.PAUSE, self._next_pause())

    def _next_pause(self) -> float:
        now = self._monotonic()
        took = max(0.0, now - self._read_at)
        # The longer nothing comes, the longer it may take: 2, 2, 4, 6, 8 … ms.
        pause = self._limits.min_pause * max(1, self._empty_reads)
        pause = max(pause, min(self._limits.pause_times * took, self._limits.max_pause))
        self._read_at = now + pause
        return pause

    def _while_fenced(self, found: int) -> Step:
        # The longer nothing comes; a ring that brought something says nothing of the fence.
        pause = self._pause
        if not found:
            self._pause = min(pause * 2, self._limits.safety_seconds)
        return Step(Action.WAIT, pause)

    def _while_asleep(self) -> Step:
        due_at = min(self._check_at, self._confirm_at)
        return Step(Action.WAIT, max(0.0, due_at - self._monotonic()))

    def _is_check_due(self) -> bool:
        return self._monotonic() >= self._check_at
