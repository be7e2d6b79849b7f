"""May the sockets that an access change is about stay? The database is asked in batches.

A thousand revokes in one statement become a few questions to the database rather than a thousand.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, NoReturn, Protocol

from realtime.relay import closing
from realtime.relay.batcher import Batcher, Report
from realtime.relay.cursor import Cursor
from realtime.relay.errors import Refused
from realtime.relay.events import Pending
from realtime.relay.hub import Hub
from realtime.relay.subscriber import Subscriber

MAX_BATCH = 500
"""How many are asked about in one statement, so that it does not take long."""


class RecheckAnswer(NamedTuple):
    """Whether one may stay, of those who were asked about, and as of which cursor."""

    is_allowed: bool
    cursor: Cursor


class Rechecker(Protocol):
    """Finds which users still have access; implemented by `postgres.access`."""

    async def recheck(
        self, questions: Sequence[tuple[str, str]]
    ) -> Sequence[RecheckAnswer | Refused]:
        """Answer for pairs of user id and topic.

        Refused: 1013, no answer to be had about this one.
        """
        ...


class _Request(NamedTuple):
    subscriber: Subscriber
    pending: Pending


class RecheckBatcher:
    """The sockets whose access must be checked again.

    Args:
        rechecker: the database's answers.
        report: called with an unexpected error.
        max_batch: the maximum number in one query.
    """

    _hub: Hub
    _wake_reader: Callable[[], None]

    def __init__(self, rechecker: Rechecker, report: Report, *, max_batch: int = MAX_BATCH) -> None:
        self._rechecker = rechecker
        self._batcher = Batcher[_Request, RecheckAnswer](
            self._answer, size=max_batch, report=report
        )

    def ask(self, subscriber: Subscriber, pending: Pending) -> None:
        """Check the socket's access soon, and tell the hub."""
        request = _Request(subscriber, pending)
        self._batcher.add(request, partial(self._apply, request))

    async def run(self, hub: Hub, wake_reader: Callable[[], None]) -> NoReturn:
        """Answer until cancelled.

        Args:
            hub: has the sockets that are asked about.
            wake_reader: called after each answer: sockets that may stay go on when the reader has
                come as far as the answer's cursor.
        """
        self._hub, self._wake_reader = hub, wake_reader
        await self._batcher.run()

    async def _answer(self, requests: Sequence[_Request]) -> Sequence[RecheckAnswer | Refused]:
        questions = [(one.subscriber.user_id or "", one.subscriber.topic) for one in requests]
        return await self._rechecker.recheck(questions)

    def _apply(self, request: _Request, answer: RecheckAnswer | Exception) -> None:
        if isinstance(answer, Refused):
            self._hub.dismiss(request.subscriber, answer.code, answer.reason)
        elif isinstance(answer, Exception):
            self._hub.dismiss(request.subscriber, *closing.SERVER_ERROR)
        else:
            self._decide(*request, answer)
        self._wake_reader()

    def _decide(self, subscriber: Subscriber, pending: Pending, answer: RecheckAnswer) -> None:
        if not answer.is_allowed:
            self._hub.refuse(subscriber, pending)
        elif pending.is_recheck:
            self._hub.stay(subscriber, pending, answer.cursor)
        else:
            self._hub.dismiss(subscriber, *closing.ACCESS_CHANGED)
