"""`bin/migrate`: the release step. The work is done by `realtime.postgres.release`."""

from __future__ import annotations

import click

from realtime.cli.environment import environment


@click.command()
@click.option("--core", is_flag=True, help="Make only the log, for tables of your own.")
def command(core: bool) -> None:
    """Bring the schema of the database up to date.

    It makes the schema relay and the reference tables, or changes them to what this release
    needs. All of it is one transaction. It may run twice, and while servers run. It works on
    DATABASE_DIRECT_URL, or on DATABASE_URL, and needs no key.

    \b
    Example:
      export DATABASE_URL=postgres://chat@localhost/chat
      realtime migrate
      # for tables of your own
      realtime migrate --core
      realtime attach mapping.toml --apply
    """
    from realtime.cli.database import direct_name, direct_url
    from realtime.postgres.release import bring_up_to_date

    environ = environment()
    named = direct_name(environ)
    if bring_up_to_date(direct_url(environ), core_alone=core, named=named):
        click.echo("the schema is up to date")
    else:
        click.echo("the schema is a newer release's, and serves this one: nothing was changed")
