"""Whether the database has the schema of this release."""

from __future__ import annotations

from collections.abc import Sequence

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem
from realtime.postgres.schema import SchemaError, check_encoding, check_schema

_OWNER = """
SELECT pg_get_userbyid(c.relowner)
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = 'relay' AND c.relname = 'events'
"""


async def schema(deployment: Deployment) -> Sequence[Finding]:
    """Whether there is a log at all."""
    async with deployment.connect() as connection:
        try:
            await check_encoding(connection)
        except SchemaError as error:
            return [_as_problem(error)]
        owner = await connection.fetchval(_OWNER)
        name = await connection.fetchval("SELECT current_database()")
    if owner is None:
        return [
            problem(
                f"the database {name} has no log: it is not migrated",
                "run bin/migrate with this DATABASE_URL, or bin/migrate --core if you have tables"
                " of your own (or correct the database's name)",
            )
        ]
    return [fine(f"the log is there, and belongs to {owner}")]


async def migrations(deployment: Deployment) -> Sequence[Finding]:
    """What a server finds at its start: applied in full, in part, or by a newer release."""
    async with deployment.connect() as connection:
        try:
            newer = await check_schema(connection, with_helpers=True)
        except SchemaError as error:
            return [_as_problem(error)]
    if newer:
        names = ", ".join(sorted(newer))
        return [fine(f"they are a newer release's ({names}), which still serves this one")]
    return [fine("they are those of this release")]


def _as_problem(error: SchemaError) -> Finding:
    said, _, cure = str(error).rpartition(": ")
    return problem(said, cure)
