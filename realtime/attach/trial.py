"""Tries an expression for rows that are there, as the triggers will work it out for new ones.

An expression that fails for one row fails whoever writes such a row, also the statement that would
repair it. A large table is not read as a whole: its newest rows, some of all, and what else there
is time for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from realtime.attach.templates import literal
from realtime.postgres.holders import LOCKED

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection

MILLISECONDS: Final = 300
"""How long each of the three looks at a table may take."""
NEWEST_PAGES: Final = 64
SAMPLE_PAGES: Final = 1000
# Partitions have the pages of a partitioned table, and which of them are the newest is not known.
_PAGES: Final = """
SELECT pg_relation_size(t.oid) / p.size AS own,
       (SELECT coalesce(sum(pg_relation_size(one.relid)), 0)::bigint
          FROM pg_partition_tree(t.oid) AS one) / p.size AS partitions
  FROM (SELECT {table}::regclass AS oid) AS t,
       (SELECT current_setting('block_size')::int AS size) AS p
"""


class Trial(NamedTuple):
    """What a trial brought.

    Attributes:
        failure: why the value cannot be worked out; empty: nothing failed.
        unread: why no row could be read to try it with; empty: some were, or there are none.
    """

    failure: str = ""
    unread: str = ""


async def try_out(connection: AnyConnection, table: str, of_row: str, of_nulls: str) -> Trial:
    """Work a value out on a connection that finds PostgreSQL's own names only.

    For nulls it may fail, unless something that it uses is not found: the columns may never be
    null. They are tried because there may be no rows yet.

    Args:
        table: as SQL names it.
        of_row: the value as SQL, for the row `r` of the table.
        of_nulls: the same for nulls.
    """
    unread, has_rows = "", False
    pages = await connection.fetchrow(_PAGES.format(table=literal(table)))
    assert pages is not None
    own, partitions = pages["own"], pages["partitions"]
    for rows in _looks(table, own, partitions):
        outcome = await _outcome(connection, f"SELECT count(*), count({of_row}) FROM {rows}")
        if not isinstance(outcome, asyncpg.PostgresError):
            has_rows = has_rows or outcome != 0
            continue
        # A policy of row security may fail for whoever has not said who they are. The triggers do
        # not read the table through it: what was written is handed to them.
        of_reading = await _outcome(connection, f"SELECT count(*) FROM {rows}")
        if not isinstance(of_reading, asyncpg.PostgresError):
            return Trial(_text(outcome))
        unread = _text(of_reading)
        break
    # Or it shows no row, and says nothing.
    if not unread and not has_rows and max(own, partitions) > 0:
        active = f"SELECT row_security_active({literal(table)}::regclass)"
        unread = "row security shows it none" if await connection.fetchval(active) else ""
    outcome = await _outcome(connection, f"SELECT {of_nulls}")
    return Trial(_text(outcome) if isinstance(outcome, asyncpg.SyntaxOrAccessError) else "", unread)


def _looks(table: str, own: int, partitions: int) -> Iterator[str]:
    """Rows of the table as a query reads them, those first that are most likely to be written."""
    if own > NEWEST_PAGES:
        yield f"{table} AS r WHERE r.ctid >= '({own - NEWEST_PAGES},0)'"
    if (pages := max(own, partitions)) > SAMPLE_PAGES:
        yield f"{table} AS r TABLESAMPLE SYSTEM ({100 * SAMPLE_PAGES / pages})"
    yield f"{table} AS r"


async def _outcome(connection: AnyConnection, query: str) -> Any:
    """The first value of a query, or the error that it fails with; None: it had not the time."""
    trial = connection.transaction()
    await trial.start()
    try:
        await connection.execute(f"SET LOCAL statement_timeout = {MILLISECONDS}")
        return await connection.fetchval(query)
    except LOCKED:
        raise
    except asyncpg.QueryCanceledError:
        return None
    except asyncpg.PostgresError as error:
        return error
    finally:
        await trial.rollback()


def _text(error: asyncpg.PostgresError) -> str:
    """In one line."""
    return " ".join(str(error).split())
