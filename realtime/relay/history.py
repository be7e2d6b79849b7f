"""Reads the past for sockets that come back, many of them with one question to the log.

A thousand clients that return at once do not ask a thousand times: who waits while a read is under
way is served by the next one. `web.sockets` calls `since`; `server` keeps `run` going.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn, Protocol

from realtime.relay.errors import Refused
from realtime.relay.events import Event
from realtime.relay.resume import Past, Place, Question, Unrecoverable, answer, place_for

TOPICS_PER_READ = 32
"""Bounds what one read may return: that many times the setting RESUME_MAX_EVENTS."""
GATHER_SECONDS = 0.02
"""How long the first to come waits for others."""


class PastLog(Protocol):
    """Where the past is read from; implemented by `postgres.past_log`."""

    async def read(
        self, places: Mapping[str, Place], user_ids: Sequence[str], limit: int
    ) -> Mapping[str, Past]:
        """Read topics, each from its place on, at most `limit + 1` events of each.

        Raises:
            Refused: the database cannot be asked (1013).
        """
        ...


class _Waiting(NamedTuple):
    question: Question
    answered: "asyncio.Future[list[Event]]"


class History:
    """The past of this process's topics, for those who ask.

    Args:
        limit: events that one client may be owed (the setting RESUME_MAX_EVENTS).
    """

    def __init__(self, past_log: PastLog, *, limit: int) -> None:
        self._past_log = past_log
        self._limit = limit
        self._waiting: list[_Waiting] = []
        self._some = asyncio.Event()
        self.reads = 0
        """How many questions the log was asked."""

    async def since(self, question: Question) -> list[Event]:
        """The events that the client is owed, in order.

        Raises:
            Unrecoverable: it cannot be brought up to date.
            Refused: the database cannot be asked (1013).
        """
        answered: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(question, answered))
        self._some.set()
        return await answered

    async def run(self) -> NoReturn:
        """Answer for ever. Cancel to end."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._some.clear()
            by_topic: defaultdict[str, list[_Waiting]] = defaultdict(list)
            for one in self._waiting:
                by_topic[one.question.topic].append(one)
            self._waiting = []
            topics = list(by_topic)
            for start in range(0, len(topics), TOPICS_PER_READ):
                some = topics[start : start + TOPICS_PER_READ]
                await self._answer({topic: by_topic[topic] for topic in some})

    async def _answer(self, by_topic: Mapping[str, list[_Waiting]]) -> None:
        places = {
            topic: place_for(one.question.cursor for one in waiting)
            for topic, waiting in by_topic.items()
        }
        everyone = [one for waiting in by_topic.values() for one in waiting]
        users = sorted({one.question.user_id for one in everyone})
        self.reads += 1
        try:
            pasts = await self._past_log.read(places, users, self._limit)
        except Refused as refused:
            for one in everyone:
                _fail(one, refused)
            return
        for one in everyone:
            self._answer_one(one, pasts[one.question.topic])

    def _answer_one(self, waiting: _Waiting, past: Past) -> None:
        try:
            events = answer(waiting.question, past, self._limit)
        except Unrecoverable as lost:
            _fail(waiting, lost)
            return
        if not waiting.answered.done():  # else whoever asked has left
            waiting.answered.set_result(events)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answered.done():
        waiting.answered.set_exception(error)
