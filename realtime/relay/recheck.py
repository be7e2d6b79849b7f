"""May the sockets that an access change is about still be there? Asked in batches.

The hub calls `ask`; `server` keeps `run` going. A thousand revokes in one statement become a few
questions to the database rather than a thousand.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, Protocol

from realtime.relay import closing
from realtime.relay.cursor import Cursor
from realtime.relay.errors import Refused
from realtime.relay.events import Pending
from realtime.relay.hub import Hub
from realtime.relay.subscriber import Subscriber

BATCH = 500


class RecheckResult(NamedTuple):
    """Who of those asked about may still be there, and where in the log that was said."""

    allowed: Sequence[bool]
    cursor: Cursor


class Access(Protocol):
    """Who may be where; implemented by `postgres.access`."""

    async def recheck(self, questions: Sequence[tuple[str, str]]) -> RecheckResult:
        """Answer for pairs of user id and topic.

        Raises:
            Refused: the database cannot be asked (1013).
        """
        ...


class RecheckBatcher:
    """The sockets waiting to be asked about, and the loop that asks.

    Args:
        access: the database's answer.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._waiting: list[tuple[Subscriber, Pending]] = []
        self._some = asyncio.Event()

    def ask(self, subscriber: Subscriber, pending: Pending) -> None:
        """Find out soon. The queue is as long as there are sockets: each waits at most once."""
        self._waiting.append((subscriber, pending))
        self._some.set()

    async def run(self, hub: Hub, wake_relay: Callable[[], None]) -> NoReturn:
        """Answer for ever; cancel to end.

        Args:
            wake_relay: called after each answer: sockets that may stay go on when the relay has
                read as far as the answer's place.
        """
        while True:
            await self._some.wait()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if not self._waiting:
                self._some.clear()
            await self._answer(hub, batch)
            wake_relay()

    async def _answer(self, hub: Hub, batch: list[tuple[Subscriber, Pending]]) -> None:
        questions = [(subscriber.user_id or "", subscriber.topic) for subscriber, _ in batch]
        try:
            answer = await self._access.recheck(questions)
        except Refused as refused:
            for subscriber, _ in batch:
                hub.dismiss(subscriber, refused.code, refused.reason)
            return
        for (subscriber, pending), allowed in zip(batch, answer.allowed, strict=True):
            if not allowed:
                hub.refuse(subscriber, pending)
            elif pending.is_recheck:
                hub.stay(subscriber, pending, answer.cursor)
            else:
                hub.dismiss(subscriber, *closing.ACCESS_CHANGED)
