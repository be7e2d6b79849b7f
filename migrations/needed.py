"""Lists what the schema relay must have: `python -m migrations.needed`.

It migrates two new databases, one with the log alone and one with the reference tables, and writes
what they have into `realtime/postgres/needed.py`. Run it after each change of the schema. What
bin/attach makes for a platform's tables depends on the mapping, and is in neither.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import asyncpg

from realtime.embedded.server import EmbeddedPostgres
from realtime.installation import PROJECT
from realtime.postgres.schema import migrate

TARGET = PROJECT / "realtime" / "postgres" / "needed.py"
HEADER = '''"""What the schema relay has. Made by: python -m migrations.needed

Change the migrations, not this file, and run that again.
"""
'''
# Triggers of the reference tables are told by the doctor's check of these, and a table that is not
# wanted may be dropped with its functions.
_FUNCTIONS = """
SELECT replace(oid::regprocedure::text, 'timestamp with time zone', 'timestamptz') AS name,
       prorettype = 'trigger'::regtype AS is_trigger
  FROM pg_proc WHERE pronamespace = 'relay'::regnamespace
 ORDER BY 1
"""
# An index of a partition goes and comes with that of the whole.
_RELATIONS = """
SELECT oid::regclass::text AS name FROM pg_class
 WHERE relnamespace = 'relay'::regnamespace AND relkind IN ('r', 'p', 'S', 'i', 'I')
   AND NOT (relispartition AND relkind = 'i') AND relname NOT LIKE 'alembic%'
 ORDER BY 1
"""


class Things(NamedTuple):
    """What the schema relay of one database has."""

    functions: set[str]
    helpers: set[str]
    """The functions that no trigger calls by itself."""
    relations: set[str]


async def things_of(dsn: str) -> Things:
    """Read what a database has from its catalogue."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        functions = await connection.fetch(_FUNCTIONS)
        relations = await connection.fetch(_RELATIONS)
    finally:
        await connection.close(timeout=10)
    return Things(
        {row["name"] for row in functions},
        {row["name"] for row in functions if not row["is_trigger"]},
        {row["name"] for row in relations},
    )


def written(core: Things, whole: Things) -> str:
    """The module, given what the log alone has, and what is there with the reference tables."""
    lists = {
        "FUNCTIONS": (core.functions, "Those that all databases have."),
        "OF_REFERENCE_TABLES": (
            whole.helpers - core.functions,
            "Those that the triggers and the access functions of the reference tables call.",
        ),
        "RELATIONS": (core.relations, "Tables, sequences and indexes."),
    }
    return HEADER + "".join(_listed(name, *what) for name, what in lists.items())


def _listed(name: str, members: Collection[str], meaning: str) -> str:
    # Quoted as ruff does it: a name may have double quotes of its own.
    quoted = (repr(one) if '"' in one else f'"{one}"' for one in sorted(members))
    lines = "".join(f"    {one},\n" for one in quoted)
    return f'\n{name} = (\n{lines})\n"""{meaning}"""\n'


def main() -> None:
    """Make the databases, and write the file."""
    with tempfile.TemporaryDirectory(prefix="realtime-") as home:
        Path(home).chmod(0o711)  # as root, the server's own account must get in
        server = EmbeddedPostgres(Path(home) / "postgres")
        server.start()
        try:
            server.sql("CREATE DATABASE core_alone")
            migrate(server.dsn("core_alone"), core_alone=True)
            migrate(server.dsn())
            core = asyncio.run(things_of(server.dsn("core_alone")))
            whole = asyncio.run(things_of(server.dsn()))
        finally:
            server.stop("immediate")
    TARGET.write_text(written(core, whole), encoding="ascii")


if __name__ == "__main__":
    main()
    print(TARGET)
