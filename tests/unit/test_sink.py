"""What waits on the way out to a slow reader."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest

from realtime.relay.protocol import Message
from realtime.web.sink import PING, SocketSink
from realtime.web.sse import EventSink
from realtime.web.stream import ClientStream
from tests.waiting import eventually


def _stream(connection: socket.socket, max_waiting: int | None = None) -> ClientStream:
    connection.setblocking(False)
    return ClientStream(connection, max_waiting, asyncio.get_running_loop())


@pytest.mark.gen_test
async def test_what_the_kernel_does_not_take_is_counted_as_waiting() -> None:
    """Nothing while it is taken, all the rest when it is full, nothing once it is closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stream = _stream(ours)
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


@pytest.mark.gen_test
async def test_what_is_lent_is_withdrawn_before_anything_waits() -> None:
    """Until then it sends at once; while something waits, nothing is lent."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        withdrawn: list[str] = []
        stream = _stream(ours)
        sink = SocketSink(stream, lambda _code, _reason: None)
        send = sink.lend(lambda: withdrawn.append("waits"))
        assert send is not None
        assert send(b"x" * 10) == 10
        frames = b"y" * 1_000_000
        sent = send(frames)
        assert (0 < sent < len(frames), withdrawn) == (True, [])
        sink.send_rest(frames, sent)
        assert (withdrawn, sink.waiting_bytes) == (["waits"], len(frames) - sent)
        assert sink.lend(lambda: None) is None
        theirs.setblocking(False)
        received = await _everything(theirs, sink)
        assert received == b"x" * 10 + frames
        assert sink.lend(lambda: None) is not None
        stream.close()


@pytest.mark.gen_test
async def test_what_waits_is_not_overtaken() -> None:
    """Though the kernel has room again before it is told what waits."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stream = _stream(ours)
        sink = SocketSink(stream, lambda _code, _reason: None)
        frames = b"x" * 100_000
        sink.send(frames)
        assert sink.waiting_bytes
        received = theirs.recv(1_000_000)
        sink.send(b"last")
        theirs.setblocking(False)
        assert received + await _everything(theirs, sink) == frames + b"last"
        stream.close()


@pytest.mark.gen_test
async def test_nothing_follows_a_close() -> None:
    """Neither a message nor a ping."""
    ours, theirs = socket.socketpair()
    with theirs:
        stream = _stream(ours)
        sink = SocketSink(stream, lambda _code, _reason: None)
        sink.close(1013, "too slow")
        sink.send(b"x")
        sink.send_control(PING)
        theirs.setblocking(False)
        assert await _everything(theirs, sink) == b""
        stream.close()


async def _everything(theirs: socket.socket, sink: SocketSink) -> bytes:
    """What arrives until nothing waits any more."""
    received = b""

    def take() -> bool:
        nonlocal received
        with suppress(BlockingIOError):
            while data := theirs.recv(65536):
                received += data
        return sink.waiting_bytes == 0

    await eventually(take)
    take()
    return received


@pytest.mark.parametrize("end", ["close", "connection_lost"])
@pytest.mark.gen_test
async def test_what_is_lent_is_withdrawn_at_the_end(end: str) -> None:
    """The close frame is the last thing that is sent."""
    ours, theirs = socket.socketpair()
    with theirs:
        withdrawn: list[str] = []
        closed: list[int] = []

        def on_close(code: int, _reason: str) -> None:
            assert withdrawn, "the close began before"
            closed.append(code)

        stream = _stream(ours)
        sink = SocketSink(stream, on_close)
        assert sink.lend(lambda: withdrawn.append("over")) is not None
        if end == "close":
            sink.close(1013, "too slow")
        else:
            sink.connection_lost()
        assert withdrawn == ["over"]
        assert sink.lend(lambda: None) is None
        assert closed == ([1013] if end == "close" else [])
        stream.close()


@pytest.mark.gen_test
async def test_what_is_lent_fails_once_the_stream_is_closed() -> None:
    """So whoever has it asks the sink, which then does nothing."""
    ours, theirs = socket.socketpair()
    with theirs:
        stream = _stream(ours)
        sink = SocketSink(stream, lambda _code, _reason: None)
        send = sink.lend(lambda: None)
        assert send is not None
        stream.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            send(b"x")
        sink.send(b"x")
        assert sink.lend(lambda: None) is None


@pytest.mark.gen_test
async def test_a_message_in_parts_is_one_message_and_nothing_comes_between() -> None:
    """But control frames. What else is sent comes behind it, and nothing is lent meanwhile."""
    ours, theirs = socket.socketpair()
    with theirs:
        stream = _stream(ours)
        sink = SocketSink(stream, lambda _code, _reason: None)
        sink.send_part(Message(b"one "), is_first=True, is_last=False)
        sink.send(sink.frame([Message(b"behind")]))
        sink.send_control(PING)
        assert sink.lend(lambda: None) is None
        sink.send_part(Message(b"two "), is_first=False, is_last=False)
        sink.send_part(Message(b"three"), is_first=False, is_last=True)
        sink.send(sink.frame([Message(b"after")]))
        assert sink.lend(lambda: None) is not None
        assert theirs.recv(1000) == (
            b"\x01\x04one \x89\x00\x00\x04two \x80\x05three\x81\x06behind\x81\x05after"
        )
        stream.close()


@pytest.mark.gen_test
async def test_what_is_lent_is_withdrawn_before_a_message_in_parts() -> None:
    """Or whoever has it would send into the middle of that message."""
    ours, theirs = socket.socketpair()
    with theirs:
        withdrawn: list[str] = []
        stream = _stream(ours)
        sink = SocketSink(stream, lambda _code, _reason: None)
        assert sink.lend(lambda: withdrawn.append("parts")) is not None
        sink.send_part(Message(b"one"), is_first=True, is_last=False)
        assert (withdrawn, sink.waiting_bytes) == (["parts"], 0)
        stream.close()


@pytest.mark.gen_test
async def test_only_what_the_other_side_has_counts_as_taken() -> None:
    """The kernel takes much at once; then it may take nothing for long, over a slow line."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    with theirs:
        stream = _stream(ours)
        sink = SocketSink(stream, lambda _code, _reason: None)
        stream.write(b"x" * 20_000_000)
        await eventually(lambda: stream.taken_bytes)
        assert sink.waiting_bytes
        assert sink.taken_bytes < stream.taken_bytes
        theirs.setblocking(False)
        received = len(await _everything(theirs, sink))
        await eventually(lambda: sink.taken_bytes == 20_000_000)
        assert received <= 20_000_000
        stream.close()


@pytest.mark.gen_test
async def test_what_waits_behind_a_message_in_parts_is_bounded() -> None:
    """Above the limit the socket is closed, as when the client does not read."""
    ours, theirs = socket.socketpair()
    with theirs:
        closed: list[int] = []
        stream = _stream(ours, 1000)
        sink = SocketSink(stream, lambda code, _reason: closed.append(code))
        sink.send_part(Message(b"one"), is_first=True, is_last=False)
        for _ in range(10):
            sink.send(b"x" * 100)
        assert closed == []
        sink.send(b"x" * 100)
        assert closed == [1013]
        stream.close()


def test_an_event_in_parts_is_as_one_that_is_whole() -> None:
    """For clients without WebSockets; its cursor comes first."""
    text = b'{"a":\n"b"}'
    parts = [
        EventSink.frame_part(Message(text[:4], "c"), is_first=True, is_last=False),
        EventSink.frame_part(Message(text[4:7]), is_first=False, is_last=False),
        EventSink.frame_part(Message(text[7:]), is_first=False, is_last=True),
    ]
    assert b"".join(parts) == EventSink.frame([Message(text, "c")])
