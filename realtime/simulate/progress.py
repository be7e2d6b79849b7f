"""How the simulation goes: counted, and told in a terminal's last line or in a log's lines."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, TextIO

import click

from realtime.simulate.acts import WORDS, Act

WINDOW_SECONDS: Final = 5.0
LIVE_SECONDS: Final = 0.25
PLAIN_SECONDS: Final = 5.0
BEHIND: Final = "behind the asked rate"
CLEAR_LINE: Final = "\r\x1b[2K"

Clock = Callable[[], float]


class Progress:
    """What was done so far, and how fast lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock()
        self._marks = deque([(self._started, 0, 0)])
        """When so many changes and words had been made; the newest of them is the last one."""
        self.counts: Counter[str] = Counter()
        self.outages = 0
        self.seconds_away = 0.0
        self.seconds_behind = 0.0
        """By how much it fell behind the rate, because the statements take longer than that."""

    def add(self, act: Act) -> None:
        """Count a statement that was executed."""
        self.counts[act.kind] += 1

    @property
    def seconds(self) -> float:
        """Seconds since the simulation started."""
        return self._clock() - self._started

    @property
    def words(self) -> int:
        """Updates that made an answer grow."""
        return self.counts[WORDS]

    @property
    def changes(self) -> int:
        """The number of changes, without the words of growing answers."""
        return self.counts.total() - self.words

    def rates(self) -> tuple[float, float]:
        """Changes and words a second, over the last few seconds."""
        now = self._clock()
        while len(self._marks) > 1 and self._marks[1][0] <= now - WINDOW_SECONDS:
            self._marks.popleft()
        at, changes, words = self._marks[0]
        if now - self._marks[-1][0] >= LIVE_SECONDS / 2:
            self._marks.append((now, self.changes, self.words))
        elapsed = max(now - at, LIVE_SECONDS)
        return (self.changes - changes) / elapsed, (self.words - words) / elapsed

    def totals(self) -> str:
        """By kind, the most frequent first."""
        kinds = [item for item in self.counts.most_common() if item[0] != WORDS]
        return ", ".join(f"{number:,} {kind}" for kind, number in kinds)

    def line(self) -> str:
        """How it goes, in one line."""
        minutes, seconds = divmod(int(self.seconds), 60)
        changes, words = self.rates()
        speed = f"{changes:5.1f} changes/s {words:4.0f} words/s"
        behind = f"  {self.seconds_behind:.0f} s {BEHIND}" if self.seconds_behind else ""
        return f"{minutes:02d}:{seconds:02d} {speed}{behind}  {self.totals()}"

    def summary(self) -> str:
        """How it went, in a few lines."""
        rate = self.changes / max(self.seconds, 1e-9)
        lines = [
            f"{self.changes:,} changes in {self.seconds:.0f} s ({rate:.1f}/s),"
            f" and {self.words:,} updates that made answers grow",
            f"  {self.totals()}",
        ]
        if self.outages:
            times = "once" if self.outages == 1 else f"{self.outages} times"
            lines.append(f"  the database was away {times}, {self.seconds_away:.1f} s in all")
        if self.seconds_behind:
            lines.append(
                f"  {self.seconds_behind:.1f} s {BEHIND}: the statements take longer than that, one"
                " after another over one connection"
            )
        return "\n".join(lines)


class Screen:
    """Where it is told: standard output, a line that changes where that is a terminal.

    Args:
        is_quiet: only what is said, no progress.
    """

    def __init__(self, progress: Progress, stream: TextIO | None = None, *, is_quiet: bool) -> None:
        self._progress = progress
        self._stream = stream or sys.stdout
        self._is_quiet = is_quiet
        self._is_live = self._stream.isatty() and not is_quiet

    def say(self, line: str) -> None:
        """Something that stays to be read."""
        self._write(click.style("• ", fg="cyan") + line + "\n")

    def show(self) -> None:
        """Show the progress of the simulation."""
        line = self._progress.line()
        if not self._is_live:
            self._write(line + "\n")
            return
        columns = shutil.get_terminal_size().columns
        self._write(line if len(line) < columns else line[: columns - 2] + "…")

    async def keep_showing(self) -> None:
        """Show it every now and then, until cancelled."""
        while True:
            await asyncio.sleep(LIVE_SECONDS if self._is_live else PLAIN_SECONDS)
            if not self._is_quiet:
                self.show()

    def end(self) -> None:
        """The last line, where it is one that changes, makes way."""
        self._write("")

    def _write(self, text: str) -> None:
        if self._is_live:
            self._stream.write(CLEAR_LINE)  # no colour, so NO_COLOR must not take it out
        click.echo(text, self._stream, nl=False)
