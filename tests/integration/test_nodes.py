"""Processes over one database: who is there, what takes them out, and what they tell of them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from tornado.ioloop import IOLoop

from realtime.postgres.doorbell import ALIVE_SECONDS
from realtime.postgres.nodes import MetricsQuery, Nodes
from realtime.postgres.pool import WrongServer, connect, open_pool
from realtime.relay.cursor import Signer
from tests.integration.nodes import (
    FREQUENT,
    a_cluster,
    add_node,
    add_socket,
    another_beat,
    asyncio_transport,
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


@pytest.mark.gen_test
async def test_a_process_is_there_while_it_beats(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Its row is kept fresh, and taken away when it leaves."""
    cluster = a_cluster(pool, lineage)
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
    [
        (0.0, True),
        (ALIVE_SECONDS - 5, True),
        (ALIVE_SECONDS + 5, False),
        (5 - ALIVE_SECONDS, True),
        (-3600.0, False),
    ],
)
async def test_a_process_that_does_not_beat_is_gone(
    pool: Pool, lineage: Lineage, platform: Platform, age: float, is_there: bool
) -> None:
    """After some time, also if the clock went back; others then stop telling it of typing."""
    said = indicator()
    await add_socket(platform, await add_node(platform, age), said.bot_id)
    payloads = await heard(platform)
    cluster = a_cluster(pool, lineage)
    async with running(cluster):
        cluster.tell([said])
        await told_all(platform, cluster)
    await platform.execute("SELECT 1")
    assert bool(payloads) is is_there


@pytest.mark.gen_test
async def test_a_pool_that_leads_elsewhere(
    pool: Pool, lineage: Lineage, caplog: pytest.LogCaptureFixture
) -> None:
    """As a pooler does that stayed on the old primary: it is said once, and so is its end."""
    caplog.set_level(logging.INFO)
    ours = lineage.signer
    lineage.signer = Signer(ours.database._replace(timeline=99), ours.keys)
    cluster = a_cluster(pool, lineage)
    async with running(cluster):
        await eventually(lambda: cluster.is_pool_elsewhere)
        assert cluster.is_pool_answering
        lineage.signer = ours
        await eventually(lambda: not cluster.is_pool_elsewhere)
    said = [one.getMessage() for one in caplog.records if "databases_" in one.getMessage()]
    assert said == ["databases_differ", "databases_agree"]


@pytest.mark.gen_test
async def test_nothing_is_written_where_the_pool_leads_elsewhere(
    pool: Pool,
    lineage: Lineage,
    platform: Platform,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A standby, for instance, as the log then says; it does so once."""
    looks: list[object] = []

    async def identify(connection: object) -> object:
        looks.append(connection)
        raise WrongServer("a standby")

    monkeypatch.setattr("realtime.postgres.nodes.identify", identify)
    cluster = a_cluster(pool, lineage)
    async with running(cluster):
        await eventually(lambda: len(looks) > 2)
    assert cluster.is_pool_elsewhere
    assert await heartbeat_of(platform, cluster) is None
    assert caplog.text.count('databases_differ error="WrongServer: a standby"') == 1


@pytest.mark.gen_test
async def test_who_stood_still_for_long_is_there_again(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Its first heartbeat is of its own row, and takes only others for dead."""
    cluster = a_cluster(pool, lineage)
    await platform.execute(
        "INSERT INTO relay.nodes (id, heartbeat_at, awake)"
        " VALUES ($1, now() - make_interval(secs => $2), true)",
        *(cluster.node_id, ALIVE_SECONDS * 20),
    )
    async with pool.acquire() as connection:
        await cluster._beat(connection, "{}")
    row = "SELECT now() - heartbeat_at < '5 s', awake FROM relay.nodes"
    assert [tuple(one) for one in await platform.connection.fetch(row)] == [(True, True)]


@pytest.mark.gen_test
async def test_rows_of_the_long_dead_are_removed(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """But not those that only missed some beats. Nor does a clock that goes back keep them."""
    kept = {str(await add_node(platform, age * ALIVE_SECONDS)) for age in (2, -2)}
    for age in (20, -20, -1_000_000):
        await add_node(platform, age * ALIVE_SECONDS)
    cluster = a_cluster(pool, lineage)
    async with running(cluster):
        await eventually(lambda: heartbeat_of(platform, cluster))
        await another_beat(platform, cluster)
    rows = await platform.connection.fetch("SELECT id::text FROM relay.nodes")
    assert {row["id"] for row in rows} == kept | {cluster.node_id}


@pytest.mark.gen_test
@pytest.mark.parametrize("leap", [3600.0, -3600.0])
async def test_after_a_leap_of_the_clock_nobody_is_taken_for_dead_by_the_first_that_beats(
    pool: Pool, lineage: Lineage, platform: Platform, leap: float
) -> None:
    """All rows are old, or from the future, until each process has beaten again."""
    other = await add_node(platform, leap)
    own, told = str(await add_node(platform, leap)), json.dumps({})
    cluster = Nodes(pool, own, FREQUENT, lineage)
    async with pool.acquire() as connection:
        await cluster._beat(connection, told)
        there = "SELECT EXISTS (SELECT FROM relay.nodes WHERE id = $1)"
        assert await platform.connection.fetchval(there, other)
        await cluster._beat(connection, told)
        assert not await platform.connection.fetchval(there, other)


@pytest.mark.gen_test
async def test_a_dead_process_takes_its_sockets_along(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Whoever removes its row removes theirs; those of the living stay."""
    for age in (0.0, ALIVE_SECONDS * 20):
        await add_socket(platform, await add_node(platform, age), str(uuid4()))
    cluster = a_cluster(pool, lineage)
    async with running(cluster):
        await eventually(lambda: heartbeat_of(platform, cluster))
        await another_beat(platform, cluster)
    assert await platform.connection.fetchval("SELECT count(*) FROM relay.connections") == 1


@pytest.mark.gen_test
async def test_a_beat_tells_of_the_process_and_leaves_the_doorbell_alone(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """A new row is not awake; whatever the doorbell says afterwards stays as it is."""
    cluster = a_cluster(pool, lineage)
    async with running(cluster, hostname="here", connections=3):
        await eventually(lambda: heartbeat_of(platform, cluster))
        row = await platform.connection.fetchrow("SELECT info, awake FROM relay.nodes")
        assert row is not None
        assert json.loads(row["info"]) == {"hostname": "here", "connections": 3}
        assert not row["awake"]
        await platform.execute("UPDATE relay.nodes SET awake = true, info = '{}'")
        await another_beat(platform, cluster)
        await another_beat(platform, cluster)
        row = await platform.connection.fetchrow("SELECT info, awake FROM relay.nodes")
    assert row is not None
    assert (json.loads(row["info"])["hostname"], row["awake"]) == ("here", True)


@pytest.mark.gen_test
async def test_the_heart_goes_on_beating(
    pool: Pool, lineage: Lineage, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happened to a beat before, and to the row."""
    cluster = a_cluster(pool, lineage)
    async with running(cluster):
        await eventually(lambda: heartbeat_of(platform, cluster))
        await platform.execute("ALTER TABLE relay.nodes RENAME TO lost_nodes")
        await eventually(lambda: "heartbeat_failed" in caplog.text)
        await platform.execute("ALTER TABLE relay.lost_nodes RENAME TO nodes")
        await platform.execute("DELETE FROM relay.nodes")
        await eventually(lambda: heartbeat_of(platform, cluster))


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("condition", "answers"),
    [("53100", True), ("25006", True), ("53200", True), ("53300", False), ("42501", False)],
    ids=["disk full", "read only", "out of memory", "too many connections", "no right"],
)
async def test_which_failed_beats_are_an_answer(
    pool: Pool,
    lineage: Lineage,
    platform: Platform,
    caplog: pytest.LogCaptureFixture,
    condition: str,
    answers: bool,
) -> None:
    """Where nothing can be written, who connects can still be let in, and be sent what there is."""
    await platform.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE SQLSTATE '{condition}'; END $$"
    )
    await platform.execute(
        "CREATE TRIGGER fail BEFORE INSERT ON relay.nodes EXECUTE FUNCTION fail()"
    )
    cluster = a_cluster(pool, lineage)
    async with running(cluster):
        await eventually(lambda: "heartbeat_failed" in caplog.text)
        assert cluster.is_pool_answering is answers


@pytest.mark.gen_test
async def test_leaving_without_a_database(
    lineage: Lineage, io_loop: IOLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Cannot fail: the end of a process does not depend on it."""
    assert io_loop
    caplog.set_level(logging.INFO)
    nowhere = "postgresql://postgres@/none?host=/nonexistent"
    async with open_pool(nowhere, size=1, timeout=5, is_pooled=False) as pool:
        await a_cluster(pool, lineage).leave()
    assert "node_removal_failed" in caplog.text


@pytest.mark.gen_test
async def test_the_living_are_told_of_and_the_dead_are_not(pool: Pool, platform: Platform) -> None:
    """With what their heartbeats carried, and without the one that asks."""
    alive, dead = await add_node(platform, age=0), await add_node(platform, age=ALIVE_SECONDS + 5)
    own = await add_node(platform, age=0)
    await platform.execute("UPDATE relay.nodes SET info = '{\"port\": 1}' WHERE id = $1", alive)
    answer = await MetricsQuery(pool, str(own), timeout=5).ask()
    assert answer is not None
    ((node_id, info),) = answer.others
    assert node_id == str(alive) != str(dead)
    assert json.loads(info) == {"port": 1}


@pytest.mark.gen_test
async def test_a_dead_process_holds_no_notifications(
    database: str, pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Its session, which waits for it to take them, is ended with its row; no other one is."""
    alive, stuck = await connect(database, 20), await connect(database, 20)
    for listener in (alive, stuck):
        await listener.execute("SELECT relay.listen()")
    pid = stuck.get_server_pid()
    asyncio_transport(stuck).pause_reading()
    for age, backend in ((0.0, alive.get_server_pid()), (11 * ALIVE_SECONDS, pid)):
        node = await add_node(platform, age)
        await platform.execute("UPDATE relay.nodes SET backend = $2 WHERE id = $1", node, backend)

    async def is_blocked() -> Any:
        await platform.execute(
            "SELECT relay.tell('typing', repeat('x', 7000)) FROM generate_series(1, 100)"
        )
        wait = "SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = $1"
        return await platform.connection.fetchval(wait, pid)

    await eventually(is_blocked)
    async with running(a_cluster(pool, lineage)):

        async def is_gone() -> Any:
            there = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)"
            return await platform.connection.fetchval(there, pid)

        await eventually(is_gone)
    assert await alive.fetchval("SELECT true")
    for listener in (alive, stuck):
        listener.terminate()


@pytest.mark.gen_test
async def test_the_logs_age_is_that_of_its_oldest_row(pool: Pool, platform: Platform) -> None:
    """Nothing while it is empty; rows of a restored dump, from the future, do not count."""
    query = MetricsQuery(pool, str(uuid4()), timeout=5)
    empty = await query.ask()
    assert empty is not None
    assert empty.log.age == empty.log.rows == 0
    assert empty.log.size > 0
    await platform.execute(
        "INSERT INTO relay.events (topic, type, payload, written_at)"
        " VALUES ('t', 'x', '{}', now() - interval '60 s')"
    )
    await platform.execute(
        "INSERT INTO relay.events (xid, topic, type, payload, written_at)"
        " VALUES ('99999999', 't', 'x', '{}', now() - interval '900 s')"
    )
    filled = await query.ask()
    assert filled is not None
    assert 60 <= filled.log.age < 120
    assert 0 <= filled.log.queue_usage < 1
    await platform.execute("UPDATE relay.events SET written_at = now() + interval '900 s'")
    after_the_clock_went_back = await query.ask()
    assert after_the_clock_went_back is not None
    assert after_the_clock_went_back.log.age == 0


@pytest.mark.gen_test
async def test_a_database_that_does_not_answer_is_none(
    pool: Pool, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """Within the limit, and said in the log; the next question is answered again."""
    query = MetricsQuery(pool, str(uuid4()), timeout=0.2)
    async with platform.connection.transaction():
        await platform.execute("LOCK TABLE relay.nodes IN ACCESS EXCLUSIVE MODE")
        with caplog.at_level(logging.WARNING):
            assert await query.ask() is None
    assert "query_failed" in caplog.text
    assert await MetricsQuery(pool, str(uuid4()), timeout=5).ask() is not None
