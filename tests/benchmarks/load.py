"""The load generator: thousands of clients in one lean process that receive and count.

Started by `generator.py` as a process of its own, so that what it costs is not the server's, and
told what to do by lines of JSON on standard input. It reads with epoll, walks over frame headers
without looking inside, and says with each result how busy it was.
"""

from __future__ import annotations

import gc
import json
import os
import re
import select
import socket
import struct
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from tests.benchmarks.tally import Counters, now, stamps_of
from tests.benchmarks.wire import CLOSE, PING, PONG, TEXT, masked, small_or_long_frame

RECEIVE_BYTES = 262_144
TICK_SECONDS = 0.05
STDIN = 0
MEDIUM = 126
"""Frames of 126 to 65,535 bytes say this as their length: all events do, and little else."""
FIRST_EVENT = b'"connection_established"'
EVENT_LINE = b'data: {"id"'
SUBSCRIBE = b'{"type":"subscribe","data":{"bot_id":"%s"}}'
CURSOR = re.compile(rb'"cursor":"([^"]+)"')
_header = struct.Struct(">BBH").unpack_from


class Client:
    """One WebSocket, from its handshake on; or one answer with server-sent events."""

    __slots__ = ("is_open", "is_sampled", "is_upgraded", "number", "rest", "sock", "subscribed")

    def __init__(self, sock: socket.socket, number: int, is_sampled: bool) -> None:
        self.sock = sock
        self.number = number
        self.is_sampled = is_sampled
        self.is_upgraded = False
        self.is_open = False
        self.rest = b""
        self.subscribed = 0
        """How many subscriptions it has, where it may have many."""


class Walked:
    """What was received at once, and what was found in it.

    A server that writes several events at once sends the same bytes to everybody on a topic. They
    are walked over once, so that the load takes less from the server on the same machine.
    """

    def __init__(self, data: bytes, end: int, found: int) -> None:
        self.data = data
        self.end = end
        """Where the last whole frame ends."""
        self.found = found
        """How many events."""

    @cached_property
    def stamps(self) -> array[int]:
        """When they were written."""
        return stamps_of(self.data, self.end)


class Opening:
    """A batch of handshakes under way."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.waiting = deque(request.encode() for request in order["requests"])
        self.total = len(self.waiting)
        self.in_flight = 0
        self.most_in_flight = order["in_flight"]
        self.sample_every = order["sample_every"]
        self.bots: list[str] = order["bots"]
        """What each subscribes to, where it has to."""
        self.opened = 0
        self.failed = 0
        self.cursors = [""] * self.total
        """In the order of the requests, where the server gives any."""
        self.started = now()
        self.ends = time.monotonic() + order["limit"]

    @property
    def is_over(self) -> bool:
        return self.opened + self.failed == self.total or time.monotonic() > self.ends


class Generator:
    """Everything that the process does.

    Args:
        port: of the server, on loopback.
        dialect: what a server says first: `plain` nothing, `welcome` a `connection_established`,
            `socketio` Engine.IO's and Socket.IO's greetings. `multi`: it subscribes to many bots
            first. `sse`: events over HTTP.
    """

    def __init__(self, port: int, dialect: str) -> None:
        self._address = ("127.0.0.1", port)
        self._dialect = dialect
        self._epoll = select.epoll()
        self._epoll.register(STDIN, select.EPOLLIN)
        self._orders = b""
        self._clients: dict[int, Client] = {}
        self._opening: Opening | None = None
        self._tally: Counters | None = None
        self._lost = 0
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._walked = Walked(b"", 0, 0)

    def run(self) -> None:
        """Work until standard input ends."""
        while True:
            for descriptor, _ in self._epoll.poll(TICK_SECONDS, 4096):
                if descriptor != STDIN:
                    self._receive(descriptor)
                elif not self._take_orders():
                    return
            self._open_more()
            self._report()

    # What it is told, and says.

    def _take_orders(self) -> bool:
        received = os.read(STDIN, 1 << 20)
        *lines, self._orders = (self._orders + received).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return bool(received)

    def _obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "open":
                self._opening = Opening(order)
            case "measure":
                self._lost = 0
                order.pop("do")
                self._tally = Counters(**order)
                self._say(measuring=True)
            case "expect" if self._tally is not None:
                self._tally.expected = order["expected"]
            case "close":
                for descriptor in tuple(self._clients):
                    self._drop(descriptor)
                self._say(closed=True)

    def _report(self) -> None:
        opening, tally = self._opening, self._tally
        if opening is not None and opening.is_over:
            self._opening = None
            self._say(
                opened=opening.opened,
                seconds=(now() - opening.started) / 1_000_000,
                started=opening.started,
                cursors=opening.cursors,
            )
        if tally is not None and tally.is_over():
            self._tally = None
            self._say(**tally.result(), lost_sockets=self._lost)

    def _say(self, **words: Any) -> None:
        print(json.dumps(words), flush=True)

    # Handshakes.

    def _open_more(self) -> None:
        opening = self._opening
        while opening and opening.waiting and opening.in_flight < opening.most_in_flight:
            # On loopback the kernel answers for the server, so this does not block.
            number = opening.total - len(opening.waiting)
            sock = socket.create_connection(self._address, timeout=10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(opening.waiting.popleft())
            sock.setblocking(False)
            is_sampled = len(self._clients) % opening.sample_every == 0
            self._clients[sock.fileno()] = Client(sock, number, is_sampled)
            self._epoll.register(sock, select.EPOLLIN)
            opening.in_flight += 1

    def _greet(self, client: Client, data: bytes) -> bytes:
        """Take the greetings off the front; what is left."""
        if not client.is_upgraded:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                return head
            if (b" 200 " if self._dialect == "sse" else b" 101 ") not in head.split(b"\r\n", 1)[0]:
                raise ConnectionError(f"refused: {head[:80]!r}")
            client.is_upgraded = True
        if self._dialect == "sse":
            if FIRST_EVENT in data:
                self._opened(client)
            return data
        while not client.is_open:
            if self._dialect != "plain":
                found = small_or_long_frame(data, 0)
                if found is None:
                    return data
                _, end_of_frame, payload = found
                data = data[end_of_frame:]
                if not self._is_last_greeting(client, payload):
                    continue
            self._opened(client)
        return data

    def _is_last_greeting(self, client: Client, payload: bytes) -> bool:
        if self._dialect == "multi":
            return self._has_all(client, payload)
        if self._dialect == "welcome":
            cursor = CURSOR.search(payload)
            if cursor is None or self._opening is None:
                raise ConnectionError(f"refused: {payload!r}")
            self._opening.cursors[client.number] = cursor[1].decode()
            return True
        if payload.startswith(b"0"):  # Engine.IO: open. Then Socket.IO: connect, "40".
            client.sock.send(masked(TEXT, b"40"))
        return payload.startswith(b"40")

    def _has_all(self, client: Client, payload: bytes) -> bool:
        """Subscribe to every bot as soon as that may be done; whether all are there."""
        assert self._opening is not None
        bots = self._opening.bots
        if b'"connection_established"' in payload:
            for bot in bots:
                client.sock.send(masked(TEXT, SUBSCRIBE % bot.encode()))
        elif b'"subscribed"' in payload:
            client.subscribed += 1
        else:
            raise ConnectionError(f"refused: {payload!r}")
        return client.subscribed == len(bots)

    def _opened(self, client: Client) -> None:
        client.is_open = True
        if self._opening is not None:
            self._opening.opened += 1
            self._opening.in_flight -= 1

    # What arrives.

    def _receive(self, descriptor: int) -> None:
        client = self._clients.get(descriptor)
        if client is None:
            return
        try:
            # To have so large a buffer made each time costs more than all else here.
            size = client.sock.recv_into(self._buffer)
            if not size:
                raise ConnectionError("closed by the server")
            data = bytes(self._buffer[:size])
            if client.rest:
                data = client.rest + data
            if not client.is_open:
                data = self._greet(client, data)
            client.rest = self._count(client, data) if client.is_open else data
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(descriptor, client, error)

    def _count(self, client: Client, data: bytes) -> bytes:
        """Count the events in the data; the incomplete frame at its end."""
        walked = self._walked
        if data != walked.data:
            walked = self._walk_lines(data) if self._dialect == "sse" else self._walk(client, data)
        if walked.found and self._tally is not None:
            self._tally.deliveries += walked.found
            self._tally.last_received = now()
            if client.is_sampled:
                self._tally.sample(walked.stamps)
        return data[walked.end :]

    def _walk(self, client: Client, data: bytes) -> Walked:
        """Walk over the frames, and answer those that are no events."""
        position, end, found, is_of_events = 0, len(data), 0, True
        while position < end:
            if end - position >= 4:
                first, length, size = _header(data, position)
                if length == MEDIUM and first == TEXT:
                    after = position + 4 + size
                    if after > end:
                        break
                    found += 1
                    position = after
                    continue
            other = small_or_long_frame(data, position)
            if other is None:
                break
            is_of_events = False
            self._answer(client, other[0], other[2])
            position = other[1]
        walked = Walked(data, position, found)
        if is_of_events:
            self._walked = walked
        return walked

    def _walk_lines(self, data: bytes) -> Walked:
        """The same for server-sent events: each ends with an empty line."""
        last = data.rfind(b"\n\n")
        end = 0 if last < 0 else last + 2
        self._walked = Walked(data, end, data.count(EVENT_LINE, 0, end))
        return self._walked

    def _answer(self, client: Client, first: int, payload: bytes) -> None:
        if first == PING:
            client.sock.send(masked(PONG, payload))
        elif first == TEXT and payload == b"2":  # Engine.IO: ping
            client.sock.send(masked(TEXT, b"3"))
        elif first == CLOSE:
            raise ConnectionError(f"closed: {payload!r}")

    # Ends.

    def _lose(self, descriptor: int, client: Client, error: OSError) -> None:
        if not self._lost:
            print(f"lost a socket: {error}", file=sys.stderr, flush=True)
        self._lost += 1
        if not client.is_open and self._opening is not None:
            self._opening.failed += 1
            self._opening.in_flight -= 1
        self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._clients.pop(descriptor).sock.close()


def main(arguments: Iterable[str]) -> None:
    port, dialect = arguments
    # Nothing here makes cycles, and a collection in the middle would show as the server's delay.
    gc.disable()
    Generator(int(port), dialect).run()


if __name__ == "__main__":
    main(sys.argv[1:])
