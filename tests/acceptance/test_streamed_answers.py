"""An answer that grows by a hundred updates a second: a few frames, and always the last state."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import Socket
from tests.platform import Platform
from tests.serving import RunningServer, World
from tests.waiting import eventually

UPDATE = "chat_message_update"
UPDATES = 200
GROW = "UPDATE messages SET content = content || ' word' WHERE id = $1"


def words(message: dict[str, Any]) -> int:
    return str(message["data"].get("content")).count(" word")


async def shows(socket: Socket, number: int) -> None:
    """Wait until the newest update that arrived has so many words."""

    def has_come() -> bool:
        return [words(message) for message in socket.of_type(UPDATE)][-1:] == [number]

    await eventually(has_come, what=f"{number} words; so far: {socket.messages}")


@pytest.mark.gen_test
async def test_the_newest_of_many_updates(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Each frame carries the whole answer so far; those in between are owed to nobody."""
    message_id = await platform.message(world.session, world.bot, world.owner, "")
    socket = await server.chat(world.bot, world.guest)
    for _ in range(UPDATES):
        await platform.execute(GROW, message_id)
    await shows(socket, UPDATES)
    seen = [words(message) for message in socket.of_type(UPDATE)]
    assert seen == sorted(set(seen))
    assert len(seen) < UPDATES / 2


@pytest.mark.gen_test
async def test_nothing_overtakes_the_last_word(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """What else happens on the bot comes after it, and a deletion is the end."""
    message_id = await platform.message(world.session, world.bot, world.owner, "")
    socket = await server.chat(world.bot, world.guest)
    for _ in range(3):
        await platform.execute(GROW, message_id)
    await platform.message(world.session, world.bot, world.owner, "and now?")
    await socket.next("chat_message")
    assert [words(message) for message in socket.messages if message["type"] == UPDATE][-1] == 3
    assert socket.messages[-1]["type"] == "chat_message"
    await platform.execute(GROW, message_id)
    await platform.execute("DELETE FROM messages WHERE id = $1", message_id)

    def is_deleted() -> bool:
        return socket.of_type(UPDATE)[-1]["data"]["action"] == "deleted"

    await eventually(is_deleted)
    await socket.caught_up()
    assert is_deleted()


@pytest.mark.gen_test
async def test_who_comes_back_gets_the_last_state(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Whatever the last cursor is that it was given, with a message or with a pong."""
    message_id = await platform.message(world.session, world.bot, world.owner, "")
    socket = await server.chat(world.bot, world.guest)
    for number in range(1, 6):
        await platform.execute(GROW, message_id)
        await platform.execute(GROW, message_id)
        await socket.caught_up()
        cursor = [message["cursor"] for message in socket.messages if "cursor" in message][-1]
        seen = [words(message) for message in socket.of_type(UPDATE)]
        socket.close()
        socket = await server.chat(world.bot, world.guest, cursor=cursor)
        if seen[-1:] != [2 * number]:
            await shows(socket, 2 * number)
