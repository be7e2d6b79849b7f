"""Who is shown as present on a bot. It is about users, not sockets, and ignores a reload of a page.

Two sources say who has a socket: this process's memory (`here`), and readings of the rows that the
other processes write (`remote`). No user leaves just because time passes: only a reading can say
so. So nothing changes while the database is away. Access changes come with the log and count at
once on every process, before the rows of the others change.

`Presence` says whom to show, `PresenceBroadcaster` tells the sockets that ask for it. Nothing is
read while no socket asks.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from realtime.relay.errors import Refused
from realtime.relay.events import AccessChange, AccessKind
from realtime.relay.hub import FAN_OUT_SLICE, Hub
from realtime.relay.observers import HubObserver
from realtime.relay.protocol import bot_of, presence_diff, presence_state, rfc3339
from realtime.relay.subscriber import Framed, State, Subscriber

RECHECK_SECONDS = 12.0
"""How long after an access change its users have no grace, unless they were let in again since, and
the others' rows of those who were cut off are not believed: a process removes them soon, but one
that died is counted until its heartbeat is old."""
RECOVERY_SECONDS = 10.0
"""How long after an outage nobody leaves: the processes write their sockets again."""
MAX_PEOPLE = 1000
"""How many users are shown on one bot."""
MAX_ACCESS_CHANGES = 10_000
"""How many access changes of the last seconds are remembered, at most."""

NEVER = float("-inf")


class Person(NamedTuple):
    user_id: str
    username: str
    since: float
    """When the user's oldest socket was opened, in epoch seconds."""


People = Mapping[str, Person]
"""The users on a topic, by user id."""


class Listing(NamedTuple):
    """Who is present; those who are there the longest come first."""

    people: list[Person]
    is_truncated: bool
    """Whether there are more than are shown."""

    def told(self) -> dict[str, Any]:
        """The fields as docs/protocol.md has them."""
        return {"users": _told(self.people), **_truncated(self.is_truncated)}


class PresenceDiff(NamedTuple):
    """Who is shown from now on, and who is no longer shown."""

    joined: list[Person]
    left: list[Person]
    is_truncated: bool

    def __bool__(self) -> bool:
        return bool(self.joined or self.left)

    def told(self) -> dict[str, Any]:
        """The fields as docs/protocol.md has them."""
        both = {"joined": _told(self.joined), "left": _told(self.left)}
        return {**both, **_truncated(self.is_truncated)}


@dataclass(slots=True)
class _Bot:
    """What is known about the users on one bot."""

    shown: dict[str, Person] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)
    """Users who are shown and missing, and when that was noticed."""
    let_in: dict[str, float] = field(default_factory=dict)
    """Users who are shown, and when they last proved that they may be: access changes from before
    that are over for them."""
    remote: People = field(default_factory=dict)
    read_at: float = NEVER
    """When the reading that found the remote users began."""
    is_truncated: bool = False


class Presence:
    """Who is shown where, for the bots on which this process has sockets that ask for it.

    Args:
        clock: monotonic seconds.
        grace: how many seconds somebody may be missing, as one is who reloads the page.
        max_people: how many are shown on one bot.
        max_access_changes: how many access changes are remembered.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        grace: float,
        max_people: int = MAX_PEOPLE,
        max_access_changes: int = MAX_ACCESS_CHANGES,
    ) -> None:
        self._clock = clock
        self._grace = grace
        self._max_people = max_people
        self._bots: dict[str, _Bot] = {}
        self._changes = _AccessChanges(clock, max_access_changes)
        self._steady_from = NEVER

    def open(self, topic: str) -> None:
        """A socket asks about a bot. Nothing is known until the first reading."""
        self._bots[topic] = _Bot()

    def close(self, topic: str) -> None:
        """No socket asks about the bot any more."""
        del self._bots[topic]

    def read(self, began: float, found: Mapping[str, People]) -> None:
        """A reading of who is on other processes, for these topics.

        Args:
            began: when it was asked for, on the clock.
        """
        for topic in found.keys() & self._bots.keys():
            bot = self._bots[topic]
            bot.remote, bot.read_at = found[topic], began

    def lost(self) -> None:
        """The database was away: its first answers may not list everybody."""
        self._steady_from = self._clock() + RECOVERY_SECONDS

    def access_changed(self, change: AccessChange) -> None:
        """Note that a user's access has ended, or is being checked."""
        self._changes.note(change)

    def update(self, topic: str, here: People, asked: Collection[str]) -> PresenceDiff | None:
        """Find what has changed since the last time; None while nothing was ever read.

        Args:
            here: who has a live socket in this process.
            asked: whose right is being asked for again: they neither come nor leave.
        """
        bot = self._bots[topic]
        if bot.read_at == NEVER:
            return None
        # A socket that is live here was let in, or asked about, after the changes noted so far.
        bot.let_in.update(dict.fromkeys(bot.shown.keys() & here.keys(), self._clock()))
        present = self._present(topic, bot.remote, bot.read_at, here)
        left = self._take_out(topic, bot, present.keys() | set(asked))
        joined = self._let_in(bot, present)
        return PresenceDiff(joined, left, bot.is_truncated)

    def shown(self, topic: str) -> Listing:
        """Who is shown, as of the last update."""
        bot = self._bots[topic]
        return Listing(_longest_first(bot.shown.values()), bot.is_truncated)

    def listing(self, topic: str, remote: People, began: float, here: People) -> Listing:
        """Who is there at this moment, by a reading of its own."""
        people = _longest_first(self._present(topic, remote, began, here).values())
        return Listing(people[: self._max_people], len(people) > self._max_people)

    def _present(self, topic: str, remote: People, began: float, here: People) -> dict[str, Person]:
        is_cut_off = self._changes.is_cut_off
        found = {
            user_id: person
            for user_id, person in remote.items()
            if not is_cut_off(topic, user_id, began)
        }
        for user_id, person in here.items():
            other = found.get(user_id)
            if other is None or person.since < other.since:
                found[user_id] = person
        return found

    def _take_out(self, topic: str, bot: _Bot, there: Collection[str]) -> list[Person]:
        now, left = self._clock(), []
        for user_id, person in bot.shown.items():
            if user_id in there or self._may_be_elsewhere(topic, bot, user_id):
                bot.missing.pop(user_id, None)
            elif self._has_left(topic, bot, user_id, bot.missing.setdefault(user_id, now)):
                left.append(person)
        for person in left:
            del bot.shown[person.user_id], bot.missing[person.user_id], bot.let_in[person.user_id]
        return _longest_first(left)

    def _may_be_elsewhere(self, topic: str, bot: _Bot, user_id: str) -> bool:
        """Whether another process has a row of somebody who has come back since they were cut off.

        It may be from before, so it is not believed and shows nobody. But it may also be the tab
        that they reloaded, so it takes nobody away.
        """
        return user_id in bot.remote and not self._is_cut_off(topic, bot, user_id)

    def _is_cut_off(self, topic: str, bot: _Bot, user_id: str) -> bool:
        return self._changes.is_cut_off(topic, user_id, bot.read_at, since=bot.let_in[user_id])

    def _has_left(self, topic: str, bot: _Bot, user_id: str, missing_since: float) -> bool:
        if self._is_cut_off(topic, bot, user_id):
            return True
        if bot.read_at < self._steady_from:
            return False
        is_over = bot.read_at >= missing_since + self._grace
        return is_over or self._changes.is_recent(topic, user_id, since=bot.let_in[user_id])

    def _let_in(self, bot: _Bot, present: People) -> list[Person]:
        newcomers = [person for user_id, person in present.items() if user_id not in bot.shown]
        joined = _longest_first(newcomers)[: max(0, self._max_people - len(bot.shown))]
        bot.is_truncated = len(joined) < len(newcomers)
        now = self._clock()
        bot.shown.update((person.user_id, person) for person in joined)
        bot.let_in.update((person.user_id, now) for person in joined)
        return joined


class _AccessChanges:
    """The changes of the last seconds, by whom they are about."""

    def __init__(self, clock: Callable[[], float], max_kept: int) -> None:
        self._clock = clock
        self._max_kept = max_kept
        self._noted: OrderedDict[tuple[str | None, str | None], tuple[float, float]] = OrderedDict()
        """By user and topic: when, and when last without a chance to stay."""

    def note(self, change: AccessChange) -> None:
        now, key = self._clock(), (change.user_id, change.topic)
        _, cut_at = self._noted.pop(key, (NEVER, NEVER))
        self._noted[key] = (now, now if change.kind is AccessKind.REVOKE else cut_at)
        while not self._is_kept(next(iter(self._noted.values()))[0]):
            self._noted.popitem(last=False)
        if len(self._noted) > self._max_kept:
            self._noted.popitem(last=False)

    def is_recent(self, topic: str, user_id: str, *, since: float) -> bool:
        """Whether one was about this user lately, and not before `since`."""
        about = self._about(topic, user_id)
        return any(noted >= since and self._is_kept(noted) for noted, _ in about)

    def is_cut_off(self, topic: str, user_id: str, began: float, *, since: float = NEVER) -> bool:
        """Whether a reading of that time may list a user whose access had ended (after `since`)."""
        about = self._about(topic, user_id)
        return any(since <= cut_at and began < cut_at + RECHECK_SECONDS for _, cut_at in about)

    def _about(self, topic: str, user_id: str) -> list[tuple[float, float]]:
        if not self._noted:  # nearly always, and asked for everybody
            return []
        keys = ((user_id, topic), (user_id, None), (None, topic), (None, None))
        return [self._noted[key] for key in keys if key in self._noted]

    def _is_kept(self, noted: float) -> bool:
        return noted > self._clock() - RECHECK_SECONDS


def _longest_first(people: Iterable[Person]) -> list[Person]:
    return sorted(people, key=lambda person: (person.since, person.user_id))


def _told(people: Iterable[Person]) -> list[dict[str, str]]:
    return [
        {"user_id": person.user_id, "username": person.username, "since": rfc3339(person.since)}
        for person in people
    ]


def _truncated(is_truncated: bool) -> dict[str, bool]:
    return {"truncated": True} if is_truncated else {}


ReadRemotePeople = Callable[[Sequence[str]], Awaitable[Mapping[str, People]]]


class PresenceBroadcaster(HubObserver):
    """Tells sockets which users are on their bot.

    Args:
        read_remote: reads who has sockets in other processes, for each of some topics. Raises
            Refused if the database cannot be asked.
        pause: awaited between bots, and between the slices of a fan-out.
        monotonic: seconds.
        clock: epoch seconds, for the messages' timestamps.
        tick: seconds between two looks at what changed here; one message tells all of it.
        read_seconds: how often the other processes' sockets are read.
        fan_out_slice: how many sockets are told before other tasks get a turn.
    """

    def __init__(
        self,
        presence: Presence,
        hub: Hub,
        *,
        read_remote: ReadRemotePeople,
        pause: Callable[[], Awaitable[None]],
        monotonic: Callable[[], float],
        clock: Callable[[], float],
        tick: float,
        read_seconds: float,
        fan_out_slice: int = FAN_OUT_SLICE,
    ) -> None:
        self._tick = tick
        self._read_seconds = read_seconds
        self._fan_out_slice = fan_out_slice
        self._presence = presence
        self._hub = hub
        hub.add_observer(self)
        self._read_remote = read_remote
        self._pause = pause
        self._monotonic = monotonic
        self._clock = clock
        self._watchers: dict[str, set[Subscriber]] = {}
        """The sockets that asked to be told, by topic."""
        self._told: set[Subscriber] = set()
        """Of these, the sockets that have been sent everybody who is shown."""
        self._changed: set[str] = set()
        self._have_all_changed = False
        """Whether every topic counts as changed: a change for each would cost both together."""
        self._some = asyncio.Event()
        self._read_due_at = float("-inf")

    def joined(self, subscriber: Subscriber) -> None:
        if subscriber.wants_presence:
            self._watch(subscriber)
        self._note_change(subscriber.topic)

    def left(self, subscriber: Subscriber) -> None:
        if subscriber.wants_presence:
            self._unwatch(subscriber)
        self._note_change(subscriber.topic)

    def _note_change(self, topic: str) -> None:
        if topic in self._watchers:
            self._changed.add(topic)

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
        """The hub has applied the change to its sockets."""
        self._presence.access_changed(change)
        if change.topic is None:
            self._have_all_changed = True
        elif change.topic in self._watchers:
            self._changed.add(change.topic)

    def database_lost(self) -> None:
        """The connection to the database broke, and the unlogged table may be empty."""
        self._presence.lost()

    async def now(self, topic: str) -> Listing:
        """Ask who is there at this moment.

        Raises:
            Refused: 1013, the database cannot be asked.
        """
        began = self._monotonic()
        found = await self._read_remote([topic])
        here, _ = self._here(topic)
        return self._presence.listing(topic, found[topic], began, here)

    async def run(self) -> NoReturn:
        """Tell what changes, until cancelled."""
        while True:
            await self._some.wait()
            if self._monotonic() >= self._read_due_at:
                await self._read()
            for topic in self._take_changed():
                await self._show(topic)
                await self._pause()
            await asyncio.sleep(self._tick)

    def _take_changed(self) -> set[str]:
        """The topics that may have changed since the last time."""
        changed, self._changed = self._changed, set()
        if self._have_all_changed:
            changed.update(self._watchers)
            self._have_all_changed = False
        return changed

    async def _read(self) -> None:
        began = self._monotonic()
        self._read_due_at = began + self._read_seconds
        topics = tuple(self._watchers)
        try:
            found = await self._read_remote(topics)
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
        """Who has a live socket here, and whose access is being checked again."""
        here: dict[str, Person] = {}
        asked: set[str] = set()
        for one in self._hub.subscribers.on_topic(topic):
            if not one.is_present:
                continue
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
        news = Framed([presence_diff(bot_id, diff.told(), now)])
        # Up to 1,000 users, and nearly always all have been told; nobody is let in meanwhile.
        everybody = news
        if not self._told.issuperset(watchers):
            everybody = Framed([presence_state(bot_id, self._presence.shown(topic).told(), now)])
        for number, watcher in enumerate(watchers, 1):
            if number % self._fan_out_slice == 0:
                await self._pause()
            if watcher.state is not State.LIVE:
                # It may not be told now. If it stays, it is told everything again.
                self._told.discard(watcher)
            else:
                told = news if watcher in self._told else everybody
                watcher.sink.send(told.by(watcher.sink.frame))
                self._told.add(watcher)
