"""Answers that grow: if one thing is updated often, sockets get only the newest, a few per second.

A model's answer is one row that grows by a hundred UPDATEs per second, and each carries the whole
row. The first is sent at once. Of those that follow within `SEND_EVERY` seconds, only the newest is
sent: when that time is over, or just before the next other event on the topic, so that the order
stays.

While an update is held back, the clients of its topic get no cursor that covers it. A client that
recovered from such a cursor would never get the last state.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from realtime.relay.events import Event
from realtime.relay.position import Position

SEND_EVERY = 0.25
"""Seconds between two updates of one thing."""
MAX_REMEMBERED = 10_000
"""Things that are remembered as sent lately; with more, some are sent more often."""


class GrowingAnswers:
    """Updates that were sent lately, and those that wait for their time.

    Args:
        monotonic: seconds.
        max_remembered: how many things are remembered as sent lately.
    """

    def __init__(
        self, monotonic: Callable[[], float], *, max_remembered: int = MAX_REMEMBERED
    ) -> None:
        self._max_remembered = max_remembered
        self._monotonic = monotonic
        self._not_before: dict[tuple[str, str | None], float] = {}
        """When the next update of a thing may be sent, by topic and subject, the earliest first."""
        self._held: dict[str, list[Event]] = {}
        """The events that are held, by topic. Of each thing only the newest."""
        self._positions: dict[str, Position] = {}
        """The position from before the events that are held, by topic."""

    def forget(self) -> None:
        """Drop what is held: it will be read again, or all sockets are told that they missed it."""
        self._held.clear()
        self._positions.clear()

    def select(
        self, found: Mapping[str, list[Event]], position: Position
    ) -> dict[str, list[Event]]:
        """What to send now, by topic, of what a read found and of what was held.

        Args:
            position: from before that read.
        """
        self._expire()
        if not self._held and not self._not_before:
            return {topic: newest_only(events) for topic, events in found.items()}
        selected = {}
        for topic in found.keys() | self._held.keys():
            events = newest_only([*self._held.get(topic, ()), *found.get(topic, ())])
            if any((topic, event.subject) not in self._not_before for event in events):
                selected[topic] = events
            else:
                self._held[topic] = events
                self._positions.setdefault(topic, position)
        return selected

    def sent(self, topic: str, events: Iterable[Event]) -> None:
        """What was selected for a topic was sent. Until this is called, it is selected again."""
        for event in events:
            if event.subject is not None:
                self._not_before.pop((topic, event.subject), None)
                if len(self._not_before) < self._max_remembered:
                    self._not_before[topic, event.subject] = self._monotonic() + SEND_EVERY
        if topic in self._held:
            del self._held[topic], self._positions[topic]

    def held(self, topic: str) -> Iterable[Event]:
        """What is held on a topic."""
        return self._held.get(topic, ())

    def position_before(self, topic: str) -> Position | None:
        """The position from before what is held on a topic; None: nothing is."""
        return self._positions.get(topic)

    def due_in(self) -> float:
        """Seconds until something that is held is to be sent; infinite: nothing is held."""
        if not self._held:
            return math.inf
        times = (
            self._not_before.get((topic, event.subject), 0.0)
            for topic, events in self._held.items()
            for event in events
        )
        return max(0.0, min(times) - self._monotonic())

    def _expire(self) -> None:
        if not self._not_before:
            return
        now = self._monotonic()
        while self._not_before:
            thing, not_before = next(iter(self._not_before.items()))
            if not_before > now:
                return
            del self._not_before[thing]


def newest_only(events: Iterable[Event]) -> list[Event]:
    """The last update of each thing, in order."""
    events = list(events)
    if len(events) == 1:
        return events
    kept: dict[object, Event] = {}
    for event in events:
        key = event.thing or event.id
        kept.pop(key, None)
        kept[key] = event
    return list(kept.values())
