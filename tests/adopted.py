"""A platform as it was before it met the relay: tables with names of its own, written by hand.

`tests/adopted.toml` is the mapping of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg

from realtime.attach.mapping import PlatformMapping, read_mapping

MAPPING = Path(__file__).with_name("adopted.toml")
# Nullable where nobody thought of it, an enum, varchars, times without zone: as such schemas are.
SCHEMA = """
CREATE TYPE bot_role AS ENUM ('VIEWER', 'EDITOR', 'OWNER');
CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    username varchar(80) NOT NULL UNIQUE,
    hashed_password text,
    is_active boolean DEFAULT true
);
CREATE TABLE bots (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(200) NOT NULL,
    owner_id uuid REFERENCES users ON DELETE SET NULL,
    api_key text DEFAULT 'secret',
    settings json DEFAULT '{}',
    modified_at timestamp DEFAULT now()
);
CREATE TABLE bot_permissions (
    bot_id uuid REFERENCES bots ON DELETE CASCADE,
    user_id uuid REFERENCES users ON DELETE CASCADE,
    role bot_role,
    PRIMARY KEY (bot_id, user_id)
);
CREATE TABLE conversation_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    bot_id uuid REFERENCES bots ON DELETE CASCADE,
    user_id uuid REFERENCES users ON DELETE CASCADE
);
CREATE TABLE messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid REFERENCES conversation_sessions ON DELETE CASCADE,
    bot_id uuid REFERENCES bots ON DELETE CASCADE,
    user_id uuid REFERENCES users ON DELETE CASCADE,
    role varchar(20),
    content text,
    message_metadata json,
    created_at timestamp DEFAULT timezone('utc', now())
);
CREATE TABLE documents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    bot_id uuid REFERENCES bots ON DELETE CASCADE,
    filename varchar(255),
    uploaded_by uuid
);
"""


def mapping() -> PlatformMapping:
    return read_mapping(MAPPING)


class Adopted:
    """A connection of that platform's, which writes rows and knows nothing of events."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.connection = connection

    async def execute(self, query: str, *arguments: Any) -> str:
        return await self.connection.execute(query, *arguments)

    async def insert(self, table: str, **values: Any) -> str:
        """Insert a row; its id."""
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        query = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places}) RETURNING id::text"
        return str(await self.connection.fetchval(query, *values.values()))

    async def permit(self, bot: str, user: str, role: str = "VIEWER") -> None:
        await self.execute("INSERT INTO bot_permissions VALUES ($1, $2, $3)", bot, user, role)


# Everything about the platform's tables that another program could have changed.
CATALOGUE = """
SELECT c.relname, c.relacl::text, c.relowner::regrole::text, c.relrowsecurity,
       c.relhastriggers,
       (SELECT array_agg(a.attname || ':' || coalesce(a.attacl::text, '') ORDER BY a.attname)
          FROM pg_attribute AS a WHERE a.attrelid = c.oid) AS columns,
       (SELECT array_agg(pg_get_triggerdef(t.oid) ORDER BY t.oid)
          FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS triggers,
       (SELECT array_agg(pg_get_constraintdef(o.oid) ORDER BY o.oid)
          FROM pg_constraint AS o WHERE o.conrelid = c.oid) AS constraints,
       (SELECT count(*) FROM pg_index AS i WHERE i.indrelid = c.oid) AS indexes
  FROM pg_class AS c WHERE c.relnamespace <> ALL ($1::regnamespace[]) AND c.relkind IN ('r', 'p')
 ORDER BY c.relname
"""
FUNCTIONS = """
SELECT p.oid::regprocedure::text, p.proacl::text, obj_description(p.oid, 'pg_proc')
  FROM pg_proc AS p WHERE p.pronamespace <> ALL ($1::regnamespace[]) ORDER BY 1
"""
SCHEMAS = "SELECT nspname, nspacl::text FROM pg_namespace ORDER BY 1"


async def catalogue(connection: asyncpg.Connection[asyncpg.Record]) -> list[list[Any]]:
    """Tables, functions of every schema, and grants, to compare before and after."""
    system = ["pg_catalog", "information_schema"]
    return [
        [tuple(row) for row in await connection.fetch(CATALOGUE, [*system, "relay"])],
        [tuple(row) for row in await connection.fetch(FUNCTIONS, system)],
        [tuple(row) for row in await connection.fetch(SCHEMAS)],
    ]
