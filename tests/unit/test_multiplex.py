"""Tests of `realtime.web.multiplex`: how the subscriptions of one socket share it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from realtime.relay.protocol import Message, Target
from realtime.relay.subscriber import HoldLimit
from realtime.web.multiplex import SharedSocket, Subscription
from realtime.web.sink import SocketSink
from realtime.web.stream import ClientStream


class Shared:
    """A socket with two subscriptions, and its other end."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        self.theirs = theirs
        self.stream = ClientStream(ours, 1_000_000, asyncio.get_running_loop())
        self.ended: list[tuple[Target, int]] = []
        self.closed: list[int] = []
        self.sink = SocketSink(self.stream, lambda code, _reason: self.closed.append(code))
        shared = SharedSocket(self.sink, HoldLimit(0))
        self.first, self.second = (
            Subscription(Target(name), shared, self._on_close) for name in ("first", "second")
        )

    def _on_close(self, one: Subscription, code: int, _reason: str) -> None:
        self.ended.append((one.target, code))


@contextmanager
def shared() -> Iterator[Shared]:
    ours, theirs = socket.socketpair()
    with theirs:
        one = Shared(ours, theirs)
        yield one
        one.stream.close()


@pytest.mark.gen_test
async def test_what_is_lent_to_all_is_taken_back_from_all() -> None:
    """They lend the same; when something waits, whoever sent it, all have it no longer."""
    with shared() as one:
        withdrawn: list[str] = []
        sends = [
            one.first.lend(lambda: withdrawn.append("first")),
            one.second.lend(lambda: withdrawn.append("second")),
        ]
        assert sends[0] is not None
        assert sends[0] == sends[1]
        one.first.send(b"x" * 100_000)
        assert sorted(withdrawn) == ["first", "second"]
        assert one.second.lend(lambda: None) is None
        assert (one.first.is_idle, one.second.is_idle) == (False, False)
        one.second.send(b"x" * 2_000_000)
        assert one.closed == [1013]
        assert sorted(withdrawn) == ["first", "second"]


@pytest.mark.gen_test
async def test_who_has_ended_has_nothing_lent_any_more() -> None:
    """Its end is told once; the other goes on with what it has."""
    with shared() as one:
        withdrawn: list[str] = []
        for subscription, name in ((one.first, "first"), (one.second, "second")):
            subscription.lend(lambda name=name: withdrawn.append(name))  # type: ignore[misc]
        for code in (4003, 1013):
            one.first.close(code, "why")
        assert (one.ended, one.first.is_closed) == ([(Target("first"), 4003)], True)
        assert (one.second.is_closed, one.closed) == (False, [])
        assert one.first.lend(lambda: None) is None
        one.first.send(b"nothing")
        one.second.send(one.second.frame([Message(b"hello")]))
        assert one.theirs.recv(100) == b"\x81\x05hello"
        one.second.send(b"x" * 100_000)
        assert withdrawn == ["second"]


@pytest.mark.gen_test
async def test_a_message_that_is_broken_off_ends_the_socket() -> None:
    """The rest of it is all that may follow."""
    with shared() as one:
        one.first.send_part(Message(b"begun"), is_first=True, is_last=False)
        one.second.send(b"later")
        one.first.break_off(1013, "why")
        assert one.theirs.recv(100) == b"\x01\x05begun"
        assert (one.closed, one.ended) == ([1013], [])
        assert one.second.is_closed


@pytest.mark.gen_test
async def test_missed_events_are_sent_in_turns() -> None:
    """All have the one turn of their socket."""
    with shared() as one:
        async with one.first.turn:
            assert one.second.turn.locked()
