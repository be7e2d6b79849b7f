"""`bin/serve`: the server, from environment settings alone."""

from __future__ import annotations

import os

import click

from realtime.cli.environment import environment


@click.command()
def command() -> None:
    """Serve WebSockets and HTTP, with settings from the environment.

    DATABASE_URL and one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL are required. README.md
    lists all settings. A wrong one is named in one line, before anything starts. SIGTERM sends
    the clients away over DRAIN_SECONDS, and then ends the server. SIGHUP starts new processes,
    with new code and what ENV_FILE says now, and ends the old ones once the new ones serve.

    \b
    Example:
      export DATABASE_URL=postgres://chat@localhost/chat
      export JWT_SECRET=at-least-32-bytes-nobody-can-guess
      realtime serve
    """
    from realtime.config.settings import Settings

    environ = environment()
    settings = Settings.from_environ(environ)
    for misspelling in Settings.misspelt(environ):
        click.echo(f"serve: {misspelling}", err=True)

    from realtime.runtime.launch import become_supervisor

    become_supervisor(settings, os.environ)
