"""Users who were refused lately, so that asking again costs the database nothing.

A client may come back every two seconds for ever. Its refusal is remembered for a short time, and
forgotten when the log has a grant that may change the answer. The sockets ask and add refusals; the
reader passes on the grants that it reads.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple, NoReturn

from realtime.relay.closing import CloseCode
from realtime.relay.errors import Refused
from realtime.relay.events import AccessChange

KEPT_SECONDS = 30.0
"""If access changes without a row in the log, it counts after this time, at most."""
GATHER_SECONDS = 0.1
"""How long the first who waits for a read of the log waits for others: it bounds how many reads
refused clients can cause."""
MAX_REFUSALS = 10_000
"""How many refusals are remembered; the oldest are forgotten first."""
_FINAL = (CloseCode.UNAUTHENTICATED, CloseCode.ACCESS_DENIED)


class _Remembered(NamedTuple):
    why: tuple[int, str]
    """Code and reason. Not the error itself: by its traceback, it would keep the whole socket that
    was refused."""
    until: float


class Refusals:
    """Refusals by token subject and topic.

    Args:
        clock: monotonic seconds.
        max_kept: how many refusals are remembered.
    """

    def __init__(self, clock: Callable[[], float], *, max_kept: int = MAX_REFUSALS) -> None:
        self._max_kept = max_kept
        self._clock = clock
        self._remembered: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()
        self._subjects: dict[str, set[str]] = {}
        """Of which subjects a refusal is remembered, by topic: else each grant would walk all."""
        self.generation = 0
        """Changes with every grant. A refusal from before a grant is not remembered after it."""
        self._begun = 0
        self._finished = 0
        self._news = asyncio.Event()
        self._has_waiting = asyncio.Event()

    def read_begins(self) -> int:
        """A read of the log begins. Returns the number of the read."""
        self._begun += 1
        return self._begun

    def read_ends(self, number: int) -> None:
        """Everything that the read found was passed on, grants first."""
        self._finished = number
        self._news.set()
        self._news = asyncio.Event()

    async def run(self, ask_for_read: Callable[[], None]) -> NoReturn:
        """Ask for reads, for ever: those who wait for one need not wait until something happens.

        Args:
            ask_for_read: has the log read soon.
        """
        while True:
            await self._has_waiting.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._has_waiting.clear()
            ask_for_read()

    async def up_to_date(self) -> None:
        """Return after a read that began later than this call: no earlier grant is missing."""
        self._has_waiting.set()
        wanted = self._begun + 1
        while self._finished < wanted:
            await self._news.wait()

    def find(self, subject: str, topic: str) -> tuple[int, str] | None:
        """Code and reason of the remembered refusal, if there is one."""
        found = self._remembered.get((subject, topic))
        if found is None or found.until <= self._clock():
            return None
        return found.why

    def remember(self, subject: str, topic: str, refused: Refused, generation: int) -> None:
        """Keep a refusal, if it is one that only a grant can change.

        Args:
            generation: as it was before the database was asked.
        """
        if refused.code not in _FINAL or generation != self.generation:
            return
        why = refused.code, refused.reason
        self._remembered[subject, topic] = _Remembered(why, self._clock() + KEPT_SECONDS)
        self._remembered.move_to_end((subject, topic))
        self._subjects.setdefault(topic, set()).add(subject)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Forget those whose time is over, and the oldest of too many."""
        now = self._clock()
        while True:  # the newest, at least, stays
            key, oldest = next(iter(self._remembered.items()))
            if oldest.until > now and len(self._remembered) <= self._max_kept:
                return
            self._forget(*key)

    def _forget(self, subject: str, topic: str) -> None:
        del self._remembered[subject, topic]
        subjects = self._subjects[topic]
        subjects.remove(subject)
        if not subjects:
            del self._subjects[topic]

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._remembered)

    def forget_all(self) -> None:
        """Events were missed, perhaps grants too: forget all refusals."""
        self.generation += 1
        self._remembered.clear()
        self._subjects.clear()

    def forget(self, grants: Iterable[AccessChange]) -> None:
        """The log has a grant: forget the refusals that it may change."""
        topics = {grant.topic for grant in grants}
        if None in topics:
            self.forget_all()
        elif topics:
            self.generation += 1
        for topic in filter(None, topics):
            # The subject may be a name; whoever else was refused a topic is asked about anew.
            for subject in self._subjects.pop(topic, ()):
                del self._remembered[subject, topic]
