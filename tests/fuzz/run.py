"""One run: a PostgreSQL and a server of its own, a client that behaves, attackers, a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg

from tests.chaos.arena import Stage, stage
from tests.chaos.processes import RelayProcess, http_get
from tests.commands import SECRET, free_port
from tests.fuzz.attackers import KINDS, Attackers
from tests.fuzz.report import Report, Round
from tests.fuzz.target import Target, make_world
from tests.fuzz.watch import Watch
from tests.fuzz.witness import Witness
from tests.waiting import eventually

QUIET_SHARE = 0.1
"""The part of the time in which nobody attacks, to compare with."""
SETTLE_SECONDS = 20.0
SETTINGS = {
    "JWT_SECRET": SECRET,
    "DRAIN_SECONDS": "1",
    "SEND_BUFFER_BYTES": "524288",
    "DATABASE_TIMEOUT_SECONDS": "10",
}

Say = Callable[[str], None]


def run(seconds: float, seed: int, say: Say, *, kinds: Sequence[str] = ()) -> Report:
    """Attack for that long.

    Args:
        kinds: what is attacked with; none: all of them, each alone and then together.
    """
    with stage(say) as built:
        return asyncio.run(_run(built, Report(seed, seconds), say, list(kinds or KINDS)))


async def _run(built: Stage, report: Report, say: Say, kinds: list[str]) -> Report:
    async with _server(built, report) as (server, target):
        assert server.pid is not None
        watch = Watch(server.pid, server.log)
        attackers = Attackers(target, report.seed, time.monotonic)
        witness = await Witness.begin(server.port, built.postgres.dsn(), target.world)
        await _Play(report, watch, attackers, witness, say).perform(kinds)
        report.complaints += [*attackers.findings, *await witness.finish()]
        report.forgeries += attackers.forgeries
        await _settle(watch)
        report.complaints += await _life(server)
        report.memory = (watch.before, watch.peak, watch.now)
        report.descriptors = (watch.descriptors_before, watch.descriptors)
        report.logged = watch.logged_megabytes
    return report


@asynccontextmanager
async def _server(built: Stage, report: Report) -> AsyncIterator[tuple[RelayProcess, Target]]:
    """A server that is ready; when it has ended, what it did wrong is in the report."""
    dsn = built.postgres.dsn()
    world = await make_world(dsn)
    server = RelayProcess(1, free_port(), built.home / "server.log", DATABASE_URL=dsn, **SETTINGS)
    built.relays.append(server)  # so that it is ended in any case
    await server.start()
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
        yield server, Target(server.port, pool, world)
    server.look()
    await server.terminate()
    server.read_log()
    report.complaints += server.complaints


class _Play:
    """The rounds of a run."""

    def __init__(
        self, report: Report, watch: Watch, attackers: Attackers, witness: Witness, say: Say
    ) -> None:
        self._report = report
        self._watch = watch
        self._attackers = attackers
        self._witness = witness
        self._say = say

    async def perform(self, kinds: list[str]) -> None:
        """First nobody attacks, then each kind does alone, then all do together."""
        seconds = self._report.seconds
        share = seconds * (1 - QUIET_SHARE) / (len(kinds) + 1)
        beside = [
            asyncio.create_task(self._witness.keep_writing()),
            asyncio.create_task(self._watch.keep_looking()),
        ]
        try:
            await self._round("nobody", [], seconds * QUIET_SHARE)
            for kind in kinds:
                await self._round(kind, [kind], share)
            await self._round("together", kinds, share)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _round(self, name: str, kinds: list[str], seconds: float) -> None:
        first, made = self._witness.written, self._attackers.made.total()
        self._watch.take_peak()
        if kinds:
            await self._attackers.attack(kinds, seconds)
        else:
            await asyncio.sleep(seconds)
        end = self._witness.written
        await self._let_arrive()
        done = self._attackers.made.total() - made
        latencies = self._witness.latencies(first, end)
        self._report.rounds.append(Round(name, done, latencies, self._watch.take_peak()))
        self._say(self._report.rounds[-1].line())

    async def _let_arrive(self) -> None:
        """So that what came late belongs to the round in which it was written."""
        with suppress(AssertionError):  # what never comes is told at the end
            await eventually(self._witness.has_nearly_all, limit=SETTLE_SECONDS)


async def _settle(watch: Watch) -> None:
    """Let the server close what the attackers left; what stays open is told by the report."""
    with suppress(AssertionError):
        await eventually(
            lambda: watch.descriptors <= watch.descriptors_before, limit=SETTLE_SECONDS
        )


async def _life(server: RelayProcess) -> list[str]:
    """Whether the server still answers."""
    try:
        status, body = await http_get(server.port, "/api/ready", limit=5)
    except (OSError, ValueError) as error:
        return [f"the server does not answer any more: {error!r}; {server.log_end()}"]
    return [] if status == 200 else [f"/api/ready says {status}: {body!r}"]
