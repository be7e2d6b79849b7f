"""Whether the role of DATABASE_URL has the rights that a server needs (docs/security.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, warning


class Right(NamedTuple):
    """Something, and what has to be allowed with it."""

    kind: str
    name: str
    privileges: tuple[str, ...]


SCHEMA = Right("SCHEMA", "relay", ("USAGE",))
NEEDED = (
    SCHEMA,
    Right("FUNCTION", "relay.authenticate(text,text)", ("EXECUTE",)),
    Right("FUNCTION", "relay.authorize(uuid,uuid)", ("EXECUTE",)),
    Right("FUNCTION", "relay.this_database()", ("EXECUTE",)),
    Right("FUNCTION", "relay.timeline()", ("EXECUTE",)),
    Right("FUNCTION", "relay.microseconds(timestamp with time zone)", ("EXECUTE",)),
    Right("FUNCTION", "relay.readable(text)", ("EXECUTE",)),
    Right("FUNCTION", "relay.forget_foreign_log()", ("EXECUTE",)),
    Right("FUNCTION", "relay.listen()", ("EXECUTE",)),
    Right("FUNCTION", "relay.is_listening()", ("EXECUTE",)),
    Right("FUNCTION", "relay.epoch_as_told()", ("EXECUTE",)),
    Right("FUNCTION", "relay.tell(text,text)", ("EXECUTE",)),
    Right("TABLE", "relay.alembic_version", ("SELECT",)),
    Right("TABLE", "relay.cursor_keys", ("SELECT",)),
    Right("TABLE", "relay.events", ("SELECT",)),
    Right("TABLE", "relay.events_0", ("SELECT", "TRUNCATE")),
    Right("TABLE", "relay.events_1", ("SELECT", "TRUNCATE")),
    Right("TABLE", "relay.events_2", ("SELECT", "TRUNCATE")),
    Right("TABLE", "relay.events_3", ("SELECT", "TRUNCATE")),
    Right("TABLE", "relay.doorbell_turn", ("UPDATE",)),
    Right("TABLE", "relay.retention_turn", ("UPDATE",)),
    Right("TABLE", "relay.floor", ("SELECT", "UPDATE")),
    Right("TABLE", "relay.nodes", ("SELECT", "INSERT", "UPDATE", "DELETE")),
    Right("TABLE", "relay.connections", ("SELECT", "INSERT", "DELETE")),
    Right("TABLE", "relay.snapshots", ("SELECT", "INSERT", "UPDATE", "DELETE")),
    Right("SEQUENCE", "relay.events_id", ("SELECT",)),
    Right("SEQUENCE", "relay.current_slot", ("SELECT", "UPDATE")),
    Right("SEQUENCE", "relay.bell", ("SELECT", "UPDATE")),
    Right("SEQUENCE", "relay.epoch", ("SELECT", "UPDATE")),
)
# Not by to_regclass and the like: these refuse who may not use the schema.
_FUNCTION = """
SELECT p.oid FROM pg_proc AS p
 WHERE p.pronamespace = 'relay'::regnamespace AND $1 = concat(
       'relay.', p.proname, '(', replace(oidvectortypes(p.proargtypes), ', ', ','), ')')
"""
_RELATION = """
SELECT c.oid FROM pg_class AS c
 WHERE c.relnamespace = 'relay'::regnamespace AND $1 = concat('relay.', c.relname)
"""
_MAY = {
    "SCHEMA": "has_schema_privilege($1, $2)",
    "FUNCTION": f"has_function_privilege(({_FUNCTION}), $2)",
    "TABLE": f"has_table_privilege(({_RELATION}), $2)",
    "SEQUENCE": f"has_sequence_privilege(({_RELATION}), $2)",
}
# Triggers and relay.emit run as their owners, who write the log and have it returned.
_OWNERS = """
SELECT DISTINCT quote_ident(pg_get_userbyid(p.proowner)) AS owner
  FROM pg_proc AS p
 WHERE p.pronamespace = 'relay'::regnamespace AND p.prosecdef
   AND (p.prorettype = 'trigger'::regtype OR p.proname IN ('emit', 'notify_user', 'eject'))
   AND NOT (has_schema_privilege(p.proowner, 'relay', 'USAGE')
        AND has_table_privilege(p.proowner, to_regclass('relay.events')::oid, 'INSERT')
        AND has_table_privilege(p.proowner, to_regclass('relay.events')::oid, 'SELECT')
        AND has_sequence_privilege(p.proowner, to_regclass('relay.events_id')::oid, 'USAGE')
        AND has_sequence_privilege(p.proowner, to_regclass('relay.bell')::oid, 'USAGE, SELECT')
        AND has_sequence_privilege(p.proowner, to_regclass('relay.epoch')::oid, 'USAGE')
        AND NOT EXISTS (
            SELECT FROM pg_proc AS f
             WHERE f.pronamespace = 'relay'::regnamespace AND f.prorettype <> 'trigger'::regtype
               AND NOT has_function_privilege(p.proowner, f.oid, 'EXECUTE')))
"""


# As after a restore without the rights of the dump.
_EVERYBODYS = """
SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p
 WHERE p.pronamespace = 'relay'::regnamespace
   AND has_function_privilege('public', p.oid, 'EXECUTE')
 ORDER BY name
"""

# The server's role is one that may raise the floor; functions of other owners write the log, too.
_GRANTED = """
SELECT c.oid::regclass::text AS name, string_agg(a.privilege_type, ', ' ORDER BY 1) AS privileges,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
  FROM pg_class AS c, aclexplode(c.relacl) AS a
 WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p')
   AND c.relname ~ '^(cursor_keys|events(_[0-3])?)$'
   AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') AND a.grantee <> c.relowner
   AND (a.grantee = 0
        OR NOT has_table_privilege(a.grantee, to_regclass('relay.floor')::oid, 'UPDATE')
           AND a.grantee NOT IN (SELECT p.proowner FROM pg_proc AS p
                                  WHERE p.pronamespace = 'relay'::regnamespace AND p.prosecdef))
 GROUP BY c.oid, a.grantee
 ORDER BY 1, 3
"""


async def rights(deployment: Deployment) -> Sequence[Finding]:
    """Ask for each right by its name. Something that is not there is the migrations' business."""
    found = []
    async with deployment.connect() as connection:
        role = await connection.fetchval("SELECT quote_ident(current_user)")
        for right in NEEDED:
            for privilege in right.privileges:
                query = f"SELECT {_MAY[right.kind]}"
                if await connection.fetchval(query, right.name, privilege) is False:
                    found.append(_lacks(role, privilege, right))
        if _lacks(role, "USAGE", SCHEMA) in found:
            return found  # all else would be refused
        owners = [row["owner"] for row in await connection.fetch(_OWNERS)]
        everybodys = [row["name"] for row in await connection.fetch(_EVERYBODYS)]
        granted = await connection.fetch(_GRANTED)
    found += [_cannot_write(owner) for owner in owners]
    found += [_is_granted(row["grantee"], row["privileges"], row["name"]) for row in granted]
    if everybodys:
        found.append(_is_everybodys(everybodys))
    return found or [fine(f"the role {role} has all that a server needs")]


def _lacks(role: str, privilege: str, right: Right) -> Finding:
    kind = "" if right.kind == "TABLE" else f"{right.kind} "
    return problem(
        f"the role {role} lacks {privilege} on {right.name}",
        f"GRANT {privilege} ON {kind}{right.name} TO {role}",
    )


def _is_everybodys(names: Sequence[str]) -> Finding:
    said = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more functions"
    return warning(
        f"whoever may use the schema relay may call {said}: was it restored without its rights?",
        "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC",
    )


def _is_granted(grantee: str, privileges: str, name: str) -> Finding:
    has_keys = name.endswith("cursor_keys")
    reads, writes = "SELECT" in privileges, privileges != "SELECT"
    does = ["forge cursors"] if has_keys else ["read all events"] * reads + ["forge some"] * writes
    then = "; then bin/rotate cursor-key" if has_keys else ""
    return warning(
        f"{grantee} has {privileges} on {name}, as only the owner and the server need,"
        f" and so may {' and '.join(does)}",
        f"REVOKE {privileges} ON {name} FROM {grantee}{then}",
    )


def _cannot_write(owner: str) -> Finding:
    return problem(
        f"functions of relay run as {owner}, who may not write the log: writers' statements fail",
        "make the log's owner the owner of these functions again: ALTER FUNCTION … OWNER TO …",
    )
