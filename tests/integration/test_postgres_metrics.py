"""What the database is asked for the metrics."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from realtime.postgres.doorbell import ALIVE_SECONDS
from realtime.postgres.nodes import MetricsQuery
from tests.integration.nodes import add_node
from tests.platform import Platform

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool


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
    assert "metrics" in caplog.text
    assert await MetricsQuery(pool, str(uuid4()), timeout=5).ask() is not None
