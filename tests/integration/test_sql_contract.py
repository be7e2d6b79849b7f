"""The functions that any SQL may call, and those that the relay asks about access."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from realtime.installation import JAVASCRIPT_CLIENT
from tests.integration.sql_log import Entry, Log, bot_topic, user_topic
from tests.platform import Platform
from tests.serving import World

BOT = "11111111-1111-4111-8111-aaaaaaaaaaaa"
USER = "22222222-2222-4222-8222-bbbbbbbbbbbb"


async def refuse(platform: Platform, call: str, *arguments: Any) -> str:
    """The error's text; nothing is written."""
    log = await Log.since_now(platform)
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await platform.execute(f"SELECT {call}", *arguments)
    assert await log.entries() == []
    assert refused.value.hint
    return str(refused.value)


async def rows(platform: Platform, call: str, *arguments: Any) -> list[dict[str, Any]]:
    found = await platform.connection.fetch(f"SELECT * FROM {call}", *arguments)
    return [{key: str(value) for key, value in row.items()} for row in found]


@pytest.mark.gen_test
async def test_emit_sends_any_message_to_a_bot(platform: Platform) -> None:
    """The topic is spelled as the relay spells it, and the data arrives as it is."""
    log = await Log.since_now(platform)
    await platform.execute(
        "SELECT relay.emit($1, 'poll \"1\"', '{\"a\": [1, null]}')", bot_topic(BOT.upper())
    )
    message = {"type": 'poll "1"', "bot_id": BOT, "data": {"a": [1, None]}}
    assert await log.only() == Entry(bot_topic(BOT), 'poll "1"', message)


@pytest.mark.gen_test
async def test_emit_to_a_user_has_no_bot_id(platform: Platform) -> None:
    """No data is an empty object; an actor stands at the top, only when given."""
    log = await Log.since_now(platform)
    for nothing in ("", ", NULL", ", 'null'", ", data => 'null'"):
        await platform.execute(f"SELECT relay.emit($1, 'quota'{nothing})", user_topic(USER))
    await platform.execute("SELECT relay.emit($1, 'quota', actor => $2)", user_topic(USER), BOT)
    await platform.execute("SELECT relay.emit($1, 'quota', '[null]')", user_topic(USER))
    await platform.execute("SELECT relay.emit($1, 'quota', '[]', $2)", user_topic(USER), BOT)
    assert await log.messages() == [
        *[{"type": "quota", "data": {}}] * 4,
        {"type": "quota", "data": {}, "actor": BOT},
        {"type": "quota", "data": [None]},
        {"type": "quota", "data": [], "actor": BOT},
    ]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "topic", [None, "", "bot:", "bot:1", f"room:{BOT}", f"bot:{BOT} ", f"Bot:{BOT}", BOT]
)
async def test_emit_refuses_what_is_no_topic(platform: Platform, topic: str | None) -> None:
    """The error names it, the hint says what a topic looks like; eject refuses all but null."""
    assert "topic" in await refuse(platform, "relay.emit($1, 'poll', '{}')", topic)
    if topic is not None:
        assert "topic" in await refuse(platform, "relay.eject(NULL, $1)", topic)


@pytest.mark.gen_test
async def test_emit_refuses_the_protocols_own_types(platform: Platform) -> None:
    """Nobody can forge what clients take the server's word for, nor the log's own rows."""
    types = """connection_established chat_message chat_message_update typing_indicator
        permission_change bot_update document_update notification pong error session_synced
        authenticated token_expiring resync going_away ping typing
        session_sync authenticate eject recheck grant"""
    for name in types.split():
        blanks = (f" {name}", f"{name}\n", f"\t{name} ", f"{name}\u00a0", f"\ufeff{name}\u2003")
        for spelled in (name, name.upper(), name.title(), *blanks):
            text = await refuse(platform, "relay.emit($1, $2, '{}')", bot_topic(BOT), spelled)
            assert "belongs to the protocol" in text
    for empty in (None, "", " \t"):
        await refuse(platform, "relay.emit($1, $2, '{}')", bot_topic(BOT), empty)
    for own in (
        "pinged",
        "my ping",
        "chat-message",
        " Ping me ",
        "\u0437\u0432\u0443\u043a",
        "ping\u00e9s",
    ):
        await platform.execute("SELECT relay.emit($1, $2, '{}')", bot_topic(BOT), own)


@pytest.mark.gen_test
async def test_emit_refuses_what_clients_call_their_own_events(platform: Platform) -> None:
    """The JavaScript client hands a message of such a type to no handler of that name."""
    client = (JAVASCRIPT_CLIENT / "client" / "client.js").read_text("utf-8")
    (names,) = re.findall(r"LIFECYCLE = new Set\((.*?)\)", client)
    for name in (*re.findall(r"'(\w+)'", names), "*"):
        for spelled in (name, name.upper(), f" {name}\u00a0"):
            text = await refuse(platform, "relay.emit($1, $2, '{}')", bot_topic(BOT), spelled)
            assert "an event of the clients themselves" in text


@pytest.mark.gen_test
async def test_emit_refuses_a_type_that_is_no_name(platform: Platform) -> None:
    """Every process reads the type of each row, however many there are; large things are data."""
    refused = await refuse(platform, "relay.emit($1, $2, '{}')", bot_topic(BOT), "x" * 257)
    assert "longer than 256 characters" in refused
    await platform.execute(
        "SELECT relay.emit($1, $2, '{}')", bot_topic(BOT), "\N{PILE OF POO}" * 256
    )


@pytest.mark.gen_test
async def test_notify_user_refuses_a_type_that_is_no_name(platform: Platform) -> None:
    """As emit does."""
    refused = await refuse(platform, "relay.notify_user($1, $2)", USER, "x" * 257)
    assert "longer than 256 characters" in refused
    await platform.execute("SELECT relay.notify_user($1, $2)", USER, "x" * 256)


@pytest.mark.gen_test
async def test_notify_user_refuses_what_only_a_change_of_access_sends(platform: Platform) -> None:
    """A client could not tell it from the true one."""
    for spelled in ("permission_change", "Permission_Change", " permission_change\u00a0"):
        text = await refuse(platform, "relay.notify_user($1, $2, '{}')", USER, spelled)
        assert "belongs to the protocol" in text
    await platform.execute("SELECT relay.notify_user($1, 'permission changes', '{}')", USER)


@pytest.mark.gen_test
async def test_notify_user_sends_a_notification(platform: Platform) -> None:
    """To the user's topic."""
    log = await Log.since_now(platform)
    await platform.execute("SELECT relay.notify_user($1, 'quota', '{\"left\": 3}')", USER)
    for nothing in (", NULL", ", 'null'", ""):
        await platform.execute(f"SELECT relay.notify_user($1, 'quota'{nothing})", USER)
    sent = {"type": "notification", "notification_type": "quota"}
    assert await log.entries() == [
        Entry(user_topic(USER), "notification", sent | {"data": {"left": 3}}),
        *[Entry(user_topic(USER), "notification", sent | {"data": {}})] * 3,
    ]
    await refuse(platform, "relay.notify_user(NULL, 'quota', '{}')")
    await refuse(platform, "relay.notify_user($1, ' ', '{}')", USER)


@pytest.mark.gen_test
async def test_eject_ends_access_for_one_or_for_all(platform: Platform) -> None:
    """Nulls mean everyone and everywhere; the code is 4003 unless given."""
    log = await Log.since_now(platform)
    await platform.execute("SELECT relay.eject($1, $2)", USER, bot_topic(BOT))
    await platform.execute("SELECT relay.eject(NULL, NULL, code => 4001)")
    assert await log.entries() == [
        Entry(bot_topic(BOT), "eject", None, USER, 4003),
        Entry(None, "eject", None, None, 4001),
    ]


@pytest.mark.gen_test
async def test_eject_refuses_codes_that_cannot_be_sent(platform: Platform) -> None:
    """Those a WebSocket server may not close with."""
    for code in (None, 0, 999, 1001, 1006, 1012, 1015, 2999, 5000, -1):
        assert "code" in await refuse(platform, "relay.eject(NULL, NULL, $1)", code)
    log = await Log.since_now(platform)
    for code in (1000, 1008, 1011, 1013, 3000, 4999):
        await platform.execute("SELECT relay.eject(NULL, NULL, $1)", code)
    assert len(await log.entries()) == 6


@pytest.mark.gen_test
async def test_grant_names_one_user(platform: Platform) -> None:
    """For one topic or for all; never everybody."""
    log = await Log.since_now(platform)
    await platform.execute("SELECT relay.grant($1, $2)", USER, bot_topic(BOT.upper()))
    await platform.execute("SELECT relay.grant($1, NULL)", USER)
    assert await log.entries() == [
        Entry(bot_topic(BOT), "grant", None, USER, None),
        Entry(None, "grant", None, USER, None),
    ]
    assert "user" in await refuse(platform, "relay.grant(NULL, NULL)")
    assert "topic" in await refuse(platform, "relay.grant($1, 'everything')", USER)


@pytest.mark.gen_test
async def test_usage_and_execute_are_enough_to_call_them(platform: Platform) -> None:
    """A role with nothing else writes through them."""
    await platform.execute(
        """CREATE ROLE caller; GRANT USAGE ON SCHEMA relay TO caller;
        GRANT EXECUTE ON FUNCTION relay.emit, relay.notify_user, relay.eject, relay.grant
            TO caller"""
    )
    log = await Log.since_now(platform)
    await platform.execute("SET ROLE caller")
    try:
        await platform.execute("SET search_path = ''")
        await platform.execute("SELECT relay.emit($1, 'poll', '{}')", bot_topic(BOT))
        await platform.execute("SELECT relay.notify_user($1, 'quota', '{}')", USER)
        await platform.execute("SELECT relay.eject($1, NULL)", USER)
        await platform.execute("SELECT relay.grant($1, NULL)", USER)
    finally:
        await platform.execute("RESET ROLE; DROP OWNED BY caller; DROP ROLE caller")
    sent = [entry.type for entry in await log.entries()]
    assert sent == ["poll", "notification", "eject", "grant"]


@pytest.mark.gen_test
async def test_authenticate_knows_users_by_what_it_is_told_to(
    platform: Platform, world: World
) -> None:
    """By id or by username, never the one for the other."""
    guest = [{"user_id": world.guest, "username": "gus"}]
    assert await rows(platform, "relay.authenticate($1, 'id')", world.guest.upper()) == guest
    assert await rows(platform, "relay.authenticate('gus', 'username')") == guest
    impostor = await platform.user(world.guest)
    found = await rows(platform, "relay.authenticate($1, 'username')", world.guest)
    assert [row["user_id"] for row in found] == [impostor]
    assert await rows(platform, "relay.authenticate($1, 'id')", world.guest) == guest


@pytest.mark.gen_test
async def test_authenticate_refuses_the_unknown(platform: Platform, world: World) -> None:
    """No row and no error, whatever the subject is."""
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.owner)
    for subject, kind in (
        (str(uuid4()), "id"),
        ("gus", "id"),
        ("", "id"),
        ("", "username"),
        (None, "username"),
        ("GUS", "username"),
        ("olga", "username"),
        (world.owner, "id"),
        ("gus", "email"),
        ("gus", None),
    ):
        assert await rows(platform, "relay.authenticate($1, $2)", subject, kind) == []


@pytest.mark.gen_test
async def test_authorize_tells_the_role(platform: Platform, world: World) -> None:
    """The owner's is owner, whatever a permission row says."""
    await platform.permit(world.bot, world.owner, "viewer")
    call = "relay.authorize($1, $2)"
    assert await rows(platform, call, world.guest, world.bot) == [
        {"bot_name": "Ada", "role": "viewer", "username": "gus"}
    ]
    assert await rows(platform, call, world.owner, world.bot) == [
        {"bot_name": "Ada", "role": "owner", "username": "olga"}
    ]


@pytest.mark.gen_test
async def test_authorize_refuses_the_rest(platform: Platform, world: World) -> None:
    """Strangers, the inactive, and bots that are not there."""
    stranger = await platform.user()
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    for user, bot in (
        (stranger, world.bot),
        (world.guest, world.bot),
        (world.owner, str(uuid4())),
        (str(uuid4()), world.bot),
        (world.owner, None),
        (None, world.bot),
    ):
        assert await rows(platform, "relay.authorize($1, $2)", user, bot) == []


@pytest.mark.gen_test
async def test_access_is_seen_as_of_the_asking_statement(
    platform: Platform, world: World, database: str
) -> None:
    """A socket's events start where its authorization's snapshot ends, so they are one snapshot."""
    stable = await platform.connection.fetchval(
        "SELECT count(*) FROM pg_proc WHERE provolatile = 's' AND oid IN"
        " ('relay.authenticate'::regproc, 'relay.authorize'::regproc)"
    )
    assert stable == 2
    other = await asyncpg.connect(database)
    try:
        async with platform.connection.transaction(isolation="repeatable_read"):
            await platform.execute("SELECT FROM users")
            await other.execute("DELETE FROM permissions")
            assert len(await rows(platform, "relay.authorize($1, $2)", world.guest, world.bot)) == 1
    finally:
        await other.close()
