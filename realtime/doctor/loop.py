"""An event all the way: written by `relay.emit`, heard of by LISTEN, read from the log.

The one thing that the doctor writes: an event on a topic of its own that nobody watches, which
retention removes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, warning
from realtime.postgres.doorbell import RING_CHANNEL
from realtime.postgres.event_log import EventLog
from realtime.postgres.pool import HearingConnection

if TYPE_CHECKING:
    from realtime.relay.cursor import Cursor

RING_SECONDS = 3.0
_IS_SILENT = "SELECT pg_sequence_last_value('relay.bell') IS NOT DISTINCT FROM 2"
_EMIT = "SELECT relay.emit($1, 'doctor_check', '{}')"


async def full_loop(deployment: Deployment) -> Sequence[Finding]:
    """Write on one connection, hear and read on another."""
    topic = f"bot:{uuid4()}"
    async with deployment.connect(direct=True) as reader, deployment.connect() as writer:
        heard = await _hear_rings(reader, topic)
        event_log = EventLog(reader)
        cursor = await event_log.current_cursor()
        began = time.perf_counter()
        try:
            await writer.execute(_EMIT, topic)
        except asyncpg.PostgresError as error:
            return [_cannot_write(error)]
        is_heard = await _rings(heard)
        is_read = await _holds(event_log, cursor, topic)
        took = 1000 * (time.perf_counter() - began)
        is_silent = await writer.fetchval(_IS_SILENT)
    return [_judge(is_read, is_heard, is_silent, took)]


def _cannot_write(error: asyncpg.PostgresError) -> Finding:
    if isinstance(error, asyncpg.InsufficientPrivilegeError) and "function emit" in str(error):
        return warning(
            "not tried, for this role may not call relay.emit",
            "run this as a role that may: it needs USAGE on schema relay, EXECUTE on relay.emit",
        )
    return problem(
        f"no event can be written: {error}",
        "correct what is named above, then run this again",
    )


async def _hear_rings(connection: HearingConnection, topic: str) -> asyncio.Event:
    """The event is set when `relay.emit` has rung: bare, or with what was emitted."""
    heard = asyncio.Event()

    def hear(channel: str, payload: str) -> None:
        if channel.startswith(RING_CHANNEL) and (payload == "emit" or topic in payload):
            heard.set()

    connection.hear = hear
    await connection.execute("SELECT relay.listen()")
    return heard


async def _rings(heard: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(RING_SECONDS):
            await heard.wait()
    except TimeoutError:
        return False
    return True


async def _holds(event_log: EventLog, cursor: Cursor, topic: str) -> bool:
    async with aclosing(event_log.read_all(cursor)) as pages:
        async for page in pages:
            if any(event.topic == topic for event in page.events):
                return True
    return False


def _judge(is_read: bool, is_heard: bool, is_silent: bool, took: float) -> Finding:
    if not is_read:
        return problem(
            "an event was written and committed, but reading the log does not find it",
            "look whether DATABASE_DIRECT_URL leads elsewhere, and at row security above",
        )
    if is_heard:
        return fine(f"an event was written, rung for, heard and read, in {took:.0f} ms")
    if is_silent:
        return fine("an event was written and read; nothing rang, for the servers are awake")
    return problem(
        "an event was written and read, but its ring was not heard: events are late",
        "see listening and writers above",
    )
