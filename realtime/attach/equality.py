"""How SQL compares a column by its type's own rules, whatever names the search path finds.

Triggers look at PostgreSQL's own names only. There, `citext = citext` compares as text does: 'A'
is not 'a', and no index on the column is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection

# The type whose indexes a column's are: that of a domain is what it is made of.
_OWN_EQUALITY: Final = """
WITH RECURSIVE types AS (
    SELECT t.oid, t.typbasetype FROM pg_type AS t
      JOIN pg_attribute AS a ON a.atttypid = t.oid
     WHERE a.attrelid = $1::text::regclass AND a.attname = $2 AND NOT a.attisdropped
    UNION ALL
    SELECT b.oid, b.typbasetype FROM types AS d JOIN pg_type AS b ON b.oid = d.typbasetype
)
SELECT quote_ident(n.nspname) AS schema, format_type(c.opcintype, NULL) AS type
  FROM types AS t
  JOIN pg_opclass AS c ON c.opcintype = t.oid AND c.opcdefault
  JOIN pg_am AS m ON m.oid = c.opcmethod AND m.amname = 'btree'
  JOIN pg_amop AS e ON e.amopfamily = c.opcfamily AND e.amopstrategy = 3
   AND e.amoplefttype = c.opcintype AND e.amoprighttype = c.opcintype
  JOIN pg_operator AS o ON o.oid = e.amopopr
  JOIN pg_namespace AS n ON n.oid = o.oprnamespace
 WHERE t.typbasetype = 0 AND n.nspname <> 'pg_catalog'
"""


async def equals(connection: AnyConnection, table: str, column: str) -> str:
    """`{} = {}` in SQL, for a value of this column and another: the second as its type.

    Args:
        table: as SQL names it.
    """
    row = await connection.fetchrow(_OWN_EQUALITY, table, column)
    return f"{{}} OPERATOR({row['schema']}.=) ({{}})::{row['type']}" if row else "{} = {}"
