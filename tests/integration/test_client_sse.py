"""The Python client's way to events over HTTP, against servers and proxies of every manner."""

from __future__ import annotations

import asyncio
import json

import pytest

from rowcast import transport
from rowcast.rules import Closed
from rowcast.sse import EventSocket, open_events
from tests.integration.test_client_transport import Answer, plain
from tests.waiting import LIMIT, eventually

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
PONG = {"type": "pong", "cursor": ""}


def saying(*parts: bytes, more: bytes = b"") -> Answer:
    """A server that answers with a stream of these parts, each in a packet of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in (HEAD + more + b"\r\n", *parts):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return answer


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def opened(url: str) -> EventSocket:
    http = url.replace("ws:", "http:") + "api/sse/notifications?cursor="
    return await open_events(http, {"Authorization": "Bearer t"}, LIMIT)


async def all_of(url: str) -> tuple[list[object], Closed]:
    """What a connection hears, and how it ends."""
    socket = await opened(url)
    heard: list[object] = []
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                frame = await socket.receive()
            except Closed as closed:
                return heard, closed
            heard.append(json.loads(frame) if isinstance(frame, str) else frame)


EVENTS = b'retry: 1000\n\nid: c1\ndata: {"a":1}\n\n:\n\n:\nid: c2\n\ndata: \xff\n\n'
HEARD: list[object] = [PONG, {"a": 1}, PONG, {"type": "pong", "cursor": "c2"}, b"\xff"]
DEEP = b"[" * 50_000
CLOSE = b'event: close\ndata: {"code": 4003, "reason": "access ended"}\n\n'


@pytest.mark.gen_test
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_events_are_heard_however_they_are_cut(
    end: bytes, size: int, is_chunked: bool
) -> None:
    """Comments are signs of life, an id alone is a cursor, and `close` is the end."""
    text = (EVENTS + CLOSE).replace(b"\n", end)
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    more = b"Transfer-Encoding: chunked\r\n" if is_chunked else b""
    wire = [chunk(part) for part in parts] if is_chunked else parts
    async with plain(saying(*wire, more=more)) as url:
        heard, closed = await all_of(url)
    assert heard == HEARD
    assert (closed.code, closed.reason) == (4003, "access ended")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("parts", "more"),
    [
        ([b'data: {"a":1}\n\n', b"data: half"], b""),
        ([chunk(b'data: {"a":1}\n\n'), b"0\r\n\r\n"], b"Transfer-Encoding: chunked\r\n"),
        ([chunk(b'data: {"a":1}\n\n'), b"no size"], b"Transfer-Encoding: chunked\r\n"),
        ([b'data: {"a":1}\n\n', b"event: close\ndata: [7]\n\n"], b""),
        ([b'data: {"a":1}\n\n', b"event: close\ndata: {\n\n"], b""),
        ([b'data: {"a":1}\n\n', b'event: close\ndata: {"code":1e999}\n\n'], b""),
        ([b'data: {"a":1}\n\n', b'event: close\ndata: {"code":Infinity}\n\n'], b""),
        ([b'data: {"a":1}\n\n', b'event: close\ndata: {"code":true}\n\n'], b""),
        ([b'data: {"a":1}\n\n', b"event: close\ndata: " + DEEP + b"\n\n"], b""),
        ([chunk(b'data: {"a":1}\n\n'), b"-5\r\n"], b"Transfer-Encoding: chunked\r\n"),
    ],
)
async def test_a_stream_that_breaks_is_a_cut(parts: list[bytes], more: bytes) -> None:
    """What is not whole is not handed over; the client returns."""
    async with plain(saying(*parts, more=more)) as url:
        heard, closed = await all_of(url)
    assert (heard, closed.code) == ([{"a": 1}], 1006)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("status", "code"), [(401, 4001), (403, 4003), (429, 4029), (500, 1011), (503, 1013)]
)
async def test_a_refusal_is_the_code_of_a_socket(status: int, code: int) -> None:
    """With the reason, and with how long to stay away."""
    body = b'{"error": "why"}'
    head = f"HTTP/1.1 {status} No\r\nRetry-After: 7\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with plain(raw(head + body)) as url:
        with pytest.raises(Closed) as refused:
            await opened(url)
    closed = refused.value
    assert (closed.code, closed.reason, closed.retry_after) == (code, "why", 7)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 0\r\n", b""),
        (b"Content-Length: 17\r\n", b'{"error": "why?"}'),
        (b"Transfer-Encoding: chunked\r\n", b'11\r\n{"error": "why?"}\r\n0\r\n\r\n'),
        (b"Transfer-Encoding: chunked\r\n", b'11;x=y\r\n{"error": "why?"}\r\n0\r\n\r\n'),
    ],
)
async def test_a_refusal_on_a_connection_that_stays_open_is_read(head: bytes, body: bytes) -> None:
    """Its end is where its head says, not where the connection ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await raw(b"HTTP/1.1 401 No\r\n" + head + b"\r\n" + body)(reader, writer)
        await reader.read()

    async with plain(answer) as url:
        with pytest.raises(Closed) as refused:
            await opened(url)
    assert refused.value.code == 4001
    assert refused.value.reason == ("why?" if body else "HTTP 401")


@pytest.mark.gen_test
async def test_what_comes_before_the_answer_itself_is_passed_over() -> None:
    """As a proxy may say that it has understood."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    async with plain(raw(early + HEAD + b"\r\n:\n\n" + CLOSE)) as url:
        heard, closed = await all_of(url)
    assert (heard, closed.code) == ([PONG], 4003)


@pytest.mark.gen_test
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error"', b"[7]", b'{"other": 1}', DEEP])
@pytest.mark.parametrize("after", ["", "soon", "-1", "9" * 5000, "3601"])
async def test_a_refusal_that_cannot_be_read_is_its_status(body: bytes, after: str) -> None:
    """Whatever a proxy writes; a time that is none is not waited for."""
    head = f"HTTP/1.1 503 No\r\nRetry-After: {after}\r\nContent-Length: {len(body)}\r\n\r\n"
    async with plain(raw(head.encode() + body)) as url:
        with pytest.raises(Closed) as refused:
            await opened(url)
    closed = refused.value
    assert (closed.code, closed.reason, closed.retry_after) == (1013, "HTTP 503", 0)


def raw(answer: bytes) -> Answer:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    return send


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 404 Not Found\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
    ],
)
async def test_what_is_no_stream_is_a_cut(answer: bytes) -> None:
    """It may be a proxy whose server is away: the client tries again."""
    async with plain(raw(answer)) as url:
        with pytest.raises(Closed) as refused:
            await opened(url)
    assert refused.value.code == 1006
    assert refused.value.reason


@pytest.mark.gen_test
async def test_nobody_there_is_a_cut() -> None:
    """As for a WebSocket."""
    with pytest.raises(Closed) as refused:
        await opened("ws://127.0.0.1:9/")
    assert refused.value.code == 1006


@pytest.mark.gen_test
async def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr("rowcast.sse.MAX_MESSAGE_BYTES", 100_000)
    assert transport.MAX_MESSAGE_BYTES > 100_000
    async with plain(saying(b"data: ", b"x" * 1_000_000)) as url:
        heard, closed = await all_of(url)
    assert (heard, closed.code, closed.reason) == ([], 1006, "a message is too large")


@pytest.mark.gen_test
async def test_an_event_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each of its lines is short."""
    monkeypatch.setattr("rowcast.sse.MAX_MESSAGE_BYTES", 100_000)
    async with plain(saying(*[b"data: 1\n" * 10_000] * 3)) as url:
        heard, closed = await all_of(url)
    assert (heard, closed.code, closed.reason) == ([], 1006, "a message is too large")


@pytest.mark.gen_test
async def test_leaving_ends_who_waits_and_the_connection() -> None:
    """With the code that is given, as for silence."""
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(b":\n\n")(reader, writer)
        await reader.read()
        gone.set()

    async with plain(answer) as url:
        socket = await opened(url)
        assert not socket.send("{}")
        assert json.loads(await socket.receive()) == PONG
        waiting = asyncio.create_task(socket.receive())
        await asyncio.sleep(0)
        socket.abort(4000, "nothing was heard")
        with pytest.raises(Closed, match="nothing was heard"):
            await waiting
        await eventually(gone.is_set)


@pytest.mark.gen_test
async def test_opening_may_be_given_up() -> None:
    """A time-out, or the client is left: nothing stays open."""
    came, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        came.set()
        try:
            await reader.read(-1)
        finally:
            gone.set()

    async with plain(silent) as url:
        opening = asyncio.create_task(opened(url))
        await eventually(came.is_set)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        await eventually(gone.is_set)
