"""Who else can act as the owner of the schema `relay`, as whom triggers and access functions run.

Reading a table runs its policies, and calling a function runs the one that fits best. So whoever
decides about these decides what the owner runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realtime.attach.state import read_record
from realtime.doctor.columns import COMMENT
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, listed, problem, warning
from realtime.doctor.triggers import TRIGGERS

if TYPE_CHECKING:
    import asyncpg

_OWNER = """
SELECT c.relowner AS oid, quote_ident(pg_get_userbyid(c.relowner)) AS name
  FROM pg_class AS c WHERE c.oid = 'relay.events'::regclass
"""
_OWNERS_OF_TABLES = f"""
SELECT quote_ident(pg_get_userbyid(c.relowner)) AS owner,
       array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY n.nspname, c.relname) AS tables
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE (c.oid IN (SELECT o.tgrelid FROM ({TRIGGERS}) AS o)
        OR EXISTS (SELECT FROM unnest($1::text[]) AS looked_up (name)
                    WHERE ARRAY[n.nspname::text, c.relname::text] = parse_ident(name)))
   AND NOT pg_has_role(c.relowner, $2::oid, 'USAGE')
 GROUP BY c.relowner
 ORDER BY 1
"""
# Of functions with one name the best match is called, and a trigger's runs as who writes the row.
_GRANTED = """
SELECT a.privilege_type AS privilege, string_agg(o.name, ', ' ORDER BY o.name) AS names,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
  FROM (SELECT 'SCHEMA relay' AS name, nspacl AS acl, 'CREATE' AS privilege
          FROM pg_namespace WHERE nspname = 'relay'
        UNION ALL
        SELECT oid::regclass::text, relacl, 'TRIGGER' FROM pg_class
         WHERE relnamespace = 'relay'::regnamespace AND relkind IN ('r', 'p')) AS o,
       aclexplode(o.acl) AS a
 WHERE a.privilege_type = o.privilege
   AND (a.grantee = 0 OR NOT pg_has_role(a.grantee, $1::oid, 'USAGE'))
 GROUP BY a.privilege_type, a.grantee
 ORDER BY 3, 1
"""
_NOT_OURS = """
SELECT quote_ident(pg_get_userbyid(o.owner)) AS owner, array_agg(o.name ORDER BY o.name) AS names
  FROM (SELECT 'the schema relay' AS name, nspowner AS owner
          FROM pg_namespace WHERE nspname = 'relay'
        UNION ALL
        SELECT oid::regclass::text, relowner FROM pg_class
         WHERE relnamespace = 'relay'::regnamespace AND relkind IN ('r', 'p')) AS o
 WHERE NOT pg_has_role(o.owner, $1::oid, 'USAGE')
 GROUP BY o.owner
 ORDER BY 1
"""


async def owners(deployment: Deployment) -> Sequence[Finding]:
    """Name the owners of tables, and whoever was granted more than a server needs."""
    async with deployment.connect() as connection:
        owner = await connection.fetchrow(_OWNER)
        assert owner is not None
        record = read_record(await connection.fetchval(COMMENT))
        lookups = list(record.get("lookups", {}))
        tables = await connection.fetch(_OWNERS_OF_TABLES, lookups, owner["oid"])
        granted = await connection.fetch(_GRANTED, owner["oid"])
        not_ours = await connection.fetch(_NOT_OURS, owner["oid"])
    found = [_is_not_ours(row, owner["name"]) for row in not_ours]
    found += [_is_granted(row, owner["name"]) for row in granted]
    found += [_owns_tables(row, owner["name"]) for row in tables]
    return found or [fine(f"nobody else can act as {owner['name']}, the owner of relay")]


def _is_not_ours(row: asyncpg.Record, owner: str) -> Finding:
    return problem(
        f"{row['owner']} owns {listed(row['names'])}, and so can act as {owner}, who owns the log",
        f"ALTER … OWNER TO {owner}",
    )


def _is_granted(row: asyncpg.Record, owner: str) -> Finding:
    right = f"{row['privilege']} ON {row['names']}"
    return problem(
        f"{row['grantee']} has {right}, and so can act as {owner}, the owner of relay",
        f"REVOKE {right} FROM {row['grantee']}",
    )


def _owns_tables(row: asyncpg.Record, owner: str) -> Finding:
    return warning(
        f"{row['owner']} owns {listed(row['tables'])}, and so can act as {owner}, the owner of"
        " relay",
        f"accept that if you trust {row['owner']} like {owner}, or make both one role"
        " (docs/security.md, Rights in the database)",
    )
