"""Several processes over one database: who is connected to any of them, and who types."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.httpclient import AsyncHTTPClient

from realtime.postgres.doorbell import ALIVE_SECONDS, TYPING_CHANNEL
from tests.clients import Socket
from tests.commands import ROOT, environment, free_port, running, status_of
from tests.platform import Platform
from tests.serving import SECRET, RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

USERS = 30
SOCKETS = 100
"""Of each process."""

Expected = dict[str, tuple[str, str | None]]
"""User and bot by connection id."""


async def ask(base: str, path: str, user: str, **query: str) -> tuple[int, Any]:
    """A user's question, as an administrator: status and body."""
    address = urlencode({"token": token(user, is_admin=True), **query})
    url = f"http://{base}{path}?{address}"
    answer = await AsyncHTTPClient().fetch(url, raise_error=False, request_timeout=LIMIT)
    return answer.code, json.loads(answer.body)


async def stats(base: str, user: str, **query: str) -> dict[str, Any]:
    status, counts = await ask(base, "/api/ws/stats", user, **query)
    assert status == 200, counts
    return dict(counts)


def counted(expected: Expected, *, nodes: int, scope: str = "cluster") -> dict[str, Any]:
    """What stats should say."""
    return {
        "total_connections": len(expected),
        "connected_users": len({user for user, _ in expected.values()}),
        "bot_subscriptions": len({bot for _, bot in expected.values() if bot}),
        "nodes": nodes,
        "scope": scope,
    }


async def everyone(base: str, user: str, limit: int = 70) -> Expected:
    """Page by page, everything that /api/ws/connections has."""
    found: Expected = {}
    after: dict[str, str] = {}
    while True:
        status, page = await ask(base, "/api/ws/connections", user, limit=str(limit), **after)
        assert status == 200, page
        sockets = page["connection_metadata"]
        assert len(sockets) <= limit
        assert not found.keys() & sockets.keys()
        here = {key: (one["user_id"], one["bot_id"]) for key, one in sockets.items()}
        assert page["connected_users"] == sorted({user for user, _ in here.values()})
        assert {
            (user, bot) for bot, users in page["bot_subscriptions"].items() for user in users
        } == {pair for pair in here.values() if pair[1]}
        found |= here
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


class Crowd:
    """People with access to some bots."""

    def __init__(self, users: list[str], bots: list[str]) -> None:
        self.users = users
        self.bots = bots

    @classmethod
    async def make(cls, platform: Platform) -> Crowd:
        owner = await platform.user()
        users = [await platform.user() for _ in range(USERS)]
        bots = [await platform.bot(owner) for _ in range(7)]
        for bot in bots:
            for user in users:
                await platform.permit(bot, user)
        return cls(users, bots)

    async def join(self, base: str, shift: int) -> tuple[Expected, list[Socket]]:
        """A hundred sockets, every fifth on notifications; each shift has other users and bots."""
        expected: Expected = {}
        sockets: list[Socket] = []

        async def open_one(number: int) -> None:
            user = self.users[(number % 20) + shift * 5]
            bot = None if number % 5 == 0 else self.bots[number % 4 + shift]
            path = f"/api/ws/chat/{bot}" if bot else "/api/ws/notifications"
            socket = await Socket.open(f"ws://{base}{path}?token={token(user)}")
            sockets.append(socket)
            greeting = await socket.established()
            expected[greeting["data"]["connection_id"]] = (user, bot)

        for start in range(0, SOCKETS, 20):
            await asyncio.gather(*(open_one(number) for number in range(start, start + 20)))
        return expected, sockets


@pytest.mark.gen_test
async def test_three_processes_count_three_hundred_sockets_and_then_two_hundred(
    start_server: StartServer, platform: Platform, database: str
) -> None:
    """Exact at each of them; after `kill -9` of one, exact again within the heartbeat time."""
    crowd = await Crowd.make(platform)
    port = free_port()
    environ = environment(DATABASE_URL=database, PORT=str(port), JWT_SECRET=SECRET)
    with running([str(ROOT / "bin" / "serve")], cwd="/", env=environ) as third:
        bases = [(await start_server()).base, (await start_server()).base, f"127.0.0.1:{port}"]
        ready = f"http://{bases[2]}/api/ready"

        async def is_ready() -> bool:
            return await asyncio.to_thread(status_of, ready) == 200

        await eventually(is_ready)
        parts, sockets = zip(
            *[await crowd.join(base, shift) for shift, base in enumerate(bases)], strict=True
        )
        for base, part in zip(bases, parts, strict=True):
            own = await stats(base, crowd.users[0], scope="process")
            assert own == counted(part, nodes=1, scope="process")
        await all_agree(bases, parts[0] | parts[1] | parts[2], nodes=3)
        os.kill(third.process.pid, signal.SIGKILL)
        third.process.wait(LIMIT)
        await all_agree(bases[:2], parts[0] | parts[1], nodes=2, limit=ALIVE_SECONDS + LIMIT)
        for socket in sockets[0][:50]:
            socket.close()
        left = {await connection_id(socket) for socket in sockets[0][:50]}
        rest = {key: one for key, one in (parts[0] | parts[1]).items() if key not in left}
        await all_agree(bases[:2], rest, nodes=2)
        for each in (*sockets[0][50:], *sockets[1]):
            each.close()
        await eventually(lambda: all(each.is_closed for part in sockets for each in part))


async def connection_id(socket: Socket) -> str:
    return str((await socket.established())["data"]["connection_id"])


async def all_agree(
    bases: list[str], expected: Expected, *, nodes: int, limit: float = LIMIT
) -> None:
    """Every process says the same, and it is the truth."""
    user = next(user for user, _ in expected.values())
    for base in bases:

        async def is_exact(base: str = base) -> bool:
            # On a busy machine the database may be late, which is said: ask again.
            return await ask(base, "/api/ws/stats", user) == (200, counted(expected, nodes=nodes))

        await eventually(is_exact, limit=limit)
        assert await everyone(base, user) == expected


@pytest.mark.gen_test
async def test_a_crash_of_the_database_empties_the_table_and_it_is_written_again(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """As with anything that changes it behind the processes' back."""
    one, other = await start_server(), await start_server()
    sockets = [await one.chat(world.bot, world.guest), await one.notifications(world.owner)]
    expected = {
        await connection_id(sockets[0]): (world.guest, world.bot),
        await connection_id(sockets[1]): (world.owner, None),
    }
    await all_agree([one.base, other.base], expected, nodes=2)
    await platform.execute("DELETE FROM relay.connections")
    await all_agree([other.base], expected, nodes=2)
    await platform.execute("DELETE FROM relay.nodes")
    await all_agree([other.base], expected, nodes=2)


@pytest.mark.gen_test
async def test_typing_crosses_where_the_bot_is_and_nowhere_else(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """To the process that has the bot; nothing is said of a bot that only one process has."""
    one, other = await start_server(), await start_server()
    payloads = await platform.hear(TYPING_CHANNEL)
    elsewhere = await platform.bot(world.owner)
    typist = await one.chat(world.bot, world.guest)
    alone = await one.chat(elsewhere, world.owner)
    watcher = await other.chat(world.bot, world.owner)
    for is_typing in (True, False):

        async def is_shown(is_typing: bool = is_typing) -> bool:
            for socket in (alone, typist):
                await socket.send({"type": "typing", "data": {"is_typing": is_typing}})
            shown = watcher.of_type("typing_indicator")
            return bool(shown) and shown[-1]["data"]["is_typing"] is is_typing

        await eventually(is_shown)
    assert payloads
    assert not [payload for payload in payloads if elsewhere in payload]
    assert not typist.of_type("typing_indicator")


@pytest.mark.gen_test
async def test_without_the_database_nobody_is_told_who_is_connected(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """503, rather than a number that is wrong, or an answer to whom it is not for any more."""
    await server.chat(world.bot, world.guest)
    await platform.execute("ALTER TABLE relay.connections RENAME TO away")
    refused = (503, {"error": "the database cannot be asked at the moment"})
    for path in ("/api/ws/stats", "/api/ws/connections"):
        assert await ask(server.base, path, world.owner) == refused
        assert await ask(server.base, path, world.owner, scope="process") == refused
    await platform.execute("ALTER TABLE relay.away RENAME TO connections")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"scope": "all"}, "scope must be cluster or process"),
        ({"scope": ""}, "scope must be cluster or process"),
        ({"after": "x"}, "after must be a connection's id"),
        ({"limit": ""}, "limit must be a number from 1 to 10000"),
        ({"limit": "0"}, "limit must be a number from 1 to 10000"),
        ({"limit": "10001"}, "limit must be a number from 1 to 10000"),
        ({"limit": "٣"}, "limit must be a number from 1 to 10000"),
        ({"limit": "9" * 5000}, "limit must be a number from 1 to 10000"),
    ],
)
async def test_a_question_that_makes_no_sense_is_400(
    server: RunningServer, world: World, query: dict[str, str], error: str
) -> None:
    """With a word on what would."""
    answer = await ask(server.base, "/api/ws/connections", world.owner, **query)
    assert answer == (400, {"error": error})
