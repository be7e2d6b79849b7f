"""What /metrics and /api/ws/figures say, and whether it is what clients measured."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from tests.clients import Socket
from tests.platform import Platform
from tests.scraping import METRICS_TOKEN, ask, scrape
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import eventually

ROUNDING = 0.001
"""Seconds: two clocks tell the same time in different numbers."""


class Measured:
    """Between which times a row's way to the last of its clients took."""

    def __init__(self, least: float, most: float) -> None:
        self.least = least
        self.most = most


async def write_and_measure(
    platform: Platform, world: World, sockets: list[Socket], held: float
) -> Measured:
    """Write one message in a transaction that stays open for a while, and see it arrive."""
    numbers = [len(socket.messages) for socket in sockets]
    before = time.monotonic()
    async with platform.connection.transaction():
        await platform.message(world.session, world.bot, world.owner)
        written = time.monotonic()
        await platform.execute("SELECT pg_sleep($1)", held)
        committing = time.monotonic()
    for socket, number in zip(sockets, numbers, strict=True):
        await eventually(lambda socket=socket, number=number: len(socket.messages) > number)
        assert socket.messages[number]["type"] == "chat_message"
    arrived = max(one.arrived_at[number] for one, number in zip(sockets, numbers, strict=True))
    return Measured(committing - written, arrived - before)


@pytest.mark.gen_test
async def test_the_histogram_agrees_with_what_clients_measured(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """As many rows, in the buckets that clients would have put them in, and in sum as long."""
    server = await start_server(METRICS_TOKEN=METRICS_TOKEN)
    sockets = [await server.chat(world.bot, world.guest) for _ in range(3)]
    node = server.server.node_id
    start = await scrape(server.base)
    assert start.value("realtime_latency_seconds_count") == 0
    measured = [
        await write_and_measure(platform, world, sockets, held)
        for held in (0, 0.004, 0.011, 0.03, 0.11, 0.3, 0, 0.06)
    ]
    after = await scrape(server.base)
    count = len(measured)
    assert after.value("realtime_latency_seconds_count") == count
    assert after.value("realtime_events_total") == count
    assert after.value("realtime_deliveries_total") == 3 * count
    assert after.value("realtime_batch_events_sum") == count
    # Of each it may say too much by the time that the read before it took, never too little.
    reading = after.value("realtime_read_seconds_total")
    total = after.value("realtime_latency_seconds_sum")
    assert sum(one.least for one in measured) - ROUNDING <= total
    assert total <= sum(one.most + reading for one in measured) + ROUNDING
    buckets = after.buckets("realtime_latency_seconds", node)
    assert len(buckets) > 10
    for bound, number in buckets.items():
        surely = [one for one in measured if one.most + reading + ROUNDING <= bound]
        perhaps = [one for one in measured if one.least - ROUNDING <= bound]
        assert len(surely) <= number <= len(perhaps)


@pytest.mark.gen_test
async def test_one_scrape_shows_every_process(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Whichever is asked; what concerns the database is there once, and without a node."""
    servers = [await start_server(METRICS_TOKEN=METRICS_TOKEN) for _ in range(2)]
    one, other = servers
    chats = [await one.chat(world.bot, world.guest), await other.chat(world.bot, world.owner)]
    bell = await other.notifications(world.owner)
    await platform.message(world.session, world.bot, world.owner)
    for socket in chats:
        await socket.next("chat_message")
    assert not bell.of_type("chat_message")
    nodes = {server.server.node_id: server for server in servers}
    for asked in servers:

        async def shows_both(asked: RunningServer = asked) -> bool:
            seen = await scrape(asked.base)
            return (
                seen.find("realtime_latency_seconds_count") == dict.fromkeys(nodes, 1)
                and seen.find("realtime_sockets", endpoint="chat") == dict.fromkeys(nodes, 1)
                and seen.value(
                    "realtime_sockets", node=other.server.node_id, endpoint="notifications"
                )
                == 1
            )

        await eventually(shows_both)
        seen = await scrape(asked.base)
        for node_id, server in nodes.items():
            assert seen.value("realtime_node_info", node=node_id, port=str(server.server.port)) == 1
            modes = [one for one in seen.samples if one.name == "realtime_doorbell"]
            assert sum(one.value for one in modes if one.labels["node"] == node_id) == 1
        assert seen.find("realtime_database_up") == {"": 1}
        assert 0 < seen.value("realtime_log_age_seconds") < 3600
        assert seen.value("realtime_log_bytes") > 0
        assert seen.value("realtime_notification_queue_usage") >= 0


@pytest.mark.gen_test
async def test_sockets_are_counted_as_they_come_back_and_as_they_go(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """By what became of their cursor, and by the code that they were closed with."""
    server = await start_server(METRICS_TOKEN=METRICS_TOKEN)
    first = await server.chat(world.bot, world.guest)
    cursor = first.messages[0]["data"]["cursor"]
    await server.chat(world.bot, world.guest, cursor=cursor)
    await server.chat(world.bot, world.guest, cursor="nonsense")
    refused = await server.open(f"/api/ws/chat/{world.bot}", await platform.user())
    assert await refused.closed() == 4003
    first.close(1000)
    odd = await server.chat(world.bot, world.owner)
    odd.close(4711)

    async def are_gone() -> bool:
        seen = await scrape(server.base)
        return seen.find("realtime_closes_total", code="other") != {}

    await eventually(are_gone)
    seen = await scrape(server.base)
    assert seen.value("realtime_opens_total") == 4
    assert seen.value("realtime_resumes_total", result="recovered") == 1
    assert seen.value("realtime_resumes_total", result="invalid") == 1
    for code in ("4003", "1000", "other"):
        assert seen.value("realtime_closes_total", code=code) == 1


@pytest.mark.gen_test
async def test_without_the_database_a_process_tells_of_itself(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Within a second: Prometheus waits ten."""
    server = await start_server(METRICS_TOKEN=METRICS_TOKEN)
    other = await start_server(METRICS_TOKEN=METRICS_TOKEN)
    await server.chat(world.bot, world.guest)
    async with platform.connection.transaction():
        await platform.execute("LOCK TABLE relay.nodes IN ACCESS EXCLUSIVE MODE")
        seen = await scrape(server.base)
    assert seen.value("realtime_database_up") == 0
    assert seen.find("realtime_sockets", endpoint="chat") == {server.server.node_id: 1}
    assert "realtime_log_rows" not in seen.families

    async def is_back() -> bool:
        seen = await scrape(server.base)
        return other.server.node_id in seen.find("realtime_users")

    await eventually(is_back)


@pytest.mark.gen_test
async def test_metrics_are_for_who_has_the_token(start_server: StartServer) -> None:
    """Without the setting there are none, but where the console is on."""
    plain, guarded, demo, both = (
        await start_server(),
        await start_server(METRICS_TOKEN=METRICS_TOKEN),
        await start_server(CONSOLE="true"),
        await start_server(CONSOLE="true", METRICS_TOKEN=METRICS_TOKEN),
    )
    assert (await ask(plain.base)).code == 404
    assert (await ask(plain.base, None)).code == 404
    for server in (guarded, both):
        for wrong in (None, "", "Bearer", "Bearer x", METRICS_TOKEN, "Bearer \u00e9", "Basic eA=="):
            refused = await ask(server.base, wrong)
            assert refused.code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert b"realtime_" not in refused.body
        for scheme in ("Bearer", "bearer", "BEARER"):  # RFC 9110, 11.1
            assert (await ask(server.base, f"{scheme} {METRICS_TOKEN}")).code == 200
    assert (await ask(demo.base, None)).code == 200


async def figures(server: RunningServer, credential: str | None) -> HTTPResponse:
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    url = f"http://{server.base}/api/ws/figures"
    return await AsyncHTTPClient().fetch(url, headers=headers, raise_error=False)


@pytest.mark.gen_test
async def test_figures_are_for_administrators_and_for_the_console(
    start_server: StartServer, world: World
) -> None:
    """In JSON, of each process, with what it takes to draw rates and percentiles."""
    plain, demo = await start_server(), await start_server(CONSOLE="true")
    user, admin = token(world.owner), token(world.owner, is_admin=True)
    assert (await figures(plain, None)).code == 401
    assert (await figures(plain, user)).code == 403
    assert (await figures(demo, None)).code == 401
    assert (await figures(demo, user)).code == 200
    answer = await figures(plain, admin)
    body: dict[str, Any] = json.loads(answer.body)
    own = body["nodes"][plain.server.node_id]
    assert own["events"] == own["deliveries"] == 0
    assert own["relay"] in ("asleep", "awake", "fenced")
    assert len(own["latency"]["counts"]) == len(own["latency"]["bounds"]) + 1
    assert body["log"].keys() == {"rows", "size", "age", "queue_usage"}
