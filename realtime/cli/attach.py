"""`bin/attach`: the triggers onto a platform's own tables. See `realtime.attach`."""

from __future__ import annotations

from pathlib import Path

import click

from realtime.cli.environment import environment


@click.command()
@click.argument("mapping", required=False, type=click.Path(path_type=Path))
@click.option("--apply", "action", flag_value="apply", help="Run the SQL, in one transaction.")
@click.option("--detach", "action", flag_value="detach", help="Remove everything again.")
@click.option("--example", "action", flag_value="example", help="Print the whole default mapping.")
@click.option("--from", "folder", type=Path, default=".", hidden=True)
def command(mapping: Path | None, action: str | None, folder: Path) -> None:
    """Put the triggers onto tables of your own.

    MAPPING is a TOML file. It says what is different in your tables from the reference tables.
    Without an option this prints the SQL and changes nothing. It works on DATABASE_DIRECT_URL,
    or on DATABASE_URL.

    \b
    Example:
      realtime attach --example > mapping.toml    # then write down what differs
      realtime attach mapping.toml                # read the SQL
      realtime attach mapping.toml --apply
    """
    from realtime.attach.command import run
    from realtime.attach.mapping import EXAMPLE

    if action == "example":
        click.echo(EXAMPLE.read_text("utf-8"), nl=False)
        return

    from realtime.cli.database import direct_url

    run(direct_url(environment()), folder / mapping if mapping else None, action)
