"""What the relay counts while it works: plain additions, which `metrics.snapshot` takes down.

One per process, made by `runtime/parts.py` and given to each part that counts. Nothing here asks
anybody anything, for it is called for every event and every fan-out.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

from realtime.relay.events import Event, Page

LATENCY_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""Seconds. The lowest are those of the doorbell, the highest those after an outage."""
BATCH_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
PEER_CODES = frozenset({1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011})
"""Close codes that clients use; all other codes of clients are counted together."""
MAX_CODES = 40
"""After so many different codes of `relay.eject`, the others are counted together too."""


class Histogram:
    """How many values were at most each bound and above the one before. The last: above all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of the values."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Counters:
    """The counts of one process since it started.

    Args:
        monotonic: seconds.
    """

    __slots__ = (
        "_clock_offset",
        "_monotonic",
        "bare",
        "batches",
        "carried",
        "closes",
        "confirmed",
        "deliveries",
        "events",
        "lag",
        "latency",
        "losses",
        "opens",
        "read_seconds",
        "reads",
        "resumes",
        "rings",
        "silences",
    )

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._clock_offset = 0.0
        self.events = 0
        """Events found in the log, or come with a notification."""
        self.deliveries = 0
        """Events times the sockets that each was sent to."""
        self.latency = Histogram(LATENCY_BOUNDS)
        """Seconds from the writing of a row until its event was sent to the last socket."""
        self.reads = 0
        self.read_seconds = 0.0
        """Seconds that all reads of the log took."""
        self.batches = Histogram(BATCH_BOUNDS)
        """Events that came together: by a read, of which each page counts, or by rings."""
        self.lag = 0.0
        """Age in seconds of the oldest event of the latest read; 0 if it found none."""
        self.rings = 0
        """Rings of the doorbell that were heard."""
        self.bare = 0
        """Rings that asked for a read: they carried no event, or one that had to wait."""
        self.carried = 0
        """Events that rings carried and that were delivered ahead of a read."""
        self.confirmed = 0
        """How many of those a read has found since."""
        self.silences = 0
        """How often this process silenced the doorbell."""
        self.losses = 0
        """How often the connection that listens was lost, or could not be made."""
        self.opens = 0
        """Sockets that were accepted."""
        self.resumes: Counter[str] = Counter()
        """Accepted sockets that came with a cursor, by result: `recovered`, or why not."""
        self.closes: Counter[str] = Counter()
        """Sockets that have ended, by close code."""

    def found(self, page: Page) -> None:
        """Count what a read found, but for what was delivered ahead of it."""
        events = page.events
        self._clock_offset = page.clock_offset
        self.reads += 1
        self.read_seconds += page.seconds
        self.lag = self.age(events[0]) if events else 0.0
        if events:
            self.events += len(events)
            self.batches.observe(len(events))

    def heard(self, events: Sequence[Event]) -> None:
        """Count what rings carried and is delivered ahead of a read."""
        self.events += len(events)
        self.carried += len(events)
        self.batches.observe(len(events))

    def delivered(self, events: Sequence[Event], sockets: int) -> None:
        """Count events that were sent to all sockets of their topic."""
        if sockets:
            self.deliveries += len(events) * sockets
            # An answer that grows is held back on purpose: its delay says nothing of the relay.
            for event in events:
                if event.subject is None:
                    self.latency.observe(self.age(event))

    def gone(self, code: int, *, is_ours: bool) -> None:
        """Count a socket that has ended.

        Args:
            is_ours: this server chose the code, and not the client.
        """
        has_room = is_ours and len(self.closes) < MAX_CODES
        is_known = has_room or code in PEER_CODES or str(code) in self.closes
        self.closes[str(code) if is_known else "other"] += 1

    def age(self, event: Event) -> float:
        """Seconds since the event was written, by the clocks as the latest read compared them.

        Since then the database's may have been set back: no age is below 0.
        """
        return max(0.0, self._monotonic() - self._clock_offset - event.written_at / 1e6)
