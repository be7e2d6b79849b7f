"""What was found, in plain words: lines for people, JSON for programs, an exit code for scripts.

Checks make findings; the command line prints what `Report` makes of them.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import click

from realtime.installation import as_called

LEAST_ROOM: Final = 20
"""A column of text is never narrower, however narrow the terminal is."""


class Level(Enum):
    """How bad it is; in JSON by its name in lower case."""

    FINE = ("✓", "green")
    WARNING = ("!", "yellow")
    PROBLEM = ("✗", "red")

    @property
    def mark(self) -> str:
        return click.style(self.value[0], fg=self.value[1])


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found; `cure` is what to do about it."""

    level: Level
    said: str
    cure: str = ""


def fine(said: str) -> Finding:
    return Finding(Level.FINE, said)


def warning(said: str, cure: str) -> Finding:
    return Finding(Level.WARNING, said, cure)


def problem(said: str, cure: str) -> Finding:
    return Finding(Level.PROBLEM, said, cure)


class Line(NamedTuple):
    """A finding, and the check that it comes from."""

    check: str
    finding: Finding


@dataclass(frozen=True)
class Report:
    """All findings of the checks.

    Args:
        lines: in the order of the checks.
        skipped: checks that could not be made, because one that they need found a problem.
    """

    lines: Sequence[Line]
    skipped: Sequence[str]

    def count(self, level: Level) -> int:
        return sum(line.finding.level is level for line in self.lines)

    @property
    def exit_code(self) -> int:
        """1 where there is a problem; warnings alone are 0."""
        return int(self.count(Level.PROBLEM) > 0)

    def text(self, columns: int | None = None) -> str:
        """Lines for people, coloured; `click.echo` takes the colours out of a pipe.

        Args:
            columns: how wide the terminal is; None: it is none, so that a line is a finding.
        """
        width = max((len(line.check) for line in self.lines), default=0)
        written = []
        for check, finding in self.lines:
            said = wrapped(finding.said, columns, width + 4)
            written.append(f"{finding.level.mark} {check:<{width}}  {said}")
            if finding.cure:
                cure = wrapped(finding.cure, columns, width + 6)
                written.append(f"{'':<{width + 4}}→ {cure}")
        return "\n".join([*written, "", wrapped(self._summary(), columns)])

    def _summary(self) -> str:
        problems, warnings = self.count(Level.PROBLEM), self.count(Level.WARNING)
        if problems or warnings:
            said = f"{_number(problems, 'problem')}, {_number(warnings, 'warning')}"
        else:
            said = "all is well"
        if self.skipped:
            said += f"; not looked at until that is put right: {', '.join(self.skipped)}"
        return said

    def json(self) -> str:
        """The report as one object for JSON."""
        checks = [
            {"check": check, "level": one.level.name.lower(), "said": one.said, "do": one.cure}
            for check, one in self.lines
        ]
        document = {
            "problems": self.count(Level.PROBLEM),
            "warnings": self.count(Level.WARNING),
            "checks": checks,
            "skipped": list(self.skipped),
        }
        return json.dumps(document, ensure_ascii=False, indent=2)


def wrapped(text: str, columns: int | None, indent: int = 0) -> str:
    """Break a text at blanks, so that it fits a terminal.

    Args:
        columns: how wide the terminal is; None: the text stays one line.
        indent: where the text begins, and its other lines are to begin.
    """
    text = as_called(text)
    if columns is None:
        return text
    room = max(columns - indent, LEAST_ROOM)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return f"\n{'':<{indent}}".join(lines)


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names with commas, of a long list the first few."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def span(seconds: float) -> str:
    """A length of time as people say it, in one unit."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
