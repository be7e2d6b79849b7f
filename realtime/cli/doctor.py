"""`bin/doctor`: what is wrong with a deployment. The work is done by `realtime.doctor`."""

from __future__ import annotations

import re
import sys
from functools import partial

import click

from realtime.cli.environment import environment


class EventId(click.ParamType[tuple[int, int | None]]):
    """An event's id as clients get it, `4711-1790000000000000`, or only its number."""

    name = "EVENT_ID"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int | None]:
        """The number, and the time in microseconds where it is given."""
        found = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", str(value), re.ASCII)
        if found is None:
            self.fail(
                f"{value!r} is not the id of an event, such as 4711-1790000000000000", param, ctx
            )
        return int(found[1]), int(found[2]) if found[2] else None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option(
    "--explain",
    nargs=2,
    type=(EventId(), str),
    metavar="EVENT_ID USER",
    help="Say whether USER (id or username, as JWT_SUBJECT says) should have received that event.",
)
def command(as_json: bool, explain: tuple[tuple[int, int | None], str] | None) -> None:
    """Say what is wrong with a deployment, and what to do.

    Run it with the environment of the server. It checks the settings, the database, the triggers
    and the running processes. It also writes one event and checks that it arrives. The exit code is
    0 if there is no problem. Without DATABASE_URL it looks at bin/dev's database.

    \b
    Example:
      realtime doctor
      # was this event for Ada?
      realtime doctor --explain 4711-1790000000000000 ada
    """
    from realtime.dev.database import with_a_database
    from realtime.dev.demo import subject_for
    from realtime.doctor.command import run

    with with_a_database(environment(), partial(click.echo, err=True)) as environ:
        if explain is not None:
            explain = (explain[0], subject_for(environ, explain[1]))
        code = run(environ, as_json=as_json, explain=explain)
    sys.exit(code)
