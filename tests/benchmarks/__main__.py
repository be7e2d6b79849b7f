"""`bin/bench`: this server and its peers under the same load, one after another."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from realtime.embedded.lock import FileLock
from realtime.embedded.server import EmbeddedPostgres
from realtime.errors import CommandError
from tests.benchmarks.bench import run, say
from tests.benchmarks.charts import write_charts
from tests.benchmarks.database import SETTINGS, Database
from tests.benchmarks.machine import describe
from tests.benchmarks.packages import Packages
from tests.benchmarks.paths import CHARTS, DATA, DOCUMENT, RESULTS
from tests.benchmarks.report import document_part, section, summary, with_part
from tests.benchmarks.results import Results, read_results, write_results
from tests.benchmarks.scenarios import SCENARIOS, Bench

ROUNDS = 3
SOAK_SECONDS = 240
NAMES = tuple(
    dict.fromkeys(one.name for scenario in SCENARIOS.values() for one in scenario.contenders)
)
"""What is measured, as it is called on the command line."""
EXAMPLE = """\b
Example: two scenarios quickly, then for the document.
    bin/bench quiet burst --quick
    bin/bench quiet burst --write-docs
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLE)
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option(
    "--rounds",
    default=ROUNDS,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="How often each scenario is measured.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    type=click.Choice(NAMES),
    help=f"Only this one, of {', '.join(NAMES)}. May be repeated.",
)
@click.option("--quick", is_flag=True, help="A smoke run: one round of small loads.")
@click.option(
    "--seconds",
    default=SOAK_SECONDS,
    show_default=True,
    type=click.IntRange(min=12),
    metavar="N",
    help="How long the soak takes.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the results.")
@click.option("--charts", type=click.Path(path_type=Path), help="Write SVG charts there.")
@click.option("--write-docs", is_flag=True, help="Bring docs/performance.md and charts up to date.")
def main(
    scenarios: tuple[str, ...],
    rounds: int,
    only: tuple[str, ...],
    quick: bool,
    seconds: int,
    json_file: Path | None,
    charts: Path | None,
    write_docs: bool,
) -> None:
    """Run SCENARIOS (default: all) against this server and its peers."""
    if write_docs and (quick or only):
        raise click.UsageError("--write-docs needs whole scenarios: not with --quick or --only")
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with database() as made:
        bench = Bench(made, Packages(say), quick, seconds, say)
        results = run(
            bench,
            [SCENARIOS[name] for name in SCENARIOS if not scenarios or name in scenarios],
            rounds=1 if quick else rounds,
            only=frozenset(only),
            command=" ".join(("bin/bench", *scenarios, f"--rounds {rounds} --seconds {seconds}")),
            machine=describe(made),
        )
    for name, measured in results.items():
        click.echo(f"\n{section(name, measured)}")
    click.echo(f"\n{summary(results)}")
    if json_file is not None:
        write_results(json_file, results)
    if charts is not None:
        write_charts(charts, results)
    if not quick and not only:
        results = {**read_results(RESULTS), **results}
        write_results(RESULTS, results)
    if write_docs:
        write_documents(results)


def write_documents(results: Results) -> None:
    """Replace the generated part of the page, and its charts."""
    if missing := SCENARIOS.keys() - results.keys():
        raise click.ClickException(f"not measured yet: {', '.join(sorted(missing))}")
    part = document_part(results)
    DOCUMENT.write_text(with_part(DOCUMENT.read_text(encoding="utf-8"), part), encoding="utf-8")
    write_charts(CHARTS, results)
    say(f"Wrote {DOCUMENT.name} and {CHARTS.name}/")


@contextmanager
def database() -> Iterator[Database]:
    """A PostgreSQL that nobody else uses, made afresh and removed at the end."""
    DATA.mkdir(parents=True, exist_ok=True)
    home = DATA / "postgres"
    try:
        with FileLock(DATA / "bench.lock").exclusive(1):
            say("Making a PostgreSQL with three databases, in .data/bench")
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            postgres = EmbeddedPostgres(home / "data", settings=SETTINGS, say=say)
            postgres.start()
            try:
                made = Database(postgres)
                made.make()
                yield made
            finally:
                postgres.stop("immediate")
                shutil.rmtree(home, ignore_errors=True)
    except CommandError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="bin/bench")
