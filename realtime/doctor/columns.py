"""Whether the tables still are what the triggers were made for: names, columns and their types.

And whether each row has an id still: NOT NULL may have been dropped.

PostgreSQL does not look into a trigger function when a column is dropped. So the first to notice is
a writer, whose statement fails. `bin/attach` wrote down what the functions read; of the reference
tables the default mapping says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from realtime.attach.column_types import NEVER_NULL
from realtime.attach.mapping import COLUMNS, Kind, read_mapping
from realtime.attach.state import MADE_BY, read_record
from realtime.attach.templates import quoted, table_name
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem
from realtime.doctor.triggers import TRIGGERS

COMMENT: Final = """
SELECT obj_description(to_regprocedure('relay.authorize(uuid,uuid)'), 'pg_proc')
"""
# Not by to_regclass, which refuses who may not use the schema: a server's role need not.
_TABLE: Final = """
SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE ARRAY[n.nspname::text, c.relname::text] = parse_ident({name})
"""
_COLUMNS: Final = f"""
SELECT asked.oid IS NOT NULL AS is_there,
       array(SELECT a.attname::text FROM pg_attribute AS a
              WHERE a.attrelid = asked.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS names,
       array(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
              WHERE a.attrelid = asked.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS types,
       array(SELECT a.attname::text FROM pg_attribute AS a
              WHERE a.attrelid = asked.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND NOT {NEVER_NULL}) AS nullable
  FROM (SELECT ({_TABLE.format(name="$1")}) AS oid) AS asked
"""
_WITHOUT: Final = f"""
SELECT asked.oid IS NOT NULL
       AND NOT EXISTS (SELECT FROM ({TRIGGERS}) AS ours WHERE ours.tgrelid = asked.oid) AS has_none
  FROM unnest($1::text[]) WITH ORDINALITY AS given (name, number),
       LATERAL (SELECT ({_TABLE.format(name="given.name")}) AS oid) AS asked
 ORDER BY given.number
"""
AGAIN: Final = (
    "run bin/attach with your mapping, corrected where it names what is gone, and --apply"
)

_TYPES: Final = {
    Kind.ID: "uuid",
    Kind.TEXT: "text",
    Kind.FLAG: "boolean",
    Kind.JSON: "jsonb",
    Kind.TIME: "timestamp with time zone",
}
_TEXT: Final = re.compile(r"text|character varying(?:\(\d+\))?")
_TIMES: Final = {"timestamp with time zone", "timestamp without time zone"}
Columns = Mapping[str, Mapping[str, str]]
"""By table, the columns that the functions read, and their types."""


async def columns(deployment: Deployment) -> Sequence[Finding]:
    """Look for each column that a function reads, and for each table its triggers."""
    async with deployment.connect() as connection:
        comment = await connection.fetchval(COMMENT) or ""
        is_attached = comment.startswith(MADE_BY)
        record = read_record(comment) if is_attached else {}
        attached: Columns = record.get("columns", {}) if is_attached else _reference()
        ids: Mapping[str, str] = record.get("ids", {}) if is_attached else _reference_ids()
        wanted = {**record.get("lookups", {}), **attached}
        rows = [await connection.fetchrow(_COLUMNS, table) for table in wanted]
        bare = [row["has_none"] for row in await connection.fetch(_WITHOUT, list(attached))]
    there = {
        table: dict(zip(row["names"], row["types"], strict=True)) if row["is_there"] else None
        for table, row in zip(wanted, rows, strict=True)
        if row
    }
    if not is_attached and not any(there.values()):
        return [fine("no tables are attached")]
    found = [problem(said, AGAIN) for said in _misfits(wanted, there)]
    nullable = {table: row["nullable"] for table, row in zip(wanted, rows, strict=True) if row}
    found += [
        problem(
            f"rows of {table} may have no {name}, and without an id a row sends nothing",
            f"give each row one, then ALTER TABLE {table} ALTER {quoted(name)} SET NOT NULL",
        )
        for table, name in ids.items()
        if name in nullable[table]
    ]
    found += [
        problem(
            f"{table} has none of our triggers: it took the place of the table that has them",
            AGAIN,
        )
        for table, has_none in zip(attached, bare, strict=True)
        if has_none
    ]
    return found or [fine(f"{len(wanted)} tables are as the triggers need them")]


def _reference() -> Columns:
    """The reference tables, whose columns are of the types that the functions take."""
    mapping = read_mapping()
    return {
        table_name(mapping, key): {
            name: _TYPES[COLUMNS[key][word].kind] for word, name in table.columns.items()
        }
        for key, table in mapping.tables.items()
    }


def _reference_ids() -> Mapping[str, str]:
    mapping = read_mapping()
    return {
        table_name(mapping, key): table.columns["id"]
        for key, table in mapping.tables.items()
        if "id" in table.columns
    }


def _is_alike(before: str, now: str) -> bool:
    """Whether functions that were made for the one type read the other as well."""
    if _TEXT.fullmatch(before) and _TEXT.fullmatch(now):
        return True
    return before == now or (before, now) == ("json", "jsonb") or {before, now} == _TIMES


def _misfits(wanted: Columns, there: Mapping[str, Mapping[str, str] | None]) -> Iterator[str]:
    for table, names in wanted.items():
        found = there[table]
        if found is None:
            yield f"the table {table} is gone, or has another name"
            continue
        for name, of_type in names.items():
            if name not in found:
                yield f"{table} has lost its column {name}: what needs it fails"
            elif not _is_alike(of_type, found[name]):
                yield f"{table}.{name} was {of_type} and is {found[name]} now: what writes may fail"
