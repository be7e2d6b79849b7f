"""Presence on its way to the sockets that ask for it, and the loop that finds out what changed.

Joins `presence` (whom to show) to the hub (whom to tell). Nothing is
read while no socket asks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NoReturn

from realtime.relay.errors import Refused
from realtime.relay.events import AccessChange
from realtime.relay.hub import FAN_OUT_SLICE, Hub
from realtime.relay.presence import Listing, People, Person, Presence, PresenceDiff
from realtime.relay.protocol import bot_of, presence_diff, presence_state
from realtime.relay.subscriber import Framer, State, Subscriber

TICK = 0.25
"""Seconds between two looks at what changed here; so much is told in one message."""
READ_SECONDS = 1.0
"""How often it is read who is elsewhere."""

Elsewhere = Callable[[Sequence[str]], Awaitable[Mapping[str, People]]]


class PresenceRelay:
    """Tells sockets who is there.

    Args:
        elsewhere: who has sockets in other processes, for each of some topics; raises Refused where
            the database cannot be asked.
        frame: joins messages into the bytes for a socket.
        pause: awaited between bots, and between the slices of a fan-out.
        monotonic: seconds.
        clock: epoch seconds, for the messages' timestamps.
    """

    def __init__(
        self,
        presence: Presence,
        hub: Hub,
        *,
        elsewhere: Elsewhere,
        frame: Framer,
        pause: Callable[[], Awaitable[None]],
        monotonic: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._presence = presence
        self._hub = hub
        self._elsewhere = elsewhere
        self._frame = frame
        self._pause = pause
        self._monotonic = monotonic
        self._clock = clock
        self._watchers: dict[str, set[Subscriber]] = {}
        """The sockets that ask, by topic."""
        self._told: set[Subscriber] = set()
        """Those of them that know all that is shown."""
        self._changed: set[str] = set()
        self._some = asyncio.Event()
        self._read_due_at = float("-inf")

    def moved(self, subscriber: Subscriber, is_here: bool) -> None:
        """A socket was let in, or is gone."""
        if subscriber.wants_presence and is_here:
            self._watch(subscriber)
        elif subscriber.wants_presence:
            self._unwatch(subscriber)
        if subscriber.topic in self._watchers:
            self._changed.add(subscriber.topic)

    def _watch(self, subscriber: Subscriber) -> None:
        topic = subscriber.topic
        if topic not in self._watchers:
            self._watchers[topic] = set()
            self._presence.open(topic)
            self._read_due_at = float("-inf")
            self._some.set()
        self._watchers[topic].add(subscriber)

    def _unwatch(self, subscriber: Subscriber) -> None:
        topic = subscriber.topic
        self._told.discard(subscriber)
        self._watchers[topic].discard(subscriber)
        if not self._watchers[topic]:
            del self._watchers[topic]
            self._changed.discard(topic)
            self._presence.close(topic)
        if not self._watchers:
            self._some.clear()

    def access_changed(self, change: AccessChange) -> None:
        """The hub has cut off, or asks about, whom the change is about."""
        self._presence.access_changed(change)
        if change.topic is None:
            self._changed.update(self._watchers)
        elif change.topic in self._watchers:
            self._changed.add(change.topic)

    def database_lost(self) -> None:
        """The connection to the database broke, and what is unlogged there may be gone."""
        self._presence.lost()

    async def now(self, topic: str) -> Listing:
        """Ask who is there at this moment.

        Raises:
            Refused: 1013, the database cannot be asked.
        """
        began = self._monotonic()
        found = await self._elsewhere([topic])
        here, _ = self._here(topic)
        return self._presence.listing(topic, found[topic], began, here)

    async def run(self) -> NoReturn:
        """Tell what changes. Cancel to end."""
        while True:
            await self._some.wait()
            if self._monotonic() >= self._read_due_at:
                await self._read()
            changed, self._changed = self._changed, set()
            for topic in changed:
                await self._show(topic)
                await self._pause()
            await asyncio.sleep(TICK)

    async def _read(self) -> None:
        began = self._monotonic()
        self._read_due_at = began + READ_SECONDS
        topics = tuple(self._watchers)
        try:
            found = await self._elsewhere(topics)
        except Refused:  # which has been logged
            self._presence.lost()
            return
        self._presence.read(began, found)
        self._changed.update(self._watchers.keys() & found.keys())

    async def _show(self, topic: str) -> None:
        if topic not in self._watchers:  # they left during a pause
            return
        here, asked = self._here(topic)
        diff = self._presence.update(topic, here, asked)
        if diff is not None:
            await self._tell(topic, diff)

    def _here(self, topic: str) -> tuple[dict[str, Person], set[str]]:
        """Who has a live socket here, and whose right to one is being asked for again."""
        here: dict[str, Person] = {}
        asked: set[str] = set()
        for one in self._hub.members(topic):
            user_id = one.user_id or ""
            known = here.get(user_id)
            if one.state is State.PAUSED:
                asked.add(user_id)
            elif one.state is State.LIVE and (known is None or one.opened_at < known.since):
                here[user_id] = Person(user_id, one.username or "", one.opened_at)
        return here, asked

    async def _tell(self, topic: str, diff: PresenceDiff) -> None:
        watchers = tuple(self._watchers[topic])
        if not diff:
            watchers = tuple(one for one in watchers if one not in self._told)
        if not watchers:
            return
        bot_id, now = bot_of(topic) or "", self._clock()
        diff_frames = self._frame([presence_diff(bot_id, diff.told(), now)])
        state_frames = self._frame(
            [presence_state(bot_id, self._presence.shown(topic).told(), now)]
        )
        for number, watcher in enumerate(watchers, 1):
            if number % FAN_OUT_SLICE == 0:
                await self._pause()
            if watcher.state is not State.LIVE:
                self._told.discard(watcher)  # it may not be told now; should it stay, all anew
            else:
                watcher.sink.send(diff_frames if watcher in self._told else state_frames)
                self._told.add(watcher)
