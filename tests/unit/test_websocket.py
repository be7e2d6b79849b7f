"""Tests of `realtime.web.websocket`: what needs a clock; test_rfc6455.py has the rest."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from realtime.relay import closing
from realtime.web import websocket
from realtime.web.stream import ClientStream
from realtime.web.websocket import WebSocket
from tests.waiting import eventually


@pytest.mark.gen_test
async def test_who_still_sends_a_message_that_is_too_big_is_not_cut_off_before_the_close_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Proxies cut both ways as soon as one is ended, and the client would be told 1006."""
    monkeypatch.setattr(websocket, "QUIET_SECONDS", math.inf)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    stream = ClientStream(ours, None, asyncio.get_running_loop())
    delegate = SimpleNamespace(on_ws_connection_close=lambda _code: None)
    room = SimpleNamespace(add_closing=lambda _one: None, remove=lambda _one: None)
    one = WebSocket(stream, cast(Any, delegate), cast(Any, room), max_message=100)
    delegate.close = one.send_close
    one.start()
    with theirs:
        theirs.send(b"\x81\xfe\x10\x00mask" + bytes(1000))
        await eventually(lambda: one._quiet)
        frame = theirs.recv(100)
        assert frame[2:4] == closing.MESSAGE_TOO_BIG.code.to_bytes(2)
        theirs.send(bytes(1000))
        before = one._quiet
        await eventually(lambda: one._quiet is not before)
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        monkeypatch.setattr(websocket, "QUIET_SECONDS", 0.0)
        theirs.send(bytes(1000))
        await eventually(lambda: readable(theirs) == b"")
    stream.close()


@pytest.mark.gen_test
async def test_nothing_is_read_while_a_message_is_acted_on() -> None:
    """Then what has arrived is: a client that sends on fills its own side, not this process."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = ClientStream(ours, None, asyncio.get_running_loop())
    done = asyncio.Event()
    heard: list[str] = []

    def on_message(message: str, _frames: int) -> Awaitable[object]:
        heard.append(message)
        return done.wait()

    delegate = SimpleNamespace(on_message=on_message, on_ws_connection_close=lambda _code: None)
    room = SimpleNamespace(remove=lambda _one: None)
    one = WebSocket(stream, cast(Any, delegate), cast(Any, room), max_message=100)
    one.start()
    with theirs:
        theirs.send(b"\x81\x83\0\0\0\0one")
        await eventually(lambda: heard)
        assert not stream._is_reading
        theirs.send(b"\x81\x83\0\0\0\0two")
        done.set()
        await eventually(lambda: heard == ["one", "two"])
    stream.close()


@pytest.mark.gen_test
async def test_before_the_handshake_is_over_little_is_read() -> None:
    """What the client says already is acted on then; who says much has to wait with it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = ClientStream(ours, None, asyncio.get_running_loop())
    heard: list[str] = []
    delegate = SimpleNamespace(
        on_message=lambda message, _frames: heard.append(message),
        on_ws_connection_close=lambda _code: None,
    )
    room = SimpleNamespace(remove=lambda _one: None)
    one = WebSocket(stream, cast(Any, delegate), cast(Any, room), max_message=100)
    with theirs:
        theirs.send(b"\x81\x83\0\0\0\0one")
        await eventually(lambda: one._rest)
        assert (heard, stream._is_reading) == ([], False)
        theirs.send(b"\x81\x83\0\0\0\0two")
        one.start()
        await eventually(lambda: heard == ["one", "two"])
    stream.close()


CLOSE, TEXT, UNMASKED = b"\x88\x82\0\0\0\0\x03\xe8", b"\x81\x83\0\0\0\0one", b"\x81\x03one"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("sent", "told"),
    [([CLOSE + TEXT], [1000]), ([CLOSE, TEXT], [1000]), ([UNMASKED, TEXT], [1002])],
)
async def test_nothing_that_follows_a_close_is_acted_on(sent: list[bytes], told: list[int]) -> None:
    """Nor what follows a frame that breaks the rules. The client's close is told at once."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = ClientStream(ours, None, asyncio.get_running_loop())
    heard: list[str | int] = []
    delegate = SimpleNamespace(
        on_message=lambda message, _frames: heard.append(message),
        on_ws_connection_close=heard.append,
    )
    room = SimpleNamespace(add_closing=lambda _one: None, remove=lambda _one: None)
    one = WebSocket(stream, cast(Any, delegate), cast(Any, room), max_message=100)

    def close(code: int, reason: str) -> None:
        heard.append(code)
        one.send_close(code, reason)

    delegate.close = close
    one.start()
    with theirs:
        for data in sent:
            one.data_received(data)
        assert heard == told
        stream.close()
        await eventually(lambda: one._is_told)


def readable(one: socket.socket) -> bytes | None:
    """What has arrived; None: nothing has."""
    try:
        return one.recv(100)
    except BlockingIOError:
        return None
