"""The loop of docs/clients.md does what that page says, against real servers."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.clients import Message, Socket
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
Result = TypeVar("Result")


class Closed(Exception):
    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class Blocking:
    """A socket of the event loop, for a thread that waits: `connect` of the page."""

    def __init__(self, surroundings: Surroundings, socket: Socket) -> None:
        self._surroundings = surroundings
        self._socket = socket
        self._taken = 0

    def receive(self) -> Message:
        return self._surroundings.wait(self._next())

    async def _next(self) -> Message:
        socket, taken = self._socket, self._taken
        await eventually(lambda: len(socket.messages) > taken or socket.is_closed)
        if len(socket.messages) == taken:
            raise Closed(socket.code)
        self._taken += 1
        return socket.messages[taken]

    def send(self, message: Message) -> None:
        self._surroundings.wait(self._socket.send(message))


class Surroundings:
    """What the page leaves to the application, and what it was told."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.server: RunningServer | None = None
        """Where a load balancer would lead to now."""
        self._lives = iter([2.0])
        self.connections: list[str] = []
        self.fetched = 0
        self.handled: list[Message] = []
        self._loop = asyncio.get_running_loop()

    def names(self) -> dict[str, Any]:
        """Everything that the loop uses and the page does not define."""
        return {
            "connect": self.connect,
            "get_token": self.get_token,
            "fetch_state": self.fetch_state,
            "handle": self.handled.append,
            "Closed": Closed,
            "now": time.monotonic,
            "sleep": lambda _seconds: None,
            "random": random.random,
        }

    def wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def get_token(self) -> str:
        """The first lasts two seconds, so that the server warns of it after one."""
        return token(self.user_id, ttl=next(self._lives, 600.0))

    def fetch_state(self) -> None:
        self.fetched += 1

    def connect(self, address: str, credential: str) -> Blocking:
        return Blocking(self, self.wait(self._connect(address, credential)))

    async def _connect(self, address: str, credential: str) -> Socket:
        await eventually(lambda: self.server)
        assert self.server is not None
        self.connections.append(address)
        url = f"ws://{self.server.base}{address}"
        return await self.server.connect(url, headers={"Authorization": f"Bearer {credential}"})

    def contents(self) -> list[str]:
        return [one["data"]["content"] for one in self.handled if one["type"] == "chat_message"]


def block_of_the_page(having: str, language: str = "python") -> str:
    """The one block of code that has this in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    found = [block for block in blocks if having in block]
    assert len(found) == 1
    return str(found[0])


def loop_of_the_page(names: dict[str, Any]) -> Any:
    exec(compile(block_of_the_page("def follow("), str(PAGE), "exec"), names)
    return names["follow"]


@pytest.mark.gen_test
async def test_the_loop_of_the_page_follows_a_bot(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Through a restart, a token that ends, a resync and to the revocation; each message once."""

    async def write(content: str) -> None:
        await platform.message(world.session, world.bot, world.owner, content)

    async def handled(count: int) -> None:
        await eventually(lambda: len(client.contents()) >= count, what=f"{client.handled}")

    client = Surroundings(world.guest)
    follow = loop_of_the_page(client.names())
    following = asyncio.create_task(asyncio.to_thread(follow, f"/api/ws/chat/{world.bot}"))
    client.server = first = await start_server()
    await eventually(lambda: client.fetched)
    await write("live")
    await handled(1)
    await eventually(lambda: any(one.of_type("authenticated") for one in first.sockets))
    client.server = None
    first.request_stop()
    await write("while away")
    client.server = second = await start_server()
    await handled(2)  # the first server may still have sent it
    await eventually(lambda: any(one.of_type("connection_established") for one in second.sockets))
    assert client.fetched == 1  # at the beginning: all else was recovered
    await platform.execute("SELECT relay.eject($1, $2)", world.guest, f"bot:{world.bot}")
    await eventually(lambda: client.fetched == 2)  # access_changed
    await write("afterwards")
    await handled(3)
    await platform.revoke(world.bot, world.guest)
    assert await asyncio.wait_for(following, LIMIT) == 4003
    assert client.contents() == ["live", "while away", "afterwards"]
    assert client.connections[0].endswith("?cursor=")
    assert len(client.connections) == 3
    assert [len(one.of_type("authenticated")) for one in first.sockets] == [1]
    assert [len(one.of_type("authenticated")) for one in second.sockets] == [0, 0]
