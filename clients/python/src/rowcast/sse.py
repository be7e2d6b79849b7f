"""Events over HTTP (`/api/sse/…`) as a socket that only hears: for networks without WebSockets.

The answer to one request is a stream of server-sent events
(https://html.spec.whatwg.org/multipage/server-sent-events.html). What has no data counts as a
pong: a comment is a sign of life, and an `id` alone a newer cursor.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException, parse_headers
from io import BytesIO
from ssl import SSLContext, create_default_context
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from rowcast.rules import CUT, TOKEN_REFUSED, Closed, retry_after
from rowcast.transport import MAX_MESSAGE_BYTES

CODES: Final = {401: TOKEN_REFUSED, 403: 4003, 429: 4029, 500: 1011, 503: 1013}
"""The close code that a socket would have been sent in place of an HTTP status."""
PORTS: Final = {"http": 80, "https": 443}
MOST_DIGITS: Final = 10
"""Of a number of seconds; a longer one is no time to wait."""
PORTION_BYTES: Final = 64 * 1024
"""What is read ahead is at most twice as much."""


async def open_events(
    url: str, headers: Mapping[str, str], within: float, ssl: SSLContext | None = None
) -> EventSocket:
    """Ask for the stream, and read the head of the answer.

    Raises:
        Closed: the code that fits the refusal; 1006, with what went wrong, if there is no answer.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(within):
            parts = urlsplit(url)
            reader, writer = await asyncio.open_connection(
                parts.hostname,
                parts.port or PORTS[parts.scheme],
                ssl=(ssl or create_default_context()) if parts.scheme == "https" else None,
                limit=PORTION_BYTES,
            )
            writer.write(_request(parts, headers))
            status, fields = await _head(reader)
            while 100 <= status < 200 and status != 101:
                status, fields = await _head(reader)  # the answer itself follows
            if status != 200:
                raise await _refusal(reader, status, fields)
            if fields.get_content_type() != "text/event-stream":
                raise Closed(CUT, "the answer is no stream of events")
    except BaseException as error:
        if writer is not None:
            writer.transport.abort()
        if isinstance(error, OSError | EOFError | ValueError | HTTPException):
            raise Closed(CUT, str(error) or type(error).__name__) from error
        raise
    return EventSocket(reader, writer, fields.get("Transfer-Encoding", "").lower() == "chunked")


def _request(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"GET {parts.path}?{parts.query} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        "Accept: text/event-stream",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


async def _head(reader: asyncio.StreamReader) -> tuple[int, Message]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("the head of the answer is too long") from error
    line, _, rest = head.partition(b"\r\n")
    words = line.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1"):
        raise ValueError("the answer is not HTTP")
    return int(words[1]), parse_headers(BytesIO(rest))


async def _refusal(reader: asyncio.StreamReader, status: int, fields: Message) -> Closed:
    """What the server says against it, in its JSON or by the status alone."""
    told = _members(await _body(reader, fields))
    seconds = fields.get("Retry-After", "")
    is_number = seconds.isdecimal() and len(seconds) <= MOST_DIGITS
    stay_away = retry_after(int(seconds)) if is_number else 0.0
    reason = str(told.get("error", f"HTTP {status}"))
    return Closed(CODES.get(status, CUT), reason, stay_away)


async def _body(reader: asyncio.StreamReader, fields: Message) -> bytes:
    """A short body; empty where it is none. A connection that stays open has no other end."""
    length = fields.get("Content-Length", "")
    try:
        if fields.get("Transfer-Encoding", "").lower() == "chunked":
            return await reader.readexactly(min(await _chunk_size(reader), PORTION_BYTES))
        if length.isdecimal() and len(length) <= MOST_DIGITS:
            return await reader.readexactly(min(int(length), PORTION_BYTES))
    except (EOFError, ValueError):
        return b""
    return await reader.read(PORTION_BYTES)


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    """How many bytes the next chunk has; 0: that was the last.

    Raises:
        ValueError: this is no chunk.
    """
    size = int((await reader.readline()).partition(b";")[0], 16)
    if size < 0:
        raise ValueError("a chunk has no such size")
    return size


def _members(text: bytes) -> dict[str, Any]:
    """What a JSON object holds; nothing where this is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class EventSocket:
    """An answer that is open; see `Socket`."""

    hears_only = True

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_chunked: bool
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._is_chunked = is_chunked
        self._left_of_chunk = 0
        self._buffer = bytearray()
        self._searched = 0
        self._ending: Closed | None = None

    async def receive(self) -> str | bytes:
        try:
            return await self._event()
        except (OSError, EOFError, ValueError) as error:
            self.abort(CUT, str(error) or type(error).__name__)
        assert self._ending is not None
        raise self._ending

    async def _event(self) -> str | bytes:
        """The next event's data, or a pong."""
        kind, cursor, data, size = "", "", list[bytes](), 0
        while line := await self._line():
            size += len(line)
            if size > MAX_MESSAGE_BYTES:
                raise ValueError("a message is too large")
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            match name:
                case b"data":
                    data.append(value)
                case b"event":
                    kind = value.decode("utf-8", "replace")
                case b"id":
                    cursor = value.decode("utf-8", "replace")
        if not data:
            return json.dumps({"type": "pong", "cursor": cursor})
        if kind == "close":
            ending = _members(b"".join(data))
            code = ending.get("code")
            if not isinstance(code, int) or isinstance(code, bool):
                code = CUT
            self.abort(code, str(ending.get("reason", "")))
            raise EOFError
        return _text(b"\n".join(data))

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._searched > MAX_MESSAGE_BYTES:
                raise ValueError("a message is too large")
            more = await self._more()
            if not more or self._ending is not None:
                raise EOFError("the server ended the stream")
            self._buffer += more
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    async def _more(self) -> bytes:
        """The next bytes of the body; none at its end."""
        if not self._is_chunked:
            return await self._reader.read(PORTION_BYTES)
        if self._left_of_chunk == 0:
            self._left_of_chunk = await _chunk_size(self._reader)
            if self._left_of_chunk == 0:
                return b""
        more = await self._reader.read(min(self._left_of_chunk, PORTION_BYTES))
        self._left_of_chunk -= len(more)
        if self._left_of_chunk == 0:
            await self._reader.readexactly(2)
        return more

    def send(self, text: str) -> bool:
        """False: there is no way to say anything."""
        return False

    async def close(self, code: int) -> None:
        self.abort(code)

    def abort(self, code: int = CUT, reason: str = "") -> None:
        if self._ending is None:
            self._ending = Closed(code, reason)
            self._writer.transport.abort()


def _text(data: bytes) -> str | bytes:
    """As a WebSocket has it: a text, or the bytes where they are none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
