"""`bin/attach`: the triggers onto a platform's own tables. See `realtime.attach`."""

from __future__ import annotations

from pathlib import Path

import click

from realtime.cli.environment import environment


@click.command()
@click.argument("mapping", required=False, type=click.Path(path_type=Path))
@click.option("--apply", is_flag=True, help="Run the SQL, in one transaction.")
@click.option("--detach", is_flag=True, help="The SQL that takes everything off again.")
@click.option(
    "--detach-others", is_flag=True, help="Leave tables that the last MAPPING named, too."
)
@click.option("--example", is_flag=True, help="Print the whole default mapping.")
@click.option("--from", "folder", type=Path, default=".", hidden=True)
def command(
    mapping: Path | None,
    apply: bool,
    detach: bool,
    detach_others: bool,
    example: bool,
    folder: Path,
) -> None:
    """Put the triggers onto tables of your own.

    MAPPING is a TOML file. It says what is different in your tables from the reference tables.
    Without --apply this prints the SQL and changes nothing. It works on DATABASE_DIRECT_URL, or
    on DATABASE_URL.

    \b
    Example:
      # a mapping, to write down what differs
      realtime attach --example > mapping.toml
      # the SQL to read, then to run
      realtime attach mapping.toml
      realtime attach mapping.toml --apply
      # everything off again
      realtime attach --detach --apply
    """
    if example and (mapping or apply or detach or detach_others):
        raise click.UsageError("--example only prints the default mapping: give it alone")
    if detach and mapping:
        raise click.UsageError("--detach needs no MAPPING: the database knows what was attached")
    if detach and detach_others:
        raise click.UsageError("--detach leaves all tables: give it without --detach-others")

    from realtime.attach.command import run
    from realtime.attach.mapping import EXAMPLE, read_mapping

    if example:
        click.echo(EXAMPLE.read_text("utf-8"), nl=False)
        return

    from realtime.cli.database import direct_name, direct_url

    # Before the database's address: whoever mistyped the file is to hear of that.
    wanted = None if detach else read_mapping(folder / mapping if mapping else None)
    environ = environment()
    named = direct_name(environ)
    run(direct_url(environ), wanted, named=named, apply=apply, detaches_others=detach_others)
