"""Two relays over one doorbell, writers of many kinds, and no safety read: no wake-up is lost.

`RANDOMIZED_SECONDS` makes the run longer, `RANDOMIZED_SEED` repeats its choices (as far as chance
in the server allows).
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import pytest
from tornado.ioloop import IOLoop

from realtime.postgres.doorbell import Doorbell
from realtime.postgres.event_log import EventLog
from realtime.postgres.listener import read_position
from realtime.postgres.pool import connect
from realtime.relay.events import Page
from realtime.relay.large_read import NOTHING_UNLISTED, LargeLimits, Unlisted
from realtime.relay.pace import PaceLimits, PaceState
from realtime.relay.position import Lineage, Position
from realtime.relay.reader import Reader
from realtime.relay.refusals import Refusals
from tests.integration.writers import Ledger, Writer, make_places
from tests.platform import Platform
from tests.waiting import eventually

if TYPE_CHECKING:
    import asyncpg

    from realtime.relay.hub import Hub

    Connection = asyncpg.Connection[asyncpg.Record]

SECONDS = float(os.environ.get("RANDOMIZED_SECONDS", "8"))
SEED = os.environ.get("RANDOMIZED_SEED") or f"{random.randrange(2**32):08x}"
WRITERS = 4
ENOUGH = 100
"""How often the bell must have been silenced or switched on."""
NEVER = 1000.0
ALL_PAGES = 10**6
"""A read that a slow machine makes large is listed to its end at once: no topic waits here."""
_EVENTS = """
SELECT id FROM relay.events WHERE payload IS NOT NULL AND code IS NULL ORDER BY id
"""


class Counted(Doorbell):
    """A doorbell that counts how often it was silenced and switched on."""

    changes = 0

    async def silence(self) -> None:
        self.changes += 1
        await super().silence()

    async def ring_on(self) -> int:
        self.changes += 1
        return await super().ring_on()


class Collected:
    """In the hub's place: takes what the relay delivers."""

    def __init__(self) -> None:
        self.position: Position
        self.ids: list[int] = []
        self.backlog = ()
        """Events count when they are found: nobody here needs their payloads."""

    async def next_portion(self, size: int, number: int) -> None:
        return None

    async def deliver(
        self, page: Page, position: Position, _unlisted: Unlisted = NOTHING_UNLISTED
    ) -> None:
        self.position = position
        self.ids += [event.id for event in page.events]

    def due_in(self) -> float:
        return math.inf


class SlowWriter(Writer):
    """Often waits before it commits: by then, who it found awake may sleep.

    It writes nothing quietly, for without the safety read that is not found.
    """

    async def _prepare(self) -> None:
        await self._short()

    async def _end(self, kind: str) -> None:
        if self._random.random() < 0.5:
            await asyncio.sleep(self._random.random() / 20)
        await super()._end(kind)


class Process:
    """A relay, from the end of the log on."""

    _relay: Reader
    _task: asyncio.Task[None]

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.doorbell = Counted(connection, str(uuid4()), lambda _: None)
        self.hub = Collected()

    @classmethod
    async def start(cls, dsn: str) -> Process:
        process = cls(await connect(dsn, 20))
        process.hub.position = await read_position(dsn, 10)
        process._relay = Reader(
            cast("Hub", process.hub),
            Refusals(time.monotonic),
            Lineage(process.hub.position),
            monotonic=time.monotonic,
            limits=PaceLimits(busy_transactions=1, quiet_reads=1, safety_seconds=NEVER),
            large=LargeLimits(pages=ALL_PAGES),
        )
        await process.doorbell.listen()
        log = EventLog(process._connection)
        process._task = asyncio.create_task(process._relay.run(log, process.doorbell))
        return process

    def has_all(self, ids: list[int]) -> bool:
        """And sleeps, so that only another ring would wake it."""
        if self._task.done():
            self._task.result()
        return self._relay.state is PaceState.ASLEEP and len(self.hub.ids) >= len(ids)

    async def stop(self) -> None:
        self._task.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await self._task
        finally:
            self._connection.terminate()
            await asyncio.sleep(0)  # its socket closes on the next turn


@pytest.fixture
def processes(io_loop: IOLoop, database: str) -> Iterator[list[Process]]:
    """Two that wake for one event, sleep after one empty read, and have nothing to save them."""
    started = []
    with ExitStack() as stack:
        for _ in range(2):
            process = io_loop.run_sync(lambda: Process.start(database))
            started.append(process)
            stack.callback(io_loop.run_sync, process.stop)
        yield started


@pytest.mark.gen_test(timeout=SECONDS + 120)
async def test_no_wake_up_is_lost(
    processes: list[Process], database: str, platform: Platform
) -> None:
    """Writers come in bursts; after each all that they wrote is delivered, once, to both."""
    ledger, chance = Ledger(), random.Random(SEED)
    places = await make_places(platform, 3)
    writers = [
        SlowWriter(database, number, SEED, places=places, ledger=ledger, reads=_hundredths)
        for number in range(WRITERS)
    ]
    started, bursts = time.monotonic(), 0
    while time.monotonic() < started + SECONDS or _changes(processes) < ENOUGH:
        await _burst(writers[: chance.choice([1, 1, 2, WRITERS])], chance.random() ** 2 / 4)
        await _all_arrives(platform, processes, f"seed {SEED}, burst {bursts}")
        bursts += 1
        assert time.monotonic() < started + SECONDS + 60, f"seed {SEED}: {_changes(processes)}"
    assert not ledger.endings["lost"], f"seed {SEED}: a connection broke: {ledger.endings}"


def _changes(processes: list[Process]) -> int:
    return sum(process.doorbell.changes for process in processes)


async def _burst(writers: list[SlowWriter], seconds: float) -> None:
    end = time.monotonic() + seconds
    await asyncio.gather(*(writer.run(lambda: time.monotonic() > end) for writer in writers))


async def _all_arrives(platform: Platform, processes: list[Process], where: str) -> None:
    # As heartbeats do.
    await platform.execute("UPDATE relay.nodes SET heartbeat_at = clock_timestamp()")
    ids = [row["id"] for row in await platform.connection.fetch(_EVENTS)]
    for number, process in enumerate(processes):
        what = f"{where}: relay {number} to have all and to sleep"
        await eventually(lambda process=process: process.has_all(ids), what=what)  # type: ignore[misc]
        assert sorted(process.hub.ids) == ids


def _hundredths() -> int:
    """Reads may stop, so a long transaction is long by the clock."""
    return int(time.monotonic() * 100)
