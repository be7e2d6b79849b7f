"""How many bytes all replays of one process may hold at once.

Each reserves a portion before it reads it, and gives it back when its client has taken it. So the
memory does not depend on how many clients return, nor on how slowly they read. Nor do others wait
for a user whose clients take nothing: no user may hold more than a share.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

LIVE_SHARE = 4
"""One part in so many is kept for what is live, and for what a portion costs on its way."""
USER_SHARE = 4
"""One part in so many of the rest is what one user may hold, with all their sockets."""
COPIES = 2
"""How often a payload is held while it is sent: as text, and as bytes."""


class _Reservation(NamedTuple):
    size: int
    is_large: bool
    """Whether it is more than a user's share."""
    turn: asyncio.Future[None]


class ReadBudget:
    """Bytes that may be held. Users take turns; of one user, who comes first is given them first.

    Args:
        size: of all reads, those of live events included (the setting READ_BUFFER_BYTES).
    """

    def __init__(self, size: int) -> None:
        self._free = size - size // LIVE_SHARE
        self._share = self._free // USER_SHARE
        self._held: Counter[str] = Counter()
        """How many bytes each user holds."""
        self._is_large_held = False
        self._waiting: dict[str, deque[_Reservation]] = {}
        """By user; whose turn it is comes first."""

    @asynccontextmanager
    async def reserve(self, payloads: int, user_id: str) -> AsyncIterator[None]:
        """Hold as many bytes as a portion costs.

        What is larger than a user's share counts as a share; only one such portion is held at once.

        Args:
            payloads: the portion's bytes in the log.
            user_id: whose socket it is for.
        """
        size = payloads * COPIES
        is_large = size > self._share
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = _Reservation(min(size, self._share), is_large, turn)
        await self._take(request, user_id)
        try:
            yield
        finally:
            self._give_back(request, user_id)

    async def _take(self, request: _Reservation, user_id: str) -> None:
        self._waiting.setdefault(user_id, deque()).append(request)
        self._serve()
        try:
            await request.turn
        except asyncio.CancelledError:
            if request.turn.cancelled():
                self._serve()  # the next one, if it was this one's turn
            else:
                self._give_back(request, user_id)  # it was given just then
            raise

    def _give_back(self, request: _Reservation, user_id: str) -> None:
        self._free += request.size
        self._held[user_id] -= request.size
        if not self._held[user_id]:
            del self._held[user_id]
        if request.is_large:
            self._is_large_held = False
        self._serve()

    def _serve(self) -> None:
        while (user_id := self._next_user()) is not None:
            waiting = self._waiting.pop(user_id)
            request = waiting.popleft()
            if waiting:
                self._waiting[user_id] = waiting  # behind the others
            if request.turn.cancelled():
                continue
            self._free -= request.size
            self._held[user_id] += request.size
            self._is_large_held = self._is_large_held or request.is_large
            request.turn.set_result(None)

    def _next_user(self) -> str | None:
        """Whose turn it is; None: there is no room for them.

        Who waits for the others is not overtaken, however much they need. Who waits for what they
        hold themselves is, and a large portion that waits for another.
        """
        for user_id, waiting in self._waiting.items():
            request = waiting[0]
            if request.turn.cancelled():
                return user_id
            if self._held[user_id] + request.size > self._share:
                continue
            if request.is_large and self._is_large_held:
                continue
            return user_id if request.size <= self._free else None
        return None
