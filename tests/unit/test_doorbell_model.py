"""No wake-up is lost: the doorbell's rules, tried in every order in which things can happen.

What is held in every state that can be reached, of every relay that sleeps with no ring pending:

- **It has read all that was committed**, whoever else is still writing, was slow, paused or dead.
- Except one that is *excused*, from where its row expired while it slept (it was paused), or its
  lost connection left a backend behind that goes on, until it has gone to sleep anew. What is late
  for such a one, its next safety read brings, and the check that follows mends the bell. (A check
  that finds all in order is no end of the excuse: a writer may have found the bell silent before.)
- And except what was written with `relay.quiet`, which the safety read brings.

And of every state in which no transaction is open: left to themselves, all relays come to sleep,
with all that was committed read. So nobody stays behind a fence, awake, or before the lock.

Where rings carry events, one is never delivered before something that it must come after: a change
of access that was committed before it, what its writer had seen, or what its transaction had
written.

The rules are then broken one by one, and each time a way to lose a wake-up is found.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from realtime.relay.pace import Action, Pace, PaceLimits, PaceState, Step
from tests.unit.doorbell_explorer import Mending, Settling, assert_nothing_lost, explore
from tests.unit.doorbell_state import (
    ACCESS,
    NEVER_BUSY,
    OTHERS,
    PLAIN,
    QUIET,
    RING_ON,
    RING_ON_AND_CARRY,
    SILENCE,
    SILENCE_AND_SAY,
    Rules,
)

SOON_BUSY = PaceLimits(quiet_reads=1, busy_transactions=1)
"""One writer keeps relays busy, so that they need not be two."""


# As it is.


def test_one_relay_and_three_writers() -> None:
    """Slow ones below, above and between the fence: 25,700 states."""
    rules = Rules(writers=3)
    assert_nothing_lost(rules, Settling(rules), floor=23_000)


def test_relays_that_go_to_sleep_while_events_come() -> None:
    """As they do when few come: 28,800 states."""
    limits = PaceLimits(quiet_reads=1, busy_transactions=1, calm_seconds=0.0)
    rules = Rules(limits=limits, relays=2, writers=1)
    assert_nothing_lost(rules, Settling(rules), floor=25_900)


def test_two_relays_that_may_crash() -> None:
    """They silence the bell, sleep, die and come back in every order: 19,000 states."""
    rules = Rules(limits=SOON_BUSY, relays=2, writers=1)
    assert_nothing_lost(rules, Settling(rules), floor=17_000)


def test_two_relays_and_two_writers() -> None:
    """34,800 states. Three relays were tried by hand, with one writer: 67,700 states, as good."""
    rules = Rules(limits=SOON_BUSY, relays=2, writers=2, begins_asleep=True, may_crash=False)
    assert_nothing_lost(rules, Settling(rules), floor=31_000)


def test_relays_that_are_paused() -> None:
    """Others silence the bell meanwhile; what is late for one comes with its next safety read:
    21,700 states.
    """
    rules = Rules(
        limits=SOON_BUSY, relays=2, writers=1, begins_asleep=True, may_crash=False, may_pause=True
    )
    assert assert_nothing_lost(rules, Mending(rules), floor=19_000).late


def test_a_backend_that_goes_on_without_its_relay() -> None:
    """Postgres notices late that a client is gone, and may silence the bell in its name:
    8,000 states.
    """
    rules = Rules(writers=1, backends_linger=True)
    assert assert_nothing_lost(rules, Mending(rules), floor=7_000).late


def test_quiet_writers() -> None:
    """They do not ring, so what they write waits for a safety read: 5,300 states."""
    rules = Rules(writers=2, is_quiet=True, begins_asleep=True)
    assert assert_nothing_lost(rules, Mending(rules), floor=4_500).late


@pytest.mark.parametrize("repeatable_read", [False, True])
def test_a_bell_in_a_row(repeatable_read: bool) -> None:
    """At READ COMMITTED a table's row would do; at REPEATABLE READ its old state is seen."""
    rules = Rules(writers=2, bell_is_a_row=True, repeatable_read=repeatable_read)
    trace = explore(rules).trace
    assert bool(trace) is repeatable_read, "\n".join(trace)
    assert any("begins at repeatable read" in said for said in trace) is repeatable_read


def test_the_order_under_the_lock() -> None:
    """Whether the bell or the row comes first makes no difference there: nothing else would see."""
    ring_on = ("lock", "ring", "mark asleep", "commit", "take fence", "fenced")
    rules = Rules(
        limits=SOON_BUSY, relays=2, writers=1, ring_on=ring_on, begins_asleep=True, may_crash=False
    )
    assert_nothing_lost(rules, Settling(rules), floor=4_000)


# Rings that carry their event.

_CARRYING = Rules(
    limits=NEVER_BUSY,
    carries=True,
    silence=SILENCE_AND_SAY,
    ring_on=RING_ON_AND_CARRY,
    begins_asleep=True,
    may_crash=False,
    rolls_back=False,
)


@pytest.mark.parametrize(
    ("other", "floor"),
    [(PLAIN, 2_500), (ACCESS, 4_000), (QUIET, 12_000)],
    ids=["writes", "changes access", "writes quietly"],
)
def test_nothing_is_delivered_too_early(other: int, floor: int) -> None:
    """Beside a writer whose rings carry: 2,900, 4,400 and 14,000 states."""
    assert_nothing_lost(replace(_CARRYING, kinds=(PLAIN, other)), lambda _: None, floor)


_BESIDE_OTHERS = replace(_CARRYING, kinds=(PLAIN,), writers=1, others=OTHERS)


@pytest.mark.parametrize("other", [PLAIN, ACCESS], ids=["writes", "changes access"])
def test_nothing_is_delivered_too_early_by_who_is_counted_as_dead(other: int) -> None:
    """Others silence the bell and switch it on, and it does not know."""
    assert_nothing_lost(replace(_BESIDE_OTHERS, kinds=(PLAIN, other)), lambda _: None, 1_000)


def test_nothing_is_delivered_too_early_after_a_crash() -> None:
    """3,000 states."""
    rules = replace(_CARRYING, kinds=(PLAIN,), writers=1, begins_asleep=False, may_crash=True)
    assert_nothing_lost(replace(rules, limits=SOON_BUSY), lambda _: None, 1_000)


# Broken on purpose.


class SleepsWithoutFence(Pace):
    """Sleeps as soon as the bell is on."""

    def fenced(self, fence: int) -> None:
        super().fenced(fence)
        self.state = PaceState.ASLEEP


class SleepsAfterOneRead(Pace):
    """Does not care who is still below the fence."""

    def after_read(self, found: int, xmin: int, is_stale: bool = False) -> Step:
        return super().after_read(found, self._fence + 1, is_stale)


class TrustsTheBell(Pace):
    """Believes that a bell which it has not touched is on."""

    def begin(self) -> Step:
        return Step(Action.WAIT)


class NeverSleeps(Pace):
    """Waits for one more transaction than there was."""

    def after_read(self, found: int, xmin: int, is_stale: bool = False) -> Step:
        return super().after_read(found, xmin - 1, is_stale)


_TWO = Rules(limits=SOON_BUSY, relays=2, writers=1, begins_asleep=True, may_crash=False)
_ALONE = {
    "there is no fence": Rules(pace=SleepsWithoutFence),
    "sleeps whoever is below the fence": Rules(pace=SleepsAfterOneRead),
    "the fence is taken before the bell is on": Rules(
        ring_on=("take fence", "lock", "mark asleep", "ring", "commit", "fenced")
    ),
    "the fence is held against xmax": Rules(reads_xmax_for_xmin=True),
    "the fence is an xmax": Rules(
        ring_on=(*RING_ON[:-2], "take xmax for a fence", "fenced"), writers=3
    ),
    "writers look before they write": Rules(looks_before_writing=True),
    "the bell is not switched on at first": Rules(pace=TrustsTheBell),
    "rings are forgotten before the wait": Rules(forgets_rings_before_waiting=True),
}
_TOGETHER = {
    "there is no lock": replace(_TWO, silence=SILENCE[1:], ring_on=RING_ON[1:]),
    "who silences takes no lock": replace(_TWO, silence=SILENCE[1:]),
    "who goes to sleep takes no lock": replace(_TWO, ring_on=RING_ON[1:]),
    "the bell comes before the row, without a lock": replace(
        _TWO, ring_on=("ring", "mark asleep", "commit", "take fence", "fenced")
    ),
    "others are looked at before the lock": replace(
        _TWO, silence=("look", "lock", "mark awake", "silence", "commit", "silenced")
    ),
    "others are not looked at": replace(
        _TWO, silence=("lock", "mark awake", "suppose", "silence", "commit", "silenced")
    ),
    "a sleeper does not say so": replace(
        _TWO, ring_on=("lock", "mark awake", "ring", "commit", "take fence", "fenced")
    ),
}


_WITH_ACCESS = replace(_CARRYING, kinds=(PLAIN, ACCESS))
_WITH_QUIET = replace(_CARRYING, kinds=(PLAIN, QUIET))
_TOO_EARLY = {
    "a quiet writer does not advance the epoch": replace(_WITH_QUIET, quiet_advances=False),
    "a quiet writer advances the epoch before it writes": replace(
        _WITH_QUIET, quiet_advances_first=True
    ),
    "another epoch does not matter": replace(_WITH_QUIET, heeds_epoch=False),
    "the epoch is read after the fence": replace(
        _WITH_QUIET, fence=("lock", "ring", "commit", "take fence", "read epoch", "fenced")
    ),
    "the epoch is read when the lock is given back": replace(
        _BESIDE_OTHERS, fence=("lock", "ring", "commit", "read epoch", "take fence", "fenced")
    ),
    "bare rings do not matter": replace(_WITH_ACCESS, heeds_bare=False),
    "bare rings are forgotten when the answer comes": replace(_WITH_ACCESS, forgets_bare_late=True),
    "the fence does not matter": replace(
        _CARRYING, kinds=(PLAIN, PLAIN), heeds_fence=False, limits=SOON_BUSY
    ),
    "who silences does not advance the epoch": replace(
        _BESIDE_OTHERS, others=("lock", "suppose", "silence", "commit")
    ),
    "who silences advances the epoch after it": replace(
        _BESIDE_OTHERS,
        others=("lock", "suppose", "silence", "suppose", "advance", "commit"),
        others_die=True,
    ),
    "the new fence takes no lock": replace(
        _BESIDE_OTHERS, fence=("ring", "read epoch", "take fence", "fenced")
    ),
    "a change of access rings only while the bell does": replace(
        _BESIDE_OTHERS, kinds=(PLAIN, ACCESS), writers=2, access_rings_in_silence=False
    ),
}


@pytest.mark.parametrize("what", _TOO_EARLY)
def test_broken_for_events_in_rings(what: str) -> None:
    """An event is delivered before something that it must come after."""
    explored = explore(_TOO_EARLY[what])
    assert explored.trace, f"nothing came too early in {explored.states} states, though {what}"


@pytest.mark.parametrize("what", _ALONE)
def test_broken_for_one_relay(what: str) -> None:
    """A wake-up is lost."""
    explored = explore(_ALONE[what])
    assert explored.trace, f"nothing was lost in {explored.states} states, though {what}"


@pytest.mark.parametrize("what", _TOGETHER)
def test_broken_for_two_relays(what: str) -> None:
    """A wake-up is lost."""
    explored = explore(_TOGETHER[what])
    assert explored.trace, f"nothing was lost in {explored.states} states, though {what}"


def test_broken_so_that_nobody_sleeps() -> None:
    """That they come to sleep is not held in vain."""
    rules = Rules(writers=1, pace=NeverSleeps)
    with pytest.raises(AssertionError, match="never come to sleep"):
        explore(rules, Settling(rules))
