"""What `check` asks PostgreSQL's catalogue about the tables that a mapping names."""

from __future__ import annotations

from typing import Final

from realtime.attach.column_types import NEVER_NULL
from realtime.attach.derived import BASE_OF_TYPE
from realtime.postgres.shared_names import as_bytes

ALL_ROWS: Final = """
SELECT coalesce(pg_get_expr(p.polqual, p.polrelid) = 'true', true) AS all_rows"""
"""Whether the policy `p` is about all rows."""
SHOWS_ALL: Final = """
(bool_or(p.polpermissive AND s.all_rows) IS TRUE
    AND bool_or(NOT p.polpermissive AND NOT s.all_rows) IS NOT TRUE)"""
"""Whether policies show all rows: one does, and none takes some away."""
# Whether row security may hide rows.
_IS_HIDDEN: Final = f"""
c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls
    AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
    AND (SELECT NOT {SHOWS_ALL}
           FROM pg_policy AS p
          CROSS JOIN LATERAL ({ALL_ROWS}) AS s
          WHERE p.polrelid = c.oid AND p.polcmd IN ('*', 'r')
            AND (0 = ANY (p.polroles) OR EXISTS (
                SELECT FROM pg_roles AS o
                 WHERE o.oid = ANY (p.polroles) AND pg_has_role(r.oid, o.oid, 'USAGE'))))"""
_OWNER: Final = as_bytes("pg_get_userbyid(c.relowner)")
# How a foreign table below the table `c` is taken off from the one that it is below.
_FOREIGN: Final = """
WITH RECURSIVE below (oid, parent) AS (
    SELECT i.inhrelid, i.inhparent FROM pg_inherits AS i WHERE i.inhparent = c.oid
    UNION
    SELECT i.inhrelid, i.inhparent FROM below AS b JOIN pg_inherits AS i ON i.inhparent = b.oid
)
SELECT CASE WHEN f.relispartition
            THEN format('ALTER TABLE %s DETACH PARTITION %s', b.parent::regclass, f.oid::regclass)
            ELSE format('ALTER FOREIGN TABLE %s NO INHERIT %s', f.oid::regclass, b.parent::regclass)
       END
  FROM below AS b JOIN pg_class AS f ON f.oid = b.oid AND f.relkind = 'f'
 ORDER BY 1"""
TABLES: Final = f"""
SELECT k.key, c.oid, c.relkind, c.relispartition, {_OWNER} AS owner,
       pg_has_role(c.relowner, 'USAGE') AS is_ours,
       pg_has_role(c.relowner, r.oid, 'USAGE') AS may_act_as_us,
       {_IS_HIDDEN} AS is_hidden,
       (SELECT i.inhparent::regclass::text FROM pg_inherits AS i
         WHERE i.inhrelid = c.oid AND NOT c.relispartition LIMIT 1) AS parent,
       (SELECT i.inhrelid::regclass::text FROM pg_inherits AS i
         WHERE i.inhparent = c.oid AND c.relkind = 'r' LIMIT 1) AS child,
       array({_FOREIGN}) AS foreign_cures,
       has_schema_privilege(r.oid, n.oid, 'USAGE') AS has_schema,
       has_table_privilege(r.oid, c.oid, 'SELECT') AS has_select
  FROM unnest($1::text[], $2::text[], $3::text[]) AS k (key, schema, name)
  JOIN pg_namespace AS n ON n.nspname = k.schema
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = k.name
  JOIN pg_roles AS r ON r.rolname = $4
"""
COLUMNS: Final = f"""
SELECT a.attname, quote_ident(a.attname) AS sql_name,
       format_type(a.atttypid, a.atttypmod) AS type,
       base.typname AS base, format_type(base.oid, NULL) AS base_name,
       base.typcategory AS category, t.typtype = 'd' AS is_domain,
       a.attgenerated = 'v' AS is_virtual, {NEVER_NULL} AS is_never_null
  FROM pg_attribute AS a
  JOIN pg_type AS t ON t.oid = a.atttypid
  {BASE_OF_TYPE}
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
"""
INDEXES: Final = """
SELECT array(SELECT a.attname::text
               FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY
                 AS k (attnum, number)
               JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              ORDER BY k.number) AS columns,
       i.indisunique AS is_unique, pg_get_expr(i.indpred, i.indrelid) AS predicate
  FROM pg_index AS i
 WHERE i.indrelid = $1 AND i.indisvalid AND i.indexprs IS NULL
"""
LOOKUP: Final = f"""
SELECT c.oid, {_OWNER} AS owner,
       pg_has_role(c.relowner, r.oid, 'USAGE') AS may_act_as_us,
       has_schema_privilege(r.oid, n.oid, 'USAGE') AS has_schema,
       has_table_privilege(r.oid, c.oid, 'SELECT') AS has_select, {_IS_HIDDEN} AS is_hidden
  FROM pg_namespace AS n
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = $2
  JOIN pg_roles AS r ON r.rolname = $3
 WHERE n.nspname = $1
"""
# In the database's encoding: in LATIN1 each character is one byte.
TOO_LONG: Final = "SELECT name FROM unnest($1::text[]) AS name WHERE octet_length(name) > $2"
SAME_NAME: Final = """
SELECT t.tgname::text AS name FROM pg_trigger AS t
  JOIN pg_proc AS p ON p.oid = t.tgfoid
 WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgname = ANY ($2::text[])
   AND p.pronamespace <> 'relay'::regnamespace
 ORDER BY name
"""
