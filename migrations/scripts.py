"""Runs the files under `sql/`. Called by the revisions in `versions/`.

A released file is never edited: a later change is a new file and a new revision, so that an old
database and a new one arrive at the same schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import op

from realtime.postgres.attach_templates import render_all
from realtime.postgres.mapping import read_mapping

FOLDER = Path(__file__).with_name("sql")


def run_scripts(*names: str) -> None:
    """Run `sql/<name>.sql` in alembic's transaction, or print it in offline mode."""
    for name in names:
        _run((FOLDER / f"{name}.sql").read_text(encoding="utf-8"))


def run_templates() -> None:
    """Run what `bin/attach` would, for the reference tables."""
    _run(render_all(read_mapping(), {}))


def _run(script: str) -> None:
    """Send it as one simple query.

    asyncpg prepares anything else, and a prepared statement is a single command. SQLAlchemy's
    `text()` would also take `:word` for a parameter.
    """
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(script)
        return
    # Any: SQLAlchemy types this as a plain DBAPI connection; asyncpg's adapter has run_async.
    connection: Any = op.get_bind().connection.dbapi_connection
    connection.run_async(lambda driver: driver.execute(script))
