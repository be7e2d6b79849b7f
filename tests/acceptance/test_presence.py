"""Presence: who is on a bot, by user and over all processes: reloads, deaths and outages."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.doorbell import ALIVE_SECONDS
from realtime.relay import presence
from tests.acceptance.test_many_processes import ask
from tests.clients import Socket
from tests.commands import ROOT, environment, free_port, running, status_of
from tests.platform import Platform
from tests.postgres import restart
from tests.serving import SECRET, RunningServer, StartServer, World, make_settings, token
from tests.waiting import LIMIT, eventually

PATIENCE = DEFAULTS.presence_grace + presence.RECOVERY_SECONDS + ALIVE_SECONDS + LIMIT

ENDLESS_GRACE = Intervals(presence_grace=1e6)
"""Who leaves has been told to go."""


def shown(socket: Socket) -> set[str]:
    """Who is there, as a client makes it out of what it was sent."""
    people: set[str] = set()
    for message in socket.of_type("presence_state", "presence_diff"):
        data = message["data"]
        if message["type"] == "presence_state":
            people = {one["user_id"] for one in data["users"]}
        joined, left = (
            {one["user_id"] for one in data.get(kind, [])} for kind in ("joined", "left")
        )
        assert left <= people, "only who was there can leave"
        assert not joined & people, "only who was not there can join"
        people = people - left | joined
    return people


def ever_left(socket: Socket) -> set[str]:
    diffs = socket.of_type("presence_diff")
    return {one["user_id"] for diff in diffs for one in diff["data"]["left"]}


async def becomes(sockets: list[Socket], people: set[str]) -> None:
    def do_all_show_them() -> bool:
        return all(shown(socket) == people for socket in sockets)

    await eventually(do_all_show_them, limit=PATIENCE, what=f"{people} to be shown")


async def watch(server: RunningServer, bot: str, user: str) -> Socket:
    return await server.chat(bot, user, presence="true")


async def leave(socket: Socket) -> None:
    socket.close()
    await socket.closed()


async def present(server: RunningServer, world: World) -> set[str]:
    """What the endpoint says."""
    status, body = await get(server, world.bot, world.owner)
    assert status == 200, body
    assert body["bot_id"] == world.bot
    return {one["user_id"] for one in body["users"]}


async def get(server: RunningServer, bot: str, user: str | None) -> tuple[int, Any]:
    given = token(user) if user else ""
    return await ask(server.base, f"/api/ws/presence/{bot}", user or "", token=given)


@pytest.mark.gen_test
async def test_people_are_shown_across_processes_and_by_user(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Once at first, then what changes; a second tab is nobody new; who did not ask is not told."""
    one, other = await start_server(), await start_server()
    plain = await one.chat(world.bot, world.owner)
    watcher = await watch(one, world.bot, world.owner)
    state = await watcher.next("presence_state")
    assert state == {
        "type": "presence_state",
        "bot_id": world.bot,
        "data": {
            "users": [
                {
                    "user_id": world.owner,
                    "username": "olga",
                    "since": state["data"]["users"][0]["since"],
                }
            ]
        },
        "timestamp": state["timestamp"],
    }
    tabs = [await other.chat(world.bot, world.guest), await one.chat(world.bot, world.guest)]
    diff = await watcher.next("presence_diff")
    (joined,) = diff["data"]["joined"]
    assert (joined["user_id"], joined["username"]) == (world.guest, "gus")
    assert joined["since"].endswith("Z")
    assert diff["data"]["left"] == []
    later = await watch(other, world.bot, world.guest)
    await becomes([watcher, later], {world.owner, world.guest})
    for server in (one, other):
        assert await present(server, world) == {world.owner, world.guest}
    await leave(tabs[0])
    await leave(later)
    await leave(tabs[1])
    await becomes([watcher], {world.owner})
    assert len(watcher.of_type("presence_state")) == 1
    assert len(watcher.of_type("presence_diff")) == 2
    assert not plain.of_type("presence_state", "presence_diff")
    elsewhere = await platform.bot(world.owner)
    assert (await get(other, elsewhere, world.owner))[1] == {"bot_id": elsewhere, "users": []}


@pytest.mark.gen_test
async def test_a_reload_is_not_a_leave(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Not even on another process; somebody who left after the reloading one is seen to leave."""
    one, other = await start_server(), await start_server()
    leaver = await platform.user()
    await platform.permit(world.bot, leaver)
    watchers = [await watch(server, world.bot, world.owner) for server in (one, other)]
    reloading, leaving = [await one.chat(world.bot, user) for user in (world.guest, leaver)]
    await becomes(watchers, {world.owner, world.guest, leaver})
    await leave(reloading)
    await leave(leaving)
    await other.chat(world.bot, world.guest)
    await becomes(watchers, {world.owner, world.guest})
    assert [ever_left(socket) for socket in watchers] == [{leaver}, {leaver}]


@pytest.mark.gen_test
async def test_who_was_on_a_process_that_died_leaves_unless_connected_elsewhere(
    start_server: StartServer, platform: Platform, world: World, database: str
) -> None:
    """After `kill -9`, at the two others of three."""
    port = free_port()
    environ = environment(DATABASE_URL=database, PORT=str(port), JWT_SECRET=SECRET)
    lost = await platform.user()
    await platform.permit(world.bot, lost)
    with running([str(ROOT / "bin" / "serve")], cwd="/", env=environ) as third:
        one, other = await start_server(), await start_server()
        url = f"http://127.0.0.1:{port}/api/ready"

        async def is_ready() -> bool:
            return await asyncio.to_thread(status_of, url) == 200

        await eventually(is_ready)
        watchers = [await watch(server, world.bot, world.owner) for server in (one, other)]
        for user in (lost, world.guest):
            address = f"ws://127.0.0.1:{port}/api/ws/chat/{world.bot}?presence=true"
            watchers.append(await Socket.open(f"{address}&token={token(user)}"))
        await other.chat(world.bot, world.guest)
        await becomes(watchers, {world.owner, world.guest, lost})
        os.kill(third.process.pid, signal.SIGKILL)
        third.process.wait(LIMIT)
        await becomes(watchers[:2], {world.owner, world.guest})
    assert [ever_left(socket) for socket in watchers[:2]] == [{lost}, {lost}]
    assert await present(one, world) == {world.owner, world.guest}


@asynccontextmanager
async def three_servers(dsn: str) -> AsyncIterator[list[RunningServer]]:
    servers = [RunningServer(make_settings(dsn)) for _ in range(3)]
    for server in servers:
        await server.start()
    try:
        yield servers
    finally:
        for server in servers:
            await server.stop()


async def new_world(platform: Platform, guests: int) -> tuple[str, str, list[str]]:
    """A bot, its owner, and others who may watch it."""
    owner = await platform.user()
    bot = await platform.bot(owner)
    users = [await platform.user() for _ in range(guests)]
    for user in users:
        await platform.permit(bot, user)
    return bot, owner, users


@pytest.mark.gen_test
async def test_a_restart_of_the_database_changes_nobodys_presence(
    stoppable_postgres: EmbeddedPostgres,
) -> None:
    """A crash empties the table that it is read from; who left during it is seen to have left."""
    platform = await Platform.connect(stoppable_postgres.dsn())
    bot, owner, (stays, leaves, comes) = await new_world(platform, 3)
    async with three_servers(stoppable_postgres.dsn()) as servers:
        watchers = [await watch(server, bot, owner) for server in servers]
        await servers[1].chat(bot, stays)
        leaving = await servers[2].chat(bot, leaves)
        await becomes(watchers, {owner, stays, leaves})
        await platform.connection.close()
        await restart(stoppable_postgres, leaving.close)

        async def is_ready() -> bool:
            return all(server.server.web.status.is_ready for server in servers)

        await eventually(is_ready)
        await servers[2].chat(bot, comes)
        await becomes(watchers, {owner, stays, comes})
    assert [ever_left(socket) for socket in watchers] == [{leaves}] * 3


@pytest.mark.gen_test
async def test_a_revoked_user_leaves_at_once_and_learns_nothing_more(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """On every process, and whether they were told of the others themselves."""
    one = await start_server(intervals=ENDLESS_GRACE)
    other = await start_server(intervals=ENDLESS_GRACE)
    third = await platform.user()
    await platform.permit(world.bot, third)
    watchers = [await watch(server, world.bot, world.owner) for server in (one, other)]
    revoked = await watch(other, world.bot, world.guest)
    await becomes([*watchers, revoked], {world.owner, world.guest})
    await platform.revoke(world.bot, world.guest)
    await becomes(watchers, {world.owner})
    assert await revoked.closed() == 4003
    assert await present(one, world) == {world.owner}
    await other.chat(world.bot, third)
    await becomes(watchers, {world.owner, third})
    assert revoked.messages[-1]["type"] == "permission_change"
    assert shown(revoked) == {world.owner, world.guest}
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", third)
    await becomes(watchers, {world.owner})


@pytest.mark.gen_test
async def test_a_truncate_shows_nobody_as_gone_who_stays(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """While everybody is asked about again nothing changes; then those leave who may not stay."""
    one = await start_server(intervals=ENDLESS_GRACE)
    other = await start_server(intervals=ENDLESS_GRACE)
    watcher = await watch(one, world.bot, world.owner)
    guests = [await server.chat(world.bot, world.guest) for server in (one, other)]
    await becomes([watcher], {world.owner, world.guest})
    await platform.execute("TRUNCATE permissions")
    await becomes([watcher], {world.owner})
    assert [await guest.closed() for guest in guests] == [4003, 4003]
    assert world.owner not in ever_left(watcher)


@pytest.mark.gen_test
async def test_the_endpoint_is_for_those_who_may_watch_the_bot(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """401 without a token or an active user, 403 without access, 503 without the database."""
    stranger, sleeper = await platform.user(), await platform.user()
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", sleeper)
    denied = {"error": "bot not found or access denied"}
    assert (await get(server, world.bot, world.guest))[0] == 200
    assert await get(server, world.bot, None) == (401, {"error": "token missing"})
    assert await get(server, world.bot, stranger) == (403, denied)
    assert await get(server, "nonsense", world.owner) == (403, denied)
    status, body = await get(server, world.bot, sleeper)
    assert (status, body) == (401, {"error": "user unknown or deactivated"})
    await platform.execute("ALTER TABLE relay.connections RENAME TO away")
    status, body = await get(server, world.bot, world.owner)
    assert (status, body) == (503, {"error": "the database cannot be asked at the moment"})
    await platform.execute("ALTER TABLE relay.away RENAME TO connections")


@pytest.mark.gen_test
async def test_notifications_have_no_presence(server: RunningServer, world: World) -> None:
    """The parameter means nothing there, and a value other than true means nothing anywhere."""
    bell = await server.notifications(world.owner, presence="true")
    chat = await server.chat(world.bot, world.owner, presence="yes")
    watcher = await watch(server, world.bot, world.guest)
    await watcher.next("presence_state")
    for socket in (bell, chat):
        await socket.caught_up()
        assert not socket.of_type("presence_state")
