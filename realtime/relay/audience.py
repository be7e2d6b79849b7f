"""The sockets on one topic, and how one delivery goes out to all of them.

A wide fan-out costs what the processor has to fetch: each object that is looked at for a socket is
cold. So the sockets that can simply be sent the frames are in a list of their own, as nothing but
the callables that their sinks lend. Such a socket is live, has no `since`, and nothing waits on its
way out. It leaves the list at the moment when one of these ends. It is looked at again, and comes
back, when the next delivery has gone to it in the ordinary way.
"""

from collections.abc import Iterable, Iterator

from realtime.relay.protocol import Framer
from realtime.relay.subscriber import Delivery, SendNow, State, Subscriber


class Audience:
    """The sockets on one topic. Each is either in the list of those sent to directly, or apart."""

    __slots__ = ("_apart", "_direct", "_left")

    def __init__(self) -> None:
        self._direct: dict[Framer, dict[SendNow, Subscriber]] = {}
        """By the kind of frames that they are sent."""
        self._apart: set[Subscriber] = set()
        self._left: dict[SendNow, Subscriber] | None = None
        """Who has left the list since the fan-out began that is under way, if one is."""

    def __len__(self) -> int:
        return sum(map(len, self._direct.values())) + len(self._apart)

    def __iter__(self) -> Iterator[Subscriber]:
        for direct in self._direct.values():
            yield from direct.values()
        yield from self._apart

    def add(self, subscriber: Subscriber) -> None:
        """Add a socket; it is apart at first."""
        subscriber.audience = self
        self._apart.add(subscriber)

    def discard(self, subscriber: Subscriber) -> None:
        """Remove a socket, if it is here."""
        self.leave(subscriber)
        self._apart.discard(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Take a socket out of the list, if it is in it: from now on, look at it before sending."""
        send, subscriber.send_now = subscriber.send_now, None
        if send is not None:
            del self._direct[subscriber.sink.frame][send]
            self._apart.add(subscriber)
            if self._left is not None:
                self._left[send] = subscriber

    def _enter(self, subscriber: Subscriber) -> None:
        """Put a socket into the list, if it may be there."""
        if subscriber.state is State.LIVE and subscriber.since is None:
            send = subscriber.sink.lend(subscriber.leave_direct)
            if send is not None:
                subscriber.send_now = send
                self._apart.discard(subscriber)
                self._direct.setdefault(subscriber.sink.frame, {})[send] = subscriber

    def fan_out(self, delivery: Delivery, size: int) -> Iterator[None]:
        """Send to all that are here now, and yield after each `size` sockets but the last.

        Meanwhile sockets may come, leave the list, and go. Who comes later is not sent it.
        """
        direct = [(frame, list(sends)) for frame, sends in self._direct.items() if sends]
        apart = list(self._apart)
        self._left = {}
        room = size
        try:
            for frame, sends in direct:
                frames = delivery.framed(frame)
                while sends:
                    if not room:
                        yield
                        room = size
                    now, sends = sends[:room], sends[room:]
                    room -= len(now)
                    self._send_directly(now, delivery, frames)
            while apart:
                if not room:
                    yield
                    room = size
                ones, apart = apart[:room], apart[room:]
                room -= len(ones)
                for subscriber in ones:
                    subscriber.deliver(delivery)
                    self._enter(subscriber)
            if not self._apart:
                self._apart.clear()  # or it stays as large as it was, and is walked each time
        finally:
            self._left = None

    def _send_directly(self, sends: Iterable[SendNow], delivery: Delivery, frames: bytes) -> None:
        left, size = self._left, len(frames)
        assert left is not None
        for send in sends:
            if left and send in left:
                left[send].deliver(delivery)
                continue
            try:
                sent = send(frames)
            except OSError:
                self._take_out(send).sink.send(frames)
            else:
                if sent != size:
                    self._take_out(send).sink.send_rest(frames, sent)

    def _take_out(self, send: SendNow) -> Subscriber:
        """The kernel is full, or the connection is over: the sink itself knows what to do."""
        subscriber = next(found[send] for found in self._direct.values() if send in found)
        self.leave(subscriber)
        return subscriber
