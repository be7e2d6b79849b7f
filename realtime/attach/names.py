"""Which names the statements of `bin/attach` mean: PostgreSQL's own, whoever may create others.

A function is found by the search path, and the better match of its arguments wins, also over one of
PostgreSQL's. Where others may create functions in a schema of the path, as anybody may in `public`
of an old database, they could have theirs called with the rights of who attaches. So nothing of
the path is looked at. Only a mapping's expressions mean what they mean to who wrote them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from realtime.postgres.own_names import OWN_PATH

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection

OURS: Final = f"SET LOCAL search_path = {OWN_PATH};\n"
_KEPT: Final = "SELECT pg_catalog.current_setting('relay.callers_path', true)"
_KEEP: Final = "SELECT set_config('relay.callers_path', $1, true)"


async def use_own_names(connection: AnyConnection) -> None:
    """Mean PostgreSQL's own names, until the end of the transaction."""
    if await connection.fetchval(_KEPT):
        return
    path = await connection.fetchval("SHOW search_path")
    await connection.execute(OURS)
    await connection.fetchval(_KEEP, path or "''")


async def as_meant(connection: AnyConnection, statements: str) -> str:
    """Statements that hold a mapping's expressions, with the path that these are written for."""
    path = await connection.fetchval(_KEPT)
    return f"SET LOCAL search_path = {path};\n{statements}{OURS}"


@asynccontextmanager
async def callers_names(connection: AnyConnection) -> AsyncIterator[None]:
    """Within this, names mean what they mean to who runs the command; an error ends the attempt."""
    await connection.execute(f"SET LOCAL search_path = {await connection.fetchval(_KEPT)}")
    yield
    await connection.execute(OURS)
