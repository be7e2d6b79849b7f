"""Finds names in the environment that are almost those of settings.

A name that is no setting is ignored, for the environment has names of everybody. So a setting with
a letter too many would have no effect, and nobody would know.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

LONG = 12
"""In a name of so many letters two slips are forgiven, in a shorter one a single one."""


class Misspelling(NamedTuple):
    """A name that was given, and the setting that is probably meant."""

    given: str
    meant: str

    def __str__(self) -> str:
        return f"{self.given} is no setting and has no effect; {self.meant} is one"


def misspellings(given: Iterable[str], settings: Collection[str]) -> list[Misspelling]:
    """The names that are no settings and are almost one, each with the setting most like it.

    Args:
        given: names in the environment.
        settings: names of settings, in capitals.
    """
    found = []
    for name in sorted(set(given) - set(settings)):
        slips, meant = min((_slips(name.upper(), one), one) for one in settings)
        if slips <= (2 if len(meant) >= LONG else 1):
            found.append(Misspelling(name, meant))
    return found


def _slips(given: str, meant: str) -> int:
    """How many letters are missing, too many, wrong, or have changed places with the next.

    This is the distance of optimal string alignment, row by row.
    """
    if abs(len(given) - len(meant)) > 2:
        return len(given) + len(meant)
    before: list[int] = []
    above = list(range(len(meant) + 1))
    for row, letter in enumerate(given, 1):
        here = [row]
        for column, other in enumerate(meant, 1):
            least = min(above[column] + 1, here[-1] + 1, above[column - 1] + (letter != other))
            if before and column > 1 and given[row - 2] == other and meant[column - 2] == letter:
                least = min(least, before[column - 2] + 1)
            here.append(least)
        before, above = above, here
    return above[-1]
