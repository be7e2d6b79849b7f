"""When what happens: scenes that begin at random, one after the other, and take turns.

The same seed makes the same plan; it has no end, and knows no clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Final, NamedTuple
from uuid import UUID

from realtime.simulate.acts import WORDS, Act
from realtime.simulate.cast import Cast, tidy
from realtime.simulate.scenes import Scenes, Steps

USUAL_RATE: Final = 5.0
"""Changes a second at which people take the time that people take."""
GROWTHS_PER_CHANGE: Final = 9
"""At most so many updates make answers grow for each change, in the long run."""
TIDY_EVERY: Final = 100
"""The rows are tidied up after so many changes."""


class Choice(NamedTuple):
    """A kind of scene, and how often it is begun."""

    begin: Callable[[Scenes], Steps]
    weight: float
    changes: float
    """Statements that it usually has, the words of answers not counted."""


CHOICES: Final = (
    Choice(Scenes.conversation, 12, 3.7),
    Choice(Scenes.document, 3, 4.2),
    Choice(Scenes.permission, 2, 3),
    Choice(Scenes.configuration, 2, 1),
    Choice(Scenes.poll, 1, 2),
    Choice(Scenes.quota, 1, 1),
    Choice(Scenes.absence, 0.5, 2),
    Choice(Scenes.handover, 0.5, 4),
    Choice(Scenes.trial, 0.5, 4),
)


Turns = Iterator[Act | float | Steps]
"""As a scene's, and scenes that begin."""


class Due(NamedTuple):
    """A scene and its next turn, the earliest first."""

    at: float
    number: int
    """The order of scenes that are due at the same time."""
    steps: Turns


def timeline(
    random: random.Random, cast: Cast, *, rate: float, new_id: Callable[[], UUID]
) -> Iterator[tuple[float, Act]]:
    """Statements without end, each with the second at which it is due.

    Args:
        rate: changes a second, the words of answers not counted.
    """
    scenes = Scenes(random, cast, USUAL_RATE / rate, new_id)
    numbers = count()
    turns = [Due(0.0, next(numbers), _begun(scenes, rate))]
    changes = 0
    while True:
        now, _, steps = heappop(turns)
        for step in steps:
            if isinstance(step, Act):
                yield now, step
                changes += step.kind != WORDS
            elif isinstance(step, float):
                heappush(turns, Due(now + step, next(numbers), steps))
                break
            else:
                heappush(turns, Due(now, next(numbers), step))
        if changes >= TIDY_EVERY:
            changes = 0
            yield from ((now, act) for act in tidy())


def _begun(scenes: Scenes, rate: float) -> Turns:
    """What is begun, and the pauses in between; first of all, somebody asks something."""
    choice = CHOICES[0]
    while True:
        yield choice.begin(scenes)
        yield scenes.random.expovariate(rate / choice.changes)
        (choice,) = scenes.random.choices(CHOICES, [one.weight for one in CHOICES])
