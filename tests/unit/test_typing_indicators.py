"""Tests of `realtime.relay.typing`: throttling, falling silent, other processes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.typing import (
    MIN_INTERVAL,
    REMOTE_GRACE,
    SILENCE,
    TICK,
    Indicator,
    TypingIndicators,
)

STARTED = Indicator("b", "ada", "Ada", True, True)
STOPPED = STARTED._replace(is_typing=False)


class World:
    """Typing on one bot, with a clock that stands still until it is told to go."""

    def __init__(self) -> None:
        self.now = 100.0
        self.indicators = TypingIndicators(lambda: self.now)
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
    assert World().say(True) == [STARTED]


def test_the_newest_is_shown_later() -> None:
    """What is said too soon is held back; only the newest of it is shown, when it is due."""
    world = World()
    world.say(True)
    assert [world.say(is_typing) for is_typing in (False, True, False)] == [[], [], []]
    assert world.wait(2 * TICK) == []
    assert world.wait(2 * TICK) == [STOPPED]


def test_users_and_bots_do_not_throttle_one_another() -> None:
    """The limit is for each user and bot."""
    world = World()
    world.say(True)
    assert len(world.say(True, user="grace")) == 1
    assert len(world.indicators.said("b2", "ada", "Ada", "c2", True)) == 1


def test_repeating_is_shown_again() -> None:
    """Who goes on typing is shown as typing again: those who came meanwhile must learn of it."""
    world = World()
    world.say(True)
    world.wait(1)
    assert world.say(True) == [STARTED]


# Falling silent and leaving.


def test_silence() -> None:
    """Who says nothing more for six seconds is shown as stopped, once, and then forgotten."""
    world = World()
    world.say(True)
    assert world.wait(SILENCE - 2 * TICK) == []
    assert world.wait(3 * TICK) == [STOPPED]
    assert world.wait(SILENCE) == []
    assert world.indicators.is_idle


def test_going_on_is_no_silence() -> None:
    """Whoever repeats that they type is not shown as stopped."""
    world = World()
    for _ in range(5):
        world.say(True)
        world.wait(SILENCE - 1)
    assert STOPPED not in [one for _, one in world.shown]


def test_stopping_is_final() -> None:
    """Who has stopped is not shown as stopped again by time, and is forgotten."""
    world = World()
    world.say(True)
    world.wait(1)
    assert world.say(False) == [STOPPED]
    assert world.wait(2 * SILENCE) == []
    assert world.indicators.is_idle


def test_leaving_stops() -> None:
    """When the socket that typed is gone, its user is shown as stopped at once."""
    world = World()
    world.say(True)
    assert world.leave() == [STOPPED]
    assert world.leave() == []
    assert world.wait(1) == []
    assert world.indicators.is_idle


def test_coming_and_going_does_not_undo_the_throttle() -> None:
    """Who leaves and returns at once to type again is shown no more often than others."""
    world = World()
    world.say(True)
    world.leave()
    assert world.say(True, connection="c2") == []
    assert world.wait(1) == [STARTED]


def test_another_socket_leaves() -> None:
    """When another socket of the same user is gone, typing goes on."""
    world = World()
    world.say(True, connection="c1")
    assert world.leave(connection="c2") == []
    world.say(True, connection="c2")
    assert world.leave(connection="c1") == []
    assert world.leave(connection="c2") == [STOPPED]


def test_leaving_after_stopping() -> None:
    """Who was shown as stopped is not shown so again on leaving."""
    world = World()
    world.say(True)
    world.wait(1)
    world.say(False)
    assert world.leave() == []


def test_leaving_with_something_held_back() -> None:
    """Whatever was held back, the others end up seeing that who left does not type."""
    world = World()
    world.say(True)
    world.say(False)
    assert world.leave() == [STOPPED]


def test_leaving_without_having_been_shown() -> None:
    """Who was never shown as typing is not shown as stopped on leaving."""
    assert World().leave() == []


# Other processes.


def test_heard() -> None:
    """What another process says is shown as it comes, and not passed on."""
    world = World()
    started, stopped = STARTED._replace(is_local=False), STOPPED._replace(is_local=False)
    assert world.hear(True) == [started]
    assert world.hear(True) == [started]
    assert world.hear(False) == [stopped]
    assert world.indicators.is_idle


def test_another_process_dies() -> None:
    """Who types on a process that is not heard any more is shown as stopped, a little later."""
    world = World()
    world.hear(True)
    assert world.wait(SILENCE + REMOTE_GRACE - 2 * TICK) == []
    assert world.wait(3 * TICK) == [STOPPED._replace(is_local=False)]
    world.wait(1)
    assert world.indicators.is_idle


def test_moving_between_processes() -> None:
    """Who types here and then on another process is that one's to say when they stop."""
    world = World()
    world.say(True)
    world.hear(True)
    assert world.leave() == []
    assert world.say(False, connection="c2") == []
    assert world.wait(1) == [STOPPED]


# Everything at once.

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["on", "on", "off", "wait", "wait"]),
        st.sampled_from(["c1", "c2"]),
        st.integers(1, 30),
    ),
    max_size=60,
)


def play(world: World, steps: list[tuple[str, str, int]]) -> None:
    for step, connection, ticks in steps:
        if step == "wait":
            world.wait(ticks * TICK)
        else:
            world.say(step == "on", connection=connection)


@given(STEPS)
def test_never_more_than_three_a_second(steps: list[tuple[str, str, int]]) -> None:
    """However often a user says something, the others are told at most three times a second."""
    world = World()
    play(world, steps)
    times = [time for time, _ in world.shown]
    assert all(late - early >= MIN_INTERVAL for early, late in pairwise(times))


@given(STEPS, st.booleans())
def test_the_newest_state_arrives(steps: list[tuple[str, str, int]], newest: bool) -> None:
    """Whatever was said before, the newest state is what the others see soon after."""
    world = World()
    play(world, steps)
    world.say(newest)
    world.wait(MIN_INTERVAL + TICK)
    assert world.shown[-1][1].is_typing == newest


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
    world = World()
    for step, connection, ticks in steps:
        if step == "leave":
            world.leave(connection=connection)
        elif step.startswith("heard"):
            world.hear(step == "heard")
        else:
            play(world, [(step, connection, ticks)])
    world.wait(SILENCE + REMOTE_GRACE + 1)
    assert world.indicators.is_idle
    assert not world.shown or not world.shown[-1][1].is_typing
