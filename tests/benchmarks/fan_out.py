"""What one event costs from the page of a read to the kernel, in CPU time of this process.

    python -m tests.benchmarks.fan_out

A hub with real sockets, without a database and without clients: what was sent is read and dropped
between the measurements. A socket of the list `bare` is sent finished bytes, and nothing else.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from realtime.relay.cursor import Anchor, Cursor, Database, Key, Signer, Snapshot
from realtime.relay.events import Event, Page
from realtime.relay.hub import Hub
from realtime.relay.position import Position
from realtime.relay.protocol import Message, Target
from realtime.relay.subscriber import HoldLimit, Sink, Subscriber
from realtime.web.multiplex import SharedSocket, Subscription
from realtime.web.sink import SocketSink
from realtime.web.sse import EventSink
from realtime.web.stream import ClientStream

ROUNDS = 7
EVENTS = 40
"""Measured together for a topic: few enough that the kernel takes them all."""
MAX_EVENTS = 4000
"""Not more for all topics, or it takes minutes."""
REPEATS = 5
PAYLOAD = '{"type":"message","data":{"text":"' + "x" * 160 + '"}}'
HTTP, SHARED = "over HTTP", "shared"
"""Clients that take events over HTTP; sockets that are the same for all topics."""
SHAPES = (
    *((1, 1, ""), (1, 10, ""), (1, 100, ""), (1, 1000, "")),
    *((250, 4, ""), (500, 2, "")),
    *((1, 100, HTTP), (500, 2, HTTP)),
    *((100, 10, ""), (100, 10, SHARED)),
)
"""How many topics, how many sockets on each, and of which kind."""
SIGNER = Signer(Database(7, 5, 1), (Key(b"i" * 64, b"o" * 64),))


class Crowd:
    """A hub with sockets that are live, and their other ends."""

    def __init__(self, topics: int, each: int, kind: str) -> None:
        self._stack = ExitStack()
        self._others: list[socket.socket] = []
        self.sockets: list[socket.socket] = []
        self._next = 1
        self._sink = EventSink if kind == HTTP else SocketSink
        is_shared = kind == SHARED
        self.topics = [f"bot:{number:036}" for number in range(topics)]
        self.hub = Hub(
            self._position(0),
            frame=SocketSink.frame,
            pause=lambda: asyncio.sleep(0),
            ask_again=lambda _subscriber, _pending: None,
            monotonic=time.monotonic,
        )
        shared = [SharedSocket(self._make_sink(), HoldLimit(0)) for _ in range(each * is_shared)]
        sinks: Iterator[Sink] = (
            Subscription(Target(topic), shared[number], lambda *_: None)
            if is_shared
            else self._make_sink()
            for topic in self.topics
            for number in range(each)
        )
        for topic in self.topics:
            for _ in range(each):
                self._join(topic, next(sinks))

    def _position(self, xid: int) -> Position:
        return Position(Cursor(xid, (), Anchor(xid, xid, xid) if xid else None), SIGNER)

    def _make_sink(self) -> SocketSink:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._others.append(self._stack.enter_context(theirs))
        ours.setblocking(False)
        stream = ClientStream(ours, 1_000_000, asyncio.get_running_loop())
        self._stack.callback(stream.close)
        self.sockets.append(ours)
        return self._sink(stream, lambda _code, _reason: None)

    def _join(self, topic: str, sink: Sink) -> None:
        one = Subscriber(topic, "c", sink, opened_at=0.0, hold=HoldLimit(1_000_000))
        self.hub.subscribe(one)
        self.hub.identify(one, f"user {len(self._others)}", "somebody")
        self.hub.go_live(one, Cursor(0))

    def pages(self, count: int) -> list[tuple[Page, Position]]:
        """One event each, to one topic after another."""
        made = []
        for xid in range(self._next, self._next + count):
            topic = self.topics[xid % len(self.topics)]
            event = Event(xid, xid, topic, PAYLOAD, written_at=xid)
            made.append(
                (Page(Snapshot(xid + 1, frozenset()), (), (event,), True), self._position(xid))
            )
        self._next += count
        return made

    def drain(self) -> None:
        """Read what was sent."""
        for one in self._others:
            try:
                while one.recv(65536):
                    pass
            except BlockingIOError:
                pass

    def close(self) -> None:
        self._stack.close()


@contextmanager
def _crowd(topics: int, each: int, kind: str) -> Iterator[Crowd]:
    crowd = Crowd(topics, each, kind)
    try:
        yield crowd
    finally:
        crowd.close()


async def _delivering(crowd: Crowd, events: int) -> float:
    """CPU seconds that the events took. The pages and positions are made before, by the reader."""
    pages = crowd.pages(events)
    begun = time.process_time()
    for page, position in pages:
        await crowd.hub.deliver(page, position)
    spent = time.process_time() - begun
    crowd.drain()
    return spent


async def _sending(crowd: Crowd, events: int, each: int) -> float:
    """The same bytes by `send` alone."""
    data = SocketSink.frame([Message(b"x" * 480)])
    sends = [one.send for one in crowd.sockets]
    begun = time.process_time()
    for number in range(events):
        first = number * each % len(sends)
        for send in sends[first : first + each]:
            send(data)
    spent = time.process_time() - begun
    crowd.drain()
    return spent


async def measure(topics: int, each: int, kind: str) -> tuple[float, float]:
    """Seconds an event, by the hub and by `send` alone."""
    is_shared = kind == SHARED
    events = EVENTS if is_shared else min(MAX_EVENTS, EVENTS * topics)
    with _crowd(topics, each, kind) as crowd:
        for _ in range(topics if is_shared else 1):
            await _delivering(crowd, events)  # sockets that have just come are not like the others
        ours = [await _delivering(crowd, events) for _ in range(REPEATS)]
        bare = [await _sending(crowd, events, each) for _ in range(REPEATS)]
    return min(ours) / events, min(bare) / events


def main(write: Callable[[str], object] = print) -> None:
    write(f"{'topics × sockets':>18} {'µs an event':>12} {'a delivery':>11} {'bare send':>10}")
    for topics, each, kind in SHAPES:
        rounds = [asyncio.run(measure(topics, each, kind)) for _ in range(ROUNDS)]
        ours, bare = (median(column) * 1e6 for column in zip(*rounds, strict=True))
        name = f"{topics} × {each} {kind}".rstrip()
        write(f"{name:>18} {ours:12.1f} {ours / each:11.2f} {bare / each:10.2f}")


if __name__ == "__main__":
    main()
