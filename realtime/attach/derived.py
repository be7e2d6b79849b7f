"""Values that no column of a table has: whether they can be worked out, and how SQL does it.

An expression becomes a function of the columns that it reads, so that its names mean columns
wherever it is used. PostgreSQL says which columns those are, and of which type the value is: of a
view that has the value as its column, and is taken back at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from realtime.attach.equality import equals
from realtime.attach.mapping import Lookup, PlatformMapping, Table
from realtime.attach.names import callers_names
from realtime.attach.templates import quoted, table_name
from realtime.attach.trial import try_out
from realtime.postgres.holders import LOCKED
from realtime.postgres.own_names import OWN_PATH

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection

VIEW: Final = "relay.mapped_value"
PREFIX: Final = "relay.mapped_"
BASE_OF_TYPE: Final = """
CROSS JOIN LATERAL (
    WITH RECURSIVE types AS (
        SELECT t.oid, t.typbasetype, t.typname, t.typcategory
        UNION ALL
        SELECT b.oid, b.typbasetype, b.typname, b.typcategory
          FROM types AS d JOIN pg_type AS b ON b.oid = d.typbasetype
    )
    SELECT oid, typname, typcategory FROM types WHERE typbasetype = 0
) AS base
"""
"""What the type `t` is made of, if it is a domain, or else the type itself: it counts as that."""
_READ: Final = f"""
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type,
       base.typname AS base, a.attgenerated = 'v' AS is_virtual
  FROM pg_rewrite AS r
  JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
   AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
  JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  JOIN pg_type AS t ON t.oid = a.atttypid
  {BASE_OF_TYPE}
 WHERE r.ev_class = $1::oid AND d.refobjid = $2::text::regclass
 ORDER BY a.attnum
"""
_IS_READING: Final = """
SELECT EXISTS (
    SELECT FROM pg_depend AS d
    WHERE d.classid = 'pg_proc'::regclass AND d.objid = $1::text::regproc
      AND d.refclassid = 'pg_class'::regclass)
"""
"""Whether a function reads a table: its own would be read as a whole, and not as the row."""
# Functions of PostgreSQL's own are no dependencies; but they stand in the tree of the query.
_VOLATILE: Final = """
SELECT p.oid::regprocedure::text
  FROM pg_rewrite AS r
 CROSS JOIN regexp_matches(r.ev_action::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') AS called
  JOIN pg_proc AS p ON p.oid = called[1]::oid
 WHERE r.ev_class = $1::oid AND p.provolatile = 'v'
 LIMIT 1
"""
"""A function that may give another value each time, so that no two readers saw the same."""
# Of the outermost query: these words come first in its tree. In a subquery they do no harm.
_NO_VALUE: Final = r"""
SELECT CASE 'true'
           WHEN substring(q.tree, ':hasAggs (\w+)') THEN 'an aggregate'
           WHEN substring(q.tree, ':hasWindowFuncs (\w+)') THEN 'a window function'
           WHEN substring(q.tree, ':hasTargetSRFs (\w+)') THEN 'a function that returns a set'
       END
  FROM (SELECT ev_action::text AS tree FROM pg_rewrite WHERE ev_class = $1::oid) AS q
"""
"""What makes an expression one of many rows."""
_FORBIDDEN: Final = """
SELECT p.oid::regprocedure::text
  FROM pg_rewrite AS r
 CROSS JOIN regexp_matches(r.ev_action::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') AS called
  JOIN pg_proc AS p ON p.oid = called[1]::oid
 WHERE r.ev_class = $1::oid AND NOT has_function_privilege($2::text, p.oid, 'EXECUTE')
 LIMIT 1
"""
"""A function that the owner of the triggers' functions may not call."""
_IS_OF_TIME: Final = """
SELECT r.ev_action::text LIKE '%{SQLVALUEFUNCTION %' OR EXISTS (
    SELECT FROM regexp_matches(r.ev_action::text, ':funcid ([0-9]+)', 'g') AS called
      JOIN pg_proc AS p ON p.oid = called[1]::oid
     WHERE p.proname IN ('now', 'transaction_timestamp', 'statement_timestamp')
       AND p.pronamespace = 'pg_catalog'::regnamespace)
  FROM pg_rewrite AS r WHERE r.ev_class = $1::oid
"""
"""Whether the value changes by itself as time goes by."""
_TYPE: Final = """
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1 AND attnum = 1
"""
_IS_TABLE: Final = "SELECT to_regclass(format('%I.%I', $1::text, $2::text)) IS NOT NULL"
_HAS_COLUMN: Final = """
SELECT EXISTS (SELECT FROM pg_attribute
                WHERE attrelid = to_regclass(format('%I.%I', $1::text, $2::text))
                  AND attname = $3 AND NOT attisdropped)
"""


class DerivedError(Exception):
    """A value cannot be worked out; the text says why."""


@dataclass(frozen=True)
class Derived:
    """How a value is worked out.

    Attributes:
        reading: the value as SQL, `{}` standing for the row.
        columns: the columns of its table that it reads.
        view: the oid of the view that has the value as its column.
        function: the SQL that makes the function that it calls; empty: none.
        is_of_time: whether it changes by itself as time goes by.
        unread: why it could be tried with no row of the table; empty: it could.
    """

    reading: str
    columns: Sequence[str]
    view: int
    function: str = ""
    is_of_time: bool = False
    unread: str = ""


@asynccontextmanager
async def worked_out(
    connection: AnyConnection, mapping: PlatformMapping, table: str, key: str, owner: str
) -> AsyncIterator[Derived]:
    """How a value is worked out; within the context its view is there.

    Args:
        owner: the role that does it.

    Raises:
        DerivedError: PostgreSQL refuses it, or it reads what a trigger does not see.
    """
    trial = connection.transaction()
    await trial.start()
    try:
        yield await _work_out(connection, mapping, table, key, owner)
    except LOCKED:
        raise
    except asyncpg.PostgresError as error:
        # What it repeats of the expression, and its hint, may be lines of their own.
        raise DerivedError(f"PostgreSQL refuses it: {' '.join(str(error).split())}") from None
    finally:
        await trial.rollback()


async def _work_out(
    connection: AnyConnection, mapping: PlatformMapping, table: str, key: str, owner: str
) -> Derived:
    value, name = mapping.tables[table].derived[key], table_name(mapping, table)
    if isinstance(value, Lookup):
        await _require_lookup(connection, value, mapping.tables[table])
        looked_up = await _looked_up(connection, value)
        view, _ = await _view(connection, name, looked_up.replace("{}", "r"))
        return Derived(looked_up, [value.through], view)
    view, read = await _view(connection, name, value.sql)
    await _require_value_of_row(connection, view, owner)
    function = _function(table, key, value.sql, read, await connection.fetchval(_TYPE, view))
    async with callers_names(connection):
        await connection.execute(function.replace(PREFIX, f"{PREFIX}trial_", 1))
    trial = f"{PREFIX}trial_{table}_{key}"
    if await connection.fetchval(_IS_READING, trial):
        raise DerivedError("an expression may read the columns of its row, and no other table")
    unread = await _try(connection, trial, name, read)
    columns = [row["name"] for row in read]
    arguments = ", ".join(_argument(row) for row in read)
    is_of_time = await connection.fetchval(_IS_OF_TIME, view)
    reading = f"{PREFIX}{table}_{key}({arguments})"
    return Derived(reading, columns, view, function, is_of_time, unread)


async def _view(connection: AnyConnection, table: str, sql: str) -> tuple[int, list[Any]]:
    """Make the view of a value; its oid, and the columns of the table `r` that it reads.

    Raises:
        DerivedError: a trigger does not see one of them.
    """
    async with callers_names(connection):
        # fetch prepares it, and what is prepared cannot be several statements.
        await connection.fetch(
            f"CREATE VIEW {VIEW} AS SELECT (\n{sql}\n) AS value FROM {table} AS r"
        )
    view = await connection.fetchval(f"SELECT '{VIEW}'::regclass::oid")
    read = await connection.fetch(_READ, view, table)
    for row in read:
        if row["is_virtual"]:
            raise DerivedError(
                f"it reads {row['name']}, which is computed when it is read, and triggers cannot:"
                " make that column STORED"
            )
    return view, read


async def _require_value_of_row(connection: AnyConnection, view: int, owner: str) -> None:
    """The owner may work the expression out, for one row, and always with the same result.

    Raises:
        DerivedError: not so.
    """
    if forbidden := await connection.fetchval(_FORBIDDEN, view, owner):
        raise DerivedError(
            f"{owner}, as whom the functions run, may not call {forbidden}:"
            f" GRANT EXECUTE ON FUNCTION {forbidden} TO {quoted(owner)}"
        )
    if no_value := await connection.fetchval(_NO_VALUE, view):
        raise DerivedError(f"an expression is worked out for each row alone, without {no_value}")
    if volatile := await connection.fetchval(_VOLATILE, view):
        raise DerivedError(
            f"{volatile} is volatile: it may give another value each time"
            " (if it is yours and does not, declare it STABLE)"
        )


async def _try(connection: AnyConnection, function: str, table: str, read: Sequence[Any]) -> str:
    """Work the value out as the triggers will. Returns why no row could be read for it, if so.

    Raises:
        DerivedError: it fails.
    """
    columns = ", ".join(f"r.{quoted(row['name'])}" for row in read)
    nulls = ", ".join(f"NULL::{row['type']}" for row in read)
    trial = await try_out(connection, table, f"{function}({columns})", f"{function}({nulls})")
    if trial.failure:
        raise DerivedError(
            f"it fails where the triggers work it out: {trial.failure}. For every row it has to be"
            " a value or null (docs/adopting.md, A value that no column has). The triggers find"
            f" nothing but PostgreSQL's own names ({OWN_PATH}), and so do functions that it calls:"
            " name all else with its schema, within their bodies too, or ALTER FUNCTION ... SET"
            " search_path"
        )
    return trial.unread


async def _require_lookup(connection: AnyConnection, value: Lookup, table: Table) -> None:
    """The tables and columns of a lookup are there: PostgreSQL would tell of names of ours.

    Raises:
        DerivedError: one is not.
    """
    other = value.schema, value.table
    if not await connection.fetchval(_IS_TABLE, *other):
        said = ".".join(other)
        raise DerivedError(f"there is no table {said}: correct `table`, or name its `schema`")
    for word, where, column in (
        ("through", (table.schema, table.name), value.through),
        ("key", other, value.key),
        ("column", other, value.column),
    ):
        if not await connection.fetchval(_HAS_COLUMN, *where, column):
            said = ".".join(where)
            raise DerivedError(f"{said} has no column {column}: correct `{word}`")


async def _looked_up(connection: AnyConnection, value: Lookup) -> str:
    """The lookup in SQL, `{}` standing for the row."""
    table = f"{quoted(value.schema)}.{quoted(value.table)}"
    equal = await equals(connection, table, value.key)
    is_it = equal.format(f"t.{quoted(value.key)}", f"{{}}.{quoted(value.through)}")
    return f"(SELECT t.{quoted(value.column)} FROM {table} AS t WHERE {is_it} LIMIT 1)"


def _argument(column: Any) -> str:
    """A column as the function takes it: a time with or without a zone, whichever it has now."""
    value = f"{{}}.{quoted(column['name'])}"
    if column["base"] == "timestamptz":
        return f"relay.time_of({value})"
    if column["base"] == "timestamp":
        return f"(relay.time_of({value}) AT TIME ZONE 'UTC')"
    return value


def _function(table: str, key: str, sql: str, read: Sequence[Any], returns: str) -> str:
    arguments = ", ".join(f"{quoted(row['name'])} {row['type']}" for row in read)
    return (
        f"CREATE FUNCTION {PREFIX}{table}_{key}({arguments}) RETURNS {returns}\n"
        f"LANGUAGE sql STABLE PARALLEL SAFE\nRETURN (\n{sql}\n);\n"
    )
