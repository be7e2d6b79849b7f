"""A row that others have deleted, and that the writer's snapshot still shows beside its own.

Under REPEATABLE READ and SERIALIZABLE a transaction may put a row in the place of one that another
has deleted meanwhile. Then its queries find two rows of that key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.integration.sql_log import Log, bot_update, permission_entries
from tests.platform import Platform
from tests.serving import World
from tests.waiting import LIMIT

both_levels = pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
PUT_AND_DELETED = [
    (
        "INSERT INTO messages (id, session_id, bot_id, user_id, role, content)"
        " VALUES ('{id}', '{session}', '{bot}', '{user}', 'user', 'Hello')",
        [("chat_message", None), ("chat_message_update", "deleted")],
    ),
    (
        "INSERT INTO documents (id, bot_id, filename) VALUES ('{id}', '{bot}', 'a.pdf')",
        [("document_update", "uploaded"), ("document_update", "deleted")],
    ),
    (
        "INSERT INTO permissions (id, bot_id, user_id, role)"
        " VALUES ('{id}', '{bot}', '{user}', 'viewer')",
        [
            ("permission_change", "granted"),
            ("notification", "granted"),
            ("permission_change", "revoked"),
            ("notification", "revoked"),
            ("eject", "revoked"),
        ],
    ),
    (
        "INSERT INTO bots (id, name, owner_id) VALUES ('{id}', 'Ada', '{user}')",
        [("grant", None), ("eject", None), ("recheck", "revoked")],
    ),
]
"""How to put a row, and what is told of one that is put and deleted."""
FOREIGN_KEYS = """
SELECT string_agg(format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname), '; ')
  FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace
"""


@asynccontextmanager
async def seen_although_deleted(
    platform: Platform, database: str, isolation: Any, table: str, *ids: str
) -> AsyncIterator[Log]:
    """A transaction of the platform's that still sees rows which another has deleted.

    Yields:
        The log of what the transaction writes, to be read after it.
    """
    other = Platform(await asyncpg.connect(database, timeout=LIMIT))
    try:
        async with platform.connection.transaction(isolation=isolation):
            await platform.execute("SELECT FROM users LIMIT 1")  # the snapshot is taken here
            await other.execute(f"DELETE FROM {table} WHERE id = ANY ($1::uuid[])", list(ids))
            newest = await other.connection.fetchval("SELECT max(id) FROM relay.events")
            yield Log(platform, newest)  # not of the snapshot, which is older
    finally:
        await other.connection.close(timeout=LIMIT)


async def require_two(platform: Platform, table: str, row: str) -> None:
    """What these tests are about is the case."""
    count = f"SELECT count(*) FROM {table} WHERE id = $1"
    assert await platform.connection.fetchval(count, row) == 2


@both_levels
@pytest.mark.gen_test
async def test_a_message_is_told_as_it_was_put_back(
    platform: Platform, world: World, database: str, isolation: str
) -> None:
    """The upsert also updates a message, so its triggers read the table."""
    ids = [await platform.message(world.session, world.bot, world.owner, "old") for _ in "12"]
    async with seen_although_deleted(platform, database, isolation, "messages", ids[0]) as log:
        await platform.execute(
            """INSERT INTO messages (id, session_id, bot_id, user_id, role, content)
            SELECT id, $2, $3, $4, 'user', 'new' FROM unnest($1::uuid[]) AS id
            ON CONFLICT (id) DO UPDATE SET content = excluded.content""",
            *(ids, world.session, world.bot, world.owner),
        )
        await require_two(platform, "messages", ids[0])
    told = [
        (m["type"], m["data"]["message_id"], m["data"]["content"]) for m in await log.messages()
    ]
    assert sorted(told) == [
        ("chat_message", ids[0], "new"),
        ("chat_message_update", ids[1], "new"),
    ]


@both_levels
@pytest.mark.gen_test
async def test_a_document_is_told_as_it_was_put_back(
    platform: Platform, world: World, database: str, isolation: str
) -> None:
    """Its new name and status, and not those of the deleted one."""
    ids = [str(uuid4()), str(uuid4())]
    upsert = """INSERT INTO documents (id, bot_id, filename, status)
        SELECT id, $2, $3, $4 FROM unnest($1::uuid[]) AS id
        ON CONFLICT (id) DO UPDATE SET filename = excluded.filename, status = excluded.status"""
    await platform.execute(upsert, ids, world.bot, "old.pdf", "processed")
    async with seen_although_deleted(platform, database, isolation, "documents", ids[0]) as log:
        await platform.execute(upsert, ids, world.bot, "new.pdf", "processing")
        await require_two(platform, "documents", ids[0])
    told = {m["data"]["document"]["id"]: m["data"] for m in await log.messages()}
    assert {told[one]["action"] for one in ids} == {"uploaded", "processing"}
    assert [told[one]["document"] for one in ids] == [
        {"id": one, "filename": "new.pdf", "status": "processing"} for one in ids
    ]


@both_levels
@pytest.mark.gen_test
async def test_a_permission_is_told_as_it_was_put_back(
    platform: Platform, world: World, database: str, isolation: str
) -> None:
    """Who was an admin, and is granted less, is not told that they are one."""
    user = await platform.user()
    permission = await platform.permit(world.bot, user, "admin")
    async with seen_although_deleted(
        platform, database, isolation, "permissions", permission
    ) as log:
        await platform.execute(
            """INSERT INTO permissions (id, bot_id, user_id, role)
            VALUES ($1, $2, $3, 'viewer'), (gen_random_uuid(), $2, $4, 'editor')
            ON CONFLICT (bot_id, user_id) DO UPDATE SET role = excluded.role""",
            *(permission, world.bot, user, world.guest),
        )
        await require_two(platform, "permissions", permission)
    granted = permission_entries(world.bot, user, "granted", role="viewer", granted_by=None)
    updated = permission_entries(
        world.bot, world.guest, "updated", role="editor", granted_by=None, old_role="viewer"
    )
    assert sorted(await log.entries(), key=str) == sorted(granted + updated, key=str)


@both_levels
@pytest.mark.gen_test
async def test_a_bot_is_told_as_it_was_put_back(
    platform: Platform, world: World, database: str, isolation: str
) -> None:
    """One client statement puts it back and renames it."""
    bot = await platform.bot(world.owner, "old")
    await platform.execute("UPDATE bots SET description = 'old' WHERE id = $1", bot)
    async with seen_although_deleted(platform, database, isolation, "bots", bot) as log:
        await platform.execute(
            f"""DO $$ BEGIN
                INSERT INTO bots (id, name, owner_id) VALUES ('{bot}', 'new', '{world.owner}');
                UPDATE bots SET name = 'newer' WHERE id = '{bot}' AND name = 'new';
            END $$"""
        )
        await require_two(platform, "bots", bot)
    grant, update = await log.entries()
    assert grant.type == "grant"
    assert update.message == bot_update(bot, "config", None, name="newer")


@both_levels
@pytest.mark.parametrize(("insert", "told"), PUT_AND_DELETED)
@pytest.mark.gen_test
async def test_what_was_put_back_and_deleted_again_is_gone(
    platform: Platform, world: World, database: str, isolation: str, insert: str, told: list[Any]
) -> None:
    """One client statement does both; then only the row that another deleted is seen."""
    row, table = str(uuid4()), insert.split()[2]
    insert = insert.format(id=row, user=await platform.user(), bot=world.bot, session=world.session)
    await platform.execute(insert)
    async with seen_although_deleted(platform, database, isolation, table, row) as log:
        delete = f"DELETE FROM {table} WHERE id = '{row}' AND xmin = pg_current_xact_id()::xid"
        await platform.execute(f"DO $$ BEGIN {insert}; {delete}; END $$")
        count = f"SELECT count(*) FROM {table} WHERE id = $1"
        assert await platform.connection.fetchval(count, row) == 1
    assert await log.actions() == told


@both_levels
@pytest.mark.gen_test
async def test_the_owner_is_that_of_the_bot_that_was_put_back(
    platform: Platform, world: World, database: str, isolation: str
) -> None:
    """Here the new bot is locked as well, so that both of its rows have an xmax."""
    await platform.execute(await platform.connection.fetchval(FOREIGN_KEYS))
    bot = await platform.bot(world.owner)
    async with seen_although_deleted(platform, database, isolation, "bots", bot) as log:
        await platform.execute(
            "INSERT INTO bots (id, name, owner_id) VALUES ($1, 'Ada', $2)", bot, world.guest
        )
        await platform.execute("SELECT FROM bots WHERE owner_id = $1 FOR UPDATE", world.guest)
        await platform.permit(bot, world.owner)
        await platform.revoke(bot, world.owner)
        assert (
            await platform.connection.fetchval(
                "SELECT count(*) FROM bots WHERE id = $1 AND xmax <> 0", bot
            )
            == 2
        )
    grant, *rest = await log.entries()
    assert grant.type == "grant"
    details = {"role": "viewer", "granted_by": None}
    assert rest == [
        *permission_entries(bot, world.owner, "granted", **details),
        *permission_entries(bot, world.owner, "revoked", "eject", **details),
    ]


@both_levels
@pytest.mark.gen_test
async def test_a_new_owner_is_told_of_the_role_that_was_put_back(
    platform: Platform, world: World, database: str, isolation: str
) -> None:
    """Who hands a bot over and keeps a role is told which one."""
    permission = await platform.permit(world.bot, world.owner, "admin")
    async with seen_although_deleted(
        platform, database, isolation, "permissions", permission
    ) as log:
        await platform.execute(
            "INSERT INTO permissions (id, bot_id, user_id, role) VALUES ($1, $2, $3, 'viewer')",
            *(permission, world.bot, world.owner),
        )
        await require_two(platform, "permissions", permission)
        await platform.execute("UPDATE bots SET owner_id = $1", world.guest)
    roles = [
        entry.message["data"]["details"]["role"]
        for entry in await log.entries()
        if entry.type == "permission_change"
        and entry.message is not None
        and entry.message["data"]["target_user_id"] == world.owner
    ]
    assert roles[-1] == "viewer"


@both_levels
@pytest.mark.parametrize("table", ["users", "bots"])
@pytest.mark.gen_test
async def test_no_writer_fails_where_a_user_or_a_bot_was_put_back(
    platform: Platform, world: World, database: str, isolation: str, table: str
) -> None:
    """Without foreign keys, what belongs to the deleted row stays, and may be written."""
    await platform.execute(await platform.connection.fetchval(FOREIGN_KEYS))
    user, third = await platform.user("ada"), await platform.bot(world.owner)
    message = await platform.message(world.session, world.bot, world.owner)
    await platform.execute("INSERT INTO documents (bot_id, filename) VALUES ($1, 'f')", world.bot)
    row = user if table == "users" else world.bot
    async with seen_although_deleted(platform, database, isolation, table, row) as log:
        if table == "users":
            await platform.execute("INSERT INTO users (id, username) VALUES ($1, 'ada')", user)
        else:
            await platform.execute(
                "INSERT INTO bots (id, name, owner_id) VALUES ($1, 'Ada', $2)", row, world.owner
            )
        await require_two(platform, table, row)
        await platform.message(world.session, world.bot, user)
        await platform.execute("UPDATE messages SET content = 'edited' WHERE id = $1", message)
        await platform.permit(world.bot, user)
        await platform.revoke(world.bot, user)
        # Where a bot is deleted in the same statement, it is asked whether this one is there.
        await platform.execute(
            f"""DO $$ BEGIN
                DELETE FROM bots WHERE id = '{third}';
                DELETE FROM messages WHERE bot_id = '{world.bot}';
                DELETE FROM documents WHERE bot_id = '{world.bot}';
            END $$"""
        )
    types = [entry.type for entry in await log.entries() if entry.type != "grant"]
    assert types == [
        "chat_message",
        "chat_message_update",
        "permission_change",
        "notification",
        "permission_change",
        "notification",
        "eject",
        "eject",
        "chat_message_update",
        "chat_message_update",
        "document_update",
    ]
