"""The triggers and access functions as SQL, from `migrations/templates`.

`attach` renders them with a platform's mapping. `python -m migrations.render` renders them with the
default mapping, for the migration of the reference tables. In a template

* `{{messages}}` is a table;
* `{{live.messages}}` is what a query reads of it: a table that there is none of is an empty one,
  and rows that count as deleted are left out. Each has xmin and xmax, as a table's rows do.
  `{{live.new}}` and `{{live.old}}` are the rows that a statement wrote and those that were there
  before, of the table that the file is named after. They have neither;
* `{{n.content}}` is a column of the row `n`. `u` is of users, `b` of bots, `p` of permissions, and
  `n` and `o`, new and old rows, are of the table that the file is named after. A column that there
  is none of is a null, or what `WITHOUT` says;
* `{{is_named}}` is whether `u` has the username `authenticate.subject`, by its column's rules;
* `{{untold}}`, `{{secret}}` and `{{owner_role}}` are literals.

The names that a mapping holds end up between quotes, so they cannot be read as SQL. Its expressions
are SQL: each is the body of a function of its own, of which the columns are the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from realtime.attach.mapping import (
    COLUMNS,
    DELETED_AT,
    NEEDED_TABLES,
    Kind,
    PlatformMapping,
    read_mapping,
)
from realtime.installation import TEMPLATES

ALWAYS: Final = ("access", "users", "access_changes", "bots")
OPTIONAL: Final = tuple(name for name in COLUMNS if name not in NEEDED_TABLES)
"""Rendered where the mapping has the table of that name."""
PLACEHOLDER: Final = re.compile(r"\{\{(?:(\w+)\.)?(\w+)\}\}")
ALIASES: Final = {"u": "users", "b": "bots", "p": "permissions"}
ROWS: Final = ("n", "o")
SQL_TYPES: Final = {
    Kind.ID: "uuid",
    Kind.TEXT: "text",
    Kind.FLAG: "boolean",
    Kind.JSON: "text",
    Kind.TIME: "timestamptz",
}
WITHOUT: Final = {("users", "is_active"): "true"}
NAMED: Final = ("users", "username")
IS_NAMED: Final = ("users", "is_named")
"""Among the readings: how a username is compared, by the rules of its column's type."""
NO_TABLE: Final = "(SELECT NULL::xid AS xmin, NULL::xid AS xmax WHERE false)"

READ: Final = {Kind.JSON: "relay.json_of({})", Kind.TIME: "relay.time_of({})"}
"""How values are read that may be of two types, also where the type is changed later."""

Readings = Mapping[tuple[str, str], str]
"""How a value is read that is not simply a column of a type that is taken as it is, by table and
key. `{}` stands for the column (`{}::uuid`), or, of a value that no column has, for the row."""


class TemplateError(Exception):
    """A template names what no mapping has."""


def names_made(kind: str, script: str) -> list[str]:
    """The names of what the script makes of a kind, `FUNCTION` or `TRIGGER`, without a schema."""
    return re.findall(rf"^CREATE {kind} (?:relay\.)?(\w+)", script, re.MULTILINE)


def default_names(kind: str) -> list[str]:
    """Those that the default mapping leads to: they are the same for every other one."""
    return list(dict.fromkeys(names_made(kind, render_all(read_mapping(), {}))))


def render_all(mapping: PlatformMapping, readings: Readings) -> str:
    """Every function and trigger that the mapping's tables need, to run in this order."""
    names = [*ALWAYS, *(name for name in OPTIONAL if name in mapping.tables)]
    return "\n".join(render(name, mapping, readings) for name in names)


def render(name: str, mapping: PlatformMapping, readings: Readings) -> str:
    """Fill in one template.

    Raises:
        TemplateError: it asks for a table or column that no mapping has.
    """
    template = (TEMPLATES / f"{name}.sql").read_text(encoding="utf-8")
    aliases = ALIASES | dict.fromkeys(ROWS, name)
    return PLACEHOLDER.sub(lambda found: _filled(found, aliases, mapping, readings), template)


def _filled(
    found: re.Match[str], aliases: Mapping[str, str], mapping: PlatformMapping, readings: Readings
) -> str:
    alias, word = found.groups()
    if alias == "live":
        return _live(word, aliases, mapping, readings)
    if alias is not None:
        table = aliases.get(alias, "")
        if word not in COLUMNS.get(table, {}):
            raise TemplateError(f"{found[0]} is no column that a mapping has")
        return _column(alias, table, word, mapping, readings)
    if word in COLUMNS:
        return table_name(mapping, word)
    literals = {
        "untold": untold_columns(mapping),
        "secret": _array(mapping.untold if mapping.is_untold_given else ()),
        "owner_role": literal(mapping.owner_role),
        "is_named": _is_named(mapping, readings),
    }
    if word not in literals:
        raise TemplateError(f"{found[0]} is no table that a mapping has")
    return literals[word]


def _live(
    word: str, aliases: Mapping[str, str], mapping: PlatformMapping, readings: Readings
) -> str:
    is_written = word in ("new", "old")
    key = aliases[word[0]] if is_written else word
    if key not in COLUMNS:
        raise TemplateError(f"{{{{live.{word}}}}} is no table that a mapping has")
    table = mapping.tables.get(key)
    rows = f"{word}_rows" if is_written else table_name(mapping, key)
    if table is None or not table.may_hide_rows:
        return rows
    deleted_at = _column("r", key, DELETED_AT, mapping, readings)
    columns = "r.*" if is_written else "r.*, r.xmin, r.xmax"
    return f"(SELECT {columns} FROM {rows} AS r WHERE {deleted_at} IS NULL)"


def _column(alias: str, table: str, key: str, mapping: PlatformMapping, readings: Readings) -> str:
    name = mapping.column(table, key)
    if name is None and mapping.has(table, key):
        return _exact(readings[table, key].replace("{}", alias), COLUMNS[table][key].kind)
    if name is None:
        missing = f"NULL::{SQL_TYPES[COLUMNS[table][key].kind]}"
        return WITHOUT.get((table, key), missing)
    kind = COLUMNS[table][key].kind
    reading = readings.get((table, key)) or READ.get(kind, "{}")
    return _exact(reading.replace("{}", f"{alias}.{quoted(name)}", 1), kind)


def _exact(value: str, kind: Kind) -> str:
    """Text by its characters alone.

    A column's collation may ignore case or accents. Then what differs would be the same, and no
    text can be looked for in another.
    """
    return f'{value} COLLATE "C"' if kind is Kind.TEXT else value


def table_name(mapping: PlatformMapping, key: str) -> str:
    """As SQL names it, with its schema."""
    table = mapping.tables.get(key)
    return f"{quoted(table.schema)}.{quoted(table.name)}" if table else NO_TABLE


def _is_named(mapping: PlatformMapping, readings: Readings) -> str:
    name = mapping.column(*NAMED)
    assert name is not None
    return readings.get(IS_NAMED, "{} = {}").format(f"u.{quoted(name)}", "authenticate.subject")


def untold_columns(mapping: PlatformMapping) -> str:
    """An array of the columns that a bot_update leaves out."""
    updated_by = mapping.column("bots", "updated_by")
    names = [updated_by] if updated_by else []
    names += [name for name in mapping.untold if name not in names]
    return _array(names)


def _array(names: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(map(literal, names))}]" if names else "'{}'::text[]"


def literal(value: str | None) -> str:
    """A string as SQL writes it; mappings hold no backslash.

    A bare NULL that something is compared with is "IS NULL" where transform_null_equals is on.
    """
    return "NULL::text" if value is None else "'" + value.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """An identifier, in quotes unless it is one of the reference tables' own."""
    return name if name in _PLAIN else '"' + name.replace('"', '""') + '"'


def _plain_names() -> frozenset[str]:
    tables = read_mapping().tables.values()
    words = {word for t in tables for word in (t.schema, t.name, *t.columns.values())}
    return frozenset(word for word in words if re.fullmatch("[a-z_]+", word))


_PLAIN: Final = _plain_names()
"""None of them is a word of SQL's, so they stand as a person would write them."""
