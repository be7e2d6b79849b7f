"""What waits on the way out to a slow reader."""

from __future__ import annotations

import socket

import pytest
from tornado.iostream import IOStream

from realtime.web.sink import SocketSink


@pytest.mark.gen_test
async def test_what_the_kernel_does_not_take_is_counted_as_waiting() -> None:
    """Nothing while it is taken, all the rest when it is full, nothing once it is closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stream = IOStream(ours)
        sink = SocketSink(stream, lambda _code, _reason: None)
        sink.send(b"x" * 100)
        assert sink.waiting_bytes == 0
        sink.send(b"x" * 1_000_000)
        waiting = sink.waiting_bytes
        assert 0 < waiting < 1_000_000
        sink.send(b"x" * 100)
        assert sink.waiting_bytes == waiting + 100
        stream.close()
        assert sink.waiting_bytes == 0
