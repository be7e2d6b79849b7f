"""What a pooler keeps from us: rings, and connections.

Whether a ring on one connection is heard on another: behind a transaction-mode pooler it is not.

There each transaction may run on another of the pooler's connections, so LISTEN is left behind on
one of them, and so are prepared statements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, warning
from realtime.doctor.server import LISTENERS
from realtime.postgres.pool import DATABASE_ERRORS

if TYPE_CHECKING:
    from realtime.doctor.deployment import Connection

CHANNEL = "relay_doctor"
HEARING_SECONDS = 2.0
ROOM_SECONDS = 5.0
LEAST = 4
"""Connections that a process needs: one to listen on, one to find out whether it hears, and two for
what it writes and asks meanwhile."""


async def listening(deployment: Deployment) -> Sequence[Finding]:
    """Listen on one connection, ring on another, and look what stands between."""
    is_pooled = await shares_sessions(deployment, direct=False)
    if deployment.has_direct and await shares_sessions(deployment, direct=True):
        return [
            problem(
                "DATABASE_DIRECT_URL leads through a transaction-mode pooler: nothing is heard",
                "point DATABASE_DIRECT_URL at the PostgreSQL server itself",
            )
        ]
    if is_pooled and not deployment.has_direct:
        return [
            problem(
                "DATABASE_URL leads through a transaction-mode pooler: LISTEN hears nothing, and"
                " prepared statements are lost",
                "set DATABASE_DIRECT_URL to the PostgreSQL server itself",
            )
        ]
    return [await _hear(deployment, is_pooled)]


async def room(deployment: Deployment) -> Sequence[Finding]:
    """Whether all connections that one process wants by DATABASE_URL are served at once.

    A pooler in session mode takes every client, and lets those wait for which it has no session.
    """
    wanted = deployment.settings.database_pool_size
    wanted += 0 if deployment.has_direct else LISTENERS
    served = 0
    async with AsyncExitStack() as open_connections:
        with suppress(*DATABASE_ERRORS):
            async with asyncio.timeout(ROOM_SECONDS):
                for _ in range(wanted):
                    connection = await open_connections.enter_async_context(deployment.connect())
                    await connection.fetchval("SELECT 1")
                    served += 1
    if served < min(wanted, LEAST):
        return [
            problem(
                f"only {served} connections by DATABASE_URL are served at once: a process that"
                " starts takes them, and then waits for one to listen on; nothing is delivered",
                f"raise the pooler's pool size (PgBouncer: default_pool_size) to {LEAST} for each"
                " process, at least",
            )
        ]
    if served < wanted:
        return [
            warning(
                f"of the {wanted} connections that one process may open by DATABASE_URL, {served}"
                " are served now: with more at once, new sockets wait and are refused",
                "raise the pooler's pool size (PgBouncer: default_pool_size) above what all"
                " processes want, or lower DATABASE_POOL_SIZE",
            )
        ]
    return [fine(f"all {wanted} connections that one more process may open are served")]


async def shares_sessions(deployment: Deployment, *, direct: bool) -> bool:
    """Whether two connections that are both open were served by one and the same session."""
    query = "SELECT pg_backend_pid()"
    async with (
        deployment.connect(direct=direct) as one,
        deployment.connect(direct=direct) as other,
    ):
        first = {await one.fetchval(query) for _ in range(3)}
        second = {await other.fetchval(query) for _ in range(3)}
    return bool(first & second) or len(first) > 1


async def _hear(deployment: Deployment, is_pooled: bool) -> Finding:
    token = str(uuid4())
    async with deployment.connect(direct=True) as ear, deployment.connect() as bell:
        heard = await ear_on(ear, CHANNEL, lambda payload: payload == token)
        await bell.execute("SELECT pg_notify($1, $2)", CHANNEL, token)
        try:
            async with asyncio.timeout(HEARING_SECONDS):
                await heard.wait()
        except TimeoutError:
            return problem(
                "a ring on one connection is not heard on another",
                "point DATABASE_DIRECT_URL at the PostgreSQL server itself, past any pooler",
            )
    way = "DATABASE_DIRECT_URL, past the pooler of DATABASE_URL" if is_pooled else "another"
    return fine(f"a ring on one connection is heard on {way}")


async def ear_on(
    connection: Connection, channel: str, is_it: Callable[[object], bool]
) -> asyncio.Event:
    """Listen; the event is set when a payload comes that `is_it` agrees to."""
    heard = asyncio.Event()

    def hear(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if is_it(payload):
            heard.set()

    await connection.add_listener(channel, hear)
    return heard
