"""The command line: `python -m realtime COMMAND`, which `bin/COMMAND` ends in.

Each command imports what it needs when it runs, so that the small ones answer at once. What a user
can put right is one line on standard error and exit code 1.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import click
except ModuleNotFoundError:
    sys.exit("the packages are not installed: pip install -r requirements.txt (bin/dev does it)")

DEFAULT_TTL_SECONDS = 3600


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Relays committed Postgres rows to WebSockets."""


@main.command()
def dev() -> None:
    """Serve a demo on a database of its own, for development."""
    from realtime.dev import run
    from realtime.postgres.embedded import EmbeddedPostgresError
    from realtime.postgres.schema import SchemaError
    from realtime.release import ReleaseError

    with plain_errors(EmbeddedPostgresError, SchemaError, ReleaseError):
        sys.exit(run(os.environ))


@main.command()
def serve() -> None:
    """Serve, configured by the environment alone."""
    from realtime.settings import Settings

    with plain_errors():
        settings = Settings.from_environ(os.environ)

    from realtime.server import run

    sys.exit(run(settings))


@main.command()
def migrate() -> None:
    """Bring the schema in the database up to date."""
    from realtime.settings import Settings

    # The keys are not needed here, and a release step may not have them.
    names = ("DATABASE_URL", "DATABASE_DIRECT_URL")
    given = {name: os.environ[name] for name in names if name in os.environ}
    with plain_errors():
        settings = Settings.from_environ({"JWT_SECRET": "not used here".center(64), **given})

    from realtime.postgres.schema import SchemaError
    from realtime.release import ReleaseError, bring_up_to_date

    with plain_errors(SchemaError, ReleaseError):
        bring_up_to_date(settings.database_direct_url.get_secret_value())
    click.echo("the schema is up to date")


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
    from realtime.dev_tokens import mint

    with plain_errors():
        click.echo(mint(os.environ, subject, ttl=ttl, is_admin=admin, now=time.time()))


@contextmanager
def plain_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn what the user can put right into one line and exit code 1."""
    from realtime.settings import SettingsError

    expected: tuple[type[Exception], ...] = (SettingsError, *kinds)
    try:
        yield
    except expected as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="realtime")
