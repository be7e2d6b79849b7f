"""`bin/chaos --seconds N --seed S`: one run of the chaos suite; its exit code says how it went.

The seed decides which faults strike in which order, whom they strike, and what every writer and
client chooses; the moments are the machine's own. docs/reliability.md says what is proved.
"""

from __future__ import annotations

import secrets
import signal
import sys
from types import FrameType

import click

from tests.chaos.run import run

EXAMPLE = """\b
Example: a minute of all faults, then of a bad network.
    bin/chaos --seconds 60 --seed 1
    bin/chaos --seconds 60 --seed 1 --only network
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLE)
@click.option(
    "--seconds",
    type=click.FloatRange(min=5),
    default=120,
    show_default=True,
    metavar="N",
    help="How long faults happen. From 60 on, the run waits until every kind has happened.",
)
@click.option(
    "--seed", type=int, metavar="S", help="Repeats a run's choices. [default: another each time]"
)
@click.option(
    "--only",
    multiple=True,
    metavar="WORDS",
    help="Only the kinds of faults whose names contain these words. May be repeated.",
)
def main(seconds: float, seed: int | None, only: tuple[str, ...]) -> None:
    """Cause faults of every kind for a while, and check that no client missed anything."""
    signal.signal(signal.SIGTERM, _end)  # as Ctrl-C, so that everything started is ended
    chosen = secrets.randbelow(1_000_000) if seed is None else seed
    report = run(seconds, chosen, _say, only)
    for line in report.lines():
        _say(line)
    sys.exit(0 if report.is_good else 1)


def _say(line: str) -> None:
    print(line, flush=True)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="bin/chaos")
