"""Tests of `realtime.web.websocket`: what needs a clock; test_rfc6455.py has the rest."""

from __future__ import annotations

import asyncio
import math
import socket
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


def readable(one: socket.socket) -> bytes | None:
    """What has arrived; None: nothing has."""
    try:
        return one.recv(100)
    except BlockingIOError:
        return None
