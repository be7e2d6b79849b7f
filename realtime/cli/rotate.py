"""`bin/rotate`: new secrets while servers run. The work is done by `realtime.postgres.rotation`."""

from __future__ import annotations

import asyncio

import click

from realtime.cli.environment import environment


@click.group()
def command() -> None:
    """Change a secret of the database while servers run.

    Run it as the role that runs migrate. It works on DATABASE_DIRECT_URL, or on DATABASE_URL, and
    needs no key.

    \b
    Example:
      # somebody learned the channels' names
      realtime rotate channels
      # somebody read relay.cursor_keys or a dump
      realtime rotate cursor-key
    """


@command.command()
def channels() -> None:
    """Give the channels of rings and typing new names.

    Servers notice within two seconds. Until then events may be late by that, and typing between
    processes is not shown.

    \b
    Example:
      realtime rotate channels
    """
    from realtime.cli.database import direct_name, direct_url
    from realtime.postgres.rotation import rotate_channels

    environ = environment()
    asyncio.run(rotate_channels(direct_url(environ), named=direct_name(environ)))
    click.echo("the channels have new names; servers hear them within 2 s")


@command.command("cursor-key")
def cursor_key() -> None:
    """Sign cursors with a new key.

    It makes all servers connect to the database again, for that is when they read the keys. No
    event is lost by it. Cursors of the old key stay good until the next rotation: clients notice
    nothing. Run it twice to end them.

    \b
    Example:
      realtime rotate cursor-key
    """
    from realtime.cli.database import direct_name, direct_url
    from realtime.postgres.rotation import rotate_cursor_key

    environ = environment()
    servers = asyncio.run(rotate_cursor_key(direct_url(environ), named=direct_name(environ)))
    click.echo(
        f"a new key signs cursors, and the old key stays good until the next rotation;"
        f" servers that have read it: {servers}"
    )
