"""Goes through all states of the doorbell's model, and says what must hold in each.

`test_doorbell_model` says which worlds are explored, and why what is held is right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tests.unit.doorbell_model import moves, relay_moves
from tests.unit.doorbell_world import AWAKE, Rules, World, Writer, beginning, renumbered

LONGEST = 100
"""Steps that relays may take to come to sleep."""


class Explored(NamedTuple):
    """What was found in all states, or up to the first lost wake-up."""

    states: int
    late: int
    trace: list[str]
    """How a wake-up was lost; nothing: none was."""


def explore(rules: Rules, check: Callable[[World], None] = lambda _: None) -> Explored:
    """Go through every state, the nearest first. Who is who makes no difference."""
    first = beginning(rules)
    parents: dict[World, tuple[World, str]] = {}
    seen = {_anonymous(first)}
    todo, late = deque([first]), 0
    while todo:
        world = todo.popleft()
        check(world)
        for said, after in moves(rules, world):
            after = renumbered(after)
            key = _anonymous(after)
            if key in seen:
                continue
            seen.add(key)
            parents[after] = world, said
            todo.append(after)
            missing = [relay for relay in after.relays if relay.sleeps and relay.unread]
            if not all(relay.is_excused for relay in missing):
                return Explored(len(seen), late, _trace(parents, after))
            late += bool(missing)
    return Explored(len(seen), late, [])


def _anonymous(world: World) -> World:
    relays, writers = tuple(sorted(world.relays)), tuple(sorted(world.writers))
    return World(world.is_silent, world.completed, relays, writers)


def _trace(parents: dict[World, tuple[World, str]], world: World) -> list[str]:
    trace = [f"and there it is: {world}"]
    while world in parents:
        world, said = parents[world]
        trace.insert(0, said)
    return trace


def assert_nothing_lost(rules: Rules, check: Callable[[World], None], floor: int) -> Explored:
    """And enough was explored: a model that lost most of its states would find nothing either."""
    explored = explore(rules, check)
    assert not explored.trace, "\n".join(["a wake-up is lost:", *explored.trace])
    assert explored.states > floor
    return explored


class Settling:
    """Checks that relays come to sleep once nobody writes."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._settled: set[World] = set()

    def __call__(self, world: World) -> None:
        """If no transaction is open."""
        if all(writer == Writer() for writer in world.writers):
            self.settle(world)

    def settle(self, world: World) -> None:
        """Let relays go on, in turn, until all rest."""
        path: list[World] = []
        while world not in self._settled:
            path.append(world)
            assert len(path) < LONGEST, f"they never come to sleep: {path[0]}"
            world, before = self._next(world), world
            if world == before:
                self.check_rest(world)
                break
        self._settled.update(path)

    def check_rest(self, world: World) -> None:
        for relay in world.relays:
            assert relay.sleeps, world
            assert relay.is_excused or not relay.unread, world

    def _next(self, world: World) -> World:
        """A step of each relay, and of what it left behind."""
        for number in range(len(world.relays)):
            relay = world.relays[number]
            if not relay.sleeps or relay.lingering.todo:
                steps = relay_moves(self._rules, world, number)
                world = next((after for _, after in steps), world)
        return renumbered(world)


class Mending(Settling):
    """Checks also that a safety read brings what is late, and its check mends the bell."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self._safe = replace(rules, is_safe=True)
        self._mended = Mended(rules)

    def __call__(self, world: World) -> None:
        """For each relay that misses something."""
        super().__call__(world)
        for number, relay in enumerate(world.relays):
            if relay.sleeps and relay.unread:
                self._mend(world, number)

    def _mend(self, world: World, number: int) -> None:
        woken = dict(relay_moves(self._safe, world, number))["wakes by itself"]
        # The last of its moves is the read after which a check is due.
        *_, (said, mended) = relay_moves(self._safe, woken, number)
        assert said.startswith("reads")
        assert not mended.relays[number].unread
        if all(writer == Writer() for writer in world.writers):
            self._mended.settle(mended)


class Mended(Settling):
    """Checks that every relay will be rung for."""

    def check_rest(self, world: World) -> None:
        super().check_rest(world)
        assert not world.is_silent
        assert all(relay.row != AWAKE or relay.is_excused for relay in world.relays), world
