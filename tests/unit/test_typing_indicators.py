"""Tests of `realtime.relay.typing`: throttling, falling silent, other processes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.typing import (
    MIN_INTERVAL,
    REMOTE_GRACE,
    SILENCE,
    Indicator,
    TypingIndicators,
)

TICK = 0.1
STARTED = Indicator("b", "ada", "Ada", True, True)
STOPPED = STARTED._replace(is_typing=False)


class ClockedTyping:
    """Typing on one bot, with a clock that stands still until it is told to go."""

    def __init__(self, **limits: int) -> None:
        self.now = 100.0
        self.indicators = TypingIndicators(lambda: self.now, **limits)
        self.shown: list[tuple[float, Indicator]] = []

    def say(self, is_typing: bool, user: str = "ada", connection: str = "c1") -> list[Indicator]:
        name = user.capitalize()
        return self._show(self.indicators.said("b", user, name, connection, is_typing))

    def leave(self, user: str = "ada", connection: str = "c1") -> list[Indicator]:
        return self._show(self.indicators.left("b", user, connection))

    def hear(self, is_typing: bool, user: str = "ada") -> list[Indicator]:
        return self._show(self.indicators.heard("b", user, user.capitalize(), is_typing))

    def wait(self, seconds: float) -> list[Indicator]:
        """Let the time pass, with a tick at each of its steps."""
        shown: list[Indicator] = []
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            shown += self._show(self.indicators.tick())
        return shown

    def _show(self, indicators: list[Indicator]) -> list[Indicator]:
        self.shown += [(self.now, one) for one in indicators]
        return indicators


# Throttling.


def test_the_first_is_shown_at_once() -> None:
    """Who has said nothing lately is shown at once."""
    assert ClockedTyping().say(True) == [STARTED]


def test_the_newest_is_shown_later() -> None:
    """What is said too soon is held back; only the newest of it is shown, when it is due."""
    clocked = ClockedTyping()
    clocked.say(True)
    assert [clocked.say(is_typing) for is_typing in (False, True, False)] == [[], [], []]
    assert clocked.wait(2 * TICK) == []
    assert clocked.wait(2 * TICK) == [STOPPED]


def test_users_and_bots_do_not_throttle_one_another() -> None:
    """The limit is for each user and bot."""
    clocked = ClockedTyping()
    clocked.say(True)
    assert len(clocked.say(True, user="grace")) == 1
    assert len(clocked.indicators.said("b2", "ada", "Ada", "c2", True)) == 1


def test_repeating_is_shown_again() -> None:
    """Who goes on typing is shown as typing again: those who came meanwhile must learn of it."""
    clocked = ClockedTyping()
    clocked.say(True)
    clocked.wait(1)
    assert clocked.say(True) == [STARTED]


# Falling silent and leaving.


def test_silence() -> None:
    """Who says nothing more for six seconds is shown as stopped, once, and then forgotten."""
    clocked = ClockedTyping()
    clocked.say(True)
    assert clocked.wait(SILENCE - 2 * TICK) == []
    assert clocked.wait(3 * TICK) == [STOPPED]
    assert clocked.wait(SILENCE) == []
    assert clocked.indicators.is_idle


def test_going_on_is_no_silence() -> None:
    """Whoever repeats that they type is not shown as stopped."""
    clocked = ClockedTyping()
    for _ in range(5):
        clocked.say(True)
        clocked.wait(SILENCE - 1)
    assert STOPPED not in [one for _, one in clocked.shown]


def test_stopping_is_final() -> None:
    """Who has stopped is not shown as stopped again by time, and is forgotten."""
    clocked = ClockedTyping()
    clocked.say(True)
    clocked.wait(1)
    assert clocked.say(False) == [STOPPED]
    assert clocked.wait(2 * SILENCE) == []
    assert clocked.indicators.is_idle


def test_leaving_stops() -> None:
    """When the socket that typed is gone, its user is shown as stopped at once."""
    clocked = ClockedTyping()
    clocked.say(True)
    clocked.wait(1)
    assert clocked.leave() == [STOPPED]
    assert clocked.leave() == []
    assert clocked.wait(1) == []
    assert clocked.indicators.is_idle


def test_leaving_soon() -> None:
    """Who leaves just after they were shown as typing is shown as stopped when that is due."""
    clocked = ClockedTyping()
    clocked.say(True)
    assert clocked.leave() == []
    assert clocked.wait(2 * TICK) == []
    assert clocked.wait(2 * TICK) == [STOPPED]
    assert clocked.wait(SILENCE) == []
    assert clocked.indicators.is_idle


def test_coming_and_going_does_not_undo_the_throttle() -> None:
    """Who leaves and returns at once to type again is shown no more often than others."""
    clocked = ClockedTyping()
    for number in range(20):  # within 0.2 s
        clocked.say(True, connection=f"c{number}")
        clocked.leave(connection=f"c{number}")
        clocked.now += 0.01
    assert [one for _, one in clocked.shown] == [STARTED]
    clocked.say(True, connection="last")
    assert clocked.wait(1) == [STARTED]
    assert clocked.leave(connection="last") == [STOPPED]


def test_another_socket_leaves() -> None:
    """When another socket of the same user is gone, typing goes on."""
    clocked = ClockedTyping()
    clocked.say(True, connection="c1")
    assert clocked.leave(connection="c2") == []
    clocked.say(True, connection="c2")
    assert clocked.leave(connection="c1") == []
    clocked.wait(1)
    assert clocked.leave(connection="c2") == [STOPPED]


def test_leaving_after_stopping() -> None:
    """Who was shown as stopped is not shown so again on leaving."""
    clocked = ClockedTyping()
    clocked.say(True)
    clocked.wait(1)
    clocked.say(False)
    assert clocked.leave() == []


def test_leaving_with_something_held_back() -> None:
    """Whatever was held back, the others end up seeing that who left does not type."""
    clocked = ClockedTyping()
    clocked.say(True)
    clocked.say(False)
    assert clocked.leave() == []
    assert clocked.wait(1) == [STOPPED]


def test_leaving_without_having_been_shown() -> None:
    """Who was never shown as typing, or not any more, is not shown as stopped on leaving."""
    clocked = ClockedTyping()
    assert clocked.leave() == []
    clocked.say(True)
    clocked.wait(1)
    assert clocked.say(False) == [STOPPED]
    assert clocked.say(True) == []
    assert clocked.leave() == []
    assert clocked.wait(1) == []
    assert clocked.indicators.is_idle


# Other processes.


def test_heard() -> None:
    """What another process says is shown, and not passed on."""
    clocked = ClockedTyping()
    started, stopped = STARTED._replace(is_local=False), STOPPED._replace(is_local=False)
    assert clocked.hear(False) == []
    assert clocked.hear(True) == [started]
    clocked.now += 1
    assert clocked.hear(True) == [started]
    clocked.now += 1
    assert clocked.hear(False) == [stopped]
    clocked.wait(MIN_INTERVAL + TICK)
    assert clocked.indicators.is_idle


def test_heard_too_often() -> None:
    """Whoever sends it, three a second leave, the newest state among them."""
    clocked = ClockedTyping()
    for _ in range(100):
        clocked.hear(True)
        clocked.hear(False)
    assert [one for _, one in clocked.shown] == [STARTED._replace(is_local=False)]
    assert clocked.wait(1) == [STOPPED._replace(is_local=False)]
    assert clocked.indicators.is_idle


def test_heard_of_too_many() -> None:
    """Of one bot and of all together; and later of others again. One's own are always shown."""
    clocked = ClockedTyping(max_typists=15, max_on_bot=10)

    def hear_many() -> list[int]:
        """How many are shown on each bot."""
        heard = clocked.indicators.heard
        return [
            sum(len(heard(bot, f"user {number}", "x", True)) for number in range(1000))
            for bot in ("b", "c")
        ]

    assert hear_many() == [10, 5]
    assert clocked.say(True) == [STARTED]
    clocked.wait(SILENCE + REMOTE_GRACE + 1)
    assert clocked.indicators.is_idle
    assert hear_many() == [10, 5]


def test_another_process_dies() -> None:
    """Who types on a process that is not heard any more is shown as stopped, a little later."""
    clocked = ClockedTyping()
    clocked.hear(True)
    assert clocked.wait(SILENCE + REMOTE_GRACE - 2 * TICK) == []
    assert clocked.wait(3 * TICK) == [STOPPED._replace(is_local=False)]
    clocked.wait(1)
    assert clocked.indicators.is_idle


def test_moving_between_processes() -> None:
    """Who types here and then on another process is that one's to say when they stop."""
    clocked = ClockedTyping()
    clocked.say(True)
    clocked.hear(True)
    assert clocked.leave() == []
    assert clocked.say(False, connection="c2") == []
    assert clocked.wait(1) == [STOPPED]


# Everything at once.

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["on", "on", "off", "leave", "wait", "wait"]),
        st.sampled_from(["c1", "c2"]),
        st.integers(1, 30),
    ),
    max_size=60,
)


def play(clocked: ClockedTyping, steps: list[tuple[str, str, int]]) -> None:
    for step, connection, ticks in steps:
        if step == "wait":
            clocked.wait(ticks * TICK)
        elif step == "leave":
            clocked.leave(connection=connection)
        else:
            clocked.say(step == "on", connection=connection)


@given(STEPS)
def test_never_more_than_three_a_second(steps: list[tuple[str, str, int]]) -> None:
    """However often a user says something, the others are told at most three times a second."""
    clocked = ClockedTyping()
    play(clocked, steps)
    times = [time for time, _ in clocked.shown]
    assert all(late - early >= MIN_INTERVAL for early, late in pairwise(times))


@given(STEPS, st.booleans())
def test_the_newest_state_arrives(steps: list[tuple[str, str, int]], newest: bool) -> None:
    """Whatever was said before, the newest state is what the others see soon after."""
    clocked = ClockedTyping()
    play(clocked, steps)
    clocked.say(newest)
    clocked.wait(MIN_INTERVAL + TICK)
    assert clocked.shown[-1][1].is_typing == newest


STEPS_WITH_OTHERS = st.lists(
    st.tuples(
        st.sampled_from(["on", "off", "wait", "leave", "heard", "heard off"]),
        st.sampled_from(["c1", "c2"]),
        st.integers(1, 90),
    ),
    max_size=60,
)


@given(STEPS_WITH_OTHERS)
def test_nobody_types_for_ever(steps: list[tuple[str, str, int]]) -> None:
    """Whatever happened, in the end nobody is shown as typing, and nothing is remembered."""
    clocked = ClockedTyping()
    for step, connection, ticks in steps:
        if step == "leave":
            clocked.leave(connection=connection)
        elif step.startswith("heard"):
            clocked.hear(step == "heard")
        else:
            play(clocked, [(step, connection, ticks)])
    clocked.wait(SILENCE + REMOTE_GRACE + 1)
    assert clocked.indicators.is_idle
    assert not clocked.shown or not clocked.shown[-1][1].is_typing
