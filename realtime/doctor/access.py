"""Whether the functions that decide about access can be asked, and answer for this moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg

from realtime.attach.state import MADE_BY, is_own, read_record
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, warning
from realtime.postgres.access import try_access
from realtime.postgres.own_names import OWN_PATH, without_path
from realtime.postgres.reasons import words

if TYPE_CHECKING:
    from realtime.doctor.deployment import Connection

_FUNCTIONS = """
SELECT p.oid::regprocedure::text AS name, p.provolatile::text AS volatility, p.prosecdef,
       p.prosrc AS body, obj_description(p.oid, 'pg_proc') AS comment
  FROM pg_proc AS p
 WHERE p.pronamespace = 'relay'::regnamespace AND p.proname IN ('authenticate', 'authorize')
"""
_QUESTIONS = {
    "relay.authenticate": "SELECT count(*) FROM relay.authenticate($1::text, $2)",
    "relay.authorize": "SELECT count(*) FROM relay.authorize($1::text::uuid, $2::text::uuid)",
}


async def access(deployment: Deployment) -> Sequence[Finding]:
    """Ask both functions about a user who does not exist: that needs the same rights.

    Then ask as a server does, which also needs the columns of what they return.
    """
    nobody = str(uuid4())
    asked = {
        "relay.authenticate": (nobody, deployment.settings.jwt_subject),
        "relay.authorize": (nobody, nobody),
    }
    found = []
    async with deployment.connect(as_server=True) as connection:
        for name, arguments in asked.items():
            try:
                await connection.fetchval(_QUESTIONS[name], *arguments)
            except asyncpg.PostgresError as error:
                found.append(
                    problem(
                        f"{name} fails: {words(error)}; every handshake would be refused",
                        "give its owner the rights on the tables that it reads, or bring it up to"
                        " date: bin/migrate, or bin/attach for the platform's own tables",
                    )
                )
        if not found:
            found += await _asked_as_a_server(connection, deployment.settings.jwt_subject)
    async with deployment.connect() as connection:
        rows = await connection.fetch(_FUNCTIONS)
        pathless = await without_path(connection)
    for row in rows:
        if row["volatility"] == "v":
            found.append(
                problem(
                    f"{row['name']} is VOLATILE: it does not see the snapshot of the statement",
                    f"ALTER FUNCTION {row['name']} STABLE",
                )
            )
        if row["name"] in pathless:
            found.append(
                warning(
                    f"{row['name']} sets no search_path: for it, a server looks through its role's"
                    " path, where others may have made functions and operators",
                    "name everything in it with its schema, operators of extensions too (as in"
                    " OPERATOR(public.=)), and then ALTER FUNCTION"
                    f" {row['name']} SET search_path = {OWN_PATH}; then restart the servers",
                )
            )
        record = read_record(row["comment"] if (row["comment"] or "").startswith(MADE_BY) else None)
        if record.get("lets_nobody_in") and not is_own(record, row["body"]):
            found.append(
                problem(
                    f"{row['name']} lets nobody watch a bot: the mapping has neither an owner nor"
                    " permissions",
                    "run the SQL that makes a relay.authorize of your own (docs/adopting.md,"
                    " Access through other tables)",
                )
            )
    return found or [fine("relay.authenticate and relay.authorize answer")]


async def _asked_as_a_server(connection: Connection, subject_kind: str) -> list[Finding]:
    try:
        await try_access(connection, subject_kind)
    except asyncpg.PostgresError as error:
        return [
            problem(
                f"what a server asks about access fails: {words(error)}; every handshake would be"
                " refused",
                "bring back what is missing; a relay.authorize of your own returns bot_name, role"
                " and username (docs/adopting.md, Access through other tables)",
            )
        ]
    return []
