"""When the log is read next: asleep, awake and fenced, one read after the other.

That the rules lose nothing is shown by `test_doorbell_model`.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.pace import (
    DEFAULT_LIMITS,
    Action,
    Pace,
    PaceState,
    Step,
)

FENCE = 100
BUSY_TRANSACTIONS, QUIET_READS = DEFAULT_LIMITS.busy_transactions, DEFAULT_LIMITS.quiet_reads
ROUNDING = 1e-9
"""How far the difference of two times may be off."""
MIN_PAUSE, SAFETY_SECONDS = DEFAULT_LIMITS.min_pause, DEFAULT_LIMITS.safety_seconds


class Paced:
    """A pace, its clock, and whoever does what it says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pace = Pace(lambda: self.now)
        self.fence = FENCE

    def state(self) -> PaceState:
        return self.pace.state

    def reads(self, found: int = 0, xmin: int = FENCE) -> Step:
        """A read at which transactions from `xmin` on are open."""
        return self.pace.after_read(found, xmin)

    def take(self, step: Step) -> None:
        """Do as told, with the bell as it should be, waiting out every wait."""
        match step.action:
            case Action.SILENCE:
                self.pace.silenced()
            case Action.CHECK:
                self.pace.checked()
            case Action.RING:
                self.pace.fenced(self.fence)
            case _:
                self.now += step.seconds


def asleep() -> Paced:
    paced = Paced()
    paced.take(paced.pace.begin())
    paced.reads(xmin=FENCE + 1)
    assert paced.state() is PaceState.ASLEEP
    return paced


def awake() -> Paced:
    paced = asleep()
    paced.take(paced.reads(BUSY_TRANSACTIONS))
    assert paced.state() is PaceState.AWAKE
    return paced


def fenced() -> Paced:
    paced = Paced()
    paced.take(paced.pace.begin())
    assert paced.state() is PaceState.FENCED
    return paced


# Asleep.


def test_the_first_thing_is_to_switch_the_bell_on() -> None:
    """Nobody knows how it stands; and whoever found it silent is waited for."""
    assert Paced().pace.begin() == Step(Action.RING)
    assert fenced().reads().action is Action.WAIT


def test_a_sleeper_waits_for_the_bell() -> None:
    """At most until the next check; also after a ring for a single transaction."""
    paced = asleep()
    assert paced.reads() == Step(Action.WAIT, SAFETY_SECONDS)
    paced.now += 0.5
    assert paced.reads(1) == Step(Action.WAIT, SAFETY_SECONDS - 0.5)
    assert paced.state() is PaceState.ASLEEP


def test_a_sleeper_checks_the_bell_now_and_then() -> None:
    """After the wait, and then waits as long again."""
    paced = asleep()
    paced.take(paced.reads())
    assert paced.reads() == Step(Action.CHECK)
    paced.pace.checked()
    assert paced.reads() == Step(Action.WAIT, SAFETY_SECONDS)


def test_a_check_that_finds_the_bell_silent_needs_a_fence() -> None:
    """Somebody may have found it silent, too."""
    paced = asleep()
    paced.pace.fenced(FENCE + 7)
    assert paced.state() is PaceState.FENCED
    paced.reads(xmin=FENCE + 7)
    assert paced.state() is PaceState.FENCED
    paced.reads(xmin=FENCE + 8)
    assert paced.state() is PaceState.ASLEEP


def test_a_ring_of_another_epoch_needs_a_fence() -> None:
    """At a bounded rate, and without putting the check of the bell off."""
    paced = asleep()
    paced.now += DEFAULT_LIMITS.fence_seconds
    assert paced.pace.after_read(1, FENCE + 1, is_stale=True) == Step(Action.FENCE)
    paced.pace.fenced_anew(FENCE + 7)
    assert paced.state() is PaceState.FENCED
    assert paced.pace.after_read(1, FENCE + 8, is_stale=True).action is Action.WAIT
    paced.now += SAFETY_SECONDS - DEFAULT_LIMITS.fence_seconds
    assert paced.pace.after_read(1, FENCE + 8, is_stale=True) == Step(Action.CHECK)


def test_what_was_delivered_ahead_is_confirmed_a_second_after_the_first() -> None:
    """Not after the latest, or a steady trickle would never be."""
    paced, seconds = asleep(), DEFAULT_LIMITS.confirm_seconds
    assert paced.pace.after_carried(1) == Step(Action.WAIT, seconds)
    paced.now += seconds / 2
    assert paced.pace.after_carried(1) == Step(Action.WAIT, seconds / 2)
    paced.now += seconds / 2
    assert paced.pace.after_carried(1) is None
    assert paced.reads(0, FENCE + 1) == Step(Action.WAIT, SAFETY_SECONDS - seconds)


def test_what_was_delivered_ahead_is_confirmed_after_so_many() -> None:
    """However soon: a read of all that a busy second brings would hold up what comes meanwhile."""
    paced, most = asleep(), DEFAULT_LIMITS.confirm_transactions
    a_few = BUSY_TRANSACTIONS - 1
    unconfirmed = 0
    while unconfirmed + a_few < most:
        paced.now += 2 * DEFAULT_LIMITS.busy_seconds
        assert paced.pace.after_carried(a_few) is not None
        unconfirmed += a_few
    paced.now += 2 * DEFAULT_LIMITS.busy_seconds
    assert paced.pace.after_carried(most - unconfirmed - 1) is not None
    assert paced.pace.after_carried(1) is None
    paced.reads(0, FENCE + 1)
    paced.now += 2 * DEFAULT_LIMITS.busy_seconds
    assert paced.pace.after_carried(a_few) is not None


def test_events_that_come_fast_wake_however_they_come() -> None:
    """By a read, or by rings; slower ones do not, however many."""
    paced = asleep()
    for _ in range(10 * BUSY_TRANSACTIONS):
        paced.now += DEFAULT_LIMITS.busy_seconds / (BUSY_TRANSACTIONS - 2)
        step = paced.pace.after_carried(1)
        assert step is None or step.action is Action.WAIT
    paced.now += DEFAULT_LIMITS.busy_seconds
    assert paced.reads(BUSY_TRANSACTIONS // 2, FENCE + 1).action is not Action.SILENCE
    assert paced.pace.after_carried(BUSY_TRANSACTIONS) == Step(Action.SILENCE)


def test_commits_that_wait_for_each_other_are_fast_sooner() -> None:
    """So much sooner as they wait. A single transaction that took long is none of these."""
    paced, limits = asleep(), DEFAULT_LIMITS
    few = BUSY_TRANSACTIONS // 4
    assert paced.pace.after_carried(few, few * paced.pace.waited(0.0)) != Step(Action.SILENCE)
    paced.now += limits.busy_seconds
    late = few * paced.pace.waited(4 * limits.waited_seconds)
    assert paced.pace.after_carried(few, late) == Step(Action.SILENCE)
    paced.now += limits.busy_seconds
    assert paced.pace.after_carried(1, paced.pace.waited(3600)) != Step(Action.SILENCE)


# Awake.


def test_a_read_that_finds_several_transactions_wakes() -> None:
    """Asleep or fenced, and also when a check is due."""
    for paced in (asleep(), fenced()):
        paced.now += SAFETY_SECONDS
        assert paced.reads(BUSY_TRANSACTIONS) == Step(Action.SILENCE)
        assert paced.state() is not PaceState.AWAKE, "it was only told to"
        paced.pace.silenced()
        assert paced.state() is PaceState.AWAKE


def test_pauses_grow_while_nothing_comes() -> None:
    """And are short again when something does; so it stays awake as long as anything comes."""
    paced = awake()
    pauses = [paced.reads() for _ in range(QUIET_READS - 1)]
    assert [step.action for step in pauses] == [Action.PAUSE] * (QUIET_READS - 1)
    seconds = [step.seconds for step in pauses]
    assert seconds[0] == MIN_PAUSE
    assert seconds == sorted(seconds)
    assert seconds[-1] > MIN_PAUSE
    assert paced.reads(1) == Step(Action.PAUSE, MIN_PAUSE)
    assert paced.reads(0) == Step(Action.PAUSE, MIN_PAUSE)


def test_a_pause_is_longer_after_a_read_that_took_long() -> None:
    """By what that one took, and not by what an earlier rush took; and it is never very long."""
    paced = awake()
    limits = DEFAULT_LIMITS
    paced.take(paced.reads(BUSY_TRANSACTIONS))
    for took in (0.003, 0.004, 1.0, 0.0):
        paced.now += took
        step = paced.reads(BUSY_TRANSACTIONS)
        expected = min(max(limits.pause_times * took, MIN_PAUSE), limits.max_pause)
        assert step.action is Action.PAUSE
        assert abs(step.seconds - expected) < ROUNDING
        paced.take(step)
    paced.take(paced.reads(BUSY_TRANSACTIONS))
    paced.now += 60.0
    paced.pace.silenced()
    assert paced.reads(BUSY_TRANSACTIONS) == Step(Action.PAUSE, MIN_PAUSE)


def test_enough_empty_reads_lead_to_sleep() -> None:
    """By way of the bell and a fence, never at once."""
    paced = awake()
    for _ in range(QUIET_READS - 1):
        paced.reads(xmin=FENCE * 10)
    assert paced.reads(xmin=FENCE * 10) == Step(Action.RING)
    assert paced.state() is PaceState.AWAKE
    paced.pace.fenced(FENCE)
    assert paced.state() is PaceState.FENCED


def test_a_rush_that_is_over_does_not_wake_again() -> None:
    """Not even when it was a moment ago: only a read that finds something says that it goes on."""
    paced = awake()
    for _ in range(QUIET_READS):
        step = paced.reads()
    assert step == Step(Action.RING)
    paced.take(step)
    assert paced.reads().action is Action.WAIT
    assert paced.reads(0, FENCE + 1).action is Action.WAIT
    assert paced.state() is PaceState.ASLEEP
    assert paced.reads(1) == Step(Action.SILENCE)


def test_few_events_for_some_time_lead_to_sleep() -> None:
    """However regularly they come: rings may carry them."""
    paced, limits = awake(), DEFAULT_LIMITS
    reads = limits.calm_transactions - 1
    for _ in range(reads - 1):
        paced.now += limits.calm_seconds / reads
        assert paced.reads(1).action is Action.PAUSE
    paced.now += 2 * limits.calm_seconds / reads
    assert paced.reads(1) == Step(Action.RING)


def test_what_came_while_awake_does_not_wake_again() -> None:
    """It waited for the pauses between reads, and says nothing of commits that ring."""
    paced, limits = awake(), DEFAULT_LIMITS
    paced.now += 2 * limits.calm_seconds  # no rounding makes it less than the time
    few = limits.calm_transactions - 1
    step = paced.pace.after_read(few, FENCE, waited=BUSY_TRANSACTIONS)
    assert step == Step(Action.RING)
    paced.take(step)
    assert paced.reads(1).action is Action.WAIT
    assert paced.reads(BUSY_TRANSACTIONS - 2, FENCE + 1).action is Action.WAIT
    assert paced.state() is PaceState.ASLEEP


def test_many_events_for_any_time_keep_awake() -> None:
    """And one slow moment does not put it to sleep, but so much time of its own."""
    paced, limits = awake(), DEFAULT_LIMITS
    for _ in range(10):
        paced.now += limits.calm_seconds / 2
        step = paced.reads(limits.calm_transactions // 2)
        assert step.action in (Action.PAUSE, Action.SILENCE)
        paced.take(step)


def stays_awake(paced: Paced) -> float:
    """Wake it, and say how long it takes to find out that nearly nothing comes."""
    paced.take(paced.reads(BUSY_TRANSACTIONS, FENCE))
    woken = paced.now
    while (step := paced.reads(1)).action is not Action.RING:
        paced.take(step)
    paced.take(step)
    paced.reads(xmin=FENCE + 1)
    assert paced.state() is PaceState.ASLEEP
    return paced.now - woken


def test_calm_that_does_not_last_is_looked_for_longer() -> None:
    """A hiccup costs a moment; commits that queue behind rings do not go back and forth.

    The time is that of one pause off, at most.
    """
    paced, shortest = asleep(), DEFAULT_LIMITS.calm_seconds
    times = []
    for _ in range(6):
        times.append(round(stays_awake(paced) / shortest))
        paced.now += shortest
    assert times == [1, 2, 4, 8, 8, 8]
    paced.now += 2 * DEFAULT_LIMITS.calm_times * shortest
    assert round(stays_awake(paced) / shortest) == 1


def test_calm_lasts_when_it_is_twice_as_long_as_the_time_it_was_looked_for() -> None:
    """Who is woken a little sooner has not been calm, and looks longer."""
    paced, shortest = asleep(), DEFAULT_LIMITS.calm_seconds
    times = []
    for calm in (1.9, 3.9, 8.1, 1.9):
        times.append(round(stays_awake(paced) / shortest))
        paced.now += calm * shortest
    assert [*times, round(stays_awake(paced) / shortest)] == [1, 2, 4, 1, 2]


def test_an_earlier_fence_means_nothing_to_who_is_awake() -> None:
    """However far the log was read."""
    paced = fenced()
    paced.take(paced.reads(BUSY_TRANSACTIONS))
    paced.reads(xmin=FENCE + 1)
    assert paced.state() is PaceState.AWAKE


def test_silencing_is_tried_again() -> None:
    """Who slept then may be gone; and the empty reads until then do not count."""
    paced = awake()
    paced.now += SAFETY_SECONDS
    assert paced.reads(DEFAULT_LIMITS.calm_transactions) == Step(Action.SILENCE)
    paced.pace.silenced()
    assert paced.reads() == Step(Action.PAUSE, MIN_PAUSE)


# Fenced.


def test_fenced_until_all_below_are_over() -> None:
    """The fence's own transaction included; the read that shows it has returned what they wrote."""
    paced = fenced()
    for xmin in (0, 1, FENCE - 1, FENCE):
        paced.reads(1, xmin)
        assert paced.state() is PaceState.FENCED
    assert paced.reads(1, FENCE + 1) == Step(Action.WAIT, SAFETY_SECONDS)
    assert paced.state() is PaceState.ASLEEP


def test_behind_a_long_transaction_pauses_grow() -> None:
    """Up to the safety interval; the bell is checked as ever, and a new fence begins afresh."""
    paced = fenced()
    assert paced.reads() == Step(Action.WAIT, MIN_PAUSE)
    assert paced.reads() == Step(Action.WAIT, MIN_PAUSE * 2)
    for _ in range(20):
        step = paced.reads()
    assert step == Step(Action.WAIT, SAFETY_SECONDS)
    paced.take(step)
    assert paced.reads() == Step(Action.CHECK)
    paced.pace.fenced(FENCE + 5)
    assert paced.reads() == Step(Action.WAIT, MIN_PAUSE)


# Whatever happens.

READS = st.tuples(st.integers(0, 130), st.integers(-5, 5), st.floats(0, 3))


@given(st.lists(READS, max_size=60))
def test_what_holds_after_any_reads(reads: list[tuple[int, int, float]]) -> None:
    """It sleeps only behind its fence, and nothing is waited for longer than the safety read."""
    paced = Paced()
    step, last_check = paced.pace.begin(), paced.now
    for found, beyond, seconds in reads:
        if step.action in (Action.RING, Action.SILENCE, Action.CHECK):
            last_check = paced.now
        if step.action is Action.RING:
            paced.fence += 10
        paced.take(step)
        paced.now += seconds
        before = paced.state()
        step = paced.reads(found, paced.fence + beyond)
        if paced.state() is not before:
            assert (before, paced.state()) == (PaceState.FENCED, PaceState.ASLEEP)
            assert beyond > 0
        assert 0 <= step.seconds <= SAFETY_SECONDS + ROUNDING
        if paced.now - last_check >= SAFETY_SECONDS:
            assert step.action not in (Action.WAIT, Action.PAUSE)


@given(st.lists(READS, max_size=60))
def test_left_alone_it_comes_to_sleep(reads: list[tuple[int, int, float]]) -> None:
    """Whatever was before, when nobody writes and every transaction is over."""
    paced = Paced()
    step = paced.pace.begin()
    for found, beyond, seconds in reads:
        paced.take(step)
        paced.now += seconds
        step = paced.reads(found, paced.fence + beyond)
    for _ in range(2 * QUIET_READS):
        paced.take(step)
        step = paced.reads(0, paced.fence + 1)
    assert paced.state() is PaceState.ASLEEP
