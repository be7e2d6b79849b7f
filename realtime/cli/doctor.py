"""`bin/doctor`: what is wrong with a deployment. The work is done by `realtime.doctor`."""

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option(
    "--explain",
    nargs=2,
    type=(click.IntRange(min=0), str),
    metavar="EVENT_ID USER",
    help="Say whether USER (id or username, as JWT_SUBJECT says) should have received that event.",
)
def command(as_json: bool, explain: tuple[int, str] | None) -> None:
    """Say what is wrong with a deployment, and what to do.

    Run it with the environment of the server. It checks the settings, the database, the triggers
    and the running processes. It also writes one event and checks that it arrives. The exit code is
    0 if there is no problem.

    \b
    Example:
      realtime doctor
      realtime doctor --explain 4711 ada    # should Ada have received it?
    """
    from realtime.doctor.command import run

    sys.exit(run(os.environ, as_json=as_json, explain=explain))
