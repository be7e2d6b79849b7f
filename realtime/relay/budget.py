"""How many bytes all replays of one process may hold at once.

Each reserves a portion before it reads it, and gives it back when its client has taken it. So the
memory does not depend on how many clients return, nor on how slowly they read. Nor do others wait
for users whose clients take nothing: no user may hold more than a share, and who holds what others
wait for must go on.
"""

import asyncio
from collections import Counter, deque

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


class Reservation:
    """So many bytes of a budget, held from the beginning of `async with` to its end."""

    __slots__ = ("_budget", "size", "turn", "user_id")

    def __init__(self, budget: "ReadBudget", size: int, user_id: str) -> None:
        self._budget = budget
        self.size = size
        self.user_id = user_id
        self.turn: asyncio.Future[None] | None = None
        """Done when it is given; None: it did not have to wait."""

    async def __aenter__(self) -> None:
        await self._budget.take(self)

    async def __aexit__(self, *_: object) -> None:
        self._budget.give_back(self)

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.turn is not None and self.turn.cancelled()


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
        self._waiting: dict[str, deque[Reservation]] = {}
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

    def reserve(self, payloads: int, user_id: str) -> Reservation:
        """As many bytes as a portion costs, for `async with`.

        Args:
            payloads: the portion's bytes in the log, `largest` at most.
            user_id: whose socket it is for.
        """
        return Reservation(self, min(payloads * COPIES, self._share), user_id)

    async def take(self, wanted: Reservation) -> None:
        """Return when it is given."""
        if self._fits(wanted.size, wanted.user_id):
            self._give(wanted)
            return
        turn = wanted.turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(wanted.user_id, deque()).append(wanted)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(wanted)
            else:
                self.give_back(wanted)  # it was given just then
            raise

    def _leave(self, wanted: Reservation) -> None:
        waiting = self._waiting.get(wanted.user_id, deque())
        if wanted in waiting:  # else it was passed over just then
            waiting.remove(wanted)
            if not waiting:
                del self._waiting[wanted.user_id]
        self._serve()  # the next one, if it was this one's turn

    def _give(self, wanted: Reservation) -> None:
        self._free -= wanted.size
        self._held[wanted.user_id] += wanted.size

    def give_back(self, held: Reservation) -> None:
        """Let the others have it."""
        self._free += held.size
        self._held[held.user_id] -= held.size
        if not self._held[held.user_id]:
            del self._held[held.user_id]
        self._serve()

    def _serve(self) -> None:
        while (user_id := self._next_user()) is not None:
            waiting = self._waiting.pop(user_id)
            wanted = waiting.popleft()
            if waiting:
                self._waiting[user_id] = waiting  # behind the others
            if not wanted.is_given_up:
                self._give(wanted)
                assert wanted.turn is not None
                wanted.turn.set_result(None)

    def _next_user(self) -> str | None:
        """Whose turn it is; None: there is no room for them.

        Who waits for the others is not overtaken, however much they need. Who waits for what they
        hold themselves is.
        """
        for user_id, waiting in self._waiting.items():
            wanted = waiting[0]
            if wanted.is_given_up:
                return user_id
            if self._held[user_id] + wanted.size > self._share:
                continue
            return user_id if wanted.size <= self._free else None
        return None
