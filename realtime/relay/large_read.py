"""A read of the log that found too much for one answer, and whose events are listed bit by bit.

Its rows about access are applied at once, and its snapshot says which rows belong to it. So the
position moves past it, and what comes later is read and delivered meanwhile: only those topics wait
that it found something of. `reader` lists its events, a page between two reads.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from realtime.relay.carried import Ahead
from realtime.relay.cursor import Anchor, Cursor, Snapshot
from realtime.relay.events import Event, Page
from realtime.relay.resume import GapReason, Unrecoverable


@dataclass(frozen=True, slots=True)
class LargeLimits:
    """How much of a large read is listed before anything else is read."""

    pages: int = 4
    """So many pages. Where that is all, nothing has to be set aside."""
    topics: int = 50
    """How many topics one statement asks about."""
    events: int = 20
    """A topic with fewer events than this need not wait until all is listed."""


class Unlisted(NamedTuple):
    """The topics that a large read has more of than was listed yet."""

    topics: Sequence[str]
    number: int


NOTHING_UNLISTED = Unlisted((), 0)


@dataclass
class LargeRead:
    """What it is to find, and how far that was listed."""

    number: int
    """Tells it from others."""
    cursor: Cursor
    """What this covers is no part of it."""
    snapshot: Snapshot
    """What was visible in this is a part of it."""
    ahead: Ahead
    """What was delivered ahead of it, and must be found."""
    last: tuple[int, int] = (0, 0)
    """The last event listed: (xid, id), in whose order they come."""
    is_over: bool = False
    _due: Set[Anchor] = field(init=False)

    def __post_init__(self) -> None:
        self._due = self.ahead.rows()

    @property
    def has_due(self) -> bool:
        """Whether something was delivered ahead that is not found yet."""
        return bool(self._due)

    def take(self, page: Page) -> Page:
        """Note a page, and return what of it is still to be delivered.

        Raises:
            Unrecoverable: this was all, and something that a ring carried was never there.
        """
        if page.events:
            self.last = page.events[-1].xid, page.events[-1].id
            self._due -= {event.anchor for event in page.events}
        elif self._due:
            raise Unrecoverable(GapReason.FOREIGN)
        self.is_over = not page.events
        return self.ahead.without(page)

    def split(
        self, topics: Sequence[str], events: Sequence[Event], number: int
    ) -> tuple[list[Event], list[str]]:
        """What is to be delivered of the topics that have few events, and which have more.

        Args:
            events: the first ones of those topics, so many of each at most.
        """
        found: dict[str, list[Event]] = {topic: [] for topic in topics}
        for event in events:
            found[event.topic].append(event)
        few = [
            event
            for those in found.values()
            if len(those) < number
            for event in those
            if event.anchor not in self.ahead
        ]
        return few, [topic for topic, those in found.items() if len(those) >= number]
