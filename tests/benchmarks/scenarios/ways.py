"""The ways in: a socket for each bot, one socket for all bots of a page, events over HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

from realtime.auth.tokens import mint_token
from tests.benchmarks.contenders import SECRET, THIS, TOKEN_SECONDS, Contender, bot_id, user_id
from tests.benchmarks.database import OURS
from tests.benchmarks.generator import LoadGenerator
from tests.benchmarks.scenarios.base import Bench, Figures
from tests.benchmarks.scenarios.delivery import figures_of, settling

BOTS: Final = 10
PAGES: Final = 100
INSERTS: Final = 2000
RATE: Final = 200
MULTI: Final = replace(THIS, name="multi", label="one socket for ten bots", dialect="multi")
HTTP: Final = replace(THIS, name="sse", label="events over HTTP", dialect="sse")


@dataclass(frozen=True)
class WaysScenario:
    """Every page follows every bot, whichever way."""

    name: str = "ways"
    title: str = "Ways in"
    contenders: tuple[Contender, ...] = (THIS, MULTI, HTTP)
    rounds: int | None = None

    def describe(self, is_quick: bool) -> str:
        pages, inserts = _size(is_quick)
        return f"{pages} pages with {BOTS} bots each; {inserts:,} inserts, {RATE} a second"

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        pages, inserts = _size(bench.is_quick)
        with bench.contest(contender) as (server, generator):
            memory = server.memory_kb()
            _open(generator, contender, pages)
            memory = server.memory_kb() - memory
            generator.measure(inserts * pages, settle=settling(inserts, RATE))
            cpu = server.cpu_seconds()
            with bench.database.writing(
                OURS, "write_many", clients=1, each=inserts, rate=RATE, bots=BOTS
            ) as writers:
                writers.finish()
                result = generator.result()
            cpu = server.cpu_seconds() - cpu
        return figures_of(result) | {
            "cpu_us": cpu * 1_000_000 / max(1, result["deliveries"]),
            "kb_per_subscription": memory / (pages * BOTS),
        }


def _size(is_quick: bool) -> tuple[int, int]:
    return (10, 100) if is_quick else (PAGES, INSERTS)


def _open(generator: LoadGenerator, contender: Contender, pages: int) -> None:
    """All pages are of the user who may watch every bot."""
    bots = [bot_id(number) for number in range(BOTS)]
    token = mint_token(SECRET, user_id(0), ttl=TOKEN_SECONDS, now=time.time())
    if contender is MULTI:
        generator.open([f"/api/ws?token={token}"] * pages, sampled=pages, bots=bots)
        return
    start = "/api/ws/chat" if contender is THIS else "/api/sse/chat"
    generator.open([f"{start}/{bot}?token={token}" for bot in bots] * pages, sampled=100)


WAYS: Final = WaysScenario()
