"""Lets transactions begin, or keeps all waiting, so that a fault finds a database at rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.waiting import eventually

REST_LIMIT = 30.0


async def nothing() -> None:
    """There is nothing to finish."""


class Gate:
    """Passed by every writer of a run, a transaction at a time."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._is_at_rest = False

    @asynccontextmanager
    async def transaction(
        self, finish: Callable[[], Awaitable[None]] = nothing
    ) -> AsyncIterator[None]:
        """Wait until the gate is open, and be inside.

        Args:
            finish: ends what was prepared, for somebody inside may wait for its locks.
        """
        while not self._is_open.is_set():
            if not self._is_at_rest:
                async with self._within():
                    await finish()
            await self._is_open.wait()
        async with self._within():
            yield

    @asynccontextmanager
    async def _within(self) -> AsyncIterator[None]:
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Nobody is inside, and nobody comes in."""
        self._is_open.clear()
        try:
            await eventually(lambda: self._inside == 0, limit=REST_LIMIT)
            self._is_at_rest = True
            yield
        finally:
            self._is_at_rest = False
            self._is_open.set()
