"""The course of a run: which fault strikes when, and how long it takes until all is well again.

Two lanes at once, each a shuffled deck of all its kinds, then another: what happens to the
machinery (`faults`) and what happens to people's access (`access`). Every fourth or so fault of the
machinery is struck together with the next one. The seed decides all of this; only the timing is the
machine's.

**Recovery** of a fault is the time from its end until a probe, an event on every topic that was
committed after that end, has reached every client that should get it. Who is being revoked
meanwhile, or does not read, is not waited for; who had to begin anew after the probe (told so by
`recovered: false`) has only to be back.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import count

from tests.chaos.arena import Arena
from tests.chaos.clients import Client
from tests.chaos.scribe import Statement
from tests.waiting import eventually

RECOVERY_LIMIT = 30.0
PAUSE_SECONDS = (0.3, 1.2)
ACCESS_PAUSE_SECONDS = (0.5, 2.5)
TOGETHER = 0.25
FAULT_LIMIT = 90.0
ALL_KINDS_FROM_SECONDS = 60.0
"""Runs of at least that long go on until every kind has happened."""
_EMIT = "SELECT relay.emit($1, 'probe', jsonb_build_object('probe', $2::text))"
_NOTIFY = "SELECT relay.notify_user($1, 'probe', jsonb_build_object('probe', $2::text))"

Strike = Callable[[random.Random], Awaitable[None]]


class Prober:
    """Writes probes and watches them arrive."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._numbers = count(1)
        self.unanswered: list[str] = []
        """Which client did not get which probe in time."""

    async def recover(self, ended_at: float, what: str) -> float | None:
        """Seconds until all are served again; None: not within the limit."""
        probe = f"probe.{next(self._numbers)}"
        since = self._arena.clock()
        try:
            async with asyncio.timeout(RECOVERY_LIMIT):
                await self._write(probe)
        except TimeoutError:
            self.unanswered.append(f"{probe} after {what!r}: could not be written")
            return None
        expected, changes = self._expected(), dict(self._arena.population.changes)
        try:
            await eventually(
                lambda: not self._without(expected, probe, since, changes), limit=RECOVERY_LIMIT
            )
        except AssertionError:
            waiting = self._without(expected, probe, since, changes)
            names = "; ".join(client.said_last for client in waiting)
            self.unanswered.append(f"{probe} after {what!r}: not at {names}")
            return None
        times = [client.probes[probe] for client in expected if probe in client.probes]
        return max([ended_at, *times]) - ended_at

    async def _write(self, probe: str) -> None:
        population = self._arena.population
        emits: list[Statement] = [(_EMIT, (bot.topic, probe)) for bot in population.bots]
        notes: list[Statement] = [(_NOTIFY, (user, probe)) for user in population.users]
        await self._arena.scribe.transact(probe, *emits, *notes)

    def _expected(self) -> list[Client]:
        population = self._arena.population
        return [
            client for client in self._arena.clients
            if client.seat.user not in population.busy and not population.is_away(client.seat)
        ]  # fmt: skip

    def _without(
        self, expected: list[Client], probe: str, since: float, changes: Mapping[str, int]
    ) -> list[Client]:
        now = self._arena.population.changes
        if probe in self._arena.book.forgotten:
            return []  # with the history in which it was written
        return [
            client for client in expected
            if not client.has_recovered(probe, since) and client.is_reading
            and now[client.seat.user] == changes.get(client.seat.user, 0)
        ]  # fmt: skip


class Drama:
    """Strikes, waits, measures."""

    def __init__(self, arena: Arena, prober: Prober) -> None:
        self._arena = arena
        self._prober = prober
        self._began_at = arena.clock()
        self.recoveries: defaultdict[str, list[float | None]] = defaultdict(list)
        """By kind: the time to recovery of each fault, None where there was none in time."""

    async def machinery(self, kinds: Mapping[str, Strike], seconds: float) -> None:
        """One fault after another, some of them two at once."""
        chance = random.Random(f"{self._arena.seed}/machinery")
        cards = _deck(chance, list(kinds))
        while self._goes_on(kinds, seconds):
            some = [next(cards) for _ in range(1 + (chance.random() < TOGETHER))]
            chances = [random.Random(chance.random()) for _ in some]
            await asyncio.gather(
                *(
                    self._strike(kind, kinds[kind], own, some)
                    for kind, own in zip(some, chances, strict=True)
                )
            )
            await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))

    async def access(self, kinds: Mapping[str, Strike], seconds: float) -> None:
        """People lose access and get it back, whatever the machinery does."""
        chance = random.Random(f"{self._arena.seed}/access")
        cards = _deck(chance, list(kinds))
        while self._goes_on(kinds, seconds):
            kind = next(cards)
            await self._strike(kind, kinds[kind], random.Random(chance.random()), [kind])
            await asyncio.sleep(chance.uniform(*ACCESS_PAUSE_SECONDS))

    def _goes_on(self, kinds: Mapping[str, Strike], seconds: float) -> bool:
        if self._arena.clock() - self._began_at < seconds:
            return True
        return seconds >= ALL_KINDS_FROM_SECONDS and not self.recoveries.keys() >= kinds.keys()

    async def _strike(
        self, kind: str, strike: Strike, chance: random.Random, together: list[str]
    ) -> None:
        async with asyncio.timeout(FAULT_LIMIT):
            await strike(chance)
        took = await self._prober.recover(self._arena.clock(), kind)
        self.recoveries[kind].append(took)
        others = [other for other in together if other != kind]
        beside = f" (together with: {others[0]})" if others else ""
        words = "NOT RECOVERED" if took is None else f"recovered in {took:.2f} s"
        elapsed = self._arena.clock() - self._began_at
        self._arena.say(f"{elapsed:7.1f} s  {kind}{beside}: {words}")


def _deck(chance: random.Random, kinds: list[str]) -> Iterator[str]:
    while True:
        yield from chance.sample(kinds, len(kinds))
