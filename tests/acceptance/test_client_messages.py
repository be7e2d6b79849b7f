"""Every message that a client may send, and every one that it may not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import eventually


@pytest.mark.gen_test
async def test_ping_is_answered_with_pong(server: RunningServer, world: World) -> None:
    """Its timestamp comes back as it was, string or number; without one it is the server's time."""
    guest = await server.chat(world.bot, world.guest)
    for timestamp in ("2023-01-01T00:00:00Z", 1700000000123, 1.5):
        await guest.send({"type": "ping", "timestamp": timestamp, "id": "m1", "more": {}})
    await guest.send({"type": "ping"})
    last = await guest.next("pong", 4)
    assert [one["timestamp"] for one in guest.of_type("pong")[:3]] == [
        "2023-01-01T00:00:00Z",
        1700000000123,
        1.5,
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", last["timestamp"])
    assert last["cursor"].startswith("2.")


@pytest.mark.gen_test
async def test_ping_on_notifications_is_answered_too(server: RunningServer, world: World) -> None:
    """The guide promises it on both endpoints."""
    bell = await server.notifications(world.guest)
    await bell.send({"type": "ping", "timestamp": "t"})
    assert (await bell.next("pong"))["timestamp"] == "t"


@pytest.mark.gen_test
async def test_typing_is_shown_to_the_others_and_not_to_the_typist(
    server: RunningServer, world: World
) -> None:
    """In the guide's shape; on a second socket of the typist neither."""
    guest, again = [await server.chat(world.bot, world.guest) for _ in range(2)]
    owner = await server.chat(world.bot, world.owner)
    await guest.send({"type": "typing", "data": {"is_typing": True}})
    shown = await owner.next("typing_indicator")
    assert shown.pop("timestamp").endswith("Z")
    assert shown == {
        "type": "typing_indicator",
        "bot_id": world.bot,
        "data": {"user_id": world.guest, "username": "gus", "is_typing": True},
    }
    await guest.send({"type": "typing", "data": {"is_typing": False}})
    assert (await owner.next("typing_indicator", 2))["data"]["is_typing"] is False
    for own in (guest, again):
        await own.caught_up()
        assert not own.of_type("typing_indicator")


@pytest.mark.gen_test
async def test_typing_stops_when_the_typist_disconnects(
    server: RunningServer, world: World
) -> None:
    """Without a word from them."""
    guest = await server.chat(world.bot, world.guest)
    owner = await server.chat(world.bot, world.owner)
    await guest.send({"type": "typing", "data": {"is_typing": True}})
    await owner.next("typing_indicator")
    guest.close()
    assert (await owner.next("typing_indicator", 2))["data"]["is_typing"] is False


@pytest.mark.gen_test
async def test_typing_crosses_between_processes(start_server: StartServer, world: World) -> None:
    """And stops there, too; and every event reaches both."""
    # The processes hear of each other within a heartbeat; until then typing is not passed on, so
    # it is said until it is.
    one, other = [await start_server(MESSAGES_PER_SECOND="1000") for _ in range(2)]
    guest = await one.chat(world.bot, world.guest)
    owner = await other.chat(world.bot, world.owner)
    for is_typing in (True, False):

        async def is_shown(is_typing: bool = is_typing) -> bool:
            await guest.send({"type": "typing", "data": {"is_typing": is_typing}})
            shown = owner.of_type("typing_indicator")
            return any(message["data"]["is_typing"] is is_typing for message in shown)

        await eventually(is_shown)


@pytest.mark.gen_test
async def test_two_servers_over_one_database_both_deliver_every_event(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """In the same order, under the same ids."""
    sockets = [await (await start_server()).chat(world.bot, world.guest) for _ in range(2)]
    for number in range(50):
        await platform.message(world.session, world.bot, world.owner, str(number))
    for socket in sockets:
        await socket.next("chat_message", 50)
    first, second = (
        [(one["id"], one["data"]["content"]) for one in socket.of_type("chat_message")]
        for socket in sockets
    )
    assert first == second
    assert [content for _, content in first] == [str(number) for number in range(50)]


@pytest.mark.gen_test
async def test_session_sync_is_answered_with_session_synced(
    server: RunningServer, world: World
) -> None:
    """With what was asked for, and the time."""
    guest = await server.chat(world.bot, world.guest)
    await guest.send({"type": "session_sync", "data": {"session_id": "abc"}})
    synced = await guest.next("session_synced")
    assert synced["data"].pop("timestamp").endswith("Z")
    assert synced == {
        "type": "session_synced",
        "data": {"session_id": "abc", "bot_id": world.bot},
    }


@pytest.mark.gen_test
async def test_authenticate_with_a_good_token_prolongs_the_socket(
    server: RunningServer, world: World
) -> None:
    """It outlives the token that it was opened with."""
    url = server.ws_url(f"/api/ws/chat/{world.bot}", token=token(world.guest, ttl=2))
    guest = await server.connect(url)
    await guest.next("token_expiring")
    await guest.send({"type": "authenticate", "data": {"token": token(world.guest, ttl=600)}})
    answer = await guest.next("authenticated")
    assert answer["data"]["expires_at"] > guest.messages[0]["data"]["expires_at"]
    brief = await server.connect(url)
    await brief.established()
    assert await brief.closed() == 4001
    await guest.caught_up()
    assert not guest.is_closed


@pytest.mark.gen_test
async def test_authenticate_with_a_bad_token_or_anothers_closes_with_4001(
    server: RunningServer, world: World
) -> None:
    """A socket does not change hands."""
    for bad in ("x", token(world.owner), token(world.guest, ttl=-1)):
        guest = await server.chat(world.bot, world.guest)
        await guest.send({"type": "authenticate", "data": {"token": bad}})
        assert await guest.closed() == 4001


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("NaN", "invalid_json"),
        ("[" * 50_000, "invalid_json"),
        ('{"type":"ping","timestamp":' + "9" * 5000 + "}", "invalid_json"),
        ("[]", "invalid_message"),
        ("{}", "invalid_message"),
        ('{"type":1}', "invalid_message"),
        ('{"type":"ping","timestamp":{}}', "invalid_message"),
        ('{"type":"ping","timestamp":true}', "invalid_message"),
        ('{"type":"ping","timestamp":1e999}', "invalid_message"),
        ('{"type":"typing"}', "invalid_message"),
        ('{"type":"typing","data":{"is_typing":"yes"}}', "invalid_message"),
        ('{"type":"session_sync","data":{}}', "invalid_message"),
        ('{"type":"authenticate","data":{"token":5}}', "invalid_message"),
        ('{"type":"chat_message","data":{}}', "unknown_type"),
        ('{"type":"\\ud800"}', "unknown_type"),
    ],
)
@pytest.mark.gen_test
async def test_anything_else_is_answered_with_an_error_and_the_socket_stays(
    server: RunningServer, world: World, text: str, code: str
) -> None:
    """Each with its code and words for whoever wrote the client."""
    guest = await server.chat(world.bot, world.guest)
    await guest.send(text)
    error: dict[str, Any] = await guest.next("error")
    assert error["code"] == code
    assert error["message"]
    await guest.caught_up()


@pytest.mark.gen_test
async def test_what_is_for_chats_only_is_unknown_on_notifications(
    server: RunningServer, world: World
) -> None:
    """Typing has nobody to be shown to there."""
    bell = await server.notifications(world.guest)
    await bell.send({"type": "typing", "data": {"is_typing": True}})
    assert (await bell.next("error"))["code"] == "unknown_type"


@pytest.mark.gen_test
async def test_sending_too_fast_is_answered_with_rate_limited(
    start_server: StartServer, world: World
) -> None:
    """What was said within the burst is answered."""
    server = await start_server(MESSAGES_PER_SECOND="2")
    guest = await server.chat(world.bot, world.guest)
    for _ in range(8):
        await guest.send({"type": "ping"})
    await guest.next("error")
    assert guest.of_type("error")[0]["code"] == "rate_limited"
    assert len(guest.of_type("pong")) >= 5
    assert not guest.is_closed


@pytest.mark.gen_test
async def test_a_long_message_counts_as_several(start_server: StartServer, world: World) -> None:
    """On a socket for many topics, too, where the rate of subscribing is for short ones."""
    server = await start_server(MESSAGES_PER_SECOND="2")
    long_one = {"type": "ping", "more": "x" * 9000, "not": "subscribe"}
    for socket in (await server.chat(world.bot, world.guest), await server.multi(world.guest)):
        for _ in range(2):
            await socket.send(long_one)
        assert (await socket.next("error"))["code"] == "rate_limited"
        assert len(socket.of_type("pong")) == 1
