"""A WebSocket client in a hundred lines: the chaos suite's own end of the wire.

Its own, because it has to do what a library prevents: stop reading so that the kernel's buffers
fill, vanish without a word, and keep the exact close code. Used by `clients`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from typing import Any

RECEIVE_BUFFER = 65536
"""Fixed, so that whoever stops reading is noticed: the kernel would let it grow to megabytes."""
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA


class Closed(Exception):
    """The connection is over; 1006 where no close frame said why."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class WebSocket:
    """One connection to a process on this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    @classmethod
    async def open(cls, port: int, path: str, *, limit: float) -> WebSocket:
        """Connect and shake hands.

        Raises:
            OSError: nobody is there, or nobody that completes the handshake within `limit`.
        """
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        plain.setblocking(False)
        try:
            async with asyncio.timeout(limit):
                await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
                reader, writer = await asyncio.open_connection(sock=plain)
        except BaseException:
            plain.close()
            raise
        opened = cls(reader, writer)
        try:
            async with asyncio.timeout(limit):
                await opened._shake_hands(port, path)
        except BaseException:
            opened.abort()
            raise
        return opened

    async def _shake_hands(self, port: int, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ConnectionResetError("closed during the handshake") from error
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionRefusedError(head.split(b"\r\n")[0].decode())

    async def receive(self, limit: float) -> dict[str, Any] | None:
        """The next message, or None when `limit` seconds brought none.

        Raises:
            Closed: there will be no more.
        """
        try:
            async with asyncio.timeout(limit):
                while True:
                    message = self._next_message()
                    if message is not None:
                        return message
                    data = await self._reader.read(RECEIVE_BUFFER)
                    if not data:
                        raise Closed(1006)
                    self._buffer += data
        except TimeoutError:
            return None
        except Closed:
            self._writer.close()
            raise
        except OSError as error:
            self.abort()
            raise Closed(1006, type(error).__name__) from error

    def _next_message(self) -> dict[str, Any] | None:
        while (frame := self._next_frame()) is not None:
            opcode, payload = frame
            if opcode == _TEXT:
                message: dict[str, Any] = json.loads(payload)
                return message
            if opcode == _PING:
                self._send_frame(_PONG, payload)
            elif opcode == _CLOSE:
                self._send_frame(_CLOSE, payload[:2])
                code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                raise Closed(code, payload[2:].decode())
        return None

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Take one whole frame from what has arrived (RFC 6455 section 5.2; servers mask none)."""
        have = self._buffer
        if len(have) < 2:
            return None
        start, size = 2, have[1] & 0x7F
        if size > 125:
            start += 2 if size == 126 else 8
            if len(have) < start:
                return None
            size = int.from_bytes(have[2:start], "big")
        if len(have) < start + size:
            return None
        opcode, payload = have[0] & 0x0F, bytes(have[start : start + size])
        del have[: start + size]
        return opcode, payload

    def send(self, message: dict[str, Any]) -> None:
        """Hand a (small) message to the kernel; that the peer is gone shows in `receive`."""
        self._send_frame(_TEXT, json.dumps(message).encode())

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        assert len(payload) < 126, "a client of this suite says little"
        # A mask of zeros leaves the payload as it is.
        self._writer.write(struct.pack("!BB4x", 0x80 | opcode, 0x80 | len(payload)) + payload)

    def leave(self, code: int) -> None:
        """Say goodbye and go."""
        self._send_frame(_CLOSE, struct.pack("!H", code))
        self._writer.close()

    def abort(self) -> None:
        """Vanish, as a phone in a tunnel does."""
        self._writer.transport.abort()
