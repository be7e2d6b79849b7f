"""The bytes that the load generator writes: handshakes and small masked frames (RFC 6455)."""

from __future__ import annotations

import base64
import os
import struct

TEXT = 0x81
CLOSE = 0x88
PING = 0x89
PONG = 0x8A
MASK = 0x80


def handshake(path: str, port: int) -> bytes:
    """The request that opens a WebSocket; it offers no compression, like most services' clients."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    )
    return "\r\n".join((*lines, "", "")).encode()


def masked(opcode: int, payload: bytes) -> bytes:
    """A small frame of a client. Masked with zeros, which is allowed and leaves it readable."""
    return bytes((opcode, MASK | len(payload))) + bytes(4) + payload


def small_or_long_frame(data: bytes, position: int) -> tuple[int, int, bytes] | None:
    """Its first byte, where it ends, and its payload; None: it is not whole yet."""
    if len(data) - position < 2:
        return None
    length, start = data[position + 1], position + 2
    if length == 126:
        length, start = _extended(">H", data, start), start + 2
    elif length == 127:
        length, start = _extended(">Q", data, start), start + 8
    if length < 0 or start + length > len(data):
        return None
    return data[position], start + length, data[start : start + length]


def _extended(form: str, data: bytes, start: int) -> int:
    if len(data) - start < struct.calcsize(form):
        return -1
    length: int = struct.unpack_from(form, data, start)[0]
    return length
