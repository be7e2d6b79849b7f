"""What a schema is, read from PostgreSQL's catalogue, to compare two databases.

Each thing is a line, so that the difference of two databases is a list of lines.
"""

from __future__ import annotations

import asyncpg

OURS = "IN ('relay', 'public')"
LINES = {
    "function": f"""
        SELECT p.oid::regprocedure || ' ' || coalesce(p.proacl::text, '') || ' '
               || pg_get_functiondef(p.oid)
          FROM pg_proc AS p WHERE p.pronamespace::regnamespace::text {OURS}""",
    "trigger": f"""
        SELECT pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
          FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
         WHERE c.relnamespace::regnamespace::text {OURS} AND NOT t.tgisinternal""",
    "relation": f"""
        SELECT c.oid::regclass || ' ' || c.relkind::text || c.relpersistence::text || ' '
               || coalesce(c.relacl::text, '') || ' ' || coalesce(obj_description(c.oid), '')
          FROM pg_class AS c WHERE c.relnamespace::regnamespace::text {OURS}""",
    "column": f"""
        SELECT c.oid::regclass || '.' || a.attname || ' ' || a.attnum || ' '
               || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' '
               || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || ' '
               || coalesce(a.attacl::text, '') || a.attstorage::text || ' '
               || coalesce(col_description(c.oid, a.attnum), '')
          FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace::regnamespace::text {OURS} AND a.attnum > 0 AND NOT a.attisdropped
           AND c.relkind IN ('r', 'p')""",
    "index": f"""
        SELECT pg_get_indexdef(c.oid) FROM pg_class AS c
         WHERE c.relnamespace::regnamespace::text {OURS} AND c.relkind IN ('i', 'I')""",
    "constraint": f"""
        SELECT o.conrelid::regclass || ' ' || o.conname || ' ' || pg_get_constraintdef(o.oid)
          FROM pg_constraint AS o WHERE o.connamespace::regnamespace::text {OURS}""",
    "sequence": f"""
        SELECT concat_ws(' ', sequencename, data_type, start_value, min_value, max_value,
                         increment_by, cycle, cache_size)
          FROM pg_sequences WHERE schemaname {OURS}""",
    "comment": f"""
        SELECT p.oid::regprocedure || ' ' || obj_description(p.oid, 'pg_proc')
          FROM pg_proc AS p WHERE p.pronamespace::regnamespace::text {OURS}
           AND obj_description(p.oid, 'pg_proc') IS NOT NULL""",
    "schema": f"""
        SELECT n.nspname || ' ' || coalesce(n.nspacl::text, '')
          FROM pg_namespace AS n WHERE n.nspname {OURS}""",
}


async def schema_of(dsn: str) -> list[str]:
    """Functions with their source, triggers, tables, columns, indexes, rights, comments."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        lines = []
        for kind, query in LINES.items():
            lines += [f"{kind}: {row[0]}" for row in await connection.fetch(query)]
        return sorted(lines)
    finally:
        await connection.close(timeout=10)
