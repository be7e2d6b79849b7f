"""Attackers: each makes attacks of one kind, one after another, with choices of its own.

The choices of an attack follow from the seed, its kind, the attacker's number and its own number,
so one that found something can be told by those.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

import asyncpg

from tests.fuzz import credentials, database, network
from tests.fuzz.target import Target
from tests.fuzz.wire import Finding, Forgery

Attack = Callable[[Target, random.Random], Awaitable[None]]

KINDS: Final[Mapping[str, Attack]] = MappingProxyType(
    {
        "http": network.requests,
        "events": network.events,
        "frames": network.frames,
        "messages": network.messages,
        "cursors": credentials.cursors,
        "tokens": credentials.tokens,
        "notify": database.notifications,
        "rows": database.rows,
        "calls": database.calls,
    }
)
ATTACKERS: Final = 6
ATTACK_SECONDS: Final = 15.0
PAUSE_SECONDS: Final = 0.005
"""After each attack: the client that behaves shares this program's event loop."""
MAX_FINDINGS: Final = 20


class Attackers:
    """All of them.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, target: Target, seed: int, clock: Callable[[], float]) -> None:
        self._target = target
        self._seed = seed
        self._clock = clock
        self._numbers: Counter[tuple[str, int]] = Counter()
        self.made: Counter[str] = Counter()
        self.findings: list[str] = []
        self.forgeries: list[str] = []

    async def attack(self, kinds: list[str], seconds: float) -> None:
        """Make attacks of these kinds, all attackers at once, for that long."""
        until = self._clock() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(ATTACKERS):
                group.create_task(self._go_on(kinds, number, until))

    async def _go_on(self, kinds: list[str], number: int, until: float) -> None:
        chance = random.Random(f"{self._seed}/{number}/{'+'.join(kinds)}")
        while self._clock() < until:
            await self._make_one(chance.choice(kinds), number)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _make_one(self, kind: str, number: int) -> None:
        self._numbers[kind, number] += 1
        name = f"{kind}/{number}/{self._numbers[kind, number]}"
        self.made[kind] += 1
        try:
            async with asyncio.timeout(ATTACK_SECONDS):
                await KINDS[kind](self._target, random.Random(f"{self._seed}/{name}"))
        except Forgery as forgery:
            _note(self.forgeries, f"attack {name}: {forgery}")
        except Finding as finding:
            _note(self.findings, f"attack {name}: {finding}")
        except TimeoutError:
            _note(self.findings, f"attack {name}: no end after {ATTACK_SECONDS:.0f} s")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass  # refused, as it should be


def _note(findings: list[str], finding: str) -> None:
    if len(findings) < MAX_FINDINGS:
        findings.append(finding)
