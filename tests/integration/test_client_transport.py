"""The Python client's socket against servers of every manner; nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from rowcast import transport
from rowcast.rules import Closed
from rowcast.transport import open_socket
from tests.waiting import LIMIT, eventually


class Echo(WebSocketHandler):
    """Sends back what it is sent; `close CODE REASON` and `flood` are orders."""

    sockets: set[Echo]

    def initialize(self, sockets: set[Echo]) -> None:
        self.sockets = sockets
        sockets.add(self)

    def on_message(self, message: str | bytes) -> None:
        words = str(message).split()
        if words[0] == "close":
            self.close(int(words[1]), words[2])
        elif words[0] == "flood":
            for number in range(1000):
                self.write_message(str(number))
        else:
            self.write_message(message)

    def on_close(self) -> None:
        self.sockets.discard(self)


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[str, set[Echo]]]:
    """A server; yields its address and who is there."""
    sockets: set[Echo] = set()
    server = HTTPServer(Application([("/", Echo, {"sockets": sockets})]))
    listening, port = bind_unused_port()
    server.add_socket(listening)
    try:
        yield f"ws://127.0.0.1:{port}/", sockets
        await eventually(lambda: not sockets)
    finally:
        server.stop()
        await server.close_all_connections()
        gc.collect()  # an unclosed connection of Tornado's warns when it is forgotten


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def plain(answer: Answer) -> AsyncIterator[str]:
    """A server that speaks what the test wants."""
    answering: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        with suppress(ConnectionError):
            await answer(reader, writer)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*answering), LIMIT)


@pytest.mark.gen_test
async def test_frames_go_both_ways_in_order() -> None:
    """A thousand at once, and a goodbye at the end."""
    async with echo() as (url, _):
        socket = await open_socket(url, {}, LIMIT)
        assert socket.send("flood")
        assert [await socket.receive() for _ in range(1000)] == [str(n) for n in range(1000)]
        await socket.close(1000)
        assert not socket.send("late")


@pytest.mark.gen_test
async def test_the_servers_code_and_words_are_told() -> None:
    """After all that was sent before them."""
    async with echo() as (url, _):
        socket = await open_socket(url, {}, LIMIT)
        socket.send("flood")
        socket.send("close 4003 revoked")
        for _ in range(1000):
            await socket.receive()
        with pytest.raises(Closed, match=r"^4003, revoked$"):
            await socket.receive()


@pytest.mark.gen_test
async def test_leaving_while_frames_wait_leaves_nothing() -> None:
    """Nobody reads what is still on its way: Tornado's reading task ends all the same."""
    async with echo() as (url, _):
        before = asyncio.all_tasks()
        for leave in (1000, None):
            socket = await open_socket(url, {}, LIMIT)
            socket.send("flood")
            await socket.receive()
            if leave is None:
                socket.abort()
            else:
                await socket.close(leave)
        await eventually(lambda: asyncio.all_tasks() <= before)


@pytest.mark.gen_test
async def test_an_abort_wakes_who_receives() -> None:
    """With the code that was given."""
    async with echo() as (url, _):
        socket = await open_socket(url, {}, LIMIT)
        receiving = asyncio.create_task(socket.receive())
        await asyncio.sleep(0)
        socket.abort(4000, "silent")
        with pytest.raises(Closed, match=r"4000, .*: silent"):
            await receiving


@pytest.mark.gen_test
async def test_a_server_that_does_not_say_goodbye_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handshake is done, then it reads nothing."""
    monkeypatch.setattr(transport, "CLOSE_WITHIN", 0.05)
    async with echo() as (url, sockets):
        socket = await open_socket(url, {}, LIMIT)
        await eventually(lambda: sockets)
        (there,) = sockets
        assert there.ws_connection is not None
        monkeypatch.setattr(there.ws_connection, "_handle_message", lambda *_: None)
        await socket.close(1000)
        with pytest.raises(Closed):
            await socket.receive()


@pytest.mark.gen_test
async def test_nobody_there_is_a_cut() -> None:
    """1006, as browsers have it, with what the system says."""
    listening, port = bind_unused_port()
    listening.close()
    with pytest.raises(Closed, match=r"1006.*refused"):
        await open_socket(f"ws://127.0.0.1:{port}/", {}, LIMIT)


@pytest.mark.gen_test
async def test_a_refusal_by_http_is_a_cut() -> None:
    """As for a proxy without a server behind it."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    async with plain(answer) as url:
        with pytest.raises(Closed, match=r"1006.*502"):
            await open_socket(url, {}, LIMIT)


@pytest.mark.gen_test
async def test_a_handshake_may_not_take_for_ever() -> None:
    """And given up by the caller, it leaves no connection that opens later."""
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()

    async with plain(answer) as url:
        with pytest.raises(Closed, match=r"1006.*Timeout"):
            await open_socket(url, {}, 0.05)
        async with asyncio.timeout(LIMIT):
            await gone.wait()


@pytest.mark.gen_test
async def test_a_connection_that_was_given_up_is_closed_when_it_opens() -> None:
    """Cancelled anywhere on the way."""
    async with echo() as (url, sockets):
        for turns in range(12):
            opening = asyncio.create_task(open_socket(url, {}, LIMIT))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled():
                opening.result().abort()
        await eventually(lambda: not sockets)


@pytest.mark.gen_test
async def test_a_write_buffer_that_is_full_is_not_written_to() -> None:
    """The server reads nothing: what does not fit is refused and not kept."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = head.split(b"Sec-Websocket-Key: ")[1].split(b"\r\n")[0].decode()
        accept = WebSocketProtocol13.compute_accept_value(key)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
        )
        await gone.wait()

    gone = asyncio.Event()
    async with plain(answer) as url:
        socket = await open_socket(url, {}, LIMIT)
        assert not all(socket.send("x" * 100_000) for _ in range(300))
        socket.abort()
        gone.set()
