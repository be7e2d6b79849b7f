"""Which sockets this process has: by topic and by user. `hub` is one that also delivers."""

from collections.abc import Iterator

from realtime.relay.events import AccessChange
from realtime.relay.subscriber import State, Subscriber


class Directory:
    """The sockets, those included that are still joining or already leaving."""

    def __init__(self) -> None:
        self._subscribers: set[Subscriber] = set()
        self._topics: dict[str, set[Subscriber]] = {}
        self._users: dict[str, set[Subscriber]] = {}
        self._unidentified: set[Subscriber] = set()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Hold the topic's events for it from now on, until `go_live`."""
        self._subscribers.add(subscriber)
        self._topics.setdefault(subscriber.topic, set()).add(subscriber)
        self._unidentified.add(subscriber)

    def identify(self, subscriber: Subscriber, user_id: str, username: str) -> None:
        """Say whose socket it is, as soon as that is known."""
        subscriber.user_id = user_id
        subscriber.username = username
        self._unidentified.discard(subscriber)
        self._users.setdefault(user_id, set()).add(subscriber)

    def _remove(self, subscriber: Subscriber) -> None:
        """Forget it; it may be forgotten already."""
        self._subscribers.discard(subscriber)
        self._unidentified.discard(subscriber)
        _discard(self._topics, subscriber.topic, subscriber)
        if subscriber.user_id is not None:
            _discard(self._users, subscriber.user_id, subscriber)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._subscribers)

    def __iter__(self) -> Iterator[Subscriber]:
        """All of them, as of now."""
        return iter(tuple(self._subscribers))

    def joined(self) -> Iterator[Subscriber]:
        """The sockets that were let in and are not leaving yet."""
        return (one for one in self if one.is_joined)

    def count_of(self, user_id: str) -> int:
        """How many sockets the user has."""
        return len(self._users.get(user_id, ()))

    def on_topic(self, topic: str) -> Iterator[Subscriber]:
        """The sockets that are live on a topic."""
        return (one for one in self.members(topic) if one.state is State.LIVE)

    def members(self, topic: str) -> tuple[Subscriber, ...]:
        """All the sockets on a topic, in whatever state."""
        return tuple(self._topics.get(topic, ()))

    def has_members(self, topic: str) -> bool:
        """Whether anybody is on a topic."""
        return topic in self._topics

    def candidates(self, change: AccessChange) -> tuple[Subscriber, ...]:
        """The sockets that an access change may be about."""
        if change.user_id is not None:
            return (*self._users.get(change.user_id, ()), *self._unidentified)
        if change.topic is not None:
            return self.members(change.topic)
        return tuple(self._subscribers)


def _discard(index: dict[str, set[Subscriber]], key: str, subscriber: Subscriber) -> None:
    """Take a subscriber out of an index, and the key with its last one."""
    members = index.get(key)
    if members is not None:
        members.discard(subscriber)
        if not members:
            del index[key]
