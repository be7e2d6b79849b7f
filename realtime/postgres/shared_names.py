"""Names of roles, which all databases of a server share, whatever their encodings are.

A role that was named in a UTF-8 database may have a name with bytes that are no character of this
one's encoding, and an answer with it would be an error as a whole. So such names are asked for as
bytes, which PostgreSQL sends as they are.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection


def as_bytes(name: str) -> str:
    """SQL for the bytes of a name, or of text with one in it."""
    return f"replace(({name})::text, E'\\\\', E'\\\\\\\\')::bytea"


async def fetch_named(
    connection: AnyConnection, query: str, *arguments: Any, column: str
) -> list[dict[str, Any]]:
    """The rows of a query whose `column` is `as_bytes`, with text in it.

    Raises:
        One of `pool.DATABASE_ERRORS`.
    """
    rows = await connection.fetch(query, *arguments)
    encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")
    return [{**row, column: text_of(row[column], encoding)} for row in rows]


def text_of(name: bytes | None, encoding: str) -> str | None:
    """What a name most likely is: UTF-8, as which other text hardly ever passes, or as text here.

    Args:
        encoding: the database's, as PostgreSQL calls it.
    """
    if name is None:
        return None
    for codec in ("utf-8", encoding.replace("WIN", "cp")):
        with suppress(UnicodeDecodeError, LookupError):
            return name.decode(codec)
    return name.decode("ascii", "backslashreplace")
