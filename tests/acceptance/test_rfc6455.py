"""RFC 6455 on the real endpoint: a table of what a client may send, and what it is answered."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT

MASK = b"\x37\xfa\x21\x3d"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FINAL = 0x80
AT_MOST = 4096
"""MAX_MESSAGE_BYTES of the server that is asked."""

Answers = list[str]
Headers = dict[str, Any]
Case = tuple[str, bytes, Answers]


def frame(
    opcode: int, payload: bytes = b"", first: int = FINAL, *, is_masked: bool = True
) -> bytes:
    """A frame of a client (section 5.2)."""
    bit = 0x80 if is_masked else 0
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first | opcode, bit | length)
    elif length < 65536:
        head = struct.pack("!BBH", first | opcode, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first | opcode, bit | 127, length)
    return head + (MASK + masked(payload) if is_masked else payload)


def masked(payload: bytes) -> bytes:
    return bytes(byte ^ MASK[place % 4] for place, byte in enumerate(payload))


def saying(text: str, size: int = 0) -> bytes:
    """A message that is answered with the same text, padded to a size."""
    message = json.dumps({"type": "ping", "timestamp": text}, ensure_ascii=False)
    return message.encode().ljust(size)


def in_frames(payload: bytes, *sizes: int, between: bytes = b"") -> bytes:
    """A text message in frames of these sizes and one with the rest."""
    frames, opcode = [], TEXT
    for size in sizes:
        frames.append(frame(opcode, payload[:size], 0))
        payload, opcode = payload[size:], CONTINUATION
    return between.join([*frames, frame(opcode, payload)])


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


BYE = closing(1000)
GOOD = frame(TEXT, saying("good"))
ECHO = "says good"


def lengths() -> Iterator[Case]:
    """Section 5.2: how long a payload is."""
    yield "an empty text", frame(TEXT) + BYE, ["error", "close 1000"]
    for size in (40, 125, 126, 127, 128, 1000, AT_MOST):
        yield f"a text of {size}", frame(TEXT, saying("x", size)) + BYE, ["says x", "close 1000"]
    for size in (AT_MOST + 1, 65535, 65536, 70000):
        yield f"a text of {size}", frame(TEXT, b" " * size), ["close 1009"]
    head = struct.pack("!BBQ", FINAL | TEXT, 0xFF, 2**63 - 1)
    yield "a length of 63 bits", head, ["close 1009"]
    head = struct.pack("!BBQ", FINAL | TEXT, 0xFF, 2**63)
    yield "a length of 64 bits", head, ["close 1002"]
    for size in (0, 40, 125):
        head = struct.pack("!BBH", FINAL | TEXT, 0xFE, size)
        yield f"a length of {size} in 16 bits", head + MASK + b" " * size, ["close 1002"]
    for size in (0, 40, 126, 65535):
        head = struct.pack("!BBQ", FINAL | TEXT, 0xFF, size)
        yield f"a length of {size} in 64 bits", head, ["close 1002"]
    for size in (0, 1, 125, 126, 65535):
        yield f"a binary frame of {size}", frame(BINARY, b"x" * size), ["close 1003"]


def control() -> Iterator[Case]:
    """Section 5.5: pings and pongs."""
    for payload in (b"", b"hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"x" * 125):
        name = f"a ping of {len(payload)}"
        yield name, frame(PING, payload) + BYE, [f"pong {payload.hex()}", "close 1000"]
        yield f"a pong of {len(payload)}", frame(PONG, payload) + GOOD + BYE, [ECHO, "close 1000"]
    for opcode in (PING, PONG, CLOSE):
        yield f"opcode {opcode} of 126", frame(opcode, b"x" * 126), ["close 1002"]
        yield f"opcode {opcode} in two frames", frame(opcode, b"", 0) + BYE, ["close 1002"]
        yield f"a part of opcode {opcode}", GOOD + frame(opcode, b"ab", 0), [ECHO, "close 1002"]
    ten = b"".join(frame(PING, bytes([number])) for number in range(10))
    yield "ten pings", ten + BYE, [*(f"pong {number:02x}" for number in range(10)), "close 1000"]


def reserved() -> Iterator[Case]:
    """Section 5.2: bits and opcodes that mean nothing."""
    for bits in range(0x10, 0x80, 0x10):
        for opcode in (TEXT, BINARY, PING, PONG, CLOSE):
            bad = frame(opcode, b"\x03\xe8", FINAL | bits)
            yield f"bits {bits:#x} with opcode {opcode}", GOOD + bad + BYE, [ECHO, "close 1002"]
        later = frame(TEXT, b"a", 0) + frame(CONTINUATION, b"b", FINAL | bits)
        yield f"bits {bits:#x} in a second frame", later + BYE, ["close 1002"]
    for opcode in (*range(3, 8), *range(11, 16)):
        for payload in (b"", b"x"):
            for first in (FINAL, 0):
                name = f"opcode {opcode} of {len(payload)}, first byte {first:#x}"
                bad = frame(opcode, payload, first)
                yield name, GOOD + bad + frame(PING) + BYE, [ECHO, "close 1002"]
    for opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11):
        bad = frame(opcode, b"\x03\xe8", is_masked=False)
        yield f"opcode {opcode} without a mask", GOOD + bad + BYE, [ECHO, "close 1002"]


def fragments() -> Iterator[Case]:
    """Section 5.4: messages in several frames."""
    text = saying("good")
    done = [ECHO, "close 1000"]
    yield "two frames", in_frames(text, 5) + BYE, done
    yield "a byte a frame", in_frames(text, *[1] * (len(text) - 1)) + BYE, done
    yield "empty frames", in_frames(text, 0, 0, len(text), 0) + BYE, done
    yield "three empty frames", in_frames(b"", 0, 0) + BYE, ["error", "close 1000"]
    ping = frame(PING, b"p")
    yield "pings between", in_frames(text, 3, 3, between=ping) + BYE, ["pong 70"] * 2 + done
    yield "a close between", frame(TEXT, b"a", 0) + BYE, ["close 1000"]
    yield "256 frames", in_frames(text, *[0] * 255) + BYE, done
    yield "257 frames", in_frames(text, *[0] * 256) + BYE, ["close 1008"]
    full = saying("good", AT_MOST)
    loud = frame(PING, b"x" * 125)
    pongs = [f"pong {(b'x' * 125).hex()}"]
    yield (
        "full size, pings between",
        in_frames(full, 1, AT_MOST - 1, between=loud) + BYE,
        pongs * 2 + done,
    )
    yield "a byte too many", in_frames(full + b" ", AT_MOST), ["close 1009"]
    yield "too many in the third", in_frames(full + b" ", 2000, 2000), ["close 1009"]
    for first in (FINAL, 0):
        nothing = frame(CONTINUATION, b"x", first)
        yield f"of nothing, first byte {first:#x}", nothing + BYE, ["close 1002"]
        yield f"after the end, first byte {first:#x}", GOOD + nothing + BYE, [ECHO, "close 1002"]
        for opcode in (TEXT, BINARY):
            inner = frame(TEXT, b"a", 0) + frame(opcode, text, first)
            yield f"opcode {opcode} within, first byte {first:#x}", inner + BYE, ["close 1002"]


VALID = (
    "κόσμε",
    "Hello-µ@ßöäüàá-UTF-8!!",
    "\u07ff\u0800\uffff\U00010000\U0010ffff",
    "\ufffe\U0001fffe",
    "\x7f",
)
INVALID = (
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80\xbf",
    b"\xc0 \xc1 \xc2 ",
    b"\xe0 \xef ",
    b"\xf0 \xf4 ",
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xdf",
    b"\xef\xbf",
    b"\xf7\xbf\xbf",
    b"\xfe",
    b"\xff",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
)


def utf8() -> Iterator[Case]:
    """Section 8.1: text is UTF-8."""
    for text in VALID:
        payload, done = saying(text), [f"says {text}", "close 1000"]
        yield f"{text!r}", frame(TEXT, payload) + BYE, done
        yield f"{text!r}, a byte a frame", in_frames(payload, *[1] * len(payload)) + BYE, done
    for bad in INVALID:
        payload = b'{"a":"' + bad + b'"}'
        yield f"{bad!r}", frame(TEXT, payload) + BYE, ["close 1007"]
        yield f"{bad!r} in frames", in_frames(payload, *[1] * len(payload)) + BYE, ["close 1007"]
        yield f"{bad!r} as a reason", closing(1000, bad), ["close 1007"]


def closes() -> Iterator[Case]:
    """Section 5.5.1 and 7.4: the closing handshake."""
    yield "no code", frame(CLOSE), ["close"]
    yield "half a code", frame(CLOSE, b"\x03"), ["close 1002"]
    yield "the longest reason", closing(1000, b"x" * 123), ["close 1000"]
    yield "a reason that is too long", closing(1000, b"x" * 124), ["close 1002"]
    yield "a reason in UTF-8", closing(1000, "κόσμε".encode()), ["close 1000"]
    for code in (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4003, 4999):
        yield f"code {code}", closing(code), [f"close {code}"]
        yield f"code {code} with a reason", closing(code, b"reason"), [f"close {code}"]
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"code {code}", closing(code), ["close 1002"]
        yield f"code {code} with a reason", closing(code, b"reason"), ["close 1002"]
    for name, later in (("a text", GOOD), ("a ping", frame(PING)), ("another", closing(1001))):
        yield f"{name} after it", BYE + later, ["close 1000"]


class RawClient:
    """A WebSocket by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, server: RunningServer, path: str) -> RawClient:
        client = cls(*await asyncio.open_connection("127.0.0.1", server.server.port))
        client._writer.write(handshake(path))
        await client._reader.readuntil(b"\r\n\r\n")
        assert await client.answer() == "connection_established"
        return client

    async def tell(self, data: bytes, chunk: int) -> Answers:
        """Send all, a chunk at a time, and read to the end."""
        for start in range(0, len(data), chunk):
            with suppress(ConnectionError):
                self._writer.write(data[start : start + chunk])
                await self._writer.drain()
            await asyncio.sleep(0)
        answers: Answers = []
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                answers.append(await self.answer())
                if answers[-1].startswith("close"):
                    self._writer.write_eof()
        return answers

    def hang_up(self) -> None:
        self._writer.transport.abort()

    async def answer(self) -> str:
        """The next frame, as the table has it."""
        first, length = await self._reader.readexactly(2)
        if length >= 126:
            length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8))
        payload = await self._reader.readexactly(length)
        if first == FINAL | PONG:
            return f"pong {payload.hex()}"
        if first == FINAL | CLOSE:
            return f"close {int.from_bytes(payload[:2])}" if payload else "close"
        assert first == FINAL | TEXT
        message = json.loads(payload)
        if message["type"] == "pong":
            return f"says {message['timestamp']}"
        return str(message["type"])


def handshake(path: str, *, first_line: str = "GET {} HTTP/1.1", **changed: Any) -> bytes:
    """A handshake with some headers changed, or without them; `_` stands for `-`."""
    headers: Headers = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([first_line.format(path), *lines, "", ""]).encode()


def chat_path(world: World) -> str:
    return f"/api/ws/chat/{world.bot}?token={token(world.guest)}"


TABLE = [*lengths(), *control(), *reserved(), *fragments(), *utf8(), *closes()]


@pytest.mark.parametrize("chunk", [100_000, 997, 1])
@pytest.mark.gen_test(timeout=120)
async def test_every_frame_is_answered_by_the_letter(
    start_server: StartServer, world: World, chunk: int
) -> None:
    """However its bytes arrive: at once, in pieces, one by one."""
    server = await start_server(MAX_MESSAGE_BYTES=str(AT_MOST))
    other = await server.chat(world.bot, world.owner)
    turns = asyncio.Semaphore(20)

    async def ask(data: bytes) -> Answers:
        async with turns, asyncio.timeout(LIMIT):
            client = await RawClient.open(server, chat_path(world))
            try:
                return await client.tell(data, chunk)
            finally:
                client.hang_up()

    cases = [case for case in TABLE if len(case[1]) < 1000 * chunk]
    assert len(cases) > 200
    async with asyncio.TaskGroup() as asking:
        told = {name: asking.create_task(ask(data)) for name, data, _ in cases}
    answers = {name: task.result() for name, task in told.items()}
    wrong = [
        (ascii(name), answers[name], expected)
        for name, _, expected in cases
        if answers[name] != expected
    ]
    assert wrong == []
    assert len(answers) == len(cases), "two cases have one name"
    await other.caught_up()


async def answered(server: RunningServer, request: bytes) -> tuple[int, str]:
    """The status and the headers; a socket that was opened is closed again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
    writer.write(request)
    async with asyncio.timeout(LIMIT):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split()[1])
        if status == 101:
            writer.write(BYE)
            await reader.read()
    writer.close()
    return status, head


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKES: list[tuple[int, Headers]] = [
    (101, {}),
    (101, {"Upgrade": "WebSocket", "Connection": "keep-alive, UPGRADE"}),
    (101, {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}),
    (400, {"Host": None}),
    (400, {"Upgrade": None}),
    (400, {"Upgrade": "h2c"}),
    (400, {"Upgrade": "websocket, h2c"}),
    (400, {"Connection": None}),
    (400, {"Connection": "keep-alive"}),
    (400, {"Connection": "not-upgrade"}),
    (400, {"Sec_WebSocket_Key": None}),
    (400, {"Sec_WebSocket_Key": ""}),
    (400, {"Sec_WebSocket_Key": "x"}),
    (400, {"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAAA="}),
    (400, {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ"}),
    (400, {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25j*Q=="}),
    (400, {"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}),
    (400, {"Sec_WebSocket_Key": f"{KEY}\r\nSec-WebSocket-Key: {KEY}"}),
    (426, {"Sec_WebSocket_Version": None}),
    (426, {"Sec_WebSocket_Version": "8"}),
    (426, {"Sec_WebSocket_Version": "7, 8, 13"}),
    (426, {"Sec_WebSocket_Version": "013"}),
    (426, {"Sec_WebSocket_Version": "13\r\nSec-WebSocket-Version: 13"}),
]


@pytest.mark.gen_test
async def test_a_handshake_is_checked_by_the_letter(server: RunningServer, world: World) -> None:
    """Section 4.2: what is no handshake is an HTTP error, with the version where that is wrong."""
    for status, changed in HANDSHAKES:
        found, head = await answered(server, handshake(chat_path(world), **as_headers(changed)))
        assert found == status, changed
        if status == 101:
            assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
            assert "Extensions" not in head
        if status == 426:
            assert "Sec-Websocket-Version: 13\r\n" in head
    for status, line in (
        (400, "GET {} HTTP/1.0"),
        (405, "POST {} HTTP/1.1"),
        (405, "PUT {} HTTP/1.1"),
        (400, "GET {} HTTP/2.0"),
    ):
        found, _ = await answered(server, handshake(chat_path(world), first_line=line))
        assert found == status, line
    body = handshake(chat_path(world), Content_Length="2") + b"{}"
    assert (await answered(server, body))[0] == 400


def as_headers(changed: Headers) -> Headers:
    return {name.replace("_", "-"): value for name, value in changed.items()}


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (101, {}),
        (101, {"Origin": "https://app.example.org"}),
        (101, {"Origin": "https://app.example.org", "Sec-Fetch-Site": "cross-site"}),
        (101, {"Sec-Fetch-Site": "cross-site"}),
        (403, {"Origin": "https://evil.example.org"}),
        (403, {"Origin": "https://evil.example.org", "Sec-Fetch-Site": "same-origin"}),
        (403, {"Origin": "https://evil.example.org", "Sec-Fetch-Site": "none"}),
        (403, {"Origin": "http://x"}),
        (403, {"Origin": "null"}),
        (403, {"Origin": ""}),
        (403, {"Origin": "https://app.example.org.evil.example"}),
        (403, {"Origin": "https://app.example.org, https://app.example.org"}),
    ],
)
@pytest.mark.gen_test
async def test_allowed_origins_are_a_list_and_nothing_else(
    start_server: StartServer, world: World, status: int, headers: Headers
) -> None:
    """Neither this server's own host nor what else a browser says is an exception."""
    server = await start_server(ALLOWED_ORIGINS="https://app.example.org")
    assert (await answered(server, handshake(chat_path(world), **headers)))[0] == status


@pytest.mark.gen_test
async def test_an_address_that_is_no_text_is_a_bot_that_is_not_there(
    server: RunningServer, world: World
) -> None:
    """It is refused as any other that is no UUID."""
    refused = await server.open("/api/ws/chat/%ff", world.guest)
    assert (await refused.closed(), refused.reason) == (4003, "bot not found or access denied")
