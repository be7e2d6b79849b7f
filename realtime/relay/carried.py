"""Events that rings carry: what was heard, and what was delivered before a read confirms it.

A ring that carries its event is a hint. The log stays the truth: each such event is found by a read
soon after, and is not delivered again then. `reader` delivers what an `Inbox` has while it sleeps.
Why nothing comes too early is in docs/design.md ("The event in the ring").
"""

from collections.abc import Iterable
from typing import NamedTuple

from realtime.relay.counters import Counters
from realtime.relay.cursor import Anchor
from realtime.relay.events import Event, Page

MAX_BYTES = 1_000_000
"""How much of what was heard is kept. All else is left to a read."""


class Ring(NamedTuple):
    """What a ring says that carries its event."""

    event: Event
    epoch: str
    """The epoch as the writer saw it."""


def parse_ring(payload: str) -> Ring | None:
    """Read `epoch id xid written_at author topic payload`; None: it is bare."""
    parts = payload.split(" ", 6)
    if len(parts) < 7 or not parts[6].startswith("{"):
        return None
    try:
        row_id, xid, written_at = map(int, parts[1:4])
    except ValueError:
        return None  # the name of a table
    author, topic, message = parts[4:]
    event = Event(
        row_id,
        xid,
        topic,
        message,
        written_at=written_at,
        size=len(message.encode()),
        author=None if author == "-" else author,
    )
    return Ring(event, parts[0])


class Inbox:
    """What was heard over one connection since the last read was sent.

    What is heard after a bare ring is left to the read that this one asks for: something that must
    come first may have rung.

    Args:
        counters: counts bare rings.
        max_bytes: how much is kept.
    """

    def __init__(self, counters: Counters, max_bytes: int = MAX_BYTES) -> None:
        self._counters = counters
        self._max_bytes = max_bytes
        self._events: list[Event] = []
        self._bytes = 0
        self._epoch: str | None = None
        self.is_bare = False
        """Whether a read is due."""
        self.is_stale = False
        """Whether a ring had another epoch than the one of the fence, so that another is due."""

    @property
    def is_open(self) -> bool:
        """Whether rings may carry."""
        return self._epoch is not None

    def open(self, epoch: str) -> None:
        """Take events from now on. To be called before a fence is taken.

        Args:
            epoch: as it was read after the bell was switched on.
        """
        self._epoch, self.is_stale = epoch, False
        self._leave_to_read()

    def close(self) -> None:
        """Take none until it is opened again."""
        self._epoch, self.is_stale = None, False
        self._leave_to_read()

    def hear(self, payload: str) -> None:
        """Take what rang."""
        ring = None
        if self.is_open and not self.is_bare:
            ring = parse_ring(payload)
        if ring is not None and ring.epoch != self._epoch:
            self.is_stale, ring = True, None
        if ring is not None and self._bytes + ring.event.size <= self._max_bytes:
            self._events.append(ring.event)
            self._bytes += ring.event.size
        else:
            self.is_bare = True
            self._counters.bare += 1

    def take(self) -> list[Event]:
        """What may be delivered, in the order heard. It is not kept."""
        events, self._events, self._bytes = self._events, [], 0
        return events

    def read_is_sent(self) -> None:
        """Note that all that was heard until now will be found."""
        self._events, self._bytes = [], 0
        self.is_bare = False

    def _leave_to_read(self) -> None:
        self._events, self._bytes = [], 0
        self.is_bare = True


class Ahead:
    """Which events were delivered and not found by a read yet, by their rows."""

    def __init__(self) -> None:
        self._rows: set[Anchor] = set()

    def __contains__(self, row: Anchor) -> bool:
        return row in self._rows

    def add(self, rows: Iterable[Anchor]) -> None:
        """Note that these were delivered."""
        self._rows.update(rows)

    def rows(self) -> frozenset[Anchor]:
        """What a read that is sent now has to find; otherwise this is another history."""
        return frozenset(self._rows)

    def without(self, page: Page) -> Page:
        """What of a page is still to be delivered."""
        if not self._rows:
            return page
        fresh = tuple(event for event in page.events if event.anchor not in self._rows)
        return page._replace(events=fresh)
