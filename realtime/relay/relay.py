"""The loop at the centre: woken by the bell, read what became visible, hand it to the hub.

`server` runs it over whichever connection is up. The cursor lives here and outlives connections:
after an outage the first read returns all that was committed meanwhile, once.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from realtime.relay.cursor import Cursor, Database, Snapshot, encode_cursor
from realtime.relay.events import Grant, Page
from realtime.relay.hub import Hub
from realtime.relay.refusals import Refusals
from realtime.relay.resume import Lost, Unrecoverable
from realtime.relay.subscriber import Place


class EventLog(Protocol):
    """Where events are read from; implemented by `postgres.event_log`."""

    def read(self, cursor: Cursor) -> AsyncIterator[Page]:
        """Everything that the cursor does not cover, in one snapshot, at least one page.

        Raises:
            Unrecoverable: some of it has been removed from the log.
        """
        ...

    async def end(self) -> Cursor:
        """The place of one who begins now."""
        ...


class Bell(Protocol):
    """What wakes the relay; implemented by `postgres.doorbell`."""

    async def wait(self) -> None:
        """Return when something may have been written since the last call, or it is time to look.

        Raises:
            ConnectionError: nothing can be heard any more.
        """
        ...


class _Delivered(NamedTuple):
    """How far a read came that broke off between its pages."""

    snapshot: Snapshot
    last_id: int


class Relay:
    """Reads the log from a cursor on and feeds the hub.

    Args:
        hub: who gets the events.
        refusals: who was refused lately; they hear of grants before anybody else of anything.
        database: which history the cursor belongs to.
        cursor: where to begin.
    """

    def __init__(self, hub: Hub, refusals: Refusals, database: Database, cursor: Cursor) -> None:
        self._hub = hub
        self._refusals = refusals
        self.database = database
        self._cursor = cursor
        self._broken: list[_Delivered] = []
        hub.position = encode_cursor(database, cursor)

    def start_over(self, database: Database, cursor: Cursor, reason: Lost) -> None:
        """Go on from another place: what lies between is lost, and every socket is told."""
        self.database = database
        self._cursor = cursor
        self._broken.clear()
        self._refusals.forget([Grant(None, None)])
        self._hub.position = encode_cursor(database, cursor)
        self._hub.lose_track(reason)

    async def run(self, log: EventLog, bell: Bell) -> None:
        """Relay until the connection is lost. Safe to cancel and to call again with another."""
        while True:
            await bell.wait()
            try:
                await self.catch_up(log)
            except Unrecoverable as lost:
                # The process was away for longer than the log goes back.
                self.start_over(self.database, await log.end(), lost.reason)

    async def catch_up(self, log: EventLog) -> None:
        """Read once and deliver what was found."""
        highest = 0
        async for page in log.read(self._cursor):
            self._refusals.forget(page.grants)
            fresh = self._without_repeats(page)
            highest = max(highest, *(event.xid for event in page.events), 0)
            highest = max(highest, *(ejection.xid for ejection in page.ejections), 0)
            if page.is_last:
                self._cursor = self._cursor.after(page.snapshot, highest)
                self._broken.clear()
                text = encode_cursor(self.database, self._cursor)
                await self._hub.deliver(fresh, Place(self._cursor, text))
            else:
                await self._hub.deliver(fresh, None)
                last_id = page.events[-1].id if page.events else 0
                self._broken.append(_Delivered(page.snapshot, last_id))

    def _without_repeats(self, page: Page) -> Page:
        """Leave out what an earlier, broken read of the same cursor delivered already."""
        earlier = [done for done in self._broken if done.snapshot != page.snapshot]
        if not earlier:
            return page
        return page._replace(
            events=tuple(
                event
                for event in page.events
                if not any(
                    event.id <= done.last_id and done.snapshot.covers(event.xid) for done in earlier
                )
            )
        )
