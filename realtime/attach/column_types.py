"""Which types a mapped column may have, and how a column of each is read in SQL.

A column comes as `check` finds it in the catalogue.
"""

from __future__ import annotations

from typing import Any, Final

from realtime.attach.mapping import COLUMNS, Kind, PlatformMapping
from realtime.attach.templates import READ, quoted, table_name

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


def wrong_type(key: str, word: str, column: Any, mapping: PlatformMapping) -> str | None:
    """What is wrong with a column's type, and the way out; None: nothing is."""
    where = f"{key}.{word}: column {table_name(mapping, key)}.{quoted(column['attname'])}"
    if column["is_virtual"]:
        return f"{where} is computed when it is read, which triggers cannot: make it STORED"
    if is_fitting(COLUMNS[key][word].kind, column):
        return None
    way_out = _as_expression(COLUMNS[key][word].kind, column)
    return f"{where} is {column['type']}; {what_is_wanted(key, word)}{way_out}"


def _as_expression(kind: Kind, column: Any) -> str:
    """What may be written in place of the name of such a column; empty: nothing is known."""
    name, is_number = column["attname"], column["category"] == b"N"
    expressions = {
        (Kind.FLAG, is_number): f"{name} <> 0",
        (Kind.FLAG, column["category"] in (b"S", b"E")): f"{name} = 'active'",
        (Kind.TIME, column["base"] == "bool"): f"CASE WHEN {name} THEN timestamptz 'epoch' END",
        (Kind.TIME, column["base"] == "date"): f"{name}::timestamp",
    }
    sql = expressions.get((kind, True))
    return f'; or give an expression, as {{ sql = "{sql}" }}' if sql else ""


def is_fitting(kind: Kind, column: Any) -> bool:
    """Whether a column has a type that values of this kind may have."""
    if kind is Kind.TEXT:
        return column["category"].decode() in "SE"
    return column["base"] in _FITTING[kind]


def what_is_wanted(key: str, word: str) -> str:
    """What a value of another type is asked to be."""
    wanted = COLUMNS[key][word]
    left_out = "" if wanted.is_needed else "; or write false, to do without"
    way_out = _way_to_uuid(key, word) if wanted.kind is Kind.ID else ""
    return f"{_WANTED[wanted.kind]}{way_out}{left_out}"


def _way_to_uuid(key: str, word: str) -> str:
    """A reference has to become what the id becomes: of random values nobody would have access."""
    column = f"add a column, uuid GENERATED ALWAYS AS (f({word})) STORED"
    if word == "id":
        how = f"{column} UNIQUE, and name it"
    elif COLUMNS[key][word].is_looked_up:
        how = f"{column} by the f of the ids that it refers to, and name it"
    else:
        how = f'write {{ sql = "f({word})" }}, by the f of the ids that it refers to'
    return f": {how} (docs/adopting.md, Ids that are numbers)"


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
