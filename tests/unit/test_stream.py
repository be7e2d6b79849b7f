"""Tests of `realtime.web.stream`: what is sent arrives whole and in order, over a full kernel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tornado.iostream import IOStream

from realtime.web.stream import PARTS_AT_ONCE, BufferFull, ClientStream, take_over
from tests.waiting import LIMIT, eventually

MUCH = 1_000_000


class Told:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.data = b""
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self) -> None:
        assert not self.is_lost
        self.is_lost = True


@contextmanager
def pair(max_waiting: int | None = None) -> Iterator[tuple[ClientStream, socket.socket]]:
    """A stream with a small buffer in the kernel, and its other side."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stream = ClientStream(ours, max_waiting, asyncio.get_running_loop())
    with theirs:
        yield stream, theirs
        stream.close()


async def everything(theirs: socket.socket) -> bytes:
    """What arrives until the end."""
    loop, received = asyncio.get_running_loop(), b""
    async with asyncio.timeout(LIMIT):
        while data := await loop.sock_recv(theirs, 65536):
            received += data
    return received


@pytest.mark.gen_test
async def test_what_is_corked_goes_with_what_is_written() -> None:
    """In one piece; or alone, when it is flushed."""
    with pair() as (stream, theirs):
        stream.cork(b"first ")
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        stream.write(b"second")
        assert theirs.recv(100) == b"first second"
        assert not stream.writing()
        stream.cork(b"alone")
        stream.flush()
        assert theirs.recv(100) == b"alone"


@pytest.mark.gen_test
async def test_many_pieces_arrive_in_order() -> None:
    """More than one call of the kernel takes, and larger than it takes at once."""
    pieces = [bytes([number % 256]) * (number * 37 % 3000 + 1) for number in range(5000)]
    with pair() as (stream, theirs):
        for piece in pieces[: 3 * PARTS_AT_ONCE]:
            stream.cork(piece)
        for piece in pieces[3 * PARTS_AT_ONCE :]:
            stream.write(piece)
        stream.end_output()
        assert stream.waiting_bytes > 0
        assert await everything(theirs) == b"".join(pieces)
        assert (stream.waiting_bytes, stream.writing()) == (0, False)


@pytest.mark.gen_test
async def test_no_more_may_wait_than_is_allowed() -> None:
    """What is too much is not sent at all; later there is room again."""
    with pair(max_waiting=MUCH) as (stream, theirs):
        stream.write(b"a" * MUCH)
        waiting = stream.waiting_bytes
        assert 0 < waiting < MUCH
        with pytest.raises(BufferFull):
            stream.write(b"b" * MUCH)
        assert stream.waiting_bytes == waiting
        drained = asyncio.create_task(stream.drained())
        received = asyncio.create_task(everything(theirs))
        await asyncio.wait_for(drained, LIMIT)
        stream.write(b"c" * MUCH)
        stream.end_output()
        assert await received == b"a" * MUCH + b"c" * MUCH


@pytest.mark.parametrize("who", ["ours", "theirs"])
@pytest.mark.gen_test
async def test_the_end_is_told_once_and_later(who: str) -> None:
    """Never within the call that ends it; and who waits until all is taken goes on."""
    with pair() as (stream, theirs):
        told = Told()
        stream.begin(told)
        theirs.send(b"last words")
        await eventually(lambda: told.data == b"last words")
        stream.write(b"x" * MUCH)
        drained = asyncio.create_task(stream.drained())
        await asyncio.sleep(0)
        if who == "ours":
            stream.close()
            stream.close()
        else:
            theirs.close()
        assert not told.is_lost
        await eventually(lambda: told.is_lost)
        await asyncio.wait_for(drained, LIMIT)
        assert stream.closed()
        stream.write(b"nothing happens")
        assert stream.waiting_bytes == 0


@pytest.mark.gen_test
async def test_what_is_not_read_waits() -> None:
    """While reading is paused, the kernel keeps it."""
    with pair() as (stream, theirs):
        told = Told()
        stream.begin(told)
        stream.pause_reading()
        theirs.send(b"later")
        await asyncio.sleep(0.01)
        assert told.data == b""
        stream.resume_reading()
        await eventually(lambda: told.data == b"later")


@pytest.mark.gen_test
async def test_a_connection_that_is_over_is_not_taken_over() -> None:
    """Though Tornado has not noticed yet: it does when it reads."""
    ours, theirs = socket.socketpair()
    stream = IOStream(ours)
    theirs.close()
    assert take_over(stream) == (None, b"")
