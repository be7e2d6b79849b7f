"""How many sockets may be in this process that are not open: still joining, refused, or closing.

They count apart from the open ones. Else whoever opens sockets only to be refused, and does not
answer the close, would take the room of everybody.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from realtime.relay import closing
from realtime.relay.errors import Refused
from realtime.relay.subscribing import Subscribing

MAX_CLOSING = 1000
"""How many sockets may be closing; of more, the oldest is dropped."""


class ClosingSocket(Protocol):
    """A socket that was sent a close frame."""

    def drop(self) -> None:
        """End the connection now."""


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
        """The subscriptions that join on sockets that are open."""

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
