"""The command line: `python -m realtime COMMAND`, which `bin/COMMAND` ends in.

Each command imports what it needs when it runs, so that the small ones answer at once. What a user
can put right is one line on standard error and exit code 1.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

try:
    import click
except ModuleNotFoundError:
    sys.exit("the packages are not installed: pip install -r requirements.txt (bin/dev does it)")

from realtime.errors import CommandError, say_and_exit

DEFAULT_TTL_SECONDS = 3600


class Commands(click.Group):
    """A `CommandError` in any command is one line on standard error, and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        with say_and_exit():
            return super().invoke(ctx)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Relays committed Postgres rows to WebSockets."""


@main.command()
@click.option("--simulate", is_flag=True, help="With people who talk in the demo bot.")
def dev(simulate: bool) -> None:
    """Serve a demo on a database of its own, for development."""
    from realtime.cli.dev import run

    sys.exit(run(os.environ, is_simulated=simulate))


@main.command()
def serve() -> None:
    """Serve, configured by the environment alone."""
    from realtime.config.settings import Settings

    settings = Settings.from_environ(os.environ)

    from realtime.runtime.supervisor import run

    sys.exit(run(settings))


@main.command()
def migrate() -> None:
    """Bring the schema in the database up to date."""
    dsn = direct_url()

    from realtime.cli.migrate import bring_up_to_date

    bring_up_to_date(dsn)
    click.echo("the schema is up to date")


@main.command()
@click.argument("mapping", required=False, type=click.Path(path_type=Path))
@click.option("--apply", "action", flag_value="apply", help="Run the SQL, in one transaction.")
@click.option("--detach", "action", flag_value="detach", help="Take everything off again.")
@click.option("--example", "action", flag_value="example", help="Print the whole default mapping.")
@click.option("--from", "folder", type=Path, default=".", hidden=True)
def attach(mapping: Path | None, action: str | None, folder: Path) -> None:
    """Print the SQL that puts the triggers onto the tables of MAPPING, or run it.

    MAPPING is a TOML file that says what is different from the reference tables; --example prints
    one to start from.
    """
    from realtime.attach.command import run
    from realtime.attach.mapping import EXAMPLE

    if action == "example":
        click.echo(EXAMPLE.read_text("utf-8"), nl=False)
        return
    run(direct_url(), folder / mapping if mapping else None, action)


@main.command()
@click.argument("subject")
@click.option(
    "--ttl",
    type=click.IntRange(min=1),
    default=DEFAULT_TTL_SECONDS,
    show_default=True,
    help="Seconds that it is good for.",
)
@click.option("--admin", is_flag=True, help="With the admin claim.")
def token(subject: str, ttl: int, admin: bool) -> None:
    """Print a token signed for SUBJECT, by JWT_SECRET or the secret that bin/dev made."""
    from realtime.cli.token import mint

    click.echo(mint(os.environ, subject, ttl=ttl, is_admin=admin, now=time.time()))


@main.command()
@click.argument("bot")
@click.option("--url", help="The server's address.  [default: this machine's PORT]")
@click.option("--token", "given", help="A token.  [default: one for --user is signed]")
@click.option("--user", help="The token's subject.  [default: Ada of bin/dev's demo]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as it was sent.")
def tail(bot: str, url: str | None, given: str | None, user: str | None, as_json: bool) -> None:
    """Print what happens on BOT (its id), a line for each event, until Ctrl-C."""
    from realtime.cli.tail import client_for, run

    run(client_for(os.environ, bot, url=url, token=given, user=user), as_json=as_json)


@main.command()
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=1000),
    default=5,
    show_default=True,
    metavar="EVENTS_PER_SECOND",
    help="Changes of rows a second. The words by which answers grow come on top.",
)
@click.option("--seconds", type=click.FloatRange(min=0), help="How long.  [default: until Ctrl-C]")
@click.option("--bots", type=click.IntRange(1, 100), default=4, show_default=True)
@click.option("--people", type=click.IntRange(3, 1000), default=8, show_default=True)
@click.option("--seed", type=int, help="The same number makes the same things happen.")
@click.option("--keep", is_flag=True, help="Leave the rows there at the end.")
@click.option("--beside", type=click.UUID, nargs=2, hidden=True)
def simulate(**options: Any) -> None:
    """Write rows into DATABASE_URL as a believable platform would: questions, answers that grow
    word by word, documents, permissions that change.

    It has people and bots of its own and touches no other rows, keeps few of its own, and deletes
    them at its end.
    """
    dsn = direct_url()

    from realtime.simulate.command import Options, run
    from realtime.simulate.player import SimulateError

    try:
        run(dsn, Options(**options))
    except SimulateError as error:
        raise CommandError(str(error)) from error


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of lines.")
@click.option(
    "--explain",
    nargs=2,
    type=(click.IntRange(min=0), str),
    metavar="EVENT_ID USER",
    help="Say whether USER (an id or a username, as JWT_SUBJECT says) should have had that event.",
)
def doctor(as_json: bool, explain: tuple[int, str] | None) -> None:
    """Say what is wrong with this deployment, and what to do."""
    from realtime.doctor.command import run

    sys.exit(run(os.environ, as_json=as_json, explain=explain))


def direct_url() -> str:
    """The database that a release step works on; the keys are not needed there, or not known."""
    from realtime.config.settings import Settings

    names = ("DATABASE_URL", "DATABASE_DIRECT_URL")
    given = {name: os.environ[name] for name in names if name in os.environ}
    settings = Settings.from_environ({"JWT_SECRET": "not used here".center(64), **given})
    return settings.database_direct_url.get_secret_value()


if __name__ == "__main__":
    main(prog_name="realtime")
