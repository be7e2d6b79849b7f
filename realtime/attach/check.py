"""Whether a platform's tables are what a mapping says, asked of PostgreSQL's catalogue.

What is wrong is found all at once, each with the way out. What is right comes back as facts: how to
read columns of other types (`column_types`), and who needs what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from realtime.attach import catalogue
from realtime.attach.column_types import (
    is_fitting,
    null_id,
    reading_of,
    wrong_type,
    wrong_value,
)
from realtime.attach.derived import DerivedError, worked_out
from realtime.attach.equality import equals
from realtime.attach.mapping import (
    COLUMNS,
    DELETED_AT,
    MAX_NAME_BYTES,
    Lookup,
    PlatformMapping,
)
from realtime.attach.templates import (
    IS_NAMED,
    NAMED,
    default_names,
    quoted,
    table_name,
)
from realtime.postgres.shared_names import fetch_named

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection

LOOKED_UP: Final = ("users", "bots", "permissions")
"""The tables that functions cannot do without. Of the others they see the rows that are being
written, and read them only where another trigger of the platform may have changed them."""

DECIDING: Final = ("is_active", DELETED_AT, "owner_id", "bot_id", "user_id")
"""Their columns that decide who may watch."""

_RELKINDS: Final = {
    "v": "a view: only tables have triggers that see what a statement wrote; name the table behind",
    "m": "a materialized view: name the tables that it is made of",
    "f": "a foreign table: attach where its rows are written, in the database that holds them",
}


# A platform where tables that are not mapped decide writes relay.authorize itself, after this.
_NOBODY = (
    "by this mapping nobody may watch a bot: name bots.owner_id or permissions, or write"
    " relay.authorize yourself (docs/adopting.md, Access through other tables)"
)


@dataclass
class Findings:
    """What a look at the catalogue brought.

    Attributes:
        problems: what keeps the mapping from working, one line each.
        warnings: what works, and is probably not meant.
        readings: how values are read that are not simply columns of the reference types.
        functions: the SQL of the functions that these readings call.
        columns: the columns that are read and their types, by table, as SQL names it.
        lookups: as `columns`, of the tables that values are looked up in.
        ids: by table, the column of its rows' ids.
        grants: what the functions' owner lacks, as `privilege ON object`.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    readings: dict[tuple[str, str], str] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    lookups: dict[str, dict[str, str]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    grants: list[str] = field(default_factory=list)
    lets_nobody_in: bool = False
    """Whether our own `relay.authorize` would let nobody watch a bot."""


async def examine(
    connection: AnyConnection, mapping: PlatformMapping, owner: str, *, asks_us: bool = True
) -> Findings:
    """Look at every table and column that the mapping names.

    Args:
        owner: the role that the functions will run as.
        asks_us: whether our `relay.authorize` decides who may watch a bot.
    """
    findings = Findings()
    keys = list(mapping.tables)
    rows = await fetch_named(
        connection,
        catalogue.TABLES,
        keys,
        [mapping.tables[key].schema for key in keys],
        [mapping.tables[key].name for key in keys],
        owner,
        column="owner",
    )
    found, ours = {row["key"]: row for row in rows}, default_names("TRIGGER")
    for key in keys:
        if key not in found:
            findings.problems.append(_no_table(key, mapping))
        elif problem := _wrong_table(key, found[key], mapping):
            findings.problems.append(problem)
        else:
            findings.problems += _out_of_reach(key, found[key], mapping, owner)
            columns = await _examine_columns(connection, found[key], mapping, findings)
            names = [*mapping.tables[key].columns.values()]
            names += await _examine_derived(connection, key, mapping, owner, findings)
            if key == "bots" and mapping.is_untold_given:
                names += mapping.untold
            findings.columns[table_name(mapping, key)] = {
                name: columns[name]["type"] for name in sorted(set(names)) if name in columns
            }
            findings.warnings += _not_seen(key, found[key], mapping, owner)
            findings.problems += await _same_named(connection, found[key], mapping, ours)
    findings.problems += await _too_long(connection, mapping)
    findings.problems += _twice(mapping)
    findings.lets_nobody_in = "permissions" not in mapping.tables and not mapping.has(
        "bots", "owner_id"
    )
    if findings.lets_nobody_in and asks_us:
        findings.warnings.append(_NOBODY)
    findings.grants += _grants(mapping, rows)
    for lookup in _lookups(mapping):
        rows += await _examine_lookup(connection, *lookup, owner, findings)
    findings.warnings += _trusted(rows, owner)
    return findings


def _trusted(rows: list[Any], owner: str) -> Iterator[str]:
    """Reading a table runs its policies, so its owner decides what the functions' owner runs."""
    others = sorted({row["owner"] for row in rows if not row["may_act_as_us"]})
    if others:
        yield (
            f"{', '.join(others)} can act as {owner}, the owner of relay, by owning tables: trust"
            " them alike, or make them one role (docs/adopting.md, Rights)"
        )


async def _same_named(
    connection: AnyConnection, row: Any, mapping: PlatformMapping, ours: list[str]
) -> list[str]:
    """Triggers of the platform's own that are in the way of ours."""
    key = row["key"]
    found = await connection.fetch(catalogue.SAME_NAME, row["oid"], ours)
    return [
        f"{key}: {table_name(mapping, key)} has a trigger {one['name']} of your own:"
        " ALTER TRIGGER ... RENAME TO another name"
        for one in found
    ]


async def _too_long(connection: AnyConnection, mapping: PlatformMapping) -> list[str]:
    """Names that PostgreSQL would cut off, and then find another table or column by."""
    names = {name for table in mapping.tables.values() for name in table.names}
    rows = await connection.fetch(catalogue.TOO_LONG, sorted(names), MAX_NAME_BYTES)
    return [
        f"{quoted(row['name'])}: PostgreSQL's names have at most {MAX_NAME_BYTES} bytes"
        for row in rows
    ]


def _twice(mapping: PlatformMapping) -> Iterator[str]:
    """A statement's rows would be told as two things."""
    keys: dict[str, str] = {}
    for key in mapping.tables:
        name = table_name(mapping, key)
        if name in keys:
            yield f"{key}: {name} is the table of {keys[name]} already: name another, or none"
        keys[name] = key


def _no_table(key: str, mapping: PlatformMapping) -> str:
    left_out = "" if key in ("users", "bots") else f", or write {key} = false if there is none"
    name = table_name(mapping, key)
    return f"{key}: there is no table {name}: name yours as {key}.table and schema{left_out}"


def _wrong_table(key: str, row: Any, mapping: PlatformMapping) -> str | None:
    """What is wrong with a table as a whole; asyncpg reads the catalogue's letters as bytes."""
    name, kind = table_name(mapping, key), row["relkind"].decode()
    if kind not in ("r", "p"):
        return f"{key}: {name} is {_RELKINDS.get(kind, 'no table')}"
    if row["relispartition"]:
        return f"{key}: {name} is a partition: name the table that it is a partition of"
    if row["parent"]:
        return (
            f"{key}: {name} inherits from {row['parent']}: what writes to that table changes rows"
            f" of this one, and no trigger of it fires"
        )
    if cures := row["foreign_cures"]:
        return (
            f"{key}: {name} has foreign tables below it, and a trigger that sees what a statement"
            f" wrote makes statements fail that write to these: {'; '.join(cures)}"
        )
    return None


def _out_of_reach(key: str, row: Any, mapping: PlatformMapping, owner: str) -> Iterator[str]:
    """What keeps us from a table that is fit in itself."""
    name = table_name(mapping, key)
    if not row["is_ours"]:
        yield (
            f"{key}: {name} belongs to {row['owner']}, and only its owner takes triggers off again:"
            f" GRANT {row['owner']} TO {owner}, who owns the log, and run bin/attach as {owner}"
        )
    elif key in LOOKED_UP and row["is_hidden"]:
        yield (
            f"{key}: row security hides rows of {name} from {owner}, as whom the functions run:"
            f" {_shown(name, owner)}"
        )


def _shown(table: str, owner: str) -> str:
    """How all rows of a table are shown to a role."""
    return (
        f"ALTER ROLE {quoted(owner)} BYPASSRLS, or CREATE POLICY relay ON {table} FOR SELECT TO"
        f" {quoted(owner)} USING (true)"
    )


def _not_seen(key: str, row: Any, mapping: PlatformMapping, owner: str) -> Iterator[str]:
    """Rows that are hidden look like rows that are gone, so such a table is never read."""
    name = table_name(mapping, key)
    if row["child"]:
        yield (
            f"{key}: {row['child']} inherits from {name}: what writes to it directly fires no"
            f" trigger of {name}"
        )
    if row["relkind"] == b"p":
        yield (
            f"{key}: {name} is partitioned: a MERGE that moves a row to another partition sends"
            " nothing and ends no access, for PostgreSQL shows it to no trigger. Use UPDATE there"
        )
    if row["is_hidden"] and key not in LOOKED_UP:
        yield (
            f"{key}: row security hides rows of {name} from {owner}, as whom the functions run:"
            " where a trigger of your own changes a row that was just written, clients are shown"
            f" it as it was written: {_shown(name, owner)}"
        )


async def _examine_columns(
    connection: AnyConnection, row: Any, mapping: PlatformMapping, findings: Findings
) -> dict[str, Any]:
    """Look at the columns that are named. Returns all that the table has."""
    key = row["key"]
    columns = {one["attname"]: one for one in await connection.fetch(catalogue.COLUMNS, row["oid"])}
    for word, name in mapping.tables[key].columns.items():
        column = columns.get(name)
        problem = (
            _no_column(key, word, name, mapping)
            if column is None
            else wrong_type(key, word, column, mapping)
        )
        if problem:
            findings.problems.append(problem)
        elif reading := reading_of(COLUMNS[key][word].kind, column):
            findings.readings[key, word] = reading
        if (key, word) == NAMED and column is not None:
            findings.readings[IS_NAMED] = await equals(connection, table_name(mapping, key), name)
    if key == "bots" and mapping.is_untold_given:
        missing = [name for name in mapping.untold if name not in columns]
        findings.problems += [
            f"bots.untold: there is no column {table_name(mapping, key)}.{quoted(name)}"
            for name in missing
        ]
    if (found := columns.get(mapping.column(key, "id"))) is not None:
        if problem := null_id(key, found, mapping):
            findings.problems.append(problem)
        findings.ids[table_name(mapping, key)] = found["attname"]
    unique = await _unique(connection, row["oid"])
    findings.problems += _not_unique(key, mapping, unique)
    if key == "users":
        findings.warnings += _two_of_one_name(mapping, unique)
    if key == "permissions":
        indexes = await connection.fetch(catalogue.INDEXES, row["oid"])
        findings.warnings += _several_rows(mapping, indexes)
    return columns


async def _examine_derived(
    connection: AnyConnection, key: str, mapping: PlatformMapping, owner: str, findings: Findings
) -> list[str]:
    """Look at the values that no column has. Returns the columns that they read."""
    read: list[str] = []
    for word in mapping.tables[key].derived:
        try:
            async with worked_out(connection, mapping, key, word, owner) as derived:
                (value,) = await connection.fetch(catalogue.COLUMNS, derived.view)
        except DerivedError as error:
            findings.problems.append(f"{key}.{word}: {error}")
            continue
        if not is_fitting(COLUMNS[key][word].kind, value):
            given = mapping.tables[key].derived[word]
            findings.problems.append(wrong_value(key, word, given, value["type"]))
        if derived.unread:
            findings.warnings.append(
                f"{key}.{word}: it was tried with no row, for a policy keeps this role from reading"
                f" any ({derived.unread}): if it fails for one, whoever writes that row fails"
            )
        findings.warnings += _changes_unseen(key, word, mapping, is_of_time=derived.is_of_time)
        reading = reading_of(COLUMNS[key][word].kind, value) or "{}"
        # Of a row that is not there, as an outer join has them, nothing is worked out.
        there = quoted(mapping.tables[key].columns["id" if "id" in COLUMNS[key] else "bot_id"])
        findings.readings[key, word] = (
            f"CASE WHEN {{}}.{there} IS NOT NULL THEN {reading.replace('{}', derived.reading)} END"
        )
        findings.functions += [derived.function] if derived.function else []
        read += derived.columns
    return read


def _changes_unseen(
    key: str, word: str, mapping: PlatformMapping, *, is_of_time: bool
) -> Iterator[str]:
    """Access that ends without a statement on the table: no trigger can tell of it."""
    if key not in LOOKED_UP or word not in DECIDING:
        return
    value = mapping.tables[key].derived[word]
    if isinstance(value, Lookup):
        table = f"{value.schema}.{value.table}"
        why = f"it is looked up in {table}, and no trigger fires when that changes"
    elif is_of_time and word == DELETED_AT:
        why = "if a row counts as deleted once its time has come, no trigger fires then"
    elif is_of_time:
        why = "the value follows the time, and no trigger fires when it changes by itself"
    else:
        return
    code = "4001" if key == "users" else "4003"
    yield f"{key}.{word}: {why}: open sockets stay until you call relay.eject(…, {code})"


def _no_column(key: str, word: str, name: str, mapping: PlatformMapping) -> str:
    way_out = f"name the one that holds it as {key}.{word}"
    if not COLUMNS[key][word].is_needed:
        way_out += ", or write false if there is none"
    return f"{key}.{word}: {table_name(mapping, key)} has no column {quoted(name)}: {way_out}"


def _not_unique(key: str, mapping: PlatformMapping, unique: list[set[str]]) -> Iterator[str]:
    """Rows are looked up by these ids in a place for one: a second would fail the writer."""
    name = mapping.column(key, "id")
    if key in ("users", "bots") and name and {name} not in unique:
        table = table_name(mapping, key)
        yield (
            f"{key}.id: several rows of {table} could have one {quoted(name)}: it needs to be the"
            f" primary key, or CREATE UNIQUE INDEX ON {table} ({quoted(name)})"
        )


def _two_of_one_name(mapping: PlatformMapping, unique: list[set[str]]) -> Iterator[str]:
    username = mapping.tables["users"].columns["username"]
    if {username} not in unique:
        yield (
            f"users.username: {quoted(username)} has no unique index, so two people may have one"
            " name: do not set JWT_SUBJECT=username"
        )


def _several_rows(mapping: PlatformMapping, indexes: list[Any]) -> Iterator[str]:
    """Of the rows that count: an index may leave those out that count as deleted."""
    columns = mapping.tables["permissions"].columns
    pair = {columns["bot_id"], columns["user_id"]}
    live: set[str | None] = {None}
    if deleted_at := columns.get(DELETED_AT):
        live |= {f"({name} IS NULL)" for name in (deleted_at, quoted(deleted_at))}
    usable = [one for one in indexes if one["columns"] and one["predicate"] in live]
    if any(one["is_unique"] and set(one["columns"]) <= pair for one in usable):
        return
    reads_all = not any(one["columns"][0] in pair for one in usable)
    yield (
        "permissions: there is no unique index on bot and user: with several rows, which role"
        " counts is not said" + (", and looking one up may read the whole table" * reads_all)
    )


def _lookups(mapping: PlatformMapping) -> list[tuple[str, str, list[Lookup]]]:
    """The tables that values are looked up in: schema, name, and what is looked up there."""
    read: dict[tuple[str, str], list[Lookup]] = {}
    for table in mapping.tables.values():
        for one in table.derived.values():
            if isinstance(one, Lookup):
                read.setdefault((one.schema, one.table), []).append(one)
    return [(*table, lookups) for table, lookups in sorted(read.items())]


async def _examine_lookup(
    connection: AnyConnection,
    schema: str,
    name: str,
    lookups: list[Lookup],
    owner: str,
    findings: Findings,
) -> list[Any]:
    """Look at a table that values are looked up in, if the look at the value found it there."""
    rows = await fetch_named(connection, catalogue.LOOKUP, schema, name, owner, column="owner")
    if not rows:
        return []
    (row,) = rows
    table = f"{quoted(schema)}.{quoted(name)}"
    if row["is_hidden"]:
        findings.problems.append(
            f"{table}: row security hides its rows from {owner}, as whom the functions look them"
            f" up, and what is not found sends nothing: {_shown(table, owner)}"
        )
    if not row["has_schema"]:
        findings.grants.append(f"USAGE ON SCHEMA {quoted(schema)}")
    if not row["has_select"]:
        findings.grants.append(f"SELECT ON TABLE {table}")
    types = {
        one["attname"]: one["type"] for one in await connection.fetch(catalogue.COLUMNS, row["oid"])
    }
    columns = sorted({column for one in lookups for column in (one.key, one.column)} & {*types})
    findings.lookups[table] = {column: types[column] for column in columns}
    unique = await _unique(connection, row["oid"])
    findings.warnings += [
        f"{table}: {quoted(key)} has no unique index: if several rows have one value, which of them"
        " counts is not said"
        for key in sorted({one.key for one in lookups} & {*types})
        if {key} not in unique
    ]
    return rows


async def _unique(connection: AnyConnection, table: int) -> list[set[str]]:
    """The columns of each unique index of all rows."""
    return [
        set(one["columns"])
        for one in await connection.fetch(catalogue.INDEXES, table)
        if one["is_unique"] and one["predicate"] is None
    ]


def _grants(mapping: PlatformMapping, rows: list[Any]) -> list[str]:
    """What the functions' owner needs, to look up who may what, and what a row is now."""
    needed = []
    for row in rows:
        schema = quoted(mapping.tables[row["key"]].schema)
        if not row["has_schema"] and f"USAGE ON SCHEMA {schema}" not in needed:
            needed.append(f"USAGE ON SCHEMA {schema}")
        if not row["has_select"]:
            needed.append(f"SELECT ON TABLE {table_name(mapping, row['key'])}")
    return needed
