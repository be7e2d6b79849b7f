"""`bin/doctor`: what is wrong with a deployment. The work is done by `realtime.doctor`."""

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of lines.")
@click.option(
    "--explain",
    nargs=2,
    type=(click.IntRange(min=0), str),
    metavar="EVENT_ID USER",
    help="Say whether USER (an id or a username, as JWT_SUBJECT says) should have had that event.",
)
def command(as_json: bool, explain: tuple[int, str] | None) -> None:
    """Say what is wrong with a deployment, and what to do.

    Run it with the environment of the server. It checks the settings, the database, the triggers
    and the running processes, and sends one event all the way. The exit code is 0 when all is
    well.

    \b
    Example:
      realtime doctor
      realtime doctor --explain 4711 ada    # should Ada have had event 4711?
    """
    from realtime.doctor.command import run

    sys.exit(run(os.environ, as_json=as_json, explain=explain))
