"""`bin/serve`: the server, from environment settings alone."""

from __future__ import annotations

import os
import sys

import click


@click.command()
def command() -> None:
    """Serve WebSockets and HTTP, with settings from the environment.

    DATABASE_URL and one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL are required. README.md
    lists all settings. A wrong one is named in one line, before anything starts. SIGTERM sends
    the clients away over DRAIN_SECONDS, and then ends the server.

    \b
    Example:
      export DATABASE_URL=postgres://chat:password@localhost/chat
      export JWT_SECRET=at-least-32-bytes-that-nobody-can-guess
      realtime serve
    """
    from realtime.config.settings import Settings

    settings = Settings.from_environ(os.environ)

    from realtime.runtime.supervisor import run

    sys.exit(run(settings))
