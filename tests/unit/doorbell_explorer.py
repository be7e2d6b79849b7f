"""Goes through all states of the doorbell's model, and says what must hold in each.

`test_doorbell_model` says which worlds are explored, and why what is held is right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tests.unit.doorbell_model import moves, relay_moves
from tests.unit.doorbell_state import (
    AWAKE,
    Rules,
    State,
    Writer,
    beginning,
    renumbered,
    without_what_is_over,
)

LONGEST = 100
"""Steps that relays may take to come to sleep."""


class Explored(NamedTuple):
    """What was found in all states, or up to the first lost wake-up."""

    states: int
    late: int
    trace: list[str]
    """How a wake-up was lost, or an event came too early; nothing: neither was so."""


def explore(rules: Rules, check: Callable[[State], None] = lambda _: None) -> Explored:
    """Go through every state, the nearest first. Who is who makes no difference."""
    first = beginning(rules)
    parents: dict[State, tuple[State, str]] = {}
    seen = {_anonymous(rules, first)}
    todo, late = deque([first]), 0
    while todo:
        state = todo.popleft()
        check(state)
        for said, after in moves(rules, state):
            after = renumbered(without_what_is_over(rules, after))
            key = _anonymous(rules, after)
            if key in seen:
                continue
            seen.add(key)
            parents[after] = state, said
            todo.append(after)
            missing = [relay for relay in after.relays if relay.sleeps and relay.unread]
            if after.has_leaked or not all(relay.is_excused for relay in missing):
                return Explored(len(seen), late, _trace(parents, after))
            late += bool(missing)
    return Explored(len(seen), late, [])


def _anonymous(rules: Rules, state: State) -> State:
    if rules.kinds:
        return state  # each has a part of its own
    return state._replace(relays=tuple(sorted(state.relays)), writers=tuple(sorted(state.writers)))


def _trace(parents: dict[State, tuple[State, str]], state: State) -> list[str]:
    trace = [f"and there it is: {state}"]
    while state in parents:
        state, said = parents[state]
        trace.insert(0, said)
    return trace


def assert_nothing_lost(rules: Rules, check: Callable[[State], None], floor: int) -> Explored:
    """And enough was explored: a model that lost most of its states would find nothing either."""
    explored = explore(rules, check)
    assert not explored.trace, "\n".join(["a wake-up is lost:", *explored.trace])
    assert explored.states > floor
    return explored


class Settling:
    """Checks that relays come to sleep once nobody writes."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._settled: set[State] = set()

    def __call__(self, state: State) -> None:
        """If no transaction is open."""
        if all(writer == Writer() for writer in state.writers):
            self.settle(state)

    def settle(self, state: State) -> None:
        """Let relays go on, in turn, until all rest."""
        path: list[State] = []
        while state not in self._settled:
            path.append(state)
            assert len(path) < LONGEST, f"they never come to sleep: {path[0]}"
            state, before = self._next(state), state
            if state == before:
                self.check_rest(state)
                break
        self._settled.update(path)

    def check_rest(self, state: State) -> None:
        for relay in state.relays:
            assert relay.sleeps, state
            assert relay.is_excused or not relay.unread, state

    def _next(self, state: State) -> State:
        """A step of each relay, and of what it left behind."""
        for number in range(len(state.relays)):
            relay = state.relays[number]
            if not relay.sleeps or relay.lingering.todo:
                steps = relay_moves(self._rules, state, number)
                state = next((after for _, after in steps), state)
        return renumbered(without_what_is_over(self._rules, state))


class Mending(Settling):
    """Checks also that a safety read brings what is late, and its check mends the bell."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self._safe = replace(rules, is_safe=True)
        self._mended = Mended(rules)

    def __call__(self, state: State) -> None:
        """For each relay that misses something."""
        super().__call__(state)
        for number, relay in enumerate(state.relays):
            if relay.sleeps and relay.unread:
                self._mend(state, number)

    def _mend(self, state: State, number: int) -> None:
        woken = dict(relay_moves(self._safe, state, number))["wakes by itself"]
        # The last of its moves is the read after which a check is due.
        *_, (said, mended) = relay_moves(self._safe, woken, number)
        assert said.startswith("reads")
        assert not mended.relays[number].unread
        if all(writer == Writer() for writer in state.writers):
            self._mended.settle(mended)


class Mended(Settling):
    """Checks that every relay will be rung for."""

    def check_rest(self, state: State) -> None:
        super().check_rest(state)
        assert not state.is_silent
        assert all(relay.row != AWAKE or relay.is_excused for relay in state.relays), state
