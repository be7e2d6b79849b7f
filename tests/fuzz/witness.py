"""Somebody who behaves: a client on a bot, a writer for it, and how long each message took.

The time is from sending the INSERT until the message has arrived, and so includes what PostgreSQL
takes. The program's own delays count too: the attacks come from the same event loop.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import NamedTuple

from tests.clients import Socket
from tests.fuzz.target import World, token
from tests.platform import Platform
from tests.waiting import eventually

WRITE_EVERY = 0.05
LATE_SECONDS = 20.0
"""Who has not heard of a message by then does not hear of it any more."""


class Latencies(NamedTuple):
    """How long messages took, in seconds."""

    messages: int
    median: float
    p99: float
    worst: float


class Witness:
    """Writes and reads until it is ended."""

    def __init__(self, socket: Socket, platform: Platform, world: World) -> None:
        self._socket = socket
        self._platform = platform
        self._world = world
        self._sent: list[float] = []
        self._read = 0
        self._took: dict[int, float] = {}

    @classmethod
    async def begin(cls, port: int, dsn: str, world: World) -> Witness:
        url = f"ws://127.0.0.1:{port}/api/ws/chat/{world.good_bot}?token={token(world.good_user)}"
        socket = await Socket.open(url)
        await socket.established()
        return cls(socket, await Platform.connect(dsn), world)

    async def keep_writing(self) -> None:
        """Write a message now and then. Cancel to end."""
        world = self._world
        while True:
            self._sent.append(time.monotonic())
            text = str(len(self._sent) - 1)
            await self._platform.message(world.good_session, world.good_bot, world.good_user, text)
            await asyncio.sleep(WRITE_EVERY)

    @property
    def written(self) -> int:
        """How many messages; the last may not be committed yet."""
        return len(self._sent)

    def latencies(self, first: int, end: int) -> Latencies:
        """Of the messages with these numbers that have arrived."""
        self._look()
        took = sorted(self._took[one] for one in range(first, end) if one in self._took)
        if not took:
            return Latencies(0, 0.0, 0.0, 0.0)
        return Latencies(len(took), took[len(took) // 2], took[int(len(took) * 0.99)], took[-1])

    def _look(self) -> None:
        for at, message in zip(
            self._socket.arrived_at[self._read :], self._socket.messages[self._read :], strict=True
        ):
            if message["type"] == "chat_message":
                number = int(message["data"]["content"])
                self._took.setdefault(number, at - self._sent[number])
        self._read = len(self._socket.messages)

    async def finish(self) -> list[str]:
        """Wait for what was written last, and leave; returns what went wrong."""
        with suppress(AssertionError):  # what is missing is told below
            await eventually(self._has_all, limit=LATE_SECONDS)
        complaints = []
        if self._socket.is_closed:
            ended = f"{self._socket.code} {self._socket.reason or ''}"
            complaints.append(f"the client that behaves was closed: {ended}")
        if missing := self.written - len(self._took):
            complaints.append(f"{missing} of {self.written} messages did not arrive")
        if lost := self._socket.of_type("resync"):
            complaints.append(f"the client that behaves was told resync {len(lost)} times")
        self._socket.close()
        await self._platform.connection.close(timeout=5)
        return complaints

    def has_nearly_all(self) -> bool:
        """Whether no more than the message that is being written is missing."""
        self._look()
        return self._socket.is_closed or len(self._took) >= self.written - 1

    def _has_all(self) -> bool:
        self._look()
        return self._socket.is_closed or len(self._took) == self.written
