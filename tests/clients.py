"""A WebSocket client that remembers what it was sent. For tests only."""

from __future__ import annotations

import json
import ssl
import time
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.waiting import LIMIT, eventually

Message = dict[str, Any]


class Socket:
    """One connection: everything that arrived, in order, and how it ended."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.texts: list[str | bytes] = []
        """The same as it came; a test may take a message to pieces."""
        self.said: list[Message] = []
        """What was sent; what is no object counts as an empty one."""
        self.url = ""
        self.arrived_at: list[float] = []
        """When each did, monotonic seconds."""
        self.is_closed = False
        self.selected_subprotocol: str | None = None
        self.connection: WebSocketClientConnection | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        subprotocols: list[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Socket:
        """Connect; returns when the handshake is done (which says nothing of being let in)."""
        socket = cls()
        socket.url = url
        socket.connection = await websocket_connect(
            HTTPRequest(url, headers=headers or {}, connect_timeout=LIMIT, ssl_options=tls),
            on_message_callback=socket._on_message,
            subprotocols=subprotocols,
        )
        socket.selected_subprotocol = socket.connection.selected_subprotocol
        if socket.is_closed:
            socket.connection.close()
        return socket

    def _on_message(self, text: str | bytes | None) -> None:
        if text is None:
            self.is_closed = True
            if self.connection is not None:
                self.connection.close()  # it warns when it is forgotten, though it is closed
        else:
            self.arrived_at.append(time.monotonic())
            self.texts.append(text)
            self.messages.append(json.loads(text))

    @property
    def code(self) -> int | None:
        assert self.connection is not None
        return self.connection.close_code

    @property
    def reason(self) -> str | None:
        assert self.connection is not None
        return self.connection.close_reason

    def of_type(self, *types: str) -> list[Message]:
        """What has arrived of these types."""
        return [message for message in self.messages if message["type"] in types]

    async def next(self, message_type: str, count: int = 1) -> Message:
        """Wait until `count` messages of the type have arrived; returns the last of these."""
        found = await eventually(
            lambda: self.is_closed or len(self.of_type(message_type)) >= count,
            what=f"{count} {message_type}; so far: {self.messages}",
        )
        assert found
        of_type = self.of_type(message_type)
        assert len(of_type) >= count, f"closed {self.code} {self.reason}; got {self.messages}"
        return of_type[count - 1]

    async def established(self) -> Message:
        return await self.next("connection_established")

    async def closed(self) -> int | None:
        """Wait for the end; returns the close code."""
        await eventually(lambda: self.is_closed, what=f"close; so far: {self.messages}")
        return self.code

    async def send(self, message: Message | str | bytes) -> None:
        assert self.connection is not None
        self.said.append(message if isinstance(message, dict) else {})
        data = json.dumps(message) if isinstance(message, dict) else message
        await self.connection.write_message(data, binary=isinstance(data, bytes))

    async def caught_up(self) -> None:
        """Wait for the answer to a ping: what was sent before it has arrived."""
        count = len(self.of_type("pong"))
        await self.send({"type": "ping"})
        await self.next("pong", count + 1)

    def close(self, code: int = 1000) -> None:
        assert self.connection is not None
        self.connection.close(code)
