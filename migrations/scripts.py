"""Runs the files under `sql/`.

Each revision has a folder of its own, and runs what lies in it. A released folder never changes,
so that an old database and a new one arrive at the same schema; its `SHA256SUMS` says what it was.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from alembic import op

from realtime.postgres.own_names import OWN_PATH

FOLDER = Path(__file__).with_name("sql")
OWN_NAMES = f"SET LOCAL search_path = {OWN_PATH};\n"
"""Functions of ours are made of what is found now. All else is named with its schema."""


def run_scripts(*names: str) -> None:
    """Run `sql/<name>.sql` in alembic's transaction, or print it in offline mode."""
    for name in names:
        _run(_read(name))


def replace_scripts(*names: str) -> None:
    """Run scripts that were written for an empty schema over functions that are there."""
    for name in names:
        _run(replacing(_read(name)))


def replacing(script: str) -> str:
    """The same functions and triggers, also where they exist. Their grants stay as they are."""
    return re.sub("^CREATE (FUNCTION|TRIGGER) ", r"CREATE OR REPLACE \1 ", script, flags=re.M)


def mark(revision: str, release: str, *, serves_from: str) -> None:
    """Say which processes the schema can serve from now on; `relay.releases` has the rule.

    Args:
        serves_from: the oldest revision whose processes can start on it. Where they cannot, it is
            the new revision itself.
    """
    _run(f"INSERT INTO relay.releases VALUES ('{revision}', '{release}', '{serves_from}');\n")


def unmark(revision: str) -> None:
    """For a downgrade: take away what `mark` said."""
    _run(f"DELETE FROM relay.releases WHERE revision = '{revision}';\n")


def _read(name: str) -> str:
    return (FOLDER / f"{name}.sql").read_text(encoding="ascii")


def _run(script: str) -> None:
    """Send it as one simple query.

    asyncpg prepares anything else, and a prepared statement is a single command. SQLAlchemy's
    `text()` would also take `:word` for a parameter.
    """
    context = op.get_context()
    script = OWN_NAMES + script
    if context.as_sql:
        context.impl.static_output(script)
        return
    # Any: SQLAlchemy types this as a plain DBAPI connection; asyncpg's adapter has run_async.
    connection: Any = op.get_bind().connection.dbapi_connection
    connection.run_async(lambda driver: driver.execute(script))
