"""Coming back with a cursor: nothing missing, on any process, or a reason why."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from realtime.relay.cursor import Key, Signer, parse_cursor
from realtime.relay.protocol import bot_topic
from tests.clients import Message, Socket
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World
from tests.waiting import LIMIT, eventually


def newest_cursor(socket: Socket) -> str:
    """The last cursor that the socket was sent, wherever it stood."""
    found = [one.get("cursor") or one.get("data", {}).get("cursor") for one in socket.messages]
    return [cursor for cursor in found if cursor][-1]


def contents(socket: Socket) -> list[str]:
    return [one["data"]["content"] for one in socket.of_type("chat_message")]


async def leave(socket: Socket) -> str:
    """Disconnect; returns the cursor to come back with.

    First, a read has confirmed what came ahead of it: until then, it would come once more.
    """

    async def is_confirmed() -> bool:
        await socket.send({"type": "ping"})
        await socket.next("pong", len(socket.of_type("pong")) + 1)
        _, seen = parse_cursor(newest_cursor(socket))
        return seen.anchor is None or seen.covers(seen.anchor.xid)

    if not socket.is_closed:
        await eventually(is_confirmed)
    cursor = newest_cursor(socket)
    socket.close()
    await socket.closed()
    return cursor


async def answer_to(server: RunningServer, world: World, cursor: str) -> Message:
    """What `connection_established` says to a guest with this cursor."""
    return (await (await server.chat(world.bot, world.guest, cursor=cursor)).established())["data"]


@pytest.mark.gen_test
async def test_what_was_missed_is_sent_before_what_is_live_on_any_process(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """In order, each once, and the last of it with a cursor."""
    one, other = await start_server(), await start_server()
    guest = await one.chat(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner, "seen")
    await guest.next("chat_message")
    cursor = await leave(guest)
    for number in range(20):
        await platform.message(world.session, world.bot, world.owner, f"missed {number}")
    back = await other.chat(world.bot, world.guest, cursor=cursor)
    await platform.message(world.session, world.bot, world.owner, "live")
    await back.next("chat_message", 21)
    assert (await back.established())["data"]["recovered"] is True
    assert contents(back) == [*(f"missed {number}" for number in range(20)), "live"]
    assert back.of_type("chat_message")[19]["cursor"]


@pytest.mark.gen_test
async def test_a_grant_to_somebody_else_is_no_event_of_the_topic(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """It stands among what was missed, and has nothing to be sent."""
    cursor = await leave(await server.chat(world.bot, world.guest))
    await platform.execute("SELECT relay.grant($1, $2)", world.owner, f"bot:{world.bot}")
    await platform.message(world.session, world.bot, world.owner, "missed")
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    await back.next("chat_message")
    assert (await back.established())["data"]["recovered"] is True
    assert contents(back) == ["missed"]


@pytest.mark.gen_test
async def test_a_client_of_a_quiet_bot_resumes_with_the_cursor_of_a_pong(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Which moves on with what happens on other bots."""
    guest = await server.chat(world.bot, world.guest)
    elsewhere = await platform.bot(world.owner)
    await platform.execute("SELECT relay.emit('bot:' || $1, 'noise', '{}')", elsewhere)
    first = newest_cursor(guest)
    async with asyncio.timeout(LIMIT):
        while newest_cursor(guest) == first:
            await guest.caught_up()
    cursor = await leave(guest)
    await platform.message(world.session, world.bot, world.owner, "missed")
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    await back.next("chat_message")
    assert contents(back) == ["missed"]


@pytest.mark.gen_test
async def test_notifications_resume_too(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """What a user was told while away is told when they are back."""
    bell = await server.notifications(world.guest)
    cursor = await leave(bell)
    await platform.execute("SELECT relay.notify_user($1::uuid, 'n', '{}')", world.guest)
    back = await server.notifications(world.guest, cursor=cursor)
    assert (await back.next("notification"))["notification_type"] == "n"
    assert (await back.established())["data"]["recovered"] is True


@pytest.mark.gen_test
async def test_an_event_of_a_transaction_that_was_open_is_not_missed(
    server: RunningServer, platform: Platform, world: World, database: str
) -> None:
    """Though the cursor was taken after later transactions had committed."""
    slow = await Platform.connect(database)
    transaction = slow.connection.transaction()
    await transaction.start()
    await slow.message(world.session, world.bot, world.owner, "late")
    guest = await server.chat(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner, "early")
    await guest.next("chat_message")
    cursor = await leave(guest)
    assert parse_cursor(cursor)[1].open
    await transaction.commit()
    await slow.connection.close(timeout=LIMIT)
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    await back.next("chat_message")
    assert contents(back) == ["late"]


@pytest.mark.gen_test
async def test_a_cursor_that_is_none_is_invalid(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Whatever it holds; the socket is live all the same."""
    for bad in ("x", "1.2.3", "1." * 500, "%00", "1.1.1.1.1.G", "2.a.b.c.d.", "ü"):
        established = await answer_to(server, world, bad)
        assert (established["recovered"], established["reason"]) == (False, "invalid")
    socket = server.sockets[-1]
    await platform.message(world.session, world.bot, world.owner, "live")
    await socket.next("chat_message")


@pytest.mark.gen_test
async def test_a_cursor_of_another_database_or_timeline_is_foreign(
    server: RunningServer, world: World
) -> None:
    """Transaction ids mean nothing there."""
    cursor = (await (await server.chat(world.bot, world.guest)).established())["data"]["cursor"]
    database, place = parse_cursor(cursor)
    keys = server.server.hub.position.signer.keys
    others = (
        database._replace(system=database.system ^ 1),
        database._replace(oid=database.oid + 1),
        database._replace(timeline=database.timeline + 1),
    )
    of_an_older_release = "1.7.5.1.a.1-2"
    topic = bot_topic(world.bot)
    texts = [Signer(other, keys).write(place, topic) or "" for other in others]
    for text in (*texts, of_an_older_release):
        established = await answer_to(server, world, text)
        assert (established["recovered"], established["reason"]) == (False, "foreign")


@pytest.mark.gen_test
async def test_a_cursor_is_the_servers_own_and_of_one_topic(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Whoever edits one, or brings one from elsewhere, is not sent what was not for them."""
    topic = bot_topic(world.bot)
    start = await leave(await server.chat(world.bot, world.guest))
    await platform.revoke(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner, "secret")
    borrowed = await leave(await server.notifications(world.guest))
    await platform.permit(world.bot, world.guest)
    honest = await answer_to(server, world, start)
    assert (honest["recovered"], honest["reason"]) == (False, "access_changed")
    _, place = parse_cursor(borrowed)
    forger = Signer(server.server.hub.position.signer.database, (Key(b"i" * 64, b"o" * 64),))
    for text in (borrowed, forger.write(place, topic) or "", start[:-1] + "x", start[:-1]):
        established = await answer_to(server, world, text)
        assert (established["recovered"], established["reason"]) == (False, "invalid")
    assert all("secret" not in contents(socket) for socket in server.sockets)


@pytest.mark.gen_test
async def test_a_cursor_whose_newest_row_is_not_in_the_log_is_foreign(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """As after a crash that forgot it: its ids may belong to other rows now."""
    server = await start_server()
    guest = await server.chat(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner, "forgotten")
    await guest.next("chat_message")
    cursor = await leave(guest)
    assert (await answer_to(server, world, cursor))["recovered"] is True
    await platform.execute(
        "UPDATE relay.events SET written_at = written_at + interval '1 microsecond'"
        " WHERE (xid, id) = (SELECT xid, id FROM relay.events ORDER BY xid DESC, id DESC LIMIT 1)"
    )
    again = await start_server()
    established = await answer_to(again, world, cursor)
    assert (established["recovered"], established["reason"]) == (False, "foreign")


@pytest.mark.gen_test
async def test_a_cursor_from_before_the_floor_is_too_old(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Something that it has not seen may have been removed."""
    guest = await server.chat(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner)
    await guest.next("chat_message")
    signer, topic = server.server.hub.position.signer, bot_topic(world.bot)
    good = await leave(guest)
    place = signer.read(good, topic)
    await platform.execute(
        "UPDATE relay.floor SET last = $1::xid8, snapshot = $2::text::pg_snapshot",
        place.last,
        f"{place.last + 1}:{place.last + 1}:",
    )
    assert (await answer_to(server, world, good))["recovered"] is True
    for bad in (replace(place, last=place.last - 1), replace(place, open=(place.last - 1,))):
        established = await answer_to(server, world, signer.write(bad, topic) or "")
        assert (established["recovered"], established["reason"]) == (False, "too_old")


@pytest.mark.gen_test
async def test_more_than_resume_max_events_is_too_many_and_none_is_sent(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Never a part; one who missed fewer is served at the same moment."""
    # Or what came ahead of a read would count as missed by who returns within a second.
    server = await start_server(RESUME_MAX_EVENTS="10", CARRY_EVENTS="false")
    guest = await server.chat(world.bot, world.guest)
    old = newest_cursor(guest)
    await platform.message(world.session, world.bot, world.owner, "first")
    newer = (await guest.next("chat_message"))["cursor"]
    for number in range(10):
        await platform.message(world.session, world.bot, world.owner, str(number))
    established, served = await asyncio.gather(
        answer_to(server, world, old), server.chat(world.bot, world.guest, cursor=newer)
    )
    assert (established["recovered"], established["reason"]) == (False, "too_many")
    assert (await served.established())["data"]["recovered"] is True
    await served.next("chat_message", 10)
    await platform.message(world.session, world.bot, world.owner, "live")
    refused = next(one for one in server.sockets if "reason" in one.messages[0]["data"])
    await refused.next("chat_message")
    assert contents(refused) == ["live"]


@pytest.mark.gen_test
async def test_who_lost_access_in_the_gap_is_told_access_changed(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Even if they have it again; what was said meanwhile is not shown to them."""
    guest = await server.chat(world.bot, world.guest)
    cursor = await leave(guest)
    await platform.revoke(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner, "not for gus")
    await platform.permit(world.bot, world.guest)
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    established = (await back.established())["data"]
    assert (established["recovered"], established["reason"]) == (False, "access_changed")
    await back.caught_up()
    assert contents(back) == []


@pytest.mark.gen_test
async def test_another_users_revocation_in_the_gap_changes_nothing(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Nor does the deletion of the owner's own permission row, which is told nobody."""
    await platform.permit(world.bot, world.owner, "admin")
    owner = await server.chat(world.bot, world.owner)
    cursor = await leave(owner)
    await platform.revoke(world.bot, world.guest)
    await platform.revoke(world.bot, world.owner)
    back = await server.chat(world.bot, world.owner, cursor=cursor)
    await back.next("permission_change")
    await back.caught_up()
    assert (await back.established())["data"]["recovered"] is True
    told = back.of_type("permission_change")
    assert [change["data"]["target_user_id"] for change in told] == [world.guest]


@pytest.mark.gen_test
async def test_replay_of_much_is_paced_and_complete(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """More than the send buffer, while more is written; each event once, in order."""
    server = await start_server(SEND_BUFFER_BYTES="65536")
    guest = await server.chat(world.bot, world.guest)
    cursor = await leave(guest)
    insert = (
        "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
        " SELECT $1, $2, $3, 'user', n || repeat('x', 2000) FROM generate_series($4::int, $5) AS n"
    )
    await platform.execute(insert, world.session, world.bot, world.owner, 1, 2000)
    opening = asyncio.ensure_future(server.chat(world.bot, world.guest, cursor=cursor))
    for start in range(2001, 2500, 100):
        await platform.execute(insert, world.session, world.bot, world.owner, start, start + 99)
    back = await opening
    await back.next("chat_message", 2500)
    assert [int(text.rstrip("x")) for text in contents(back)] == list(range(1, 2501))


@pytest.mark.gen_test
async def test_a_large_message_comes_in_parts(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Larger than what may be held; its neighbours and what is said meanwhile come whole, too."""
    server = await start_server(READ_BUFFER_BYTES="4194304")
    cursor = await leave(await server.chat(world.bot, world.guest))
    texts = ["before", "é€" * 1_000_000, "after"]
    for text in texts:
        await platform.message(world.session, world.bot, world.owner, text)
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    await back.caught_up()
    await back.next("chat_message", 3)
    assert [len(text) for text in contents(back)] == [len(text) for text in texts]
    assert "".join(contents(back)) == "".join(texts), "it is not what was sent"


@pytest.mark.gen_test
async def test_a_storm_of_returning_clients_shares_the_reads_of_the_log(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """A hundred sockets on one bot, a thousand events: far fewer reads than clients."""
    server = await start_server(MAX_CONNECTIONS_PER_USER="1000")
    guest = await server.chat(world.bot, world.guest)
    cursor = await leave(guest)
    await platform.execute(
        "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
        " SELECT $1, $2, $3, 'user', n::text FROM generate_series(1, 1000) AS n",
        world.session,
        world.bot,
        world.owner,
    )
    back = await asyncio.gather(
        *(server.chat(world.bot, world.guest, cursor=cursor) for _ in range(100))
    )
    for socket in back:
        await socket.next("chat_message", 1000)
        assert len({one["id"] for one in socket.of_type("chat_message")}) == 1000
    assert server.server.relaying.history.reads < 50


@pytest.mark.gen_test
async def test_a_server_that_was_down_loses_nothing(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Kill it, insert ten rows, start it, and watch the ten arrive, once each."""
    first = await start_server()
    guest = await first.chat(world.bot, world.guest)
    first.request_stop()
    assert await guest.closed() == 1001
    for number in range(10):
        await platform.message(world.session, world.bot, world.owner, str(number))
    second = await start_server()
    back = await second.chat(world.bot, world.guest, cursor=newest_cursor(guest))
    await back.next("chat_message", 10)
    await platform.message(world.session, world.bot, world.owner, "10")
    await back.next("chat_message", 11)
    assert contents(back) == [str(number) for number in range(11)]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("statement", "is_recovered"),
    [
        ("SELECT relay.grant('{guest}', 'bot:{bot}')", False),
        ("SELECT relay.grant('{guest}', NULL)", False),
        ("SELECT relay.eject('{guest}', NULL)", False),
        ("SELECT relay.eject(NULL, 'bot:{bot}')", False),
        ("SELECT relay.grant('{owner}', 'bot:{bot}')", True),
        ("SELECT relay.grant('{guest}', 'bot:{session}')", True),
        ("SELECT relay.eject('{guest}', 'bot:{session}')", True),
        ("INSERT INTO users (username) VALUES ('new')", True),
        ("INSERT INTO bots (name, owner_id) VALUES ('new', '{owner}')", True),
        ("UPDATE users SET username = 'guido' WHERE id = '{guest}'", True),
        ("UPDATE permissions SET role = 'editor' WHERE user_id = '{guest}'", True),
        ("INSERT INTO relay.events (type, code) VALUES ('recheck', 4003)", False),
    ],
)
async def test_what_happened_to_this_user_in_the_gap_decides(
    statement: str, is_recovered: bool, server: RunningServer, platform: Platform, world: World
) -> None:
    """Not what happened to others, nor what leaves access as it was.

    Where everybody is asked again, other tables may decide from then on.
    """
    cursor = await leave(await server.chat(world.bot, world.guest))
    names = {key: getattr(world, key) for key in ("guest", "owner", "bot", "session")}
    await platform.execute(statement.format(**names))
    established = await answer_to(server, world, cursor)
    assert established["recovered"] is is_recovered
    assert established.get("reason") == (None if is_recovered else "access_changed")


@pytest.mark.gen_test
async def test_echo_to_author_false_keeps_a_users_messages_from_that_user(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Live and missed ones; an assistant's message and the user's own notifications are sent."""
    server = await start_server(ECHO_TO_AUTHOR="false")
    owner, guest = [await server.chat(world.bot, one) for one in (world.owner, world.guest)]
    await platform.message(world.session, world.bot, world.guest, "by the guest")
    await platform.message(world.session, world.bot, world.owner, "by the owner")
    await guest.next("chat_message")
    await owner.next("chat_message")
    assert (contents(guest), contents(owner)) == (["by the owner"], ["by the guest"])
    cursor = await leave(guest)
    await platform.message(world.session, world.bot, world.guest, "missed, but own")
    await platform.message(world.session, world.bot, world.guest, "an answer", role="assistant")
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    await back.next("chat_message")
    assert (await back.established())["data"]["recovered"] is True
    assert contents(back) == ["an answer"]
