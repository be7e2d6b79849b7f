"""Which types a mapped column may have, and whether it may be null; how each is read in SQL.

A column comes as `check` finds it in the catalogue.
"""

from __future__ import annotations

from typing import Any, Final

from realtime.attach.mapping import COLUMNS, Expression, Kind, Lookup, PlatformMapping
from realtime.attach.templates import READ, quoted, table_name

NEVER_NULL: Final = """
(a.attnotnull OR a.attgenerated = 's' AND NOT EXISTS (
    SELECT FROM pg_attrdef AS e
      JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid
       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
      JOIN pg_attribute AS made_from ON made_from.attrelid = a.attrelid
       AND made_from.attnum = d.refobjsubid AND made_from.attnum <> a.attnum
     WHERE e.adrelid = a.attrelid AND e.adnum = a.attnum AND NOT made_from.attnotnull))"""
"""Whether the column `a` always has a value. A STORED one that was not declared NOT NULL counts,
too, if what it is made of always has one."""

_FITTING: Final = {
    Kind.ID: ("uuid",),
    Kind.FLAG: ("bool",),
    Kind.JSON: ("json", "jsonb"),
    Kind.TIME: ("timestamptz", "timestamp"),
}
_WANTED: Final = {
    Kind.ID: "ids on the wire are UUIDs, so this has to be uuid",
    Kind.TEXT: "this has to be text, varchar or an enum: of another type, give an expression, as"
    " { sql = \"body ->> 'text'\" }",
    Kind.FLAG: "this has to be boolean",
    Kind.JSON: "this has to be json or jsonb",
    Kind.TIME: "this has to be timestamptz or timestamp (which counts as UTC)",
}

_SEE: Final = "(docs/adopting.md, Ids that are numbers)"


def null_id(key: str, column: Any, mapping: PlatformMapping) -> str | None:
    """What to do where a row may have no id, so that it sends nothing; None: each has one."""
    if column["is_never_null"]:
        return None
    table, name = table_name(mapping, key), quoted(column["attname"])
    return (
        f"{key}.id: rows of {table} may have no {name}: give each row one, then"
        f" ALTER TABLE {table} ALTER {name} SET NOT NULL"
    )


def wrong_type(key: str, word: str, column: Any, mapping: PlatformMapping) -> str | None:
    """What is wrong with a column's type, and the way out; None: nothing is."""
    kind = COLUMNS[key][word].kind
    where = f"{key}.{word}: column {table_name(mapping, key)}.{quoted(column['attname'])}"
    if column["is_virtual"]:
        return f"{where} is computed when it is read, which triggers cannot: make it STORED"
    if is_fitting(kind, column):
        return None
    left_out = _left_out(key, word)
    way_out = (
        f"{_column_to_uuid(key, word, column['sql_name'])}{left_out}"
        if kind is Kind.ID
        else f"{left_out}{_as_expression(kind, column)}"
    )
    return f"{where} is {column['type']}; {_WANTED[kind]}{way_out}"


def wrong_value(key: str, word: str, value: Expression | Lookup, type_: str) -> str:
    """What is wrong with the type of a value that no column has, and the way out."""
    kind, way_out = COLUMNS[key][word].kind, ""
    if kind is Kind.ID and isinstance(value, Lookup):
        table = f"{quoted(value.schema)}.{quoted(value.table)}"
        way_out = (
            f": add a column to {table}, uuid GENERATED ALWAYS AS (f({quoted(value.column)}))"
            f" STORED by the f of the ids that it refers to, and name it as `column` {_SEE}"
        )
    elif kind is Kind.ID:
        way_out = f": make one of it by the f of the ids that it refers to {_SEE}"
    return f"{key}.{word}: the value is {type_}; {_WANTED[kind]}{way_out}{_left_out(key, word)}"


def _left_out(key: str, word: str) -> str:
    return "" if COLUMNS[key][word].is_needed else "; or write false, to do without"


def _column_to_uuid(key: str, word: str, name: str) -> str:
    """A reference has to become what the id becomes: of random values nobody would have access."""
    column = f"add a column, uuid GENERATED ALWAYS AS (f({name})) STORED"
    if word == "id":
        how = f"{column} NOT NULL UNIQUE, and name it"
    elif COLUMNS[key][word].is_looked_up:
        how = f"{column} by the f of the ids that it refers to, and name it"
    else:
        how = f"write {_in_toml(f'f({name})')}, by the f of the ids that it refers to"
    return f": {how} {_SEE}"


def _as_expression(kind: Kind, column: Any) -> str:
    """What may be written in place of the name of such a column; empty: nothing is known."""
    name, is_number = column["sql_name"], column["category"] == b"N"
    expressions = {
        (Kind.FLAG, is_number): f"{name} <> 0",
        (Kind.FLAG, column["category"] in (b"S", b"E")): f"{name} = 'active'",
        (Kind.TIME, column["base"] == "bool"): f"CASE WHEN {name} THEN timestamptz 'epoch' END",
        (Kind.TIME, column["base"] == "date"): f"{name}::timestamp",
    }
    sql = expressions.get((kind, True))
    return f"; or give an expression, as {_in_toml(sql)}" if sql else ""


def _in_toml(sql: str) -> str:
    """An expression as a mapping has it: within quotes that it has none of."""
    quote = next(one for one in ('"', "'", "'''") if one not in sql)
    return f"{{ sql = {quote}{sql}{quote} }}"


def is_fitting(kind: Kind, column: Any) -> bool:
    """Whether a column has a type that values of this kind may have."""
    if kind is Kind.TEXT:
        return column["category"].decode() in "SE"
    return column["base"] in _FITTING[kind]


def reading_of(kind: Kind, column: Any) -> str | None:
    """How a column is read in SQL, where its name alone is not enough.

    If the column is given a type that is refused here, this has to be an error, and no event. A
    cast would take nearly every type. coalesce takes what PostgreSQL turns into the type of its
    first argument without being told to.
    """
    if kind is Kind.TEXT and column["category"] == b"E":
        # ::text would follow a cast that the type's owner made.
        return f"relay.written(coalesce(NULL::{column['base_name']}, {{}}))"
    if kind is Kind.TEXT and column["type"] != "text":
        return "coalesce(NULL::text, {})"
    if kind is Kind.FLAG and column["is_domain"]:
        return "coalesce(NULL::boolean, {})"
    if kind is Kind.ID and column["is_domain"]:
        return "{}::uuid"  # an index is used through a cast, and a text must hold a uuid
    return READ.get(kind)
