"""Which subscriptions of sockets for many topics may join now: few of a user, over all sockets.

Else one user's could keep everybody's handshakes waiting for the database.
"""

from collections import OrderedDict
from collections.abc import Callable

from realtime.relay.admission import MAX_BATCH

SUBSCRIBING_AT_ONCE = MAX_BATCH
"""How many subscriptions of one token subject may join at the same time: a whole question to the
database, so that a page with a hundred bots needs no more questions than it would without this."""


class _Subject:
    """The subscriptions of one token subject, by what names them."""

    __slots__ = ("joining", "waiting")

    def __init__(self) -> None:
        self.joining: set[object] = set()
        self.waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()


class Subscribing:
    """Which subscriptions of a token subject join, and which wait. One that waits has no task.

    Args:
        at_once: how many of a subject may join at the same time.
    """

    def __init__(self, at_once: int = SUBSCRIBING_AT_ONCE) -> None:
        self._at_once = at_once
        self._subjects: dict[str, _Subject] = {}

    def add(self, subject: str, subscription: object, join: Callable[[], None]) -> None:
        """Have a subscription join, now or when others have joined.

        Args:
            join: called once, unless the subscription is removed before.
        """
        theirs = self._subjects.setdefault(subject, _Subject())
        theirs.waiting[subscription] = join
        self._start_next(theirs)

    def remove(self, subject: str, subscription: object) -> None:
        """It has joined, or will not; it may have been removed before."""
        theirs = self._subjects.get(subject)
        if theirs is None:
            return
        theirs.waiting.pop(subscription, None)
        theirs.joining.discard(subscription)
        self._start_next(theirs)
        if not theirs.joining:
            del self._subjects[subject]

    def _start_next(self, theirs: _Subject) -> None:
        while theirs.waiting and len(theirs.joining) < self._at_once:
            subscription, join = theirs.waiting.popitem(last=False)
            theirs.joining.add(subscription)
            join()

    def __len__(self) -> int:
        """How many wait or join."""
        return sum(len(one.joining) + len(one.waiting) for one in self._subjects.values())
