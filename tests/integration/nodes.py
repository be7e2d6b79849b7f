"""Processes for tests of the cluster: ours with its tasks, and others that are rows alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from realtime.config.intervals import Intervals
from realtime.postgres.doorbell import TYPING_CHANNEL
from realtime.postgres.nodes import Nodes
from realtime.relay.protocol import bot_topic
from realtime.relay.typing import Indicator
from tests.platform import Platform
from tests.waiting import eventually

if TYPE_CHECKING:
    from realtime.postgres.pool import HearingConnection, Pool
    from realtime.relay.position import Lineage

FREQUENT = Intervals(heartbeat=0.02, typing_batch=0.02, socket_table=0.01)
"""Heartbeats, typing and connections are written many times a second."""


def indicator(username: str = "gus", *, is_typing: bool = True, is_local: bool = True) -> Indicator:
    return Indicator(str(uuid4()), str(uuid4()), username, is_typing, is_local)


@asynccontextmanager
async def running(cluster: Nodes, **info: object) -> AsyncIterator[None]:
    """Its tasks, as the server runs them."""
    tasks = [
        asyncio.create_task(cluster.keep_alive(lambda: info)),
        asyncio.create_task(cluster.keep_telling()),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def a_cluster(pool: Pool, lineage: Lineage) -> Nodes:
    return Nodes(pool, str(uuid4()), FREQUENT, lineage)


async def heartbeat_of(platform: Platform, cluster: Nodes) -> Any:
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


async def add_socket(platform: Platform, node: UUID | str, bot_id: str) -> None:
    """A socket of that process on a bot."""
    await platform.execute(
        "INSERT INTO relay.connections (id, node_id, topic, user_id, username, opened_at)"
        " VALUES (gen_random_uuid(), $1, $2, gen_random_uuid(), 'somebody', now())",
        node,
        bot_topic(bot_id),
    )


async def heard(platform: Platform) -> list[str]:
    """What is said on the typing channel from now on."""
    return await platform.hear(TYPING_CHANNEL)


async def told_all(platform: Platform, cluster: Nodes) -> None:
    """Wait until what the cluster was told to pass on has been said to the database."""
    await eventually(lambda: not cluster._outbox)
    await eventually(lambda: heartbeat_of(platform, cluster))
    await another_beat(platform, cluster)
    await another_beat(platform, cluster)


async def another_beat(platform: Platform, cluster: Nodes) -> None:
    before = await heartbeat_of(platform, cluster)

    async def is_later() -> Any:
        return await heartbeat_of(platform, cluster) > before

    await eventually(is_later)


def asyncio_transport(connection: HearingConnection) -> Any:
    """The connection's socket, as asyncio has it."""
    return connection._transport  # type: ignore[attr-defined]
