"""Connections whose statements find PostgreSQL's own names, whoever may create others.

A function or an operator is found by the search path, and the better match of its arguments wins,
also over one of PostgreSQL's. In `public` of an old database anybody may create some, and would
have them called as the role that connects. So nothing of the role's own path is looked at.
"""

from typing import Any

from realtime.postgres.wire import WireConnection

OWN_PATH = "pg_catalog, pg_temp"
"""The search path on which nothing is found but PostgreSQL's own. On another, functions that others
have made may be found before them."""

_WITHOUT_PATH = """
SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p
 WHERE p.pronamespace = 'relay'::regnamespace AND p.proname IN ('authenticate', 'authorize')
   AND p.prosqlbody IS NULL
   AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS one WHERE starts_with(one, 'search_path='))
 ORDER BY 1
"""

_FIRST = f"SET LOCAL search_path = {OWN_PATH};\n"


async def without_path(connection: WireConnection) -> list[str]:
    """Functions about access, of a platform's own, that find names by the path of who calls them.

    By another path they would fail or, worse, mean something else: without the operators of an
    extension, text that ignores case is compared as any other. So who calls them keeps its path.
    """
    return [row["name"] for row in await connection.fetch(_WITHOUT_PATH)]


class OwnNamesConnection(WireConnection):
    """A connection on which `OWN_PATH` holds, also where a pooler keeps settings from PostgreSQL.

    A path that was asked for when one connects is then lost. Nor can it be set for a session: in
    transaction mode the next transaction runs in another, and others run theirs in this one. So
    each transaction sets it for itself, and a statement alone gets a transaction.
    """

    __slots__ = ("_sets_path",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sets_path = False

    async def use_own_names(self) -> None:
        """Look which path the session has; if it is not ours, set it in each transaction."""
        self._sets_path = await self.fetchval("SHOW search_path") != OWN_PATH

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        # Several statements in one message are a transaction, and BEGIN goes on with it.
        if self._sets_path and not args and not self.is_in_transaction():
            query = _FIRST + query
        return await super().execute(query, *args, timeout=timeout)

    async def _execute(self, *arguments: Any, **options: Any) -> Any:
        if not self._sets_path or self.is_in_transaction():
            return await super()._execute(*arguments, **options)  # type: ignore[misc]
        async with self.transaction():
            return await super()._execute(*arguments, **options)  # type: ignore[misc]
