"""A queue of notifications that somebody fills, on a server whose queue is small."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.doorbell import ALIVE_SECONDS, FULL, Doorbell
from realtime.postgres.listener import read_position
from realtime.postgres.nodes import FILLING
from realtime.postgres.pool import connect, open_pool
from realtime.postgres.schema import migrate
from realtime.relay.position import Lineage
from tests.integration.nodes import a_cluster, add_node, asyncio_transport, running
from tests.platform import Platform
from tests.postgres import postgres_server
from tests.waiting import eventually

USAGE = "SELECT pg_notification_queue_usage()"
EMIT = "SELECT relay.emit('bot:' || gen_random_uuid(), 'x', '{}')"


@pytest.fixture(scope="module")
def small_queue(postgres_bin: Path | None) -> Iterator[EmbeddedPostgres]:
    """A server whose queue is 512 kB long. PostgreSQL 16 and older have 8 GB, and no setting."""
    if postgres_bin is not None and "/15/" in str(postgres_bin):
        pytest.skip("this PostgreSQL has no max_notify_queue_pages")
    with postgres_server(postgres_bin, max_notify_queue_pages="64") as server:
        migrate(server.dsn())
        yield server


@pytest.mark.gen_test
async def test_writers_go_on_while_somebody_fills_the_queue(
    small_queue: EmbeddedPostgres,
) -> None:
    """A stranger listens in a transaction that does not end, and notifies all the time."""
    dsn = small_queue.dsn()
    sleeper, flooder, writer = [await Platform.connect(dsn) for _ in range(3)]
    connection = await connect(dsn, 20)
    node = Doorbell(connection, str(uuid4()), lambda _: None)
    await node.listen()
    await node.ring_on()
    await sleeper.execute("LISTEN theirs")
    await sleeper.execute("BEGIN")

    async def flood(until: float) -> Any:
        await flooder.execute("SELECT pg_notify('theirs', repeat('x', 7000))")
        return await flooder.connection.fetchval(USAGE) > until

    await eventually(partial(flood, FULL))
    assert not await node.check(), "the bell rings, though the queue is half full"
    await node.ring_on()
    with pytest.raises(asyncpg.PostgresError, match="too many notifications"):
        await eventually(partial(flood, 2))
    for _ in range(10):
        await writer.execute(EMIT)  # it would ring, and fail
    assert await node.check()
    await sleeper.execute("ROLLBACK")

    async def is_empty() -> Any:
        return await writer.connection.fetchval(USAGE) < FULL

    await eventually(is_empty)
    assert not await node.check(), "the bell is silent, though there is room"
    await node.ring_on()
    assert await node.check()
    for one in (sleeper, flooder, writer):
        await one.connection.close()
    connection.terminate()


@pytest.mark.gen_test
async def test_a_queue_that_fills_is_freed_before_a_dead_process_is_forgotten(
    small_queue: EmbeddedPostgres,
) -> None:
    """Its session takes nothing, and is ended as soon as that is known; its row stays meanwhile."""
    dsn = small_queue.dsn()
    writer = await Platform.connect(dsn)
    stopped = await connect(dsn, 20)
    await stopped.execute("SELECT relay.listen()")
    asyncio_transport(stopped).pause_reading()
    node = await add_node(writer, age=ALIVE_SECONDS + 1)
    pid = stopped.get_server_pid()
    await writer.execute("UPDATE relay.nodes SET backend = $2 WHERE id = $1", node, pid)

    async def is_filling() -> Any:
        await writer.execute("SELECT relay.tell('typing', repeat('x', 7000))")
        return await writer.connection.fetchval(USAGE) > FILLING

    async def is_free() -> Any:
        return await writer.connection.fetchval(USAGE) < FILLING

    await eventually(is_filling)
    async with (
        open_pool(dsn, size=1, timeout=20, is_pooled=False) as pool,
        running(a_cluster(pool, Lineage(await read_position(dsn, 20)))),
    ):
        await eventually(is_free)
    known = "SELECT EXISTS (SELECT FROM relay.nodes WHERE id = $1)"
    assert await writer.connection.fetchval(known, node)
    stopped.terminate()
    await writer.connection.close()
