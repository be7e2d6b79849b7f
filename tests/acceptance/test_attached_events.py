"""Every event of the protocol on tables with other names: plain SQL in, a real socket out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.attach.attach import apply, detach
from tests.adopted import SCHEMA, Adopted, catalogue, mapping
from tests.serving import RunningServer, make_settings, token
from tests.waiting import LIMIT

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Scene:
    """A server on such tables, a bot, its owner, and somebody with a permission."""

    def __init__(self, adopted: Adopted, server: RunningServer) -> None:
        self.adopted = adopted
        self.server = server
        self.before: list[list[Any]] = []
        self.owner = self.guest = self.bot = self.session = ""

    async def populate(self) -> None:
        self.owner = await self.adopted.insert("users", username="olga")
        self.guest = await self.adopted.insert("users", username="gus")
        self.bot = await self.adopted.insert("bots", name="Ada", owner_id=self.owner)
        await self.adopted.permit(self.bot, self.guest)
        self.session = await self.adopted.insert(
            "conversation_sessions", bot_id=self.bot, user_id=self.owner
        )

    async def chat(self, username: str) -> Any:
        """A chat socket of whoever has that name: the token says nothing else."""
        url = self.server.ws_url(f"/api/ws/chat/{self.bot}", token=token(username))
        return await self._let_in(url)

    async def notifications(self, username: str) -> Any:
        url = self.server.ws_url("/api/ws/notifications", token=token(username))
        return await self._let_in(url)

    async def _let_in(self, url: str) -> Any:
        socket = await self.server.connect(url)
        await socket.established()
        return socket


@pytest.fixture
def scene(io_loop: IOLoop, core_database: str) -> Iterator[Scene]:
    """The platform had its tables and rows before it met the relay."""
    server = RunningServer(make_settings(core_database, JWT_SUBJECT="username"))

    async def begin() -> Scene:
        connection = await asyncpg.connect(core_database, timeout=LIMIT)
        scene = Scene(Adopted(connection), server)
        await scene.adopted.execute(SCHEMA)
        await scene.populate()
        scene.before = await catalogue(connection)
        await apply(connection, mapping())
        await server.start()
        return scene

    async def end(scene: Scene) -> None:
        await server.stop()
        await scene.adopted.connection.close(timeout=LIMIT)

    scene = io_loop.run_sync(begin, timeout=LIMIT)
    yield scene
    io_loop.run_sync(lambda: end(scene), timeout=LIMIT)


def payload(message: dict[str, Any]) -> dict[str, Any]:
    """The message without what the relay adds and the clock decides."""
    rest = {name: value for name, value in message.items() if name not in ("id", "cursor")}
    assert TIME.fullmatch(rest.pop("timestamp"))
    return rest


@pytest.mark.gen_test
async def test_who_is_let_in_and_as_what(scene: Scene) -> None:
    """By name; an owner by the bot's row or by the role that the mapping names."""
    third = await scene.adopted.insert("users", username="thea")
    roles = {}
    for name in ("olga", "gus"):
        roles[name] = (await (await scene.chat(name)).established())["data"]["role"]
    await scene.adopted.permit(scene.bot, third, "OWNER")
    roles["thea"] = (await (await scene.chat("thea")).established())["data"]["role"]
    assert roles == {"olga": "owner", "gus": "VIEWER", "thea": "owner"}
    refused = await scene.server.open(f"/api/ws/chat/{scene.bot}", scene.owner)
    assert await refused.closed() == 4001  # an id is no name


@pytest.mark.gen_test
async def test_messages(scene: Scene) -> None:
    """Written, edited, deleted; json as it stands, and nulls where there is nothing."""
    guest = await scene.chat("gus")
    data = {
        "message_id": await scene.adopted.insert(
            "messages",
            session_id=scene.session,
            bot_id=scene.bot,
            user_id=scene.owner,
            role="user",
            content='Grüße "\\',
            message_metadata='{"a": [1,\n2]}',
        ),
        "session_id": scene.session,
        "user_id": scene.owner,
        "username": "olga",
        "content": 'Grüße "\\',
        "role": "user",
        "metadata": {"a": [1, 2]},
    }
    message = payload(await guest.next("chat_message"))
    assert TIME.fullmatch(message["data"].pop("timestamp"))
    assert message == {"type": "chat_message", "bot_id": scene.bot, "data": data}

    bare = await scene.adopted.insert("messages", bot_id=scene.bot)
    nothing = payload(await guest.next("chat_message", 2))["data"]
    assert TIME.fullmatch(nothing.pop("timestamp"))
    assert nothing == {
        "message_id": bare,
        **dict.fromkeys(("session_id", "user_id", "username")),
        **{"content": "", "role": "user", "metadata": {}},
    }

    await scene.adopted.execute("UPDATE messages SET created_at = now()")
    await scene.adopted.execute(
        "UPDATE messages SET message_metadata = '{\"b\": 2}' WHERE id = $1", bare
    )
    edited = (await guest.next("chat_message_update"))["data"]
    assert (edited["message_id"], edited["action"], edited["metadata"]) == (
        bare,
        "edited",
        {"b": 2},
    )
    await scene.adopted.execute("DELETE FROM messages WHERE id = $1", bare)
    deleted = await guest.next("chat_message_update", 2)
    assert deleted["data"] == {"message_id": bare, "session_id": None, "action": "deleted"}


@pytest.mark.gen_test
async def test_a_message_without_a_bot_is_nobodys_until_it_has_one(scene: Scene) -> None:
    """Then it is new there, and turned away again it is deleted."""
    guest = await scene.chat("gus")
    bare = await scene.adopted.insert("messages", content=None)
    await scene.adopted.execute("UPDATE messages SET bot_id = $1", scene.bot)
    assert (await guest.next("chat_message"))["data"]["message_id"] == bare
    await scene.adopted.execute("UPDATE messages SET bot_id = NULL")
    assert (await guest.next("chat_message_update"))["data"]["action"] == "deleted"
    topics = "SELECT count(*) FROM relay.events WHERE topic = 'bot:'"
    assert await scene.adopted.connection.fetchval(topics) == 0


@pytest.mark.gen_test
async def test_permissions(scene: Scene) -> None:
    """Granted, updated, revoked; to the bot, to the user, and the close at the end."""
    owner, bell = await scene.chat("olga"), await scene.notifications("gus")
    guest = await scene.chat("gus")
    await scene.adopted.execute("UPDATE bot_permissions SET role = 'EDITOR'")
    await scene.adopted.execute("DELETE FROM bot_permissions")
    assert await guest.closed() == 4003
    await scene.adopted.permit(scene.bot, scene.guest)
    await owner.next("permission_change", 3)
    changes = [payload(one)["data"] for one in owner.of_type("permission_change")]
    editor = {"role": "EDITOR", "granted_by": None}
    assert changes == [
        {"target_user_id": scene.guest, "action": action, "details": details}
        for action, details in (
            ("updated", {**editor, "old_role": "VIEWER", "new_role": "EDITOR"}),
            ("revoked", {**editor, "revoked_role": "EDITOR", "revoked_by": None}),
            ("granted", {"role": "VIEWER", "granted_by": None}),
        )
    ]
    await bell.next("notification", 3)
    assert [one["data"]["action"] for one in bell.of_type("notification")] == [
        "updated",
        "revoked",
        "granted",
    ]
    await scene.chat("gus")


@pytest.mark.gen_test
async def test_bots(scene: Scene) -> None:
    """Changed columns by the platform's names, no secret among them; a new owner; the end."""
    guest, owner = await scene.chat("gus"), await scene.chat("olga")
    await scene.adopted.execute("UPDATE bots SET api_key = 'new', modified_at = now()")
    await scene.adopted.execute(
        "UPDATE bots SET name = 'Bo', settings = '{\"t\": 1}', api_key = ''"
    )
    assert payload(await guest.next("bot_update")) == {
        "type": "bot_update",
        "bot_id": scene.bot,
        "data": {
            "update_type": "config",
            "details": {"name": "Bo", "settings": {"t": 1}},
            "updated_by": None,
        },
    }
    await scene.adopted.execute("UPDATE bots SET owner_id = NULL")
    assert await owner.closed() == 4003
    await scene.adopted.execute("UPDATE bots SET owner_id = $1", scene.guest)
    await guest.next("permission_change", 2)
    changes = [one["data"] for one in guest.of_type("permission_change")]
    assert [(one["action"], one["target_user_id"]) for one in changes] == [
        ("revoked", scene.owner),
        ("granted", scene.guest),
    ]
    await scene.adopted.execute("DELETE FROM bots")
    assert await guest.closed() == 4003
    assert guest.messages[-1]["data"]["update_type"] == "deleted"


@pytest.mark.gen_test
async def test_documents_without_a_status(scene: Scene) -> None:
    """They are uploaded until they are deleted."""
    guest = await scene.chat("gus")
    document = await scene.adopted.insert(
        "documents", bot_id=scene.bot, filename="a.pdf", uploaded_by=scene.owner
    )
    nameless = await scene.adopted.insert("documents", bot_id=scene.bot)
    await scene.adopted.execute("UPDATE documents SET filename = 'b.pdf' WHERE id = $1", document)
    await scene.adopted.execute("DELETE FROM documents WHERE id = $1", document)
    await guest.next("document_update", 3)
    assert [payload(one)["data"] for one in guest.of_type("document_update")] == [
        {
            "action": action,
            "document": {"id": which, "filename": filename, "status": "uploaded"},
            "user_id": user_id,
        }
        for action, which, filename, user_id in (
            ("uploaded", document, "a.pdf", scene.owner),
            ("uploaded", nameless, "", None),
            ("deleted", document, "b.pdf", scene.owner),
        )
    ]


@pytest.mark.gen_test
async def test_users(scene: Scene) -> None:
    """Deactivated, also by a null, they leave; deleted, too."""
    for change in ("UPDATE users SET is_active = NULL", "DELETE FROM users"):
        chat, bell = await scene.chat("gus"), await scene.notifications("gus")
        await scene.adopted.execute(f"{change} WHERE username = 'gus'")
        assert (await chat.closed(), await bell.closed()) == (4001, 4001)
        await scene.adopted.execute("UPDATE users SET is_active = true")


@pytest.mark.parametrize("table", ["bot_permissions", "bots CASCADE", "users CASCADE"])
@pytest.mark.gen_test
async def test_truncate_asks_about_everyone(scene: Scene, table: str) -> None:
    """Who may not stay is closed."""
    guest = await scene.chat("gus")
    await scene.adopted.execute(f"TRUNCATE {table}")
    assert await guest.closed() in (4001, 4003)


@pytest.mark.gen_test
async def test_events_of_any_sql_and_of_clients(scene: Scene) -> None:
    """What needs no tables: typing, emit, notify_user, eject."""
    owner, guest = await scene.chat("olga"), await scene.chat("gus")
    bell = await scene.notifications("gus")
    await owner.send({"type": "typing", "data": {"is_typing": True}})
    assert (await guest.next("typing_indicator"))["data"]["username"] == "olga"
    await scene.adopted.execute("SELECT relay.emit('bot:' || $1, 'wave', '{}')", scene.bot)
    await guest.next("wave")
    await scene.adopted.execute("SELECT relay.notify_user($1, 'quota', '{}')", scene.guest)
    await bell.next("notification")
    await scene.adopted.execute("SELECT relay.eject($1, NULL)", scene.guest)
    assert await guest.closed() == 1013  # still allowed


@pytest.mark.gen_test
async def test_detached_nothing_of_ours_is_left(scene: Scene) -> None:
    """Triggers, functions and grants are as they were, with the rows still in the tables."""
    guest = await scene.chat("gus")
    assert await detach(scene.adopted.connection) == 18
    assert await catalogue(scene.adopted.connection) == scene.before
    await scene.adopted.insert("messages", bot_id=scene.bot, content="not told")
    await scene.adopted.execute("SELECT relay.emit('bot:' || $1, 'wave', '{}')", scene.bot)
    await guest.next("wave")
    assert guest.of_type("chat_message") == []


@pytest.mark.gen_test
async def test_what_was_written_while_nothing_was_attached(scene: Scene) -> None:
    """Nobody may take it for read: who lost access leaves, and no cursor from before is good."""
    guest, owner = await scene.chat("gus"), await scene.chat("olga")
    cursor = owner.of_type("connection_established")[0]["data"]["cursor"]
    connection = scene.adopted.connection
    await detach(connection)
    await scene.adopted.execute("DELETE FROM bot_permissions")
    await scene.adopted.insert(
        "messages", bot_id=scene.bot, session_id=scene.session, user_id=scene.owner, content="Late"
    )
    await apply(connection, mapping())
    assert (await guest.closed(), await owner.closed()) == (1013, 1013)
    path = f"/api/ws/chat/{scene.bot}"
    refused = await scene.server.connect(scene.server.ws_url(path, token=token("gus")))
    assert await refused.closed() == 4003
    url = scene.server.ws_url(path, token=token("olga"), cursor=cursor)
    again = await (await scene.server.connect(url)).established()
    assert (again["data"]["recovered"], again["data"]["reason"]) == (False, "access_changed")
