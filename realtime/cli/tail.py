"""`bin/tail`: what happens on a bot, as lines. The work is done by `realtime.tail`."""

from __future__ import annotations

from uuid import UUID

import click

from realtime.cli.environment import environment
from realtime.errors import CommandError


@click.command()
@click.argument("bot", type=click.UUID)
@click.option("--url", help="The server's address.  [default: this machine's PORT]")
@click.option(
    "--token", "given", help="The token to use.  [default: one that is signed for --user]"
)
@click.option("--user", help="The token's subject.  [default: Ada of the demo]")
@click.option("--json", "as_json", is_flag=True, help="Print each message as one line of JSON.")
def command(bot: UUID, url: str | None, given: str | None, user: str | None, as_json: bool) -> None:
    """Print what happens on a bot, a line for each event.

    BOT is the bot's id. It reconnects and catches up by itself, until Ctrl-C ends it. Events go
    to standard output, words about the connection to standard error.

    \b
    Example:
      # the demo's bot
      realtime tail 00000000-0000-4000-8000-0000000000b1
      realtime tail "$BOT" --token "$TOKEN" --json \\
        --url https://chat.example.org
    """
    if given and user:
        raise click.UsageError("--token names the user already: give it without --user")
    try:
        from realtime.tail.command import client_for, run
    except ModuleNotFoundError as error:
        if error.name != "rowcast":
            raise
        raise CommandError(
            "the Python client is missing: pip install ./clients/python, from a checkout"
        ) from error

    run(client_for(environment(), str(bot), url=url, token=given, user=user), as_json=as_json)
