"""Whether row security hides rows from the functions that decide who may watch.

`relay.authenticate`, `relay.authorize` and the triggers run as their owner. Where row security is
on for a table and that owner is neither superuser, nor exempt, nor the table's own, they see what a
policy lets them see: without one nothing, and everybody is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from realtime.attach.catalogue import ALL_ROWS, SHOWS_ALL
from realtime.attach.state import MADE_BY, is_own, read_record
from realtime.doctor.columns import COMMENT
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, warning
from realtime.doctor.triggers import TRIGGERS

if TYPE_CHECKING:
    import asyncpg

# The server's own role reads the log, and nothing of the platform.
_HIDDEN = f"""
WITH roles AS (
    SELECT r.oid, r.rolname, false AS is_server FROM pg_roles AS r
     WHERE r.oid IN (SELECT p.proowner FROM pg_proc AS p
                      WHERE p.pronamespace = 'relay'::regnamespace AND p.prosecdef)
       AND NOT r.rolsuper AND NOT r.rolbypassrls
    UNION
    SELECT r.oid, r.rolname, true FROM pg_roles AS r
     WHERE r.rolname = current_user AND NOT r.rolsuper AND NOT r.rolbypassrls
)
SELECT DISTINCT format('%I.%I', n.nspname, c.relname) AS table, quote_ident(r.rolname) AS role,
       bool_or(coalesce(p.polpermissive, false)) AS is_let_in,
       {SHOWS_ALL} AS sees_all
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN roles AS r
  LEFT JOIN pg_policy AS p ON p.polrelid = c.oid AND p.polcmd IN ('*', 'r')
   AND (0 = ANY (p.polroles)
        OR EXISTS (SELECT FROM pg_roles AS o
                    WHERE o.oid = ANY (p.polroles) AND pg_has_role(r.oid, o.oid, 'USAGE')))
 CROSS JOIN LATERAL ({ALL_ROWS}) AS s
 WHERE c.relrowsecurity
   AND (n.nspname = 'relay'
        OR NOT r.is_server AND (c.oid IN (SELECT o.tgrelid FROM ({TRIGGERS}) AS o)
            OR EXISTS (SELECT FROM unnest($1::text[]) AS looked_up (name)
                        WHERE ARRAY[n.nspname::text, c.relname::text] = parse_ident(name))))
   AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
 GROUP BY 1, 2
 ORDER BY 1, 2
"""

# Where bin/attach made the other function. A comment stays when a function is replaced, and goes
# when it is dropped.
_AUTHORIZE = """
SELECT p.prosrc AS body, quote_ident(pg_get_userbyid(p.proowner)) AS owner,
       coalesce(starts_with(obj_description(p.oid, 'pg_proc'), $1), false) AS is_marked
  FROM pg_proc AS p
 WHERE p.oid = to_regprocedure('relay.authorize(uuid,uuid)')
   AND starts_with(
       obj_description(to_regprocedure('relay.authenticate(text,text)'), 'pg_proc'), $1)
"""


async def row_security(deployment: Deployment) -> Sequence[Finding]:
    """Name each table whose rows may be hidden, and from whom."""
    async with deployment.connect() as connection:
        record = read_record(await connection.fetchval(COMMENT))
        rows = await connection.fetch(_HIDDEN, list(record.get("lookups", {})))
        authorize = await connection.fetchrow(_AUTHORIZE, MADE_BY)
    found = [_judge(row) for row in rows if not row["sees_all"]]
    return found or [fine(_hides_nothing(authorize, record))]


def _hides_nothing(authorize: asyncpg.Record | None, record: Mapping[str, Any]) -> str:
    """Of a function that the platform wrote, nobody knows which tables it reads."""
    if authorize is None or (authorize["is_marked"] and not is_own(record, authorize["body"])):
        return "it hides nothing from the functions that decide about access"
    return (
        "it hides nothing from the functions of bin/attach. relay.authorize is your own: of the"
        f" other tables that it reads, look yourself which rows {authorize['owner']} sees"
        " (docs/adopting.md, Access through other tables)"
    )


def _judge(row: asyncpg.Record) -> Finding:
    table, role = row["table"], row["role"]
    cure = (
        f"ALTER ROLE {role} BYPASSRLS, or CREATE POLICY relay ON {table} FOR SELECT TO {role}"
        " USING (true)"
    )
    if row["is_let_in"]:
        return warning(f"row security may hide rows of {table} from {role}", cure)
    return problem(f"row security hides every row of {table} from {role}", cure)
