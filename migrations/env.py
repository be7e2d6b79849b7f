"""Connects alembic to the database. Loaded by alembic, for its command line and for `migrate`.

The address comes from `config.attributes["dsn"]` or else from DATABASE_URL, in any form that
asyncpg understands. Everything happens in one transaction that holds the version table, so that two
release phases at once do not collide. No other table is waited for longer than a moment, for
writers queue behind whoever waits: the transaction is given up and tried again. The version table
lives in the schema relay, beside an application's own alembic history.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import asyncpg
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from migrations.models import Base
from realtime.postgres.holders import Watch
from realtime.postgres.hosts import open_connection
from realtime.postgres.own_names import OWN_PATH, OwnNamesConnection
from realtime.postgres.pool import AS_COMPARED

if TYPE_CHECKING:
    from sqlalchemy.sql.schema import SchemaItem

CONNECT_TIMEOUT = 10.0
TURN_TIMEOUT = "60s"
"""For another release phase to end."""
LIMITS = {
    "statement_timeout": "30min",  # for one step, as for an index over a long log
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
"""Whatever the role's defaults are. Said when the connection begins, for they may be shorter than
the way to the first statement; and in the transaction, for a pooler may let no settings through."""
TABLE_TIMEOUT = "150ms"
"""For one table. Several stay below PostgreSQL's deadlock_timeout, so that a deadlock with a writer
costs us the attempt, never the writer."""
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.5
LOCKED = ("55P03", "40P01")
"""PostgreSQL's codes for a lock that was not to be had, and for a deadlock."""
EXISTS = ("23505", "42P06", "42P07", "42710")
"""What two get who create the same schema or table at the same time, all but the first."""
HAS_SCHEMA = "SELECT to_regnamespace('relay') IS NOT NULL"
HAS_TABLE = "SELECT to_regclass('relay.alembic_version') IS NOT NULL"
# Not an advisory lock, which any role that can connect could take. Where nothing is there yet, who
# comes second waits for the first one's end before it is told that the name is taken. The table is
# alembic's own, as alembic makes it.
MAKE_TABLE = """
CREATE TABLE IF NOT EXISTS relay.alembic_version (
    version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))
"""
TAKE_TURN = "LOCK TABLE relay.alembic_version IN EXCLUSIVE MODE"


def dsn() -> str:
    found = context.config.attributes.get("dsn") or os.environ.get("DATABASE_URL")
    if not found:
        raise CommandError("no database named: set DATABASE_URL, as in postgresql://user@host/name")
    return str(found)


def reference_tables() -> MetaData:
    """Those of the models, whose schema has to be named: our search path has none of theirs."""
    named = MetaData()
    for table in Base.metadata.tables.values():
        table.to_metadata(named, schema="public")
    return named


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Look at no other schema. Called with positions only."""
    return kind != "schema" or name == "public"


def include_object(
    item: SchemaItem, _name: str | None, kind: str, reflected: bool, _compare_to: SchemaItem | None
) -> bool:
    """Leave an application's own tables out of `alembic check`. Called with positions only."""
    table: Any = item if kind == "table" else getattr(item, "table", None)
    return not reflected or table is None or table.name in Base.metadata.tables


def configure(**how: Any) -> None:
    context.configure(
        target_metadata=reference_tables(),
        version_table_schema="relay",
        include_schemas=True,
        include_name=include_name,
        include_object=include_object,
        compare_type=True,
        compare_server_default=True,
        **how,
    )


def run_online(connection: Connection, watch: Watch) -> None:
    configure(connection=connection)
    with context.begin_transaction():
        for name, limit in LIMITS.items():
            connection.execute(text(f"SET LOCAL {name} = '{limit}'"))
        if (connection.dialect.server_version_info or ()) >= (17,):
            connection.execute(text("SET LOCAL transaction_timeout = 0"))
        watch.pid = connection.scalar(text("SELECT pg_backend_pid()"))
        for name, value in AS_COMPARED.items():
            connection.execute(text(f"SET LOCAL {name} = '{value}'"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{TURN_TIMEOUT}'"))
        take_turn(connection)
        connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_TIMEOUT}'"))
        context.run_migrations()


def take_turn(connection: Connection) -> None:
    """Wait until no other release phase is at work, and keep the next ones out until the end.

    Raises:
        LockNotAvailableError: another one has made the schema meanwhile.
    """
    try:
        # IF NOT EXISTS alone would ask for the right to make one also where there is one.
        if not connection.scalar(text(HAS_SCHEMA)):
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS relay"))
        if not connection.scalar(text(HAS_TABLE)):
            connection.execute(text(MAKE_TABLE))
        connection.execute(text(TAKE_TURN))
    except DBAPIError as error:
        if sqlstate(error) in EXISTS:
            raise asyncpg.LockNotAvailableError("another release phase was first") from error
        raise


def run_offline() -> None:
    configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.execute("CREATE SCHEMA IF NOT EXISTS relay")
        context.run_migrations()


async def open_for_migrations(address: str) -> OwnNamesConnection:
    how: dict[str, Any] = {"timeout": CONNECT_TIMEOUT, "connection_class": OwnNamesConnection}
    connection: OwnNamesConnection
    try:
        asked = {**LIMITS, "search_path": OWN_PATH}
        connection = await open_connection(address, server_settings=asked, **how)
    except asyncpg.ProtocolViolationError:  # a pooler that lets no settings through
        connection = await open_connection(address, **how)
    try:
        await connection.use_own_names()
    except BaseException:
        connection.terminate()
        raise
    return connection


async def connect_and_run() -> None:
    address = dsn()

    async def connect(*_args: Any, **_options: Any) -> OwnNamesConnection:
        return await open_for_migrations(address)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    patience = context.config.attributes.get("patience")
    deadline = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
    watch = context.config.attributes.get("watch") or Watch()
    watching = asyncio.create_task(watch.run(address))
    try:
        while True:
            try:
                async with engine.connect() as connection:
                    return await connection.run_sync(run_online, watch)
            except (asyncpg.PostgresError, DBAPIError) as error:
                if sqlstate(error) not in LOCKED or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        watching.cancel()


def sqlstate(error: asyncpg.PostgresError | DBAPIError) -> str | None:
    """PostgreSQL's code for an error, also where SQLAlchemy has wrapped it."""
    code: str | None = getattr(getattr(error, "orig", error), "sqlstate", None)
    return code


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(connect_and_run())
