"""Which tables and columns of a platform events come from: a TOML file over the default one.

`bin/attach` reads one, and the migration of the reference tables takes the default,
`mapping.toml`. Knows nothing of a database; whether the tables are there is `attach_check`'s.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from realtime.errors import CommandError

EXAMPLE: Final = Path(__file__).with_name("mapping.toml")
MAX_NAME_BYTES: Final = 63
"""PostgreSQL cuts longer ones off, in silence. In its encoding: a character has a byte or more."""


class Kind(StrEnum):
    """What values a column has to have."""

    ID = "a uuid"
    TEXT = "text"
    FLAG = "a boolean"
    JSON = "json"
    TIME = "a time"


@dataclass(frozen=True)
class Column:
    """What a key of a table stands for; without the needed ones there is nothing to tell.

    Attributes:
        is_looked_up: whether rows are found by it, so that it has to be a column of the table.
    """

    kind: Kind
    is_needed: bool = False
    is_looked_up: bool = False


DELETED_AT: Final = "deleted_at"
"""The key of every table for the column that is null unless the row counts as deleted."""


COLUMNS: Final[Mapping[str, Mapping[str, Column]]] = {
    "users": {
        "id": Column(Kind.ID, is_needed=True, is_looked_up=True),
        "username": Column(Kind.TEXT, is_needed=True, is_looked_up=True),
        "is_active": Column(Kind.FLAG),
        DELETED_AT: Column(Kind.TIME),
    },
    "bots": {
        "id": Column(Kind.ID, is_needed=True, is_looked_up=True),
        "name": Column(Kind.TEXT),
        "owner_id": Column(Kind.ID),
        "updated_by": Column(Kind.ID),
        DELETED_AT: Column(Kind.TIME),
    },
    "permissions": {
        "bot_id": Column(Kind.ID, is_needed=True, is_looked_up=True),
        "user_id": Column(Kind.ID, is_needed=True, is_looked_up=True),
        "role": Column(Kind.TEXT),
        "granted_by": Column(Kind.ID),
        DELETED_AT: Column(Kind.TIME),
    },
    "messages": {
        "id": Column(Kind.ID, is_needed=True, is_looked_up=True),
        "bot_id": Column(Kind.ID, is_needed=True),
        "session_id": Column(Kind.ID),
        "user_id": Column(Kind.ID),
        "role": Column(Kind.TEXT),
        "content": Column(Kind.TEXT, is_needed=True),
        "metadata": Column(Kind.JSON),
        "created_at": Column(Kind.TIME),
        DELETED_AT: Column(Kind.TIME),
    },
    "documents": {
        "id": Column(Kind.ID, is_needed=True, is_looked_up=True),
        "bot_id": Column(Kind.ID, is_needed=True),
        "filename": Column(Kind.TEXT),
        "status": Column(Kind.TEXT),
        "error": Column(Kind.TEXT),
        "uploaded_by": Column(Kind.ID),
        DELETED_AT: Column(Kind.TIME),
    },
}
"""Every table and column that a mapping may name."""

NEEDED_TABLES: Final = ("users", "bots")


class MappingError(CommandError):
    """The mapping cannot be used; the text says which key, and what to write."""


@dataclass(frozen=True)
class Expression:
    """A value that no column has: SQL over the columns of the row."""

    sql: str


@dataclass(frozen=True)
class Lookup:
    """A value that is in a row of another table.

    Attributes:
        through: the column of our row that says which.
        key: the column of the other table that it is compared with.
        column: the column of the other table that has the value.
    """

    through: str
    schema: str
    table: str
    key: str
    column: str


@dataclass(frozen=True)
class Table:
    """A table of the platform: its names in the catalogue, and its columns by our keys.

    Attributes:
        derived: the keys whose values are not in a column of the table.
    """

    schema: str
    name: str
    columns: Mapping[str, str]
    derived: Mapping[str, Expression | Lookup] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """All that the catalogue is asked for: of the table itself, and of those looked up in."""
        lookups = [one for one in self.derived.values() if isinstance(one, Lookup)]
        return {self.schema, self.name, *self.columns.values()} | {
            name for one in lookups for name in astuple(one)
        }

    @property
    def may_hide_rows(self) -> bool:
        """Whether a row may count as deleted while it is there."""
        return DELETED_AT in self.columns or DELETED_AT in self.derived


@dataclass(frozen=True)
class PlatformMapping:
    """A whole mapping: what is not in `tables` or a table's `columns`, the platform has not.

    Attributes:
        untold: columns of bots that are never sent.
        is_untold_given: whether the platform itself named them, so that each must be there.
        owner_role: the role in permissions that makes an owner.
        server_role: who is granted to ask about access.
    """

    tables: Mapping[str, Table]
    untold: tuple[str, ...]
    is_untold_given: bool
    owner_role: str | None
    server_role: str | None

    def column(self, table: str, key: str) -> str | None:
        """The name of a column; None where the platform has no such column, or no such table."""
        found = self.tables.get(table)
        return found.columns.get(key) if found else None

    def has(self, table: str, key: str) -> bool:
        """Whether there is a value, in a column or worked out."""
        found = self.tables.get(table)
        return found is not None and (key in found.columns or key in found.derived)


def read_mapping(path: Path | None = None) -> PlatformMapping:
    """The mapping in a file, over the default one; without a file the default one.

    Raises:
        MappingError: the file cannot be read, or names what cannot be.
    """
    default = parse(EXAMPLE.read_text("utf-8"))
    if path is None:
        return to_mapping(default, {})
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise MappingError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MappingError(f"{path} cannot be read: it is not in UTF-8") from error
    return to_mapping(default, parse(text))


def parse(text: str) -> dict[str, Any]:
    """Raises: MappingError, where this is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"the mapping is not TOML: {error}") from error


def to_mapping(default: Mapping[str, Any], given: Mapping[str, Any]) -> PlatformMapping:
    """Put what a platform says over the default.

    Raises:
        MappingError: a key that there is none of, or a value that is no name.
    """
    _refuse_unknown(given, [*COLUMNS, "schema", "server_role"], "")
    raw = {name: _merged(name, default[name], given.get(name, {})) for name in COLUMNS}
    schema = _name(given.get("schema", default["schema"]), "schema")
    tables = {
        name: _to_table(name, values, schema) for name, values in raw.items() if values is not None
    }
    permissions, bots = raw["permissions"], raw["bots"]
    assert bots is not None
    return PlatformMapping(
        tables=MappingProxyType(tables),
        untold=tuple(_names(bots["untold"], "bots.untold")),
        is_untold_given="untold" in given.get("bots", {}),
        owner_role=_name_or_none(permissions["owner_role"], "permissions.owner_role")
        if permissions
        else None,
        server_role=_name_or_none(given.get("server_role", False), "server_role"),
    )


def _merged(name: str, default: dict[str, Any], given: Any) -> dict[str, Any] | None:
    """A table's values over the default ones; None: the platform has no such table."""
    if given is False and name not in NEEDED_TABLES:
        return None
    if not isinstance(given, dict):
        absent = (
            "" if name in NEEDED_TABLES else f", or {name} = false where there is no such table"
        )
        raise MappingError(f"{name} has to be a section of names, [{name}]{absent}")
    _refuse_unknown(given, [*default, "schema"], f"{name}.")
    return default | given


def _to_table(name: str, values: dict[str, Any], schema: str) -> Table:
    own_schema = _name(values.get("schema", schema), f"{name}.schema")
    columns: dict[str, str] = {}
    derived: dict[str, Expression | Lookup] = {}
    for key, column in COLUMNS[name].items():
        value, where = values[key], f"{name}.{key}"
        if isinstance(value, dict):
            if column.is_looked_up:
                raise MappingError(f"{where} has to be a column: rows are looked up by it")
            derived[key] = _to_derived(value, where, own_schema)
        elif value is not False:
            columns[key] = _name(value, where)
        elif column.is_needed:
            raise MappingError(f"{where} cannot be left out: name the column")
    return Table(
        own_schema,
        _name(values["table"], f"{name}.table"),
        MappingProxyType(columns),
        MappingProxyType(derived),
    )


def _to_derived(value: dict[str, Any], where: str, schema: str) -> Expression | Lookup:
    if "sql" in value and "through" in value:
        raise MappingError(f"{where} has both sql and through: write one of them")
    if "sql" in value:
        _refuse_unknown(value, ["sql"], f"{where}.")
        return Expression(_expression(value["sql"], f"{where}.sql"))
    _refuse_unknown(value, ["sql", "through", "schema", "table", "key", "column"], f"{where}.")
    for key in ("through", "table", "column"):
        if key not in value:
            raise MappingError(
                f'{where} has to be a column, {{ sql = "…" }}, or {{ through = "…", table = "…",'
                f' column = "…" }}; {key} is missing'
            )
    given = {"schema": schema, "key": "id"} | value
    return Lookup(**{key: _name(one, f"{where}.{key}") for key, one in given.items()})


_DOLLAR_QUOTE: Final = re.compile(r"\$\w*\$")


def _expression(value: Any, key: str) -> str:
    """SQL as it stands; PostgreSQL says later whether it is an expression."""
    if not isinstance(value, str) or not value.strip():
        raise MappingError(f"{key} has to be an SQL expression in quotes")
    if (quote := _DOLLAR_QUOTE.search(value)) or "\0" in value:
        raise MappingError(
            f"{key}: an expression with {quote[0] if quote else 'NUL'} cannot be attached"
        )
    return value.strip()


def _refuse_unknown(given: Mapping[str, Any], known: list[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise MappingError(
                f"the mapping has an unknown key {prefix}{key}{meant}: there are {', '.join(known)}"
            )


def _name_or_none(value: Any, key: str) -> str | None:
    return None if value is False else _name(value, key)


def _names(values: Any, key: str) -> Iterator[str]:
    if not isinstance(values, list):
        raise MappingError(f"{key} has to be a list of names")
    for value in values:
        yield _name(value, key)


def _name(value: Any, key: str) -> str:
    """A name as the catalogue has it, without quotes of its own: any that quoting makes safe.

    Function bodies stand between `$$`, and queries within them between `$rows$` and `$query$`,
    which quoting does not keep a name from ending; and what a backslash means in a literal depends
    on a setting of whoever writes.
    """
    if not isinstance(value, str) or not value:
        raise MappingError(f"{key} has to be a name in quotes, or false where there is none")
    if _DOLLAR_QUOTE.search(value) or "\\" in value or not value.isprintable():
        raise MappingError(
            f"{key}: a name with $$, $word$, \\ or control characters cannot be attached"
        )
    if len(value) > MAX_NAME_BYTES:
        raise MappingError(f"{key}: PostgreSQL's names have at most {MAX_NAME_BYTES} bytes")
    return value
