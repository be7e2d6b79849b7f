"""Why PostgreSQL did not do what a command wanted, in one line that says what to do about it."""

from __future__ import annotations

import asyncpg


def why_unreachable(error: BaseException, named: str = "DATABASE_URL") -> str:
    """Why there is no connection.

    Args:
        named: the setting that has the address.
    """
    match error:
        case asyncpg.InvalidPasswordError():
            return (
                f"PostgreSQL refuses the password of {named}: correct it (in it, @ : / ? # are"
                f" written %40 %3A %2F %3F %23) ({error})"
            )
        case FileNotFoundError():
            return (
                f"{named} leads to a file that is not there: the server's socket, or what its"
                " sslrootcert, sslcert, sslkey or sslcrl names"
            )
        case asyncpg.InvalidCatalogNameError():
            return f"{error}: correct the database's name in {named}, or create it"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return (
                f"PostgreSQL does not let this role in: {error}; correct the role in"
                f" {named}, or pg_hba.conf at the server"
            )
        case asyncpg.TooManyConnectionsError():
            return f"{error}: close what holds connections, or {room_for_connections(error)}"
        case asyncpg.FeatureNotSupportedError():
            return f"{encoding_refused(error)}: {OTHER_ENCODING}"
        case asyncpg.TargetServerAttributeNotMatched():
            return f"{error}: name the primary in {named}, or promote a standby"
        case asyncpg.InsufficientPrivilegeError():
            return (
                f"PostgreSQL refused: {error}; grant it to the role of {named} (bin/doctor"
                " lists all that it needs), or ask the host of the database"
            )
        case asyncpg.LockNotAvailableError() | asyncpg.QueryCanceledError():
            return (
                f"the database was reached, but a table stayed locked ({error}): bin/doctor names"
                " who holds it"
            )
    # The libraries' own texts may have a second line, with advice for programmers.
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    return f"the database cannot be reached; check {named}, and that the server is up ({said})"


OTHER_ENCODING = (
    "run CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and restore a dump into that"
    " database"
)
"""What to do about a database whose encoding is refused."""


def encoding_refused(error: BaseException) -> str:
    """The encoding of a database, as MULE_INTERNAL, which PostgreSQL does not turn into UTF-8."""
    return f"PostgreSQL cannot write this database's text as UTF-8 ({error})"


def room_for_connections(error: BaseException) -> str:
    """What to raise where PostgreSQL has too many connections, by what it said."""
    for kind in ("role", "database"):
        if f"for {kind}" in str(error):
            return f"raise that {kind}'s limit (ALTER {kind.upper()} ... CONNECTION LIMIT)"
    return "raise max_connections"


def why_refused(error: BaseException, role: str) -> str:
    """Why a step was refused; nothing was changed by it."""
    match error:
        case asyncpg.InsufficientPrivilegeError():
            return (
                f"nothing was changed: {error}, as the role {role}. Run this as the role that owns"
                " the database or the schema relay, or grant what is missing"
            )
        case asyncpg.ReadOnlySQLTransactionError():
            return (
                "nothing was changed: the database is read-only (default_transaction_read_only is"
                " on). Some hosts set this when the disk is full: make room, then run this again"
            )
        case asyncpg.DuplicateObjectError() | asyncpg.DuplicateTableError():
            return (
                f"nothing was changed: {error}, and relay.alembic_version does not know of it. Was"
                " that table emptied, or left out of a dump? Restore it, or drop the schema relay"
            )
    return f"the migration failed, and changed nothing: {error}"
