"""What is told of what happens to the hub's sockets."""

from realtime.relay.events import AccessChange
from realtime.relay.subscriber import Subscriber


class HubObserver:
    """Is called when something happens to the hub's sockets. Override what you need."""

    def joined(self, subscriber: Subscriber) -> None:
        """The socket has gone live for the first time."""

    def left(self, subscriber: Subscriber) -> None:
        """A socket that had joined will be sent nothing more."""

    def access_changed(self, change: AccessChange) -> None:
        """The change has been applied to all sockets."""


class Observers(HubObserver):
    """Tells all of them, in the order in which they were added."""

    def __init__(self) -> None:
        self._all: list[HubObserver] = []

    def add(self, observer: HubObserver) -> None:
        """Tell it from now on."""
        self._all.append(observer)

    def joined(self, subscriber: Subscriber) -> None:
        for one in self._all:
            one.joined(subscriber)

    def left(self, subscriber: Subscriber) -> None:
        for one in self._all:
            one.left(subscriber)

    def access_changed(self, change: AccessChange) -> None:
        for one in self._all:
            one.access_changed(change)
