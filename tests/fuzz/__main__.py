"""`bin/fuzz --seconds N --seed S`: one run; its exit code says whether anything was found.

docs/reliability.md says what is judged.
"""

from __future__ import annotations

import secrets
import signal
import sys
from types import FrameType

import click

from tests.fuzz.attackers import KINDS
from tests.fuzz.run import run

EXAMPLE = """\b
Example: two minutes of everything, then cursors alone.
    bin/fuzz --seconds 120 --seed 42
    bin/fuzz --seconds 20 --seed 42 --only cursors
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLE)
@click.option(
    "--seconds",
    type=click.FloatRange(min=2),
    default=60,
    show_default=True,
    metavar="N",
    help="How long it goes on, for all kinds together.",
)
@click.option(
    "--seed", type=int, metavar="S", help="Repeats a run's choices. [default: another each time]"
)
@click.option(
    "--only",
    "kinds",
    type=click.Choice(list(KINDS)),
    multiple=True,
    metavar="KIND",
    help=f"A kind of attack: {', '.join(KINDS)}. May be repeated. [default: all]",
)
def main(seconds: float, seed: int | None, kinds: tuple[str, ...]) -> None:
    """Send a server all that it should not be sent, and see whether another client notices."""
    signal.signal(signal.SIGTERM, _end)  # as Ctrl-C, so that everything started is ended
    chosen = secrets.randbelow(1_000_000) if seed is None else seed
    report = run(seconds, chosen, _say, kinds=kinds)
    _say("")
    for line in report.lines():
        _say(line)
    sys.exit(1 if report.findings else 0)


def _say(line: str) -> None:
    print(line, flush=True)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="bin/fuzz")
