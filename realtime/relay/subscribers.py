"""Who is subscribed: all sockets of this process, by topic and by user, from handshake to end."""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from itertools import chain

from realtime.relay.audience import Audience
from realtime.relay.events import AccessChange
from realtime.relay.subscriber import State, Subscriber


class Subscribers:
    """The sockets of this process. Only the hub adds and removes."""

    def __init__(self) -> None:
        self._all: set[Subscriber] = set()
        self._topics: dict[str, Audience] = {}
        self._users: dict[str, set[Subscriber]] = {}
        self._unidentified: dict[str, set[Subscriber]] = {}
        """Those whose user is not known yet, by topic."""
        self._open: set[Subscriber] = set()
        """The sockets that are not closing."""
        self._open_of: Counter[str] = Counter()
        """How many of these each user has."""

    # Coming and going.

    def add(self, subscriber: Subscriber) -> None:
        """Add one whose user is not known yet."""
        self._all.add(subscriber)
        if subscriber.is_socket:
            self._open.add(subscriber)
        audience = self._topics.get(subscriber.topic)
        if audience is None:
            audience = self._topics[subscriber.topic] = Audience()
        audience.add(subscriber)
        self._unidentified.setdefault(subscriber.topic, set()).add(subscriber)

    def identify(self, subscriber: Subscriber, user_id: str, username: str) -> None:
        """Set its user, as soon as it is known."""
        subscriber.user_id = user_id
        subscriber.username = username
        _discard(self._unidentified, subscriber.topic, subscriber)
        if not self._unidentified:
            self._unidentified.clear()  # or it stays as large as it was
        self._users.setdefault(user_id, set()).add(subscriber)
        if subscriber in self._open:
            self._open_of[user_id] += 1

    def count_as_gone(self, subscriber: Subscriber) -> None:
        """It is closing: it is not open any more, even if its close takes time."""
        if subscriber not in self._open:
            return
        self._open.remove(subscriber)
        user_id = subscriber.user_id
        if user_id is not None:
            self._open_of[user_id] -= 1
            if not self._open_of[user_id]:
                del self._open_of[user_id]

    def remove(self, subscriber: Subscriber) -> None:
        """Remove it; it may be removed already."""
        self._all.discard(subscriber)
        self.count_as_gone(subscriber)
        _discard(self._unidentified, subscriber.topic, subscriber)
        _discard(self._topics, subscriber.topic, subscriber)
        if subscriber.user_id is not None:
            _discard(self._users, subscriber.user_id, subscriber)

    # Who is here.

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def __iter__(self) -> Iterator[Subscriber]:
        """All, as of now."""
        return iter(tuple(self._all))

    @property
    def open_count(self) -> int:
        """The number of sockets that are not closing."""
        return len(self._open)

    def joined(self) -> Iterator[Subscriber]:
        """Those that were accepted and are not closing."""
        return (one for one in self if one.is_joined)

    def count_of(self, user_id: str) -> int:
        """How many sockets the user has that are not closing."""
        return self._open_of.get(user_id, 0)

    def of_user(self, user_id: str) -> Set[Subscriber]:
        """Those of a user."""
        return self._users.get(user_id, frozenset())

    def of_user_on(self, user_id: str, topic: str) -> list[Subscriber]:
        """Those of a user on a topic.

        A user may have thousands of subscriptions, and a topic thousands of sockets, but hardly
        ever both. So no index by both is needed, which would have a set for nearly each socket.
        """
        theirs, there = self.of_user(user_id), self._topics.get(topic)
        if there is None:
            return []
        few: Iterable[Subscriber] = theirs if len(theirs) < len(there) else there
        return [one for one in few if one.topic == topic and one.user_id == user_id]

    def topics(self) -> tuple[str, ...]:
        """The topics that have a socket, as of now."""
        return tuple(self._topics)

    def has_topic(self, topic: str) -> bool:
        """Whether a topic has a socket."""
        return topic in self._topics

    def audience(self, topic: str) -> Audience | None:
        """Those on a topic, as a delivery goes out to them; None: there are none."""
        return self._topics.get(topic)

    def on_topic(self, topic: str) -> tuple[Subscriber, ...]:
        """Those on a topic, in any state."""
        return tuple(self._topics.get(topic, ()))

    def live_on(self, topic: str) -> Iterator[Subscriber]:
        """Those that are live on a topic."""
        return (one for one in self.on_topic(topic) if one.state is State.LIVE)

    def candidates(self, change: AccessChange) -> tuple[Subscriber, ...]:
        """Those that an access change may be about."""
        user_id, topic = change.user_id, change.topic
        if user_id is None:
            return tuple(self._all) if topic is None else self.on_topic(topic)
        if topic is None:
            return (*self.of_user(user_id), *chain.from_iterable(self._unidentified.values()))
        return (*self.of_user_on(user_id, topic), *self._unidentified.get(topic, ()))


def _discard(
    index: dict[str, set[Subscriber]] | dict[str, Audience], key: str, subscriber: Subscriber
) -> None:
    """Remove a subscriber from an index, and its key if it was the last one."""
    members = index.get(key)
    if members is not None:
        members.discard(subscriber)
        if not members:
            del index[key]
