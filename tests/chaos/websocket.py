"""The wire under `rowcast`: it watches what the server sends, and lets the line go.

The client is the product's own, unchanged, on its own sockets; this is put between by its
`open_socket`. Through it the suite judges the server by what arrived, while it judges the client by
what it hands over. It also does what an application cannot: it vanishes without a word.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rowcast.rules import Closed
from rowcast.sse import EventSocket
from rowcast.transport import TornadoSocket
from tests.chaos.many import ManySocket

RECEIVE_BUFFER = 65536
"""Fixed, so that whoever stops reading is noticed: the kernel would let it grow to megabytes."""
GOING_AWAY = 1001


Inner = TornadoSocket | EventSocket | ManySocket
"""The ways in."""


@dataclass
class Dial:
    """One attempt to connect."""

    number: int
    port: int
    began_at: float
    claimed: str | None
    """The cursor with which the client wanted to come back."""
    asked: str | None
    """The one that was sent."""
    connection_id: str = ""
    greeted_at: float = 0.0
    has_failed: bool = False
    arrived: set[str] = field(default_factory=set)


class Wire:
    """A socket of the client's, watched.

    Args:
        watch: called with each message before the client gets it.
    """

    def __init__(
        self,
        inner: Inner,
        dial: Dial,
        watch: Callable[[Dial, Any], None],
    ) -> None:
        self._inner = inner
        self._watch = watch
        self._left: asyncio.Future[Closed] = asyncio.get_running_loop().create_future()
        self._goodbye: asyncio.Task[None] | None = None
        self.dial = dial
        self.hears_only = inner.hears_only
        if (connection := _connection_of(inner)) is not None:  # it may be gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    @property
    def has_left(self) -> bool:
        return self._left.done()

    def leave(self, politely: bool) -> None:
        """Under the client: say goodbye, or vanish as a phone in a tunnel does."""
        if self.has_left:
            return
        if politely:
            self._goodbye = asyncio.create_task(self._inner.close(GOING_AWAY))
        else:
            self._inner.abort()
        self._left.set_result(Closed(GOING_AWAY if politely else 1006, "left"))

    async def receive(self) -> str | bytes:
        reading = asyncio.create_task(self._inner.receive())
        either: set[asyncio.Future[Any]] = {reading, self._left}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not reading.done() or self.has_left:
                reading.cancel()
                reading.add_done_callback(_look_at)
        # What arrives after a goodbye is nobody's: some of it went to who waits for the answer.
        if self.has_left:
            raise self._left.result()
        frame = reading.result()
        self._watch(self.dial, json.loads(frame))
        return frame

    def send(self, text: str) -> bool:
        return self._inner.send(text)

    async def close(self, code: int) -> None:
        await self._inner.close(code)

    def abort(self, code: int = 1006, reason: str = "") -> None:
        if self._goodbye is None:
            self._inner.abort(code, reason)

    async def gone(self) -> None:
        """Wait until nothing is left of a goodbye."""
        if self._goodbye is not None:
            await self._goodbye


def _connection_of(inner: Inner) -> Any:
    if isinstance(inner, EventSocket):
        return inner._writer.get_extra_info("socket")
    return None if inner.stream is None else inner.stream.socket


def _look_at(reading: asyncio.Task[str | bytes]) -> None:
    if not reading.cancelled():
        reading.exception()
