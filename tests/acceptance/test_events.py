"""Every row of the protocol's event table: plain SQL in, a message on a real socket out."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from realtime.relay.cursor import parse_cursor
from tests.platform import Platform
from tests.serving import RunningServer, World

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def payload(message: dict[str, Any]) -> dict[str, Any]:
    """The message without what the relay adds and the clock decides, which are checked here."""
    rest = dict(message)
    assert re.fullmatch(r"[0-9]+-[0-9]{16}", rest.pop("id"))
    assert rest.pop("cursor", "2.").startswith("2.")
    assert TIME.fullmatch(rest.pop("timestamp"))
    return rest


@pytest.mark.gen_test
async def test_insert_into_messages_is_a_chat_message(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Everybody on the bot gets it, the author's own socket included, in the guide's shape."""
    owner = await server.chat(world.bot, world.owner)
    guest = await server.chat(world.bot, world.guest)
    message_id = await platform.message(world.session, world.bot, world.owner, "Grüße 🎈 \"'\\")
    for socket in (owner, guest):
        message = await socket.next("chat_message")
        assert TIME.fullmatch(message["data"].pop("timestamp"))
        assert payload(message) == {
            "type": "chat_message",
            "bot_id": world.bot,
            "data": {
                "message_id": message_id,
                "session_id": world.session,
                "user_id": world.owner,
                "username": "olga",
                "content": "Grüße 🎈 \"'\\",
                "role": "user",
                "metadata": {},
            },
        }
        assert message["cursor"]


@pytest.mark.gen_test
async def test_update_of_a_message_is_a_chat_message_update_edited(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Content, role and metadata count; a change of nothing sends nothing."""
    message_id = await platform.message(world.session, world.bot, world.owner)
    guest = await server.chat(world.bot, world.guest)
    await platform.execute("UPDATE messages SET content = content WHERE id = $1", message_id)
    updates = []
    for change in ("content = 'b'", "role = 'assistant'", """metadata = '{"a": 1}'"""):
        await platform.execute(f"UPDATE messages SET {change} WHERE id = $1", message_id)
        updates.append((await guest.next("chat_message_update", len(updates) + 1))["data"])
    assert [(one["content"], one["role"], one["metadata"], one["action"]) for one in updates] == [
        ("b", "user", {}, "edited"),
        ("b", "assistant", {}, "edited"),
        ("b", "assistant", {"a": 1}, "edited"),
    ]


@pytest.mark.gen_test
async def test_delete_of_a_message_is_a_chat_message_update_deleted(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Only the ids are left."""
    message_id = await platform.message(world.session, world.bot, world.owner)
    guest = await server.chat(world.bot, world.guest)
    await platform.execute("DELETE FROM messages WHERE id = $1", message_id)
    assert payload(await guest.next("chat_message_update")) == {
        "type": "chat_message_update",
        "bot_id": world.bot,
        "data": {"message_id": message_id, "session_id": world.session, "action": "deleted"},
    }


@pytest.mark.gen_test
async def test_permission_rows_are_permission_changes_and_notifications(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Granted, updated, revoked: to the bot's sockets, and to the user's own."""
    owner = await server.chat(world.bot, world.owner)
    newcomer = await platform.user("nina")
    bell = await server.notifications(newcomer)
    await platform.execute(
        "INSERT INTO permissions (bot_id, user_id, role, granted_by) VALUES ($1, $2, 'viewer', $3)",
        world.bot,
        newcomer,
        world.owner,
    )
    await platform.execute("UPDATE permissions SET role = 'editor' WHERE user_id = $1", newcomer)
    await platform.revoke(world.bot, newcomer)
    details = [
        ("granted", {"role": "viewer", "granted_by": world.owner}),
        (
            "updated",
            {
                "role": "editor",
                "granted_by": world.owner,
                "old_role": "viewer",
                "new_role": "editor",
            },
        ),
        (
            "revoked",
            {"role": "editor", "granted_by": None, "revoked_role": "editor", "revoked_by": None},
        ),
    ]
    for count, (action, detail) in enumerate(details, 1):
        assert payload(await owner.next("permission_change", count)) == {
            "type": "permission_change",
            "bot_id": world.bot,
            "data": {"target_user_id": newcomer, "action": action, "details": detail},
        }
        assert payload(await bell.next("notification", count)) == {
            "type": "notification",
            "notification_type": "permission_change",
            "data": {"bot_id": world.bot, "action": action, "details": detail},
        }


@pytest.mark.gen_test
async def test_update_of_a_bot_is_a_bot_update_config(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The changed columns with their new values; the bookkeeping alone sends nothing."""
    guest = await server.chat(world.bot, world.guest)
    await platform.execute("UPDATE bots SET updated_at = now() WHERE id = $1", world.bot)
    await platform.execute(
        "UPDATE bots SET name = 'Bo', config = '{\"t\": 0.5}', updated_by = $2, updated_at = now()"
        " WHERE id = $1",
        world.bot,
        world.owner,
    )
    assert payload(await guest.next("bot_update")) == {
        "type": "bot_update",
        "bot_id": world.bot,
        "data": {
            "update_type": "config",
            "details": {"name": "Bo", "config": {"t": 0.5}},
            "updated_by": world.owner,
        },
    }


@pytest.mark.gen_test
async def test_a_bot_that_goes_after_its_permissions_is_told_of_first(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """An ORM deletes what depends on a bot before the bot. Why they may not stay is the bot."""
    await platform.permit(world.bot, world.owner, "owner")
    sockets = [await server.chat(world.bot, user) for user in (world.guest, world.owner)]
    async with platform.connection.transaction():
        await platform.execute("DELETE FROM permissions WHERE bot_id = $1", world.bot)
        await platform.execute("DELETE FROM bots WHERE id = $1", world.bot)
    for socket in sockets:
        assert await socket.closed() == 4003
        assert socket.messages[1]["type"] == "bot_update"
        assert socket.messages[1]["data"]["update_type"] == "deleted"


@pytest.mark.gen_test
async def test_a_bot_with_another_id_is_another_bot(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Its sockets end. A later bot with the old id is nobody's who watched this one."""
    for table in ("permissions", "sessions", "messages", "documents"):
        await platform.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT {table}_bot_id_fkey, ADD FOREIGN KEY (bot_id)"
            " REFERENCES bots ON DELETE CASCADE ON UPDATE CASCADE"
        )
    await platform.message(world.session, world.bot, world.owner)
    guest = await server.chat(world.bot, world.guest)
    heir = await platform.user("hedi")
    new = await platform.connection.fetchval(
        "UPDATE bots SET id = gen_random_uuid() RETURNING id::text"
    )
    assert await guest.closed() == 4003
    assert payload(guest.messages[1])["data"]["update_type"] == "deleted"
    await platform.execute("INSERT INTO bots VALUES ($1, 'Bob', NULL, $2)", world.bot, heir)
    await server.chat(world.bot, heir)
    await server.chat(new, world.guest)
    assert await (await server.open(f"/api/ws/chat/{world.bot}", world.guest)).closed() == 4003


@pytest.mark.gen_test
async def test_who_is_truncated_and_put_back_is_not_shown_what_was_in_between(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Not in the least: they are told that events are missing, and go on from there."""
    stranger = await platform.user("sam")
    here = await server.chat(world.bot, world.guest, cursor="")
    gone = await server.notifications(stranger)
    async with platform.connection.transaction():
        for table in ("users", "bots", "permissions"):
            await platform.execute(
                f"CREATE TEMP TABLE kept_{table} ON COMMIT DROP AS SELECT * FROM {table}"
            )
        await platform.execute("DELETE FROM kept_users WHERE id = $1", stranger)
        await platform.execute("TRUNCATE users CASCADE")
        await platform.execute(
            "SELECT relay.emit($1, 'secret', '{}')", f"bot:{world.bot}"
        )  # while nobody may watch
        for table in ("users", "bots", "permissions"):
            await platform.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
    assert await gone.closed() == 4001
    assert (await here.next("resync"))["data"]["reason"] == "access_changed"
    session = await platform.session(world.bot, world.guest)
    await platform.message(session, world.bot, world.owner, "welcome back")
    await here.next("chat_message")
    assert not here.of_type("secret")


@pytest.mark.gen_test
async def test_delete_of_a_bot_is_a_bot_update_deleted_and_then_4003(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Nothing but that reaches the bot's sockets; whose permission went is still notified."""
    await platform.message(world.session, world.bot, world.owner)
    guest = await server.chat(world.bot, world.guest)
    bell = await server.notifications(world.guest)
    await platform.execute("DELETE FROM bots WHERE id = $1", world.bot)
    assert await guest.closed() == 4003
    assert payload(guest.messages[1]) == {
        "type": "bot_update",
        "bot_id": world.bot,
        "data": {"update_type": "deleted", "details": {}, "updated_by": None},
    }
    assert len(guest.messages) == 2
    notice = await bell.next("notification")
    assert notice["data"]["action"] == "revoked"
    assert not bell.is_closed


@pytest.mark.gen_test
async def test_documents_are_document_updates(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Uploaded, each new status, deleted; a failure carries its error."""
    guest = await server.chat(world.bot, world.guest)
    document_id = await platform.connection.fetchval(
        "INSERT INTO documents (bot_id, uploaded_by, filename) VALUES ($1, $2, 'a.pdf')"
        " RETURNING id::text",
        world.bot,
        world.owner,
    )
    for change in (
        "UPDATE documents SET status = 'processing' WHERE id = $1",
        "UPDATE documents SET size_bytes = 5 WHERE id = $1",
        "UPDATE documents SET status = 'failed', error = 'no text' WHERE id = $1",
        "UPDATE documents SET status = 'processed', error = NULL WHERE id = $1",
        "DELETE FROM documents WHERE id = $1",
    ):
        await platform.execute(change, document_id)
    await guest.next("document_update", 5)
    document = {"id": document_id, "filename": "a.pdf"}
    assert [payload(one)["data"] for one in guest.of_type("document_update")] == [
        {
            "action": action,
            "document": {**document, "status": status} | more,
            "user_id": world.owner,
        }
        for action, status, more in (
            ("uploaded", "uploaded", {}),
            ("processing", "processing", {}),
            ("failed", "failed", {"error": "no text"}),
            ("processed", "processed", {}),
            ("deleted", "processed", {}),
        )
    ]


@pytest.mark.gen_test
async def test_deactivating_a_user_closes_all_their_sockets_with_4001(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Chats and notifications alike; everybody else stays."""
    chat = await server.chat(world.bot, world.guest)
    bell = await server.notifications(world.guest)
    owner = await server.chat(world.bot, world.owner)
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    assert await chat.closed() == 4001
    assert await bell.closed() == 4001
    await owner.caught_up()
    assert not owner.is_closed


@pytest.mark.gen_test
async def test_deleting_a_user_closes_all_their_sockets_with_4001(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """As deactivating them."""
    chat = await server.chat(world.bot, world.guest)
    bell = await server.notifications(world.guest)
    await platform.execute("DELETE FROM users WHERE id = $1", world.guest)
    assert await chat.closed() == 4001
    assert await bell.closed() == 4001


@pytest.mark.gen_test
async def test_delete_of_a_permission_closes_that_users_chats_with_4003(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """They are told why, and are not shown what the same transaction wrote after."""
    guest = await server.chat(world.bot, world.guest)
    elsewhere = await server.notifications(world.guest)
    owner = await server.chat(world.bot, world.owner)
    async with platform.connection.transaction():
        await platform.revoke(world.bot, world.guest)
        await platform.message(world.session, world.bot, world.owner, "not for gus")
    assert await guest.closed() == 4003
    assert [one["type"] for one in guest.messages] == [
        "connection_established",
        "permission_change",
    ]
    await owner.next("chat_message")
    assert [one["type"] for one in owner.messages[1:]] == ["permission_change", "chat_message"]
    await elsewhere.caught_up()
    assert not elsewhere.is_closed


@pytest.mark.gen_test
async def test_delete_of_the_owners_permission_row_leaves_them_access(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """What they may is what it was, so nobody is told anything; they go on without a gap."""
    await platform.permit(world.bot, world.owner, "admin")
    owner = await server.chat(world.bot, world.owner)
    await platform.revoke(world.bot, world.owner)
    await platform.message(world.session, world.bot, world.guest, "still here?")
    message = await owner.next("chat_message")
    assert message["data"]["content"] == "still here?"
    assert not owner.is_closed
    assert [one["type"] for one in owner.messages[1:]] == ["chat_message"]


@pytest.mark.gen_test
async def test_update_of_owner_id_is_a_revoke_and_a_grant(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The old owner goes with 4003, the new one may come."""
    heir = await platform.user("hedi")
    owner = await server.chat(world.bot, world.owner)
    guest = await server.chat(world.bot, world.guest)
    await platform.execute("UPDATE bots SET owner_id = $2 WHERE id = $1", world.bot, heir)
    assert await owner.closed() == 4003
    await guest.next("permission_change", 2)
    changes = [one["data"] for one in guest.of_type("permission_change")]
    assert {(one["action"], one["target_user_id"]) for one in changes} == {
        ("revoked", world.owner),
        ("granted", heir),
    }
    established = await (await server.chat(world.bot, heir)).established()
    assert established["data"]["role"] == "owner"


@pytest.mark.gen_test
async def test_turning_a_permission_to_another_user_is_a_revoke_and_a_grant(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Who had it goes, who has it now may come."""
    other = await platform.user("otto")
    guest = await server.chat(world.bot, world.guest)
    await platform.execute(
        "UPDATE permissions SET user_id = $2 WHERE user_id = $1", world.guest, other
    )
    assert await guest.closed() == 4003
    await server.chat(world.bot, other)


@pytest.mark.parametrize("table", ["permissions", "bots CASCADE", "users CASCADE"])
@pytest.mark.gen_test
async def test_truncate_authorizes_every_socket_again(
    server: RunningServer, platform: Platform, world: World, table: str
) -> None:
    """Who may not stay is closed, who may stays."""
    guest = await server.chat(world.bot, world.guest)
    owner = await server.chat(world.bot, world.owner)
    bell = await server.notifications(world.owner)
    await platform.execute(f"TRUNCATE {table}")
    assert await guest.closed() in (4001, 4003)
    if table == "permissions":
        await owner.caught_up()
        assert not owner.is_closed
        await platform.message(world.session, world.bot, world.owner)
        await owner.next("chat_message")
    else:
        assert await owner.closed() in (4001, 4003)
    if table != "users CASCADE":
        await bell.caught_up()
        assert not bell.is_closed


@pytest.mark.gen_test
async def test_a_rolled_back_transaction_sends_nothing(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Nor does a savepoint that was rolled back."""
    guest = await server.chat(world.bot, world.guest)
    transaction = platform.connection.transaction()
    await transaction.start()
    await platform.message(world.session, world.bot, world.owner, "never")
    await transaction.rollback()
    async with platform.connection.transaction():
        savepoint = platform.connection.transaction()
        await savepoint.start()
        await platform.message(world.session, world.bot, world.owner, "nor this")
        await savepoint.rollback()
        await platform.message(world.session, world.bot, world.owner, "but this")
    assert (await guest.next("chat_message"))["data"]["content"] == "but this"


@pytest.mark.gen_test
async def test_a_statement_over_a_thousand_rows_sends_a_thousand_events(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """In order; each page ends with a cursor, but only the last one's covers any of them."""
    guest = await server.chat(world.bot, world.guest)
    await platform.execute(
        "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
        " SELECT $1, $2, $3, 'user', n::text FROM generate_series(1, 3500) AS n",
        world.session,
        world.bot,
        world.owner,
    )
    await guest.next("chat_message", 3500)
    messages = guest.of_type("chat_message")
    assert [one["data"]["content"] for one in messages] == [str(n) for n in range(1, 3501)]
    cursors = {n: parse_cursor(m["cursor"])[1] for n, m in enumerate(messages) if "cursor" in m}
    assert list(cursors)[-1] == 3499
    pages = list(cursors.values())
    assert {page.last for page in pages[:-1]} == {pages[0].last}
    assert all(one.anchor <= other.anchor for one, other in pairwise(pages))
    assert pages[-1].last == pages[-1].anchor.xid > pages[0].last
    assert len({one["id"] for one in messages}) == 3500


@pytest.mark.gen_test
async def test_a_large_statement_survives_lost_connections(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The connection that reads is ended again and again meanwhile: each event comes once."""
    guest = await server.chat(world.bot, world.guest)
    await platform.execute(
        "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
        " SELECT $1, $2, $3, 'user', n::text FROM generate_series(1, 8000) AS n",
        world.session,
        world.bot,
        world.owner,
    )
    for number in range(1, 4):
        await guest.next("chat_message", 1000 * number)
        await platform.execute("SELECT pg_terminate_backend(backend) FROM relay.nodes")
    await platform.message(world.session, world.bot, world.owner, "afterwards")
    await guest.next("chat_message", 8001)
    contents = [one["data"]["content"] for one in guest.of_type("chat_message")]
    assert contents == [*map(str, range(1, 8001)), "afterwards"]


@pytest.mark.gen_test
async def test_emit_reaches_the_sockets_of_its_topic(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """A bot's topic says which bot; a user's goes to their notifications sockets."""
    guest = await server.chat(world.bot, world.guest)
    bell = await server.notifications(world.guest)
    await platform.execute(
        "SELECT relay.emit('bot:' || $1, 'poll_opened', '{\"a\": [1]}')", world.bot
    )
    await platform.execute("SELECT relay.emit('user:' || $1, 'quota', '{}')", world.guest)
    assert payload(await guest.next("poll_opened")) == {
        "type": "poll_opened",
        "bot_id": world.bot,
        "data": {"a": [1]},
    }
    assert payload(await bell.next("quota")) == {"type": "quota", "data": {}}


@pytest.mark.gen_test
async def test_notify_user_reaches_their_notifications_sockets(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """All of them, and nobody else's."""
    bells = [await server.notifications(world.guest) for _ in range(2)]
    other = await server.notifications(world.owner)
    await platform.execute(
        "SELECT relay.notify_user($1::uuid, 'quota_reached', '{\"left\": 0}')", world.guest
    )
    for bell in bells:
        assert payload(await bell.next("notification")) == {
            "type": "notification",
            "notification_type": "quota_reached",
            "data": {"left": 0},
        }
    await other.caught_up()
    assert not other.of_type("notification")


@pytest.mark.gen_test
async def test_eject_ends_access_that_the_database_no_longer_grants(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """With its code where access is gone; with 1013 (come back) where it is not."""
    guest = await server.chat(world.bot, world.guest)
    owner = await server.chat(world.bot, world.owner)
    async with platform.connection.transaction():
        await platform.execute("ALTER TABLE permissions DISABLE TRIGGER USER")
        await platform.revoke(world.bot, world.guest)
        await platform.execute("ALTER TABLE permissions ENABLE TRIGGER USER")
        await platform.execute("SELECT relay.eject(NULL, 'bot:' || $1, 4444)", world.bot)
    assert await guest.closed() == 4444
    assert await owner.closed() == 1013
