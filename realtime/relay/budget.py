"""How many bytes all replays of one process may hold at once.

Each reserves a portion before it reads it, and gives it back when its client has taken it. So the
memory does not depend on how many clients return, nor on how slowly they read. Nor do others wait
for users whose clients take nothing: no user may hold more than a share, and who holds what others
wait for must go on.
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
LIVE_COPIES = 4
"""How often one is held at most while it goes to all sockets of a topic: also as it was read, and
framed."""
MIN_SPEED = 20_000
"""Bytes a second. A line that carries fewer counts as broken, on either side of the process."""


def live_bytes(size: int) -> int:
    """How many bytes of payloads live delivery may have on their way, of so many bytes for all."""
    return size // LIVE_SHARE // LIVE_COPIES


class _Reservation(NamedTuple):
    size: int
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
        self._waiting: dict[str, deque[_Reservation]] = {}
        """By user; whose turn it is comes first."""

    @property
    def largest(self) -> int:
        """The most bytes of payloads that may be reserved at once."""
        return self._share // COPIES

    def has_room(self, payloads: int, user_id: str) -> bool:
        """Whether so many bytes could be reserved at once."""
        return self._fits(payloads * COPIES, user_id)

    def _fits(self, size: int, user_id: str) -> bool:
        has_room = size <= self._free and self._held[user_id] + size <= self._share
        return has_room and not self._waiting

    def is_wanted(self, user_id: str) -> bool:
        """Whether somebody waits for what that user holds."""
        for waiting_id, waiting in self._waiting.items():
            is_their_own = self._held[waiting_id] + waiting[0].size > self._share
            if user_id == waiting_id or not is_their_own:
                return True
        return False

    @asynccontextmanager
    async def reserve(self, payloads: int, user_id: str) -> AsyncIterator[None]:
        """Hold as many bytes as a portion costs.

        Args:
            payloads: the portion's bytes in the log, `largest` at most.
            user_id: whose socket it is for.
        """
        size = min(payloads * COPIES, self._share)
        if self._fits(size, user_id):
            self._give(size, user_id)
        else:
            await self._take_turn(size, user_id)
        try:
            yield
        finally:
            self._give_back(size, user_id)

    async def _take_turn(self, size: int, user_id: str) -> None:
        request = _Reservation(size, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(user_id, deque()).append(request)
        self._serve()
        try:
            await request.turn
        except asyncio.CancelledError:
            if request.turn.cancelled():
                self._leave(request, user_id)
            else:
                self._give_back(size, user_id)  # it was given just then
            raise

    def _leave(self, request: _Reservation, user_id: str) -> None:
        waiting = self._waiting.get(user_id, deque())
        if request in waiting:  # else it was passed over just then
            waiting.remove(request)
            if not waiting:
                del self._waiting[user_id]
        self._serve()  # the next one, if it was this one's turn

    def _give(self, size: int, user_id: str) -> None:
        self._free -= size
        self._held[user_id] += size

    def _give_back(self, size: int, user_id: str) -> None:
        self._free += size
        self._held[user_id] -= size
        if not self._held[user_id]:
            del self._held[user_id]
        self._serve()

    def _serve(self) -> None:
        while (user_id := self._next_user()) is not None:
            waiting = self._waiting.pop(user_id)
            request = waiting.popleft()
            if waiting:
                self._waiting[user_id] = waiting  # behind the others
            if request.turn.cancelled():
                continue
            self._give(request.size, user_id)
            request.turn.set_result(None)

    def _next_user(self) -> str | None:
        """Whose turn it is; None: there is no room for them.

        Who waits for the others is not overtaken, however much they need. Who waits for what they
        hold themselves is.
        """
        for user_id, waiting in self._waiting.items():
            request = waiting[0]
            if request.turn.cancelled():
                return user_id
            if self._held[user_id] + request.size > self._share:
                continue
            return user_id if request.size <= self._free else None
        return None
