"""`bin/token`: signs a token on a developer's machine. The work is done by `realtime.auth`."""

from __future__ import annotations

import time

import click

from realtime.cli.environment import environment

DEFAULT_TTL_SECONDS = 3600


def _not_empty(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("it must not be empty")
    return value


@click.command()
@click.argument("subject", callback=_not_empty)
@click.option(
    "--ttl",
    type=click.IntRange(min=1),
    default=DEFAULT_TTL_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Seconds until the token expires.",
)
@click.option("--admin", is_flag=True, help="Add the admin claim.")
def command(subject: str, ttl: int, admin: bool) -> None:
    """Print a signed token.

    SUBJECT becomes its `sub`: a user's id, or a username where JWT_SUBJECT=username. It is signed
    with JWT_SECRET, or with the secret that the command dev has made; with that one, ada, grace
    and linus stand for the demo's people. Nothing else goes to standard output.

    \b
    Example:
      realtime token 00000000-0000-4000-8000-0000000000a1
      export TOKEN=$(realtime token ada --ttl 600)
      curl -H "Authorization: Bearer $TOKEN" \\
        localhost:8000/api/ws/stats
    """
    from realtime.auth.signing import has_key, mint
    from realtime.dev.demo import subject_for

    environ = environment()
    if environ.get("DATABASE_URL") and not has_key(environ):
        # That database's server has a key of its own, and refuses this token.
        click.echo("JWT_SECRET is not set: signed with the secret of bin/dev", err=True)
    named = subject_for(environ, subject)
    click.echo(mint(environ, named, ttl=ttl, is_admin=admin, now=time.time()))
