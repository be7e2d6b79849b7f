"""`bin/dev`: a demo for development. The work is done by `realtime.dev`."""

from __future__ import annotations

import sys

import click

from realtime.cli.environment import environment


@click.command()
@click.option("--simulate", is_flag=True, help="Simulate people who talk with the demo bot.")
def command(simulate: bool) -> None:
    """Serve a demo on a database of its own.

    It makes a PostgreSQL, the tables and a secret, and keeps them for the next time. It prints
    links to the console page and a psql command that inserts a message. DATABASE_URL names
    another database, PORT another port. It listens for this machine alone, unless LISTEN_HOST names
    another address. Ctrl-C ends it.

    \b
    Example:
      realtime dev --simulate
      PORT=8001 realtime dev
    """
    from realtime.dev.command import run

    sys.exit(run(environment(), is_simulated=simulate))
