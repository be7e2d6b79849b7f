"""The handshakes of this process that are still to be answered.

Each is a task, which is kept here until it is over. So a process that ends can tell these clients,
too, to come back: they are not yet among the open sockets, which the drain closes.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Protocol

from realtime.relay.closing import Closing

END_SECONDS = 2.0


class Opening(Protocol):
    """A socket that is not open yet."""

    def close(self, code: int, reason: str) -> None:
        """Refuse it."""


class Openings:
    """The handshakes that are still to be answered.

    Args:
        loop: where their tasks run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: dict[asyncio.Task[None], Opening] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, opening: Opening, work: Coroutine[None, None, None]) -> None:
        """Let a client in, or refuse it, in a task of its own."""
        task = self._loop.create_task(work)
        self._tasks[task] = opening
        task.add_done_callback(self._tasks.pop)

    async def end(self, why: Closing) -> None:
        """Refuse those that are left, and return when their tasks are over, or take too long."""
        await asyncio.sleep(0)  # who came a moment ago begins: it is to be read to its end
        left = dict(self._tasks)
        for task, opening in left.items():
            opening.close(*why)
            task.cancel()
        with suppress(TimeoutError):  # whom a database that does not answer holds up
            async with asyncio.timeout(END_SECONDS):
                await asyncio.gather(*left, return_exceptions=True)
