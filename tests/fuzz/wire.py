"""A WebSocket client that may send anything: bytes out, and what the server's bytes say."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
INTERNAL_ERROR = struct.pack("!H", 1011)
ANSWER_SECONDS = 0.5
"""How long is waited for an answer that may never come."""
GREETING_SECONDS = 10.0
MOST_BYTES = 1_000_000
_HOST = "127.0.0.1"
_LETS_IN = (b"HTTP/1.1 101", b"HTTP/1.1 200")
_GREETING_EVENT = re.compile(rb'^data: (\{"type":"connection_established".*\})\n\n', re.MULTILINE)


class Finding(Exception):
    """The server did what it must not do."""


class Forgery(Finding):
    """The server believed what nobody gave out."""


def handshake(path: str, **query: str) -> bytes:
    """A good handshake."""
    lines = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    return request(path, *lines, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", **query)


def request(path: str, *lines: str, **query: str) -> bytes:
    """A GET. The query is quoted, so that its values may be anything.

    Args:
        lines: of the head, beside `Host`.
    """
    asked = "&".join(
        f"{name}={quote(value, safe='', encoding='latin-1', errors='replace')}"
        for name, value in query.items()
    )
    head = [f"GET {path}?{asked} HTTP/1.1", f"Host: {_HOST}", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    first: int = 0x80,
    masked: bool = True,
    size: int | None = None,
) -> bytes:
    """A frame, right or wrong.

    Args:
        first: the bits beside the opcode: FIN and the reserved ones.
        masked: the mask is zero, so that the payload stands as it is.
        size: the length that is claimed, in the longest form; None: the true one, in the shortest.
    """
    bit = 0x80 if masked else 0
    if size is not None:
        length = struct.pack("!BQ", bit | 127, size % 2**64)
    elif len(payload) < 126:
        length = struct.pack("!B", bit | len(payload))
    elif len(payload) < 2**16:
        length = struct.pack("!BH", bit | 126, len(payload))
    else:
        length = struct.pack("!BQ", bit | 127, len(payload))
    return bytes([(first | opcode) & 0xFF]) + length + (bytes(4) if masked else b"") + payload


class Line:
    """A TCP connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._received = b""

    @classmethod
    async def open(cls, port: int) -> Line:
        return cls(*await asyncio.open_connection(_HOST, port))

    async def send(self, data: bytes) -> None:
        """Send as far as the server takes it in time."""
        self._writer.write(data)
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._writer.drain()

    async def receive(
        self, seconds: float = ANSWER_SECONDS, *, until: Callable[[bytes], bool] = lambda _: False
    ) -> bytes:
        """All that came, until the server hangs up, time is over, or that is enough."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                while len(self._received) < MOST_BYTES and not until(self._received):
                    part = await self._reader.read(65536)
                    if not part:
                        break
                    self._received += part
        return self._received

    async def come_in(self, path: str, **query: str) -> dict[str, Any] | None:
        """Make a good handshake; what the server says when it lets us in. None: it does not.

        Raises:
            Finding: the server says that it met an error of its own.
        """
        return await self.ask(handshake(path, **query))

    async def ask(self, request: bytes) -> dict[str, Any] | None:
        """As `come_in`, with any request that lets one in."""
        await self.send(request)
        answer = await self.receive(GREETING_SECONDS, until=_is_decided)
        refuse_errors(answer)
        return greeting(answer)

    async def hang_up(self) -> None:
        self._writer.transport.abort()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def exchange(port: int, data: bytes, seconds: float = ANSWER_SECONDS) -> bytes:
    """Send, read what comes back, and hang up."""
    line = await Line.open(port)
    try:
        await line.send(data)
        answer = await line.receive(seconds)
    finally:
        await line.hang_up()
    refuse_errors(answer)
    return answer


def refuse_errors(answer: bytes) -> None:
    """Whatever was sent, the server has to know what to do.

    Raises:
        Finding: it says that it met an error of its own.
    """
    if answer.startswith(b"HTTP/1.1 500"):
        raise Finding(f"answered {answer[:60]!r}")
    if b'event: close\ndata: {"code": 1011' in answer:
        raise Finding("ended the events with 1011")
    payload = _close_payload(answer)
    # A client's own 1011 comes back as an echo, which has no words.
    if payload[:2] == INTERNAL_ERROR and payload[2:]:
        raise Finding(f"closed the socket with 1011: {payload[2:]!r}")


def _is_decided(answer: bytes) -> bool:
    """Whether the server has let us in, or refused to."""
    if b"\r\n\r\n" not in answer:
        return False
    is_refused = not answer.startswith(_LETS_IN) or close_code(answer) is not None
    return is_refused or greeting(answer) is not None


def frames_of(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """Opcode and payload of each whole frame after the handshake's head."""
    _, _, rest = answer.partition(b"\r\n\r\n")
    while len(rest) >= 2:
        size, start = rest[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(rest[2:start], "big")
        if len(rest) < start + size:
            return
        yield rest[0] & 0x0F, rest[start : start + size]
        rest = rest[start + size :]


def close_code(answer: bytes) -> int | None:
    """The code of the server's close frame, if there is one."""
    payload = _close_payload(answer)
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None


def _close_payload(answer: bytes) -> bytes:
    """What is in the server's close frame: a code and words, or nothing."""
    if not answer.startswith(b"HTTP/1.1 101"):
        return b""
    return next((payload for opcode, payload in frames_of(answer) if opcode == CLOSE), b"")


def greeting(answer: bytes) -> dict[str, Any] | None:
    """The data of `connection_established`; None: the server did not let us in."""
    if not answer.startswith(_LETS_IN):
        return None
    for opcode, payload in frames_of(answer) if answer.startswith(b"HTTP/1.1 101") else ():
        if opcode == TEXT and b'"connection_established"' in payload:
            data: dict[str, Any] = json.loads(payload)["data"]
            return data
    event = _GREETING_EVENT.search(answer)
    return dict(json.loads(event[1])["data"]) if event else None
