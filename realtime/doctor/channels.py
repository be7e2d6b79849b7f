"""Whether the names of the channels are secret, and stay it."""

from __future__ import annotations

from collections.abc import Sequence

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, warning

# What a role may do by a grant, not what superusers and members of the owner may anyway.
_GRANTED = """
SELECT DISTINCT c.oid::regclass::text AS name,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
  FROM pg_class AS c, aclexplode(c.relacl) AS a
 WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind = 'S'
   AND c.relname IN ('ring_channel', 'typing_channel') AND a.grantee <> c.relowner
 ORDER BY 1, 2
"""
# A dump that is restored makes the sequences anew, and these rights with them.
_DEFAULTS = """
SELECT DISTINCT d.defaclrole::regrole::text AS owner,
       CASE WHEN d.defaclnamespace = 0 THEN '' ELSE ' IN SCHEMA relay' END AS place,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
  FROM pg_default_acl AS d, aclexplode(d.defaclacl) AS a
 WHERE d.defaclobjtype = 'S' AND a.grantee <> d.defaclrole
   AND d.defaclrole = (SELECT relowner FROM pg_class WHERE oid = 'relay.ring_channel'::regclass)
   AND d.defaclnamespace IN (0, 'relay'::regnamespace)
 ORDER BY 1, 2, 3
"""
# pg_settings knows a setting of an extension only where that is loaded.
_RECORDED = """
SELECT quote_ident(pg_get_userbyid(p.proowner)) AS owner
  FROM pg_proc AS p
 WHERE p.pronamespace = 'relay'::regnamespace AND p.proname = 'listen'
   AND NOT has_parameter_privilege(p.proowner, 'pg_stat_statements.track', 'SET')
   AND (SELECT count(*) = 2 FROM pg_settings AS s
         WHERE (s.name, s.setting) IN (
               ('pg_stat_statements.track', 'all'), ('pg_stat_statements.track_utility', 'on')))
"""


async def channels(deployment: Deployment) -> Sequence[Finding]:
    """Look who was granted the sequences or would be, and whether the names are recorded."""
    async with deployment.connect() as connection:
        granted = await connection.fetch(_GRANTED)
        defaults = await connection.fetch(_DEFAULTS)
    async with deployment.connect(direct=True) as connection, connection.transaction():
        # All settings are more than 64 kB, and a role may be allowed no temporary files.
        await connection.execute("SET LOCAL work_mem = '4MB'")
        owner = await connection.fetchval(_RECORDED)
    found = [
        problem(
            f"{row['grantee']} can read or change {row['name']}, the secret name of a channel:"
            " whoever knows it can read and forge what servers tell each other",
            f"REVOKE ALL ON SEQUENCE {row['name']} FROM {row['grantee']}; then bin/rotate channels",
        )
        for row in granted
    ] + [
        warning(
            f"new sequences of {row['owner']} are granted to {row['grantee']}: in a restored dump"
            " the secret names of the channels would be, too",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {row['owner']}{row['place']}"
            f" REVOKE ALL ON SEQUENCES FROM {row['grantee']}",
        )
        for row in defaults
    ]
    if owner:
        found.append(_is_recorded(owner, carries=deployment.settings.carry_events))
    return found or [fine("their names are secret")]


def _is_recorded(owner: str, *, carries: bool) -> Finding:
    said = (
        "pg_stat_statements records the statements inside of functions, and so the secret names of"
        " the channels: a role in pg_read_all_stats can read and forge what servers tell each other"
    )
    cure = (
        "set pg_stat_statements.track = 'top' for the server's role (ALTER ROLE … SET), or"
        f" GRANT SET ON PARAMETER pg_stat_statements.track TO {owner}; then bin/rotate channels"
    )
    return problem(f"{said}, messages too", cure) if carries else warning(said, cure)
