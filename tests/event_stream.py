"""A client of Server-Sent Events that remembers what it was sent. For tests only.

It reads by the letter of https://html.spec.whatwg.org/multipage/server-sent-events.html, and keeps
what it read beside what it understood.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from tests.waiting import LIMIT, eventually

Message = dict[str, Any]


class Block(NamedTuple):
    """What stands between two empty lines."""

    event: str
    data: str
    last_event_id: str
    """The newest id up to here, which the client would come back with."""


class EventStream:
    """One answer: its head, everything that arrived, in order, and whether it has ended.

    It reads no chunks, which this server does not send.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.url = ""
        self.said: tuple[Message, ...] = ()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        """The body."""
        self.is_closed = False

    @classmethod
    async def open(
        cls,
        port: int,
        address: str,
        headers: Mapping[str, str],
        version: str = "1.1",
        tls: ssl.SSLContext | None = None,
    ) -> EventStream:
        """Ask; returns when the head of the answer has arrived."""
        stream = cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))
        stream.url = address
        lines = [f"GET {address} HTTP/{version}", "Host: test"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        stream.writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await asyncio.wait_for(stream.reader.readuntil(b"\r\n\r\n"), LIMIT)
        first, *fields = head.decode().split("\r\n")[:-2]
        stream.status = int(first.split(" ")[1])
        stream.headers = {
            name.lower(): value for name, _, value in (field.partition(": ") for field in fields)
        }
        stream.task = asyncio.create_task(stream._read())
        return stream

    task: asyncio.Task[None]

    async def _read(self) -> None:
        with suppress(OSError):
            while data := await self.reader.read(65536):
                self.text += data.decode()
        self.close()

    def close(self) -> None:
        """Leave."""
        self.is_closed = True
        self.writer.close()

    @property
    def blocks(self) -> Iterator[Block]:
        """The events that a browser would tell its page of, and those that only carry an id."""
        last_id = ""
        for text in self.text.split("\n\n")[:-1]:
            event, data = "message", []
            for line in text.split("\n"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "id":
                    last_id = value
                elif name == "event":
                    event = value
                elif name == "data":
                    data.append(value)
                else:
                    assert name in ("", "retry"), line
            yield Block(event, "\n".join(data), last_id)

    @property
    def last_event_id(self) -> str:
        """What it would come back with."""
        return [block.last_event_id for block in self.blocks][-1]

    @property
    def texts(self) -> list[str]:
        """The messages as they came."""
        return [block.data for block in self.blocks if block.event == "message" and block.data]

    @property
    def messages(self) -> list[Message]:
        return list(map(json.loads, self.texts))

    def of_type(self, *types: str) -> list[Message]:
        """What has arrived of these types."""
        return [message for message in self.messages if message["type"] in types]

    async def next(self, message_type: str, count: int = 1) -> Message:
        """Wait until `count` messages of the type have arrived; returns the last of these."""
        await eventually(
            lambda: self.is_closed or len(self.of_type(message_type)) >= count,
            what=f"{count} {message_type}; so far: {self.status} {self.text}",
        )
        found = self.of_type(message_type)
        assert len(found) >= count, f"ended {self.status}; got {self.text}"
        return found[count - 1]

    async def ended(self) -> Message | None:
        """Wait for the end; returns what the event `close` says, if there is one."""
        await eventually(lambda: self.is_closed, what=f"the end; so far: {self.text}")
        closes = [json.loads(block.data) for block in self.blocks if block.event == "close"]
        assert len(closes) <= 1
        return closes[0] if closes else None

    async def error(self) -> str:
        """Wait for the end of a refusal; returns what it says."""
        await eventually(lambda: self.is_closed)
        return str(json.loads(self.text)["error"])
