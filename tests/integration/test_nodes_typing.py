"""What processes tell each other of typing: to whom, and in which payloads."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from realtime.postgres.doorbell import ALIVE_SECONDS
from realtime.postgres.nodes import TypingInbox, pack, unpack
from realtime.relay.typing import Indicator
from tests.integration.nodes import (
    a_cluster,
    add_node,
    add_socket,
    heard,
    heartbeat_of,
    indicator,
    running,
    told_all,
)
from tests.platform import Platform
from tests.waiting import eventually

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool
    from realtime.relay.position import Lineage

ME, OTHER = str(uuid4()), str(uuid4())
LONGEST = 7999
"""Bytes of a NOTIFY: https://www.postgresql.org/docs/current/sql-notify.html"""


@pytest.mark.gen_test
async def test_two_processes_tell_each_other(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Each hears the other, and takes its own echo for nothing."""
    one, other = a_cluster(pool, lineage), a_cluster(pool, lineage)
    payloads = await heard(platform)
    async with running(one), running(other):
        await eventually(lambda: heartbeat_of(platform, one))
        await eventually(lambda: heartbeat_of(platform, other))
        said = indicator("Zoë 🦉")
        await add_socket(platform, other.node_id, said.bot_id)
        one.tell([said])
        await eventually(lambda: payloads)
    assert unpack(one.node_id, payloads[0]) == []
    assert unpack(other.node_id, payloads[0]) == [tuple(said)[:4]]


@pytest.mark.gen_test
async def test_only_the_newest_state_is_told(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """And only of this process's own users: others tell of theirs."""
    node = await add_node(platform, 0)
    payloads = await heard(platform)
    cluster = a_cluster(pool, lineage)
    typing, of_another = indicator(), indicator(is_local=False)
    for one in (typing, of_another):
        await add_socket(platform, node, one.bot_id)
    stopped = typing._replace(is_typing=False)
    async with running(cluster):
        cluster.tell([typing, of_another])
        cluster.tell([stopped])
        await eventually(lambda: payloads)
        await told_all(platform, cluster)
    assert [unpack(ME, payload) for payload in payloads] == [[tuple(stopped)[:4]]]


@pytest.mark.gen_test
async def test_only_what_another_process_has_is_told(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Not of bots that only this process has, or one that died: no NOTIFY is no commit lock."""
    cluster = a_cluster(pool, lineage)
    alone, of_the_dead, shared, of_nobody = (indicator() for _ in range(4))
    node, dead = await add_node(platform, 0), await add_node(platform, ALIVE_SECONDS + 5)
    payloads = await heard(platform)
    async with running(cluster):
        await eventually(lambda: heartbeat_of(platform, cluster))
        await add_socket(platform, cluster.node_id, alone.bot_id)
        await add_socket(platform, cluster.node_id, shared.bot_id)
        await add_socket(platform, node, shared.bot_id)
        await add_socket(platform, dead, of_the_dead.bot_id)
        cluster.tell([alone, of_the_dead, of_nobody])
        await told_all(platform, cluster)
        assert payloads == []
        cluster.tell([alone, shared, of_nobody])
        await eventually(lambda: payloads)
    assert [unpack(ME, payload) for payload in payloads] == [[tuple(shared)[:4]]]


@pytest.mark.gen_test
@pytest.mark.parametrize("name", ["x", "🦉" * 10_000, "\x01" * 1000, "Ж" * 150])
@pytest.mark.parametrize("number", [1, 2, 37, 500])
async def test_every_payload_is_short_enough(
    pool: Pool, lineage: Lineage, platform: Platform, name: str, number: int
) -> None:
    """NOTIFY takes less than 8000 bytes; nobody is left out."""
    node = await add_node(platform, 0)
    batch = [indicator(name) for _ in range(number)]
    for one in batch:
        await add_socket(platform, node, one.bot_id)
    payloads = await heard(platform)
    cluster = a_cluster(pool, lineage)
    async with running(cluster):
        cluster.tell(batch)
        await eventually(lambda: sum(len(unpack(ME, each)) for each in payloads) >= number)
    assert all(len(payload.encode()) <= LONGEST for payload in payloads)
    told = [row for payload in payloads for row in unpack(ME, payload)]
    assert sorted(row[:2] for row in told) == sorted(tuple(one[:2]) for one in batch)
    assert all(name.startswith(row[2]) and row[2] for row in told)
    assert len(payloads) <= 1 + number * 2500 // 5000


# The payloads.


def packed(batch: list[Indicator]) -> str:
    """A payload, as the database puts it together."""
    return f'["{OTHER}",[{",".join(pack(one) for one in batch)}]]'


def test_a_batch_survives() -> None:
    """Whatever is in a name."""
    names = ["gus", "Zoë", "日本語", "🦉", 'a"b\\c\n\t\x7f', "", "</script>", "\u2028"]
    batch = [indicator(name) for name in names]
    assert unpack(ME, packed(batch)) == [tuple(one)[:4] for one in batch]


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


def test_no_part_of_a_batch_is_long() -> None:
    """A name is cut, and with a longer id than there is, it is no batch."""
    bot, user = str(uuid4()), str(uuid4())
    payload = json.dumps([OTHER, [[bot, user, "x" * 5000, True]]])
    assert unpack(ME, payload) == [(bot, user, "x" * 200, True)]
    for row in ([bot + "0", user, "x", True], [bot, "u" * 5000, "x", True]):
        assert unpack(ME, json.dumps([OTHER, [row]])) == []


def test_a_flood_is_refused_and_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """And what comes after it is taken again."""
    now, taken = 0.0, []
    inbox = TypingInbox(ME, lambda *row: taken.append(row), lambda: now)
    payload = json.dumps([OTHER, [[str(uuid4()), str(uuid4()), "x" * 200, True]] * 20])
    for number in range(10_000):
        now = number / 1000
        inbox.hear(payload)
    assert 20 * 150 < len(taken) < 20 * 250, "10 s at 100 kB/s, and the burst"
    assert caplog.text.count("typing_flood") == 1
    now += 10
    before = len(taken)
    inbox.hear(payload)
    assert len(taken) == before + 20


@pytest.mark.gen_test
async def test_garbage_on_the_channel_leaves_the_listener_alone(platform: Platform) -> None:
    """Here over a real connection, whose callback is called by asyncpg."""
    rows: list[Any] = []
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def hear(_channel: str, payload: str) -> None:
        rows.extend(unpack(ME, payload))

    platform.connection.hear = hear
    await platform.execute("SELECT relay.listen()")
    for payload in [*GARBAGE, packed([indicator()])]:
        await platform.execute("SELECT relay.tell('typing', $1)", payload)
    await eventually(lambda: rows)
    assert not failures
    assert isinstance(platform.connection, asyncpg.Connection)
