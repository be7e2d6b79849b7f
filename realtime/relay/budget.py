"""How many bytes all replays of one process may hold at once.

Each reserves a portion before it reads it, and gives it back when its client has taken it. So the
memory does not depend on how many clients return, nor on how slowly they read.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LIVE_SHARE = 4
"""One part in so many is kept for what is live, and for what a portion costs on its way."""
COPIES = 2
"""How often a payload is held while it is sent: as text, and as bytes."""


class ReadBudget:
    """Bytes that may be held; who comes first is given them first.

    Args:
        size: of all reads, those of live events included (the setting READ_BUFFER_BYTES).
    """

    def __init__(self, size: int) -> None:
        self._size = self._free = size - size // LIVE_SHARE
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, payloads: int) -> AsyncIterator[None]:
        """Hold as many bytes as a portion costs.

        What is larger than all that there is waits until nothing else is held, and is held alone.

        Args:
            payloads: the portion's bytes in the log.
        """
        size = min(payloads * COPIES, self._size)
        await self._take(size)
        try:
            yield
        finally:
            self._free += size
            self._serve()

    async def _take(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free += size  # it was given just then
            self._serve()
            raise

    def _serve(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
            elif size <= self._free:
                self._waiting.popleft()
                self._free -= size
                turn.set_result(None)
            else:
                return
