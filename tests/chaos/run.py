"""One run from its beginning to its verdict."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tests.chaos.access import Access
from tests.chaos.arena import Arena, Stage, arena, stage
from tests.chaos.clients import Client
from tests.chaos.drama import Drama, Prober, Strike
from tests.chaos.faults import Faults
from tests.chaos.intruders import Intruders
from tests.chaos.ledger import Truth, read_truth
from tests.chaos.losses import Losses
from tests.chaos.model import STATE
from tests.chaos.report import Report
from tests.chaos.scribe import connect
from tests.chaos.verdict import Verdict, Violation
from tests.chaos.writers import Writer
from tests.waiting import eventually

WRITERS = 5
RELAYS = 3
REVOKED_FOR_GOOD = 2
PROGRESS_SECONDS = 5.0
START_LIMIT = 20.0
LEAVE_LIMIT = 15.0
SETTLE_LIMIT = 120.0
"""For everything after the last fault, and beyond the planned time for a fault that takes long."""


def run(seconds: float, seed: int, say: Callable[[str], None], kinds: Sequence[str] = ()) -> Report:
    """Run for that long (and until every kind of fault has happened, from a minute on).

    Args:
        kinds: only those whose names contain one of these; none: all.
    """
    with stage(say) as built:
        return asyncio.run(_run(built, seconds, seed, say, kinds))


def _only(wanted: Sequence[str], kinds: Mapping[str, Strike]) -> dict[str, Strike]:
    return {
        name: strike
        for name, strike in kinds.items()
        if not wanted or any(one in name for one in wanted)
    }


async def _run(
    built: Stage, seconds: float, seed: int, say: Callable[[str], None], kinds: Sequence[str]
) -> Report:
    async with asyncio.timeout(2 * seconds + SETTLE_LIMIT):
        async with arena(built, seed=seed, relays=RELAYS, say=say, clock=time.monotonic) as place:
            say(f"seed {seed}: {RELAYS} relays, {len(place.clients)} clients, {WRITERS} writers")
            play = _Play(place, kinds)
            took = await play.perform(seconds)
        return await play.judge(took)


class _Play:
    """The actors of one run."""

    def __init__(self, place: Arena, kinds: Sequence[str]) -> None:
        self._kinds = kinds
        self._arena = place
        self._stop = asyncio.Event()
        self._writers = [
            Writer(
                place.dsn,
                number,
                seed=place.seed,
                population=place.population,
                book=place.book,
                gate=place.gate,
            )
            for number in range(1, WRITERS + 1)
        ]
        self._faults = Faults(place)
        self._access = Access(
            place.dsn,
            population=place.population,
            book=place.book,
            gate=place.gate,
            lock=place.access_lock,
            call_back=place.call_back,
        )
        self._losses = Losses(place, self._access)
        self._intruders = Intruders(place, self._access)
        self._prober = Prober(place)
        self._drama = Drama(place, self._prober)

    async def perform(self, seconds: float) -> float:
        """Everything until all clients are where they should be; returns how long faults went."""
        await eventually(lambda: all(one.is_live for one in self._arena.clients), limit=START_LIMIT)
        began = self._arena.clock()
        writing = [asyncio.create_task(writer.run(self._stop)) for writer in self._writers]
        watching = asyncio.create_task(self._watch(began))
        try:
            async with asyncio.TaskGroup() as lanes:
                machinery = self._faults.kinds() | self._losses.kinds()
                for lane, kinds in (
                    (self._drama.machinery, _only(self._kinds, machinery)),
                    (
                        self._drama.access,
                        _only(self._kinds, self._access.kinds() | self._intruders.kinds()),
                    ),
                ):
                    if kinds:
                        lanes.create_task(lane(kinds, seconds))
            took = self._arena.clock() - began
            await self._faults.finish()
            self._stop.set()
            await asyncio.gather(*writing)
            await self._settle()
        finally:
            for task in (*writing, watching):
                task.cancel()
            await asyncio.gather(*writing, watching, return_exceptions=True)
            await self._access.close()
        return took

    async def _settle(self) -> None:
        """No more faults: some are revoked for good, and everyone else must see the last probe."""
        for client in self._arena.clients:
            client.settle()
        chance = random.Random(f"{self._arena.seed}/end")
        await self._access.revoke_for_good(chance, REVOKED_FOR_GOOD)
        # Twice: who began anew meanwhile, and was not waited for, has events of before the second.
        for _ in range(2):
            await self._prober.recover(self._arena.clock(), "the end")
        with suppress(AssertionError):  # the verdict names who was left in
            await eventually(lambda: not self._left_in(), limit=LEAVE_LIMIT)
        is_away = self._arena.population.is_away
        await asyncio.gather(
            *(one.finish(is_away=is_away(one.seat)) for one in self._arena.clients)
        )
        for relay in self._arena.relays:
            relay.look()
            await relay.terminate()

    def _left_in(self) -> list[Client]:
        is_away = self._arena.population.is_away
        return [one for one in self._arena.clients if one.is_live and is_away(one.seat)]

    async def _watch(self, began: float) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            for relay in self._arena.relays:
                relay.look()
            clients = self._arena.clients
            self._arena.say(
                f"{self._arena.clock() - began:7.1f} s  {sum(c.is_live for c in clients)} of"
                f" {len(clients)} clients open, {sum(len(c.record.seen) for c in clients)}"
                f" deliveries, {sum(w.transactions for w in self._writers)} transactions"
            )

    async def judge(self, took: float) -> Report:
        """Compare; every process but Postgres has ended."""
        connection = await connect(self._arena.dsn)
        truth = await read_truth(connection, self._arena.book)
        left = await connection.fetchval("SELECT count(*) FROM relay.events")
        states = {
            bot.id: json.loads(await connection.fetchval(STATE, bot.id, bot.owner))
            for bot in self._arena.population.bots
        }
        await connection.close(timeout=5)
        records = [client.record for client in self._arena.clients]
        verdict, intruders = Verdict(truth, self._arena.population), self._intruders.records
        violations = [
            *verdict.of_all([*records, *intruders]),
            *verdict.of_screens(records, states),
        ]
        self._arena.figures.append(
            f"{len(intruders)} came with cursors that were not theirs to use"
        )
        return Report(
            seed=self._arena.seed,
            seconds=took,
            recoveries=self._drama.recoveries,
            records=records,
            transactions=sum((writer.endings for writer in self._writers), Counter[str]()),
            events=_events(truth),
            log_rows_left=left,
            figures=self._arena.figures,
            violations=[*self._of_the_run(), *violations],
        )

    def _of_the_run(self) -> list[Violation]:
        """What no client's history shows."""
        late = [Violation("not recovered", "", one) for one in self._prober.unanswered]
        for relay in self._arena.relays:
            relay.read_log()
        complaints = [
            Violation("process", str(relay), complaint)
            for relay in self._arena.relays
            for complaint in relay.complaints
        ]
        return [*late, *complaints]


def _events(truth: Truth) -> int:
    return sum(row.is_event for row in truth.rows.values())
