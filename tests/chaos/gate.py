"""Lets transactions begin, or keeps all waiting, so that a fault finds a database at rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.waiting import eventually

REST_LIMIT = 30.0


class Gate:
    """Passed by every writer of a run, a transaction at a time."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_open = asyncio.Event()
        self._is_open.set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Wait until the gate is open, and be inside."""
        while not self._is_open.is_set():
            await self._is_open.wait()
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
            yield
        finally:
            self._is_open.set()
