"""`/api/ws`: many subscriptions on one socket, each with what a socket of its own has."""

from __future__ import annotations

import asyncio
import gc
import json
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any

import pytest

from tests.acceptance.test_entrance import answers as answers_to
from tests.acceptance.test_many_processes import ask
from tests.acceptance.test_rfc6455 import BYE, TEXT, frame, handshake
from tests.clients import Message, Socket
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

NOBODY = "00000000-0000-4000-8000-000000000000"


def answers(socket: Socket, bot_id: str | None) -> list[Message]:
    """What the socket was told of its subscription to a bot, or (None) to the notifications."""
    told = socket.of_type("subscribed", "unsubscribed")
    return [one for one in told if one.get("bot_id") == bot_id]


async def subscribe(socket: Socket, bot_id: str | None, **more: Any) -> Message:
    """Subscribe, and return the answer."""
    target = {"notifications": True} if bot_id is None else {"bot_id": bot_id}
    count = len(answers(socket, bot_id))
    await socket.send({"type": "subscribe", "data": {**target, **more}})
    await eventually(lambda: len(answers(socket, bot_id)) > count)
    return answers(socket, bot_id)[count]


async def ended(socket: Socket, count: int = 1) -> tuple[str, int]:
    """The bot and the code of a subscription that has ended."""
    message = await socket.next("unsubscribed", count)
    return message["bot_id"], message["data"]["code"]


async def second_bot(platform: Platform, world: World) -> tuple[str, str]:
    """A bot, and a session on it."""
    bot = await platform.bot(world.owner, "Bob")
    await platform.permit(bot, world.guest)
    return bot, await platform.session(bot, world.owner)


@pytest.mark.gen_test
async def test_a_subscription_is_answered_and_sent_the_bots_events(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """As on a chat; and nothing more after the client has unsubscribed."""
    socket = await server.multi(world.guest)
    data = (await socket.established())["data"]
    assert (data["connection_type"], data["user_id"]) == ("multi", world.guest)
    assert data.keys() == {"connection_type", "user_id", "connection_id", "expires_at"}
    answer = await subscribe(socket, world.bot.upper().lower())
    assert (answer["type"], answer["data"].keys()) == (
        "subscribed",
        {"bot_name", "role", "cursor"},
    )
    chat = await server.chat(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner, "hello")
    assert await socket.next("chat_message") == await chat.next("chat_message")
    await socket.send({"type": "unsubscribe", "data": {"bot_id": world.bot}})
    assert await ended(socket) == (world.bot, 1000)
    await platform.message(world.session, world.bot, world.owner, "later")
    await chat.next("chat_message", 2)
    await socket.caught_up()
    assert len(socket.of_type("chat_message")) == 1


@pytest.mark.gen_test
async def test_a_revoke_ends_one_subscription_and_the_others_stay(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """With the final message first; then it is refused like any other, until there is a grant."""
    other, session = await second_bot(platform, world)
    socket = await server.multi(world.guest)
    for bot in (world.bot, other, None):
        assert (await subscribe(socket, bot))["type"] == "subscribed"
    await platform.revoke(world.bot, world.guest)
    assert await ended(socket) == (world.bot, 4003)
    types = [one["type"] for one in socket.messages if one.get("bot_id") == world.bot]
    assert types == ["subscribed", "permission_change", "unsubscribed"]
    assert (await socket.next("notification"))["data"]["bot_id"] == world.bot
    refused = await subscribe(socket, world.bot, cursor="")
    assert (refused["type"], refused["data"]["code"]) == ("unsubscribed", 4003)
    await platform.message(session, other, world.owner, "goes on")
    assert (await socket.next("chat_message"))["bot_id"] == other
    await platform.permit(world.bot, world.guest)
    assert (await subscribe(socket, world.bot))["type"] == "subscribed"
    # Whose access is still given begins anew.
    await platform.execute("SELECT relay.eject($1, $2)", world.guest, f"bot:{other}")
    assert await ended(socket, 3) == (other, 1013)
    assert (await subscribe(socket, other))["type"] == "subscribed"


@pytest.mark.gen_test
async def test_what_is_said_names_its_bot(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Pings, typing and sessions are about one subscription, and what is wrong says about which."""
    server = await start_server(MAX_SUBSCRIPTIONS="2")
    other, _ = await second_bot(platform, world)
    socket, chat = await server.multi(world.guest), await server.chat(world.bot, world.owner)
    cursor = (await subscribe(socket, world.bot))["data"]["cursor"]
    await socket.send({"type": "ping", "timestamp": 1, "data": {"bot_id": world.bot}})
    pong = await socket.next("pong")
    assert (pong["bot_id"], pong["timestamp"]) == (world.bot, 1)
    assert pong["cursor"][:2] == cursor[:2]
    for data in ({}, {"bot_id": other}, {"notifications": True}):
        await socket.send({"type": "ping", "data": data})
    await socket.next("pong", 4)
    assert not any("cursor" in one for one in socket.of_type("pong")[1:])
    await socket.send({"type": "typing", "data": {"bot_id": world.bot, "is_typing": True}})
    assert (await chat.next("typing_indicator"))["data"]["user_id"] == world.guest
    await socket.send({"type": "session_sync", "data": {"bot_id": world.bot, "session_id": "s"}})
    assert (await socket.next("session_synced"))["data"]["bot_id"] == world.bot
    for count, (kind, bot, code) in enumerate(
        [
            ("subscribe", world.bot, "already_subscribed"),
            ("unsubscribe", other, "not_subscribed"),
            ("typing", other, "not_subscribed"),
            ("session_sync", other, "not_subscribed"),
        ],
        1,
    ):
        data = {"bot_id": bot, "is_typing": True, "session_id": "s"}
        await socket.send({"type": kind, "data": data})
        error = await socket.next("error", count)
        assert (error["code"], error["bot_id"]) == (code, bot)
    await socket.send({"type": "typing", "data": {"bot_id": world.bot, "is_typing": "yes"}})
    error = await socket.next("error", 5)
    assert (error["code"], error["bot_id"]) == ("invalid_message", world.bot)
    assert (await subscribe(socket, None))["data"].keys() == {"cursor"}
    assert (await subscribe(socket, other))["data"]["code"] == 4029
    for bot in (NOBODY, "no id"):
        await socket.send({"type": "unsubscribe", "data": {"notifications": True}})
        assert (await subscribe(socket, bot))["data"]["code"] == 4003
    # A socket that is gone types no longer, and neither does a subscription.
    await socket.send({"type": "unsubscribe", "data": {"bot_id": world.bot}})
    assert (await chat.next("typing_indicator", 2))["data"]["is_typing"] is False


@pytest.mark.gen_test
async def test_who_subscribes_without_end_is_slowed_down_and_then_closed(
    start_server: StartServer, world: World
) -> None:
    """Each may begin and end as often as there may be subscriptions; the rest is another rate."""
    server = await start_server(MAX_SUBSCRIPTIONS="2", MESSAGES_PER_SECOND="1")
    socket = await server.multi(world.guest)
    for _ in range(10):
        await socket.send({"type": "subscribe", "data": {"bot_id": "no id"}})
    assert await socket.closed() == 1008
    codes = [one["data"]["code"] for one in socket.of_type("unsubscribed")]
    assert (codes[:4], set(codes[5:])) == ([4003] * 4, {1013})


@pytest.mark.gen_test
async def test_a_subscription_can_always_be_ended(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Above the rate, too: or the socket would go on with what its client has left."""
    server = await start_server(MAX_SUBSCRIPTIONS="2", MESSAGES_PER_SECOND="1")
    other, _ = await second_bot(platform, world)
    socket = await server.multi(world.guest)
    for bot in (world.bot, other):
        assert (await subscribe(socket, bot))["type"] == "subscribed"
    wrong = [("subscribe", "no id")] * 4
    for kind, bot in [*wrong, ("unsubscribe", world.bot), ("unsubscribe", other)]:
        await socket.send({"type": kind, "data": {"bot_id": bot}})
    await socket.next("unsubscribed", 6)
    assert [answers(socket, bot)[-1]["data"]["code"] for bot in (world.bot, other)] == [1000, 1000]
    assert socket.of_type("error") == []
    await socket.send({"type": "unsubscribe", "data": {"bot_id": other}})
    assert (await socket.next("error"))["bot_id"] == other


@pytest.mark.gen_test
async def test_what_is_no_id_is_refused_like_an_unknown_bot(
    server: RunningServer, world: World
) -> None:
    """With the same words; an empty one is an answer, too."""
    socket = await server.multi(world.guest)
    answers = [(await subscribe(socket, bot))["data"] for bot in (NOBODY, "no-id", "")]
    assert {one["code"] for one in answers} == {4003}
    assert len({one["reason"] for one in answers}) == 1


@pytest.mark.gen_test
async def test_a_subscription_may_end_before_it_has_begun(
    server: RunningServer, world: World
) -> None:
    """Where all arrives at once: nothing is left over, of which Python would complain."""
    messages = [
        json.dumps({"type": kind, "data": {"bot_id": world.bot}}).encode()
        for kind in ("subscribe", "unsubscribe")
    ]
    opening = handshake(f"/api/ws?token={token(world.guest)}")
    frames = [frame(TEXT, message) for message in messages]
    assert b'"code":1000' in await answers_to(server, [b"".join([opening, *frames, BYE])])
    gc.collect()


@pytest.mark.gen_test
async def test_who_is_deactivated_loses_the_socket_whatever_is_subscribed(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The socket itself ends: its user could open it no longer."""
    idle, busy = await server.multi(world.guest), await server.multi(world.guest)
    await subscribe(busy, world.bot)
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    assert [await socket.closed() for socket in (idle, busy)] == [4001, 4001]


@pytest.mark.gen_test
async def test_truncate_asks_about_each_subscription(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The owner's goes on, the guest's ends; the socket stays."""
    owner, guest = await server.multi(world.owner), await server.multi(world.guest)
    for socket in (owner, guest):
        await subscribe(socket, world.bot)
        await subscribe(socket, None)
    await platform.execute("TRUNCATE permissions")
    assert await ended(guest) == (world.bot, 4003)
    await platform.message(world.session, world.bot, world.owner, "goes on")
    await owner.next("chat_message")
    await platform.execute("SELECT relay.notify_user($1, 'x', '{}')", world.guest)
    await guest.next("notification")
    assert not owner.of_type("unsubscribed", "resync")


@pytest.mark.gen_test
async def test_a_socket_counts_once_in_every_process(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """In stats, in connections, in the metrics and in the limit of its user."""
    here, other = await start_server(), await start_server(MAX_CONNECTIONS_PER_USER="2")
    bot, _ = await second_bot(platform, world)
    socket = await here.multi(world.guest)
    for target in (world.bot, bot, None):
        await subscribe(socket, target)
    key = (await socket.established())["data"]["connection_id"]
    expected = {"total_connections": 1, "connected_users": 1, "bot_subscriptions": 2, "nodes": 2}
    for server in (here, other):

        async def is_exact(server: RunningServer = server) -> bool:
            return await ask(server.base, "/api/ws/stats", world.guest) == (
                200,
                {**expected, "scope": "cluster"},
            )

        await eventually(is_exact)
        _, page = await ask(server.base, "/api/ws/connections", world.guest)
        entry = page["connection_metadata"].pop(key)
        assert (entry["bot_id"], entry["bot_ids"]) == (None, sorted([world.bot, bot]))
        assert not page["connection_metadata"]
        assert page["bot_subscriptions"] == {one: [world.guest] for one in (world.bot, bot)}
    _, figures = await ask(here.base, "/api/ws/figures", world.guest)
    figures = next(iter(figures["nodes"].values()))
    assert (figures["connections"], figures["chats"]) == (1, 0)
    assert (figures["multi"], figures["subscriptions"]) == (1, 3)
    await other.chat(bot, world.guest)
    refused = await other.open("/api/ws", world.guest)
    assert await refused.closed() == 1013


@pytest.mark.gen_test
async def test_presence_is_told_to_the_subscriptions_that_ask(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Its user is present on a bot as long as the subscription lasts."""
    other, _ = await second_bot(platform, world)
    socket, chat = (
        await server.multi(world.guest),
        await server.chat(world.bot, world.owner, presence="true"),
    )
    await subscribe(socket, world.bot, presence=True)
    await subscribe(socket, other)
    state = await socket.next("presence_state")
    assert state["bot_id"] == world.bot
    assert {one["user_id"] for one in state["data"]["users"]} == {world.owner, world.guest}

    def shown() -> list[str]:
        told = chat.of_type("presence_state", "presence_diff")
        users = [one["data"].get("users", []) + one["data"].get("joined", []) for one in told]
        return [one["user_id"] for part in users for one in part]

    await eventually(lambda: world.guest in shown())
    await platform.revoke(world.bot, world.guest)
    await eventually(
        lambda: any(
            one["user_id"] == world.guest
            for diff in chat.of_type("presence_diff")
            for one in diff["data"]["left"]
        )
    )


@pytest.mark.gen_test
async def test_what_many_subscriptions_missed_comes_in_turns(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """All together it is far more than may wait for a socket; it stays open all the same."""
    server = await start_server(SEND_BUFFER_BYTES="65536")
    bots = [await platform.bot(world.guest) for _ in range(20)]
    sessions = [await platform.session(bot, world.guest) for bot in bots]
    socket = await server.multi(world.guest)
    cursors = [(await subscribe(socket, bot))["data"]["cursor"] for bot in bots]
    socket.close()
    await socket.closed()
    for bot, session in zip(bots, sessions, strict=True):
        await platform.execute(
            "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
            " SELECT $1, $2, $3, 'user', repeat('x', 10000) FROM generate_series(1, 30)",
            session,
            bot,
            world.guest,
        )
    back = await server.multi(world.guest)
    told = await asyncio.gather(
        *(subscribe(back, bot, cursor=one) for bot, one in zip(bots, cursors, strict=True))
    )
    assert all(one["data"]["recovered"] for one in told)
    await back.next("chat_message", 600)
    assert {bot: len(of_bot(back, bot)) for bot in bots} == dict.fromkeys(bots, 30)


def of_bot(socket: Socket, bot_id: str) -> list[str]:
    return [one["id"] for one in socket.of_type("chat_message") if one["bot_id"] == bot_id]


@pytest.mark.gen_test
async def test_who_unsubscribes_in_the_middle_of_a_large_message_keeps_the_socket(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Its rest comes first, for nothing else can follow half of it; then the others go on."""
    bot, session = await second_bot(platform, world)
    before = await server.chat(world.bot, world.guest)
    cursor = (await before.established())["data"]["cursor"]
    before.close()
    await before.closed()
    here, topic = server.server.hub.subscribers, f"bot:{world.bot}"
    await eventually(lambda: not here.has_topic(topic))
    await platform.message(world.session, world.bot, world.owner, "x" * 8_000_000)
    path = f"/api/ws?token={token(world.guest)}"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port, limit=65_536)
    line = writer.get_extra_info("socket")
    line.setsockopt(SOL_SOCKET, SO_RCVBUF, 65_536)

    def say(kind: str, bot_id: str, **more: str) -> None:
        data = {"bot_id": bot_id, **more}
        writer.write(frame(TEXT, json.dumps({"type": kind, "data": data}).encode()))

    writer.write(handshake(path))
    say("subscribe", bot)
    say("subscribe", world.bot, cursor=cursor)
    sent = await reader.readuntil(b'"content":"xxx')  # and then it takes nothing more
    say("unsubscribe", world.bot)
    await writer.drain()
    await eventually(lambda: not here.has_topic(topic))
    await platform.message(session, bot, world.owner, "later")
    while b'"later"' not in sent[-1000:]:
        sent += await asyncio.wait_for(reader.read(65_536), LIMIT)
    places = [sent.index(part) for part in (b'"unsubscribed"', b'"code":1000', b'"later"')]
    assert places == sorted(places)
    assert sent[: places[0]].count(b"x") > 8_000_000
    writer.transport.abort()
