"""`bin/dev`'s database, for commands that were not told of another."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from realtime.auth.signing import has_key, make_secret
from realtime.embedded.server import EmbeddedPostgres, EmbeddedPostgresError
from realtime.installation import DATA, PROJECT


def with_defaults(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with what development adds to it: the console, which is for this machine
    alone, and a secret."""
    added = {"CONSOLE": "true", "LISTEN_HOST": "localhost"} | {
        name: value for name, value in environ.items() if value
    }
    if "DATABASE_URL" not in added:
        added.pop("DATABASE_DIRECT_URL", None)
    return added if has_key(added) else added | {"JWT_SECRET": make_secret()}


@contextmanager
def with_a_database(
    environ: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[Mapping[str, str]]:
    """The environment; where it names no database, with `bin/dev`'s, if that was ever made.

    The server is started for as long as it is needed.

    Raises:
        EmbeddedPostgresError: it could not be started.
    """
    data = DATA / "postgres"
    if environ.get("DATABASE_URL") or not data.exists():
        yield environ
        return
    say(f"DATABASE_URL is not set: taking bin/dev's database in {shown(data)}")
    postgres = EmbeddedPostgres(data, say=say)
    postgres.start()
    try:
        yield with_defaults(environ) | {"DATABASE_URL": postgres.dsn()}
    finally:
        postgres.stop()


def export_line() -> str:
    """The shell's line that names a database: `bin/dev`'s while it runs, or else an example."""
    running = None
    data = DATA / "postgres"
    if data.exists():
        try:
            running = EmbeddedPostgres(data).running_dsn()
        except (EmbeddedPostgresError, PermissionError):
            running = None  # PostgreSQL is not installed any more, or is another user's
    if running is not None:
        return f"for bin/dev's: export DATABASE_URL={shlex.quote(running)}"
    return "set it to postgres://user:password@host:5432/name (bin/dev prints the line for its own)"


def shown(path: Path) -> str:
    """A path of the checkout without the checkout's own."""
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)
