"""How many sockets may be in this process that are not open: still joining, refused, or closing.

They count apart from the open ones. Else whoever opens sockets only to be refused, and does not
answer the close, would take the room of everybody.

The subscriptions of sockets for many topics wait here, too, until they may join: few of a user do
at the same time, over all their sockets.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from realtime.relay import closing
from realtime.relay.admission import MAX_BATCH
from realtime.relay.errors import Refused

SUBSCRIBING_AT_ONCE = MAX_BATCH
"""How many subscriptions of one token subject may join at the same time: a whole question to the
database, so that a page with a hundred bots needs no more questions than it would without this."""
MAX_CLOSING = 1000
"""How many sockets may be closing; of more, the oldest is dropped."""


class ClosingSocket(Protocol):
    """A socket that was sent a close frame."""

    def drop(self) -> None:
        """End the connection now."""


class _Subject:
    """The subscriptions of one token subject, by what names them."""

    __slots__ = ("joining", "waiting")

    def __init__(self) -> None:
        self.joining: set[object] = set()
        self.waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()


class Subscribing:
    """Which subscriptions of a token subject join, and which wait. One that waits has no task.

    Args:
        at_once: how many of a subject may join at the same time.
    """

    def __init__(self, at_once: int = SUBSCRIBING_AT_ONCE) -> None:
        self._at_once = at_once
        self._subjects: dict[str, _Subject] = {}

    def add(self, subject: str, subscription: object, join: Callable[[], None]) -> None:
        """Have a subscription join, now or when others have joined.

        Args:
            join: called once, unless the subscription is removed before.
        """
        theirs = self._subjects.setdefault(subject, _Subject())
        theirs.waiting[subscription] = join
        self._start_next(theirs)

    def remove(self, subject: str, subscription: object) -> None:
        """It has joined, or will not; it may have been removed before."""
        theirs = self._subjects.get(subject)
        if theirs is None:
            return
        theirs.waiting.pop(subscription, None)
        theirs.joining.discard(subscription)
        self._start_next(theirs)
        if not theirs.joining:
            del self._subjects[subject]

    def _start_next(self, theirs: _Subject) -> None:
        while theirs.waiting and len(theirs.joining) < self._at_once:
            subscription, join = theirs.waiting.popitem(last=False)
            theirs.joining.add(subscription)
            join()

    def __len__(self) -> int:
        """How many wait or join."""
        return sum(len(one.joining) + len(one.waiting) for one in self._subjects.values())


class Room:
    """The sockets of this process that join, and those that close.

    Args:
        max_joining: how many of one token subject may join at the same time.
        max_closing: how many may be closing.
    """

    def __init__(self, max_joining: int, *, max_closing: int = MAX_CLOSING) -> None:
        self._max_joining = max_joining
        self._max_closing = max_closing
        self._joining: Counter[str] = Counter()
        self._closing: dict[ClosingSocket, None] = {}
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.subscribing = Subscribing()

    @contextmanager
    def joining(self, subject: str) -> Iterator[None]:
        """While a socket of this subject joins, or one of its questions over HTTP is answered.

        Raises:
            Refused: too many of them do.
        """
        if self._joining[subject] >= self._max_joining:
            raise Refused(*closing.JOINING_TOO_MANY)
        self._joining[subject] += 1
        try:
            yield
        finally:
            self._joining[subject] -= 1
            if not self._joining[subject]:
                del self._joining[subject]

    def add_closing(self, socket: ClosingSocket) -> None:
        """It was sent a close frame, and its connection is still there."""
        self._closing[socket] = None
        self._is_empty.clear()
        if len(self._closing) > self._max_closing:
            oldest = next(iter(self._closing))
            del self._closing[oldest]
            oldest.drop()

    def remove(self, socket: ClosingSocket) -> None:
        """Its connection is over, or was never counted."""
        self._closing.pop(socket, None)
        if not self._closing:
            self._is_empty.set()

    async def empty(self, seconds: float) -> None:
        """Return when none is closing any more; those that take longer are dropped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        for one in tuple(self._closing):
            one.drop()

    @property
    def closing_count(self) -> int:
        """How many are closing."""
        return len(self._closing)
