"""Reads the past for sockets that come back, many of them with one request to the log.

A thousand clients that return at once do not ask a thousand times: who waits while a read is under
way is served by the next one. `web.sockets` calls `since`; `server` keeps `run` going.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn, Protocol

from realtime.relay.errors import Refused
from realtime.relay.events import Event
from realtime.relay.resume import (
    ReadRange,
    ResumeRequest,
    TopicHistory,
    Unrecoverable,
    missed_events,
    range_for,
)

TOPICS_PER_READ = 32
"""Bounds what one read may return: that many times the setting RESUME_MAX_EVENTS."""
GATHER_SECONDS = 0.02
"""How long the first to come waits for others."""


class HistorySource(Protocol):
    """Where the past is read from; implemented by `postgres.history_log`."""

    async def read(
        self, ranges: Mapping[str, ReadRange], user_ids: Sequence[str], limit: int
    ) -> Mapping[str, TopicHistory]:
        """Read topics, each from its place on, at most `limit + 1` events of each.

        Raises:
            Refused: the database cannot be asked (1013).
        """
        ...


class _Waiting(NamedTuple):
    request: ResumeRequest
    answered: "asyncio.Future[list[Event]]"


class ResumeBatcher:
    """The past of this process's topics, for those who ask.

    Args:
        limit: events that one client may be owed (the setting RESUME_MAX_EVENTS).
    """

    def __init__(self, history_log: HistorySource, *, limit: int) -> None:
        self._history_log = history_log
        self._limit = limit
        self._waiting: list[_Waiting] = []
        self._some = asyncio.Event()
        self.reads = 0
        """How many questions the log was asked."""

    async def since(self, request: ResumeRequest) -> list[Event]:
        """The events that the client is owed, in order.

        Raises:
            Unrecoverable: it cannot be brought up to date.
            Refused: the database cannot be asked (1013).
        """
        answered: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, answered))
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
                by_topic[one.request.topic].append(one)
            self._waiting = []
            topics = list(by_topic)
            for start in range(0, len(topics), TOPICS_PER_READ):
                some = topics[start : start + TOPICS_PER_READ]
                await self._answer({topic: by_topic[topic] for topic in some})

    async def _answer(self, by_topic: Mapping[str, list[_Waiting]]) -> None:
        ranges = {
            topic: range_for(one.request.cursor for one in waiting)
            for topic, waiting in by_topic.items()
        }
        everyone = [one for waiting in by_topic.values() for one in waiting]
        users = sorted({one.request.user_id for one in everyone})
        self.reads += 1
        try:
            histories = await self._history_log.read(ranges, users, self._limit)
        except Refused as refused:
            for one in everyone:
                _fail(one, refused)
            return
        for one in everyone:
            self._answer_one(one, histories[one.request.topic])

    def _answer_one(self, waiting: _Waiting, history: TopicHistory) -> None:
        try:
            events = missed_events(waiting.request, history, self._limit)
        except Unrecoverable as lost:
            _fail(waiting, lost)
            return
        if not waiting.answered.done():  # else whoever asked has left
            waiting.answered.set_result(events)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answered.done():
        waiting.answered.set_exception(error)
