"""`bin/simulate`: the traffic of a platform, as rows. The work is done by `realtime.simulate`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from realtime.cli.environment import environment
from realtime.errors import CommandError


@click.command()
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=1000),
    default=5,
    show_default=True,
    metavar="EVENTS_PER_SECOND",
    help="Row changes per second. The updates of growing answers are not counted.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    metavar="N",
    help="How long.  [default: until Ctrl-C]",
)
@click.option(
    "--bots",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    metavar="N",
    help="How many bots there are.",
)
@click.option(
    "--people",
    type=click.IntRange(3, 1000),
    default=8,
    show_default=True,
    metavar="N",
    help="How many people use them.",
)
@click.option("--seed", type=int, metavar="N", help="The same number repeats the same run.")
@click.option("--keep", is_flag=True, help="Do not delete the rows at the end.")
@click.option("--beside", type=click.UUID, nargs=2, hidden=True)
def command(**options: Any) -> None:
    """Write rows as the users of a busy platform would.

    They ask questions, answers grow word by word, documents are processed, permissions change.
    The rows go into DATABASE_DIRECT_URL, or DATABASE_URL, or else bin/dev's database. It makes
    people and bots of its own, changes no other rows, and deletes what it made when it ends.

    \b
    Example:
      realtime simulate --rate 20 --seconds 60
    """
    from realtime.cli.database import direct_name, direct_url
    from realtime.dev.database import with_a_database
    from realtime.postgres.reasons import why_unreachable
    from realtime.simulate.command import Options, run
    from realtime.simulate.player import SimulateError, Unreachable

    try:
        with with_a_database(environment(), partial(click.echo, err=True)) as environ:
            dsn = direct_url(environ)
            run(dsn, Options(**options))
    except Unreachable as error:
        cause = error.__cause__ or error
        raise CommandError(why_unreachable(cause, dsn, direct_name(environ))) from error
    except SimulateError as error:
        raise CommandError(str(error)) from error
