"""Processes over one database: who is there, and what they tell each other of typing."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.postgres import cluster as module
from realtime.postgres.cluster import ALIVE_SECONDS, MAX_PAYLOAD, Cluster, pack, unpack
from realtime.postgres.connection import open_pool
from realtime.postgres.doorbell import TYPING_CHANNEL
from realtime.relay.typing_indicators import Indicator
from tests.platform import Platform
from tests.waiting import eventually

if TYPE_CHECKING:
    from realtime.postgres.connection import Pool

ME, OTHER = str(uuid4()), str(uuid4())


def indicator(username: str = "gus", *, is_typing: bool = True, is_local: bool = True) -> Indicator:
    return Indicator(str(uuid4()), str(uuid4()), username, is_typing, is_local)


@pytest.fixture
def pool(io_loop: IOLoop, database: str) -> Iterator[Pool]:
    context = open_pool(database, size=4, timeout=10, is_pooled=False)
    yield io_loop.run_sync(context.__aenter__)
    io_loop.run_sync(lambda: context.__aexit__(None, None, None))
    io_loop.run_sync(lambda: asyncio.sleep(0))  # the sockets close on the next turn


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(module, "TYPING_SECONDS", 0.02)


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[None]:
    """Its tasks, as the server runs them."""
    tasks = [
        asyncio.create_task(cluster.keep_alive()),
        asyncio.create_task(cluster.keep_telling()),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def heartbeat_of(platform: Platform, cluster: Cluster) -> Any:
    return await platform.connection.fetchval(
        "SELECT heartbeat_at FROM relay.nodes WHERE id = $1", cluster.node_id
    )


async def add_node(platform: Platform, age: float) -> UUID:
    """Another process, whose heart beat so many seconds ago."""
    node: UUID = await platform.connection.fetchval(
        "INSERT INTO relay.nodes (id, heartbeat_at)"
        " VALUES (gen_random_uuid(), now() - make_interval(secs => $1)) RETURNING id",
        age,
    )
    return node


async def heard(platform: Platform) -> list[str]:
    """What is said on the typing channel from now on."""
    payloads: list[str] = []

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        payloads.append(str(payload))

    await platform.connection.add_listener(TYPING_CHANNEL, hear)
    return payloads


# Who is there.


@pytest.mark.gen_test
async def test_a_process_is_there_while_it_beats(
    pool: Pool, platform: Platform, often: None
) -> None:
    """Its row is kept fresh, and taken away when it leaves."""
    cluster = Cluster(pool)
    async with running(cluster):
        first = await eventually(lambda: heartbeat_of(platform, cluster))

        async def has_beaten_again() -> Any:
            return await heartbeat_of(platform, cluster) > first

        await eventually(has_beaten_again)
    await cluster.leave()
    assert await heartbeat_of(platform, cluster) is None


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("age", "is_there"),
    [(0.0, True), (ALIVE_SECONDS - 5, True), (ALIVE_SECONDS + 5, False), (-3600, True)],
)
async def test_a_process_that_does_not_beat_is_gone(
    pool: Pool, platform: Platform, often: None, age: float, is_there: bool
) -> None:
    """After some time; others then stop telling it of typing."""
    await add_node(platform, age)
    payloads = await heard(platform)
    cluster = Cluster(pool)
    async with running(cluster):
        await eventually(lambda: heartbeat_of(platform, cluster))
        await another_beat(platform, cluster)
        cluster.tell([indicator()])
        await another_beat(platform, cluster)
        await another_beat(platform, cluster)
    await platform.execute("SELECT 1")
    assert bool(payloads) is is_there


async def another_beat(platform: Platform, cluster: Cluster) -> None:
    before = await heartbeat_of(platform, cluster)

    async def is_later() -> Any:
        return await heartbeat_of(platform, cluster) > before

    await eventually(is_later)


@pytest.mark.gen_test
async def test_rows_of_the_long_dead_are_removed(
    pool: Pool, platform: Platform, often: None
) -> None:
    """But not those that only missed some beats."""
    late = await add_node(platform, ALIVE_SECONDS * 2)
    dead = await add_node(platform, ALIVE_SECONDS * 20)
    cluster = Cluster(pool)
    async with running(cluster):
        await eventually(lambda: heartbeat_of(platform, cluster))
    rows = await platform.connection.fetch("SELECT id::text FROM relay.nodes")
    ids = {row["id"] for row in rows}
    assert ids == {str(late), cluster.node_id}
    assert str(dead) not in ids


@pytest.mark.gen_test
async def test_the_heart_goes_on_beating(
    pool: Pool, platform: Platform, often: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happened to a beat before, and to the row."""
    cluster = Cluster(pool)
    async with running(cluster):
        await eventually(lambda: heartbeat_of(platform, cluster))
        await platform.execute("ALTER TABLE relay.nodes RENAME TO lost_nodes")
        await eventually(lambda: "heartbeat failed" in caplog.text)
        await platform.execute("ALTER TABLE relay.lost_nodes RENAME TO nodes")
        await platform.execute("TRUNCATE relay.nodes")
        await eventually(lambda: heartbeat_of(platform, cluster))


@pytest.mark.gen_test
async def test_leaving_without_a_database(
    io_loop: IOLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Cannot fail: the end of a process does not depend on it."""
    assert io_loop
    caplog.set_level(logging.INFO)
    nowhere = "postgresql://postgres@/none?host=/nonexistent"
    async with open_pool(nowhere, size=1, timeout=5, is_pooled=False) as pool:
        await Cluster(pool).leave()
    assert "could not take this process off" in caplog.text


# Telling others of typing.


@pytest.mark.gen_test
async def test_two_processes_tell_each_other(pool: Pool, platform: Platform, often: None) -> None:
    """Each hears the other, and takes its own echo for nothing."""
    one, other = Cluster(pool), Cluster(pool)
    payloads = await heard(platform)
    async with running(one), running(other):
        await eventually(lambda: heartbeat_of(platform, one))
        await eventually(lambda: heartbeat_of(platform, other))
        await another_beat(platform, one)
        said = indicator("Zoë 🦉")
        one.tell([said])
        await eventually(lambda: payloads)
    assert unpack(one.node_id, payloads[0]) == []
    assert unpack(other.node_id, payloads[0]) == [tuple(said)[:4]]


@pytest.mark.gen_test
async def test_only_the_newest_state_is_told(pool: Pool, platform: Platform, often: None) -> None:
    """And only of this process's own users: others tell of theirs."""
    await add_node(platform, 0)
    payloads = await heard(platform)
    cluster = Cluster(pool)
    async with running(cluster):
        await eventually(lambda: heartbeat_of(platform, cluster))
        await another_beat(platform, cluster)
        typing = indicator()
        stopped = typing._replace(is_typing=False)
        cluster.tell([typing, indicator(is_local=False)])
        cluster.tell([stopped])
        await eventually(lambda: payloads)
        await another_beat(platform, cluster)
    assert [unpack(ME, payload) for payload in payloads] == [[tuple(stopped)[:4]]]


# The payloads.


def test_a_batch_survives() -> None:
    """Whatever is in a name."""
    names = ["gus", "Zoë", "日本語", "🦉", 'a"b\\c\n\t\x7f', "", "</script>", "\u2028"]
    batch = [indicator(name) for name in names]
    (payload,) = pack(OTHER, batch)
    assert unpack(ME, payload) == [tuple(one)[:4] for one in batch]


@pytest.mark.parametrize("name", ["x", "🦉" * 10_000, "\x01" * 1000, "Ж" * 150])
@pytest.mark.parametrize("number", [1, 2, 37, 500])
def test_every_payload_is_short_enough(name: str, number: int) -> None:
    """NOTIFY takes less than 8000 bytes; nobody is left out."""
    batch = [indicator(name) for _ in range(number)]
    payloads = pack(OTHER, batch)
    assert all(len(payload.encode()) <= MAX_PAYLOAD for payload in payloads)
    told = [row for payload in payloads for row in unpack(ME, payload)]
    assert [row[:2] for row in told] == [tuple(one[:2]) for one in batch]
    assert all(name.startswith(row[2]) and row[2] for row in told)


@pytest.mark.gen_test
async def test_the_longest_payload_passes(platform: Platform) -> None:
    """The server takes what `pack` makes."""
    for payload in pack(OTHER, [indicator("🦉" * 200) for _ in range(50)]):
        await platform.execute("SELECT pg_notify($1, $2)", TYPING_CHANNEL, payload)


GARBAGE = [
    "",
    "relay",
    "null",
    "1",
    "1e999",
    "9" * 7000,
    "{}",
    "[]",
    '["x"]',
    '["x", null]',
    '["x", 1]',
    '["x", [1]]',
    '["x", [[1, 2, 3]]]',
    '["x", [null]]',
    '["x", {"a": 1}]',
    '["x", ["abc"]]',
    '{"a": 1, "b": 2}',
    '["x", [], []]',
    "[" * 7900,
    '{"a":' * 1500,
    '"' + "x" * 7900,
    "\x01\x7f",
    "NaN",
]


@pytest.mark.parametrize("payload", GARBAGE, ids=lambda payload: payload[:20])
def test_garbage_is_no_batch(payload: str, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody may NOTIFY: what is no batch is said so in a short line, and does not raise."""
    assert unpack(ME, payload) == []
    assert len(caplog.text) < 500


def test_a_batch_with_garbage_in_it_is_no_batch() -> None:
    """Ids and names are text, whatever was sent."""
    payload = json.dumps([OTHER, [[1, None, {"a": 1}, "yes"]]])
    for row in unpack(ME, payload):
        assert [type(part) for part in row] == [str, str, str, bool]


@pytest.mark.gen_test
async def test_garbage_on_the_channel_leaves_the_listener_alone(platform: Platform) -> None:
    """Here over a real connection, whose callbacks are called by asyncpg."""
    rows: list[Any] = []
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        rows.extend(unpack(ME, str(payload)))

    await platform.connection.add_listener(TYPING_CHANNEL, hear)
    for payload in GARBAGE:
        await platform.execute("SELECT pg_notify($1, $2)", TYPING_CHANNEL, payload)
    for payload in pack(OTHER, [indicator()]):
        await platform.execute("SELECT pg_notify($1, $2)", TYPING_CHANNEL, payload)
    await eventually(lambda: rows)
    assert not failures
    assert isinstance(platform.connection, asyncpg.Connection)
