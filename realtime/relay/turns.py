"""Which topic is sent its next portion, of those that have too much to be sent at once.

A topic has its turn when its sockets have taken what they were sent, or have had enough time for
it. All of them together may have only so much on the way.
"""

import itertools
from collections.abc import Callable, Iterable

from realtime.relay.owed import Backlog
from realtime.relay.subscribers import Subscribers

PORTION_SECONDS = 2.0
"""How long the sockets of a topic that waits for much may take for a portion. Who takes longer goes
on at its own pace, and holds up nobody any more.
"""
LIVE_BYTES = 4_194_304
"""How many bytes of such portions may be on their way to sockets at once."""
LOOK_AGAIN_SECONDS = 0.02
"""Seconds until it is seen whether they have taken it."""


class Turns:
    """Who of a backlog is sent its next portion.

    Args:
        monotonic: seconds.
        live_bytes: how many bytes of portions may be on their way to sockets at once.
    """

    def __init__(
        self,
        backlog: Backlog,
        subscribers: Subscribers,
        monotonic: Callable[[], float],
        live_bytes: int = LIVE_BYTES,
    ) -> None:
        self._backlog = backlog
        self._subscribers = subscribers
        self._monotonic = monotonic
        self._live_bytes = live_bytes

    def fits(self, size: int) -> bool:
        """Whether so many bytes may be on their way to all sockets of a topic."""
        return size <= self._live_bytes

    def due_in(self) -> float:
        """Seconds until a topic may have its turn."""
        return LOOK_AGAIN_SECONDS if self.next_topic() is None else 0.0

    def next_topic(self) -> str | None:
        """The first topic that can be sent its next portion; None: there is none yet.

        Thousands may wait, and each has its turn. So no more of them are looked at than must be.
        """
        topics: Iterable[str] = filter(self._has_next, self._backlog.topics())
        on_the_way = self._bytes_on_the_way()
        if on_the_way and on_the_way >= self._live_bytes:
            # Only these make room: their slow sockets go on alone. Another's first would add to it.
            topics = filter(self._is_late, topics)
        return next(filter(self._can_take_more, topics), None)

    def _bytes_on_the_way(self) -> int:
        """How much was sent to topics whose sockets have not taken it."""
        begun = filter(self._has_next, self._backlog.begun())
        return sum(map(self._backlog.sent_bytes, itertools.filterfalse(self._is_taken, begun)))

    def _has_next(self, topic: str) -> bool:
        """Whether something is known that can be sent next.

        While a topic's events are still listed, nobody can be left to go on alone with all that it
        is owed. So then nothing is sent that not all can take.
        """
        first = self._backlog.first(topic, 0, 1)
        if self._backlog.is_listed(topic):
            return True
        return bool(first) and self.fits(first[0].size) and self._is_taken(topic)

    def _is_taken(self, topic: str) -> bool:
        """Whether its sockets have taken what they were sent."""
        return all(one.sink.is_idle for one in self._subscribers.live_on(topic))

    def _has_waited(self, topic: str) -> bool:
        return self._monotonic() - self._backlog.sent_at(topic) >= PORTION_SECONDS

    def _is_late(self, topic: str) -> bool:
        """Whether its sockets were sent a portion, and had enough time for it."""
        return self._backlog.sent_bytes(topic) > 0 and self._has_waited(topic)

    def _can_take_more(self, topic: str) -> bool:
        """Whether its sockets have taken what they were sent, or had enough time for it."""
        return self._has_waited(topic) or self._is_taken(topic)
