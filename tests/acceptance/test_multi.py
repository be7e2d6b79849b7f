"""`/api/ws`: many subscriptions on one socket."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import Message, Socket
from tests.platform import Platform
from tests.serving import RunningServer, World
from tests.waiting import eventually


async def subscribe(socket: Socket, bot_id: str, **more: Any) -> Message:
    """Subscribe to a bot, and return the answer."""
    count = len(answers(socket, bot_id))
    await socket.send({"type": "subscribe", "data": {"bot_id": bot_id, **more}})
    await eventually(lambda: len(answers(socket, bot_id)) > count)
    return answers(socket, bot_id)[count]


def answers(socket: Socket, bot_id: str) -> list[Message]:
    found = socket.of_type("subscribed", "unsubscribed")
    return [message for message in found if message["bot_id"] == bot_id]


@pytest.mark.gen_test
async def test_a_subscription_is_answered_and_sent_the_bots_events(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """As on a chat; and nothing more after the client has unsubscribed."""
    socket = await server.multi(world.guest)
    data = (await socket.established())["data"]
    assert (data["connection_type"], data["user_id"]) == ("multi", world.guest)
    assert data.keys() == {"connection_type", "user_id", "connection_id", "expires_at"}
    answer = await subscribe(socket, world.bot)
    assert (answer["type"], answer["data"]["role"]) == ("subscribed", "viewer")
    chat = await server.chat(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner, "hello")
    assert await socket.next("chat_message") == await chat.next("chat_message")
    await socket.send({"type": "unsubscribe", "data": {"bot_id": world.bot}})
    ended = await socket.next("unsubscribed")
    assert (ended["bot_id"], ended["data"]["code"]) == (world.bot, 1000)
    await platform.message(world.session, world.bot, world.owner, "later")
    await chat.next("chat_message", 2)
    await socket.caught_up()
    assert len(socket.of_type("chat_message")) == 1
