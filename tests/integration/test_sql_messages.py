"""Rows of messages: chat_message and chat_message_update."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.sql_log import Entry, Log, act_as, bot_topic
from tests.platform import Platform
from tests.serving import World


async def say(platform: Platform, world: World, content: str = "Hello", **more: str) -> str:
    return await platform.message(world.session, world.bot, world.guest, content, **more)


def data_of(world: World, message_id: str, created_at: str, **more: Any) -> dict[str, Any]:
    return {
        "message_id": message_id,
        "session_id": world.session,
        "user_id": world.guest,
        "username": "gus",
        "content": "Hello",
        "role": "user",
        "timestamp": created_at,
        "metadata": {},
    } | more


async def set_time(platform: Platform, message_id: str) -> str:
    """Give a message a known time; that alone sends nothing."""
    await platform.execute(
        "UPDATE messages SET created_at = '2023-01-01 02:00:00.5+02' WHERE id = $1", message_id
    )
    return "2023-01-01T00:00:00.500000Z"


@pytest.mark.gen_test
async def test_an_inserted_message_is_a_chat_message(platform: Platform, world: World) -> None:
    """The shape is the guide's, with the author's name and the row's own time."""
    log = await Log.since_now(platform)
    message = await platform.connection.fetchval(
        """INSERT INTO messages (session_id, bot_id, user_id, role, content, metadata, created_at)
        VALUES ($1, $2, $3, 'assistant', 'Hello', '{"a": [1]}', '2023-01-01 00:00:00Z')
        RETURNING id""",
        world.session,
        world.bot,
        world.guest,
    )
    data = data_of(
        world,
        str(message),
        "2023-01-01T00:00:00.000000Z",
        role="assistant",
        metadata={"a": [1]},
    )
    assert await log.only() == Entry(
        bot_topic(world.bot),
        "chat_message",
        {"type": "chat_message", "bot_id": world.bot, "data": data},
    )


@pytest.mark.gen_test
async def test_an_edited_message_says_so(platform: Platform, world: World) -> None:
    """A change of content, role or metadata sends the whole message again, as an update."""
    message = await say(platform, world)
    created_at = await set_time(platform, message)
    log = await Log.since_now(platform)
    for change in ("content = 'Bye'", "role = 'system'", """metadata = '{"b": null}'"""):
        await platform.execute(f"UPDATE messages SET {change} WHERE id = $1", message)
    data = data_of(world, message, created_at, action="edited", content="Bye")
    expected = [data, data | {"role": "system"}, data | {"role": "system", "metadata": {"b": None}}]
    assert await log.messages() == [
        {"type": "chat_message_update", "bot_id": world.bot, "data": each} for each in expected
    ]


@pytest.mark.gen_test
async def test_a_deleted_message_is_only_named(platform: Platform, world: World) -> None:
    """The content does not go out once more."""
    message = await say(platform, world)
    log = await Log.since_now(platform)
    await platform.execute("DELETE FROM messages WHERE id = $1", message)
    assert await log.only() == Entry(
        bot_topic(world.bot),
        "chat_message_update",
        {
            "type": "chat_message_update",
            "bot_id": world.bot,
            "data": {"message_id": message, "session_id": world.session, "action": "deleted"},
        },
    )


@pytest.mark.gen_test
async def test_a_message_moved_to_another_bot_leaves_the_one_and_enters_the_other(
    platform: Platform, world: World
) -> None:
    """Those who watch the old bot see it deleted, those who watch the new one see it arrive."""
    message = await say(platform, world)
    other = await platform.bot(world.owner)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE messages SET bot_id = $1 WHERE id = $2", other, message)
    sent = {entry.topic: entry for entry in await log.entries()}
    assert sent.keys() == {bot_topic(world.bot), bot_topic(other)}
    left, entered = sent[bot_topic(world.bot)].message, sent[bot_topic(other)].message
    assert left is not None
    assert left["data"]["action"] == "deleted"
    assert entered is not None
    assert entered["type"] == sent[bot_topic(other)].type == "chat_message"
    assert "action" not in entered["data"]


@pytest.mark.gen_test
async def test_a_message_moved_in_the_statement_that_wrote_it_leaves_the_one_bot(
    platform: Platform, world: World
) -> None:
    """As a function of the platform does, so that its triggers read the table."""
    other = await platform.bot(world.owner)
    log = await Log.since_now(platform)
    await platform.execute(
        f"""DO $$ BEGIN
            INSERT INTO messages (session_id, bot_id, user_id, role, content)
            VALUES ('{world.session}', '{world.bot}', '{world.guest}', 'user', 'moved');
            UPDATE messages SET bot_id = '{other}' WHERE content = 'moved';
        END $$"""
    )
    told = [
        (entry.topic, entry.type, (entry.message or {})["data"].get("action"))
        for entry in await log.entries()
    ]
    assert told[0] == (bot_topic(world.bot), "chat_message", None)
    assert sorted(told[1:]) == sorted(
        [
            (bot_topic(world.bot), "chat_message_update", "deleted"),
            (bot_topic(other), "chat_message", None),
        ]
    )


@pytest.mark.gen_test
@pytest.mark.parametrize("is_read", [False, True])
async def test_whose_event_it_is(platform: Platform, world: World, is_read: bool) -> None:
    """The author's, who may not be sent their own; not where somebody else changed the message."""
    message = await say(platform, world)
    edit = f"UPDATE messages SET content = content || '.' WHERE id = '{message}'"
    if is_read:  # from the table, as an earlier part of the statement has written it
        edit = f"DO $$ BEGIN {edit}; {edit}; END $$"
    delete = f"DELETE FROM messages WHERE id = '{message}'"
    last = "SELECT author::text FROM relay.events ORDER BY id DESC LIMIT 1"
    for actor, author in ((world.owner, None), (world.guest, world.guest), ("", world.guest)):
        await act_as(platform, actor)
        for statement in (edit, delete):
            await platform.execute("BEGIN")
            await platform.execute(statement)
            assert await platform.connection.fetchval(last) == author
            await platform.execute("ROLLBACK")


@pytest.mark.gen_test
async def test_an_update_that_changes_nothing_sends_nothing(
    platform: Platform, world: World
) -> None:
    """Neither the same values nor other columns count as a change."""
    message = await say(platform, world)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE messages SET content = content, metadata = '{}', role = 'user'")
    await set_time(platform, message)
    assert await log.entries() == []


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "content",
    ['"\\\n\t\x01\x1f\x7f', "Grüße, 世界, 👩‍👩‍👧, \u2028", "", "</script>\\u0041", "x" * 8_000],
    ids=["control", "unicode", "empty", "escapes", "past-notify"],
)
async def test_any_content_arrives_as_it_was_written(
    platform: Platform, world: World, content: str
) -> None:
    """Whatever text holds is valid JSON in the log, and the same text again."""
    log = await Log.since_now(platform)
    await say(platform, world, content)
    (message,) = await log.messages()
    assert message["data"]["content"] == content


@pytest.mark.gen_test
async def test_a_message_of_twenty_megabytes_is_written(platform: Platform, world: World) -> None:
    """The log takes what the table takes: it is no NOTIFY payload."""
    log = await Log.since_now(platform)
    await say(platform, world, 'a "quoted" word ' * 1_250_000)
    (text,) = await log.texts()
    assert len(json.loads(text)["data"]["content"]) == 20_000_000


@pytest.mark.gen_test
async def test_odd_values_still_make_a_message(platform: Platform, world: World) -> None:
    """An infinite time is null, and a name with quotes is escaped: never broken JSON."""
    await platform.execute("UPDATE users SET username = 'g\"us' WHERE id = $1", world.guest)
    log = await Log.since_now(platform)
    await platform.execute(
        """INSERT INTO messages (session_id, bot_id, user_id, role, content, created_at)
        VALUES ($1, $2, $3, 'user', '', 'infinity')""",
        world.session,
        world.bot,
        world.guest,
    )
    (message,) = await log.messages()
    assert (message["data"]["username"], message["data"]["timestamp"]) == ('g"us', None)


@pytest.mark.gen_test
async def test_a_deleted_session_deletes_its_messages(platform: Platform, world: World) -> None:
    """A cascade counts like the plain statements that it amounts to."""
    messages = {await say(platform, world) for _ in range(3)}
    log = await Log.since_now(platform)
    await platform.execute("DELETE FROM sessions WHERE id = $1", world.session)
    sent = await log.messages()
    assert {message["data"]["message_id"] for message in sent} == messages
    assert [message["data"]["action"] for message in sent] == ["deleted"] * 3


@pytest.mark.gen_test
async def test_only_what_a_later_state_replaces_has_a_subject(
    platform: Platform, world: World
) -> None:
    """Of an answer that grows only the newest state is sent; that is told by the message's id."""
    log = await Log.since_now(platform)
    message = await say(platform, world)
    await platform.execute("UPDATE messages SET content = 'Hello!' WHERE id = $1", message)
    await platform.execute("DELETE FROM messages WHERE id = $1", message)
    rows = await platform.connection.fetch(
        "SELECT subject::text FROM relay.events ORDER BY id DESC LIMIT 3"
    )
    assert len(await log.messages()) == 3
    assert [row["subject"] for row in reversed(rows)] == [None, message, message]
