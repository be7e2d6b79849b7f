"""What wakes the relay: NOTIFY on the channel `relay`, or a few seconds without one.

The bell only says "look": what happened is in the log, so a lost or spurious ring does no harm. The
same connection also hears `relay_typing`. Opened by `server`, waited on by `relay.relay`.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

CHANNEL = "relay"
TYPING_CHANNEL = "relay_typing"
SAFETY_SECONDS = 2.0
"""The log is read at least this often, for what was written with `relay.quiet` or rang unheard."""


class Doorbell:
    """Hears the bell over one connection.

    Args:
        connection: its own, on which nothing leaves a transaction open: NOTIFY is delivered only
            between transactions.
        on_typing: called with each payload heard on the typing channel.
    """

    def __init__(
        self,
        connection: "asyncpg.Connection[asyncpg.Record]",
        on_typing: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._on_typing = on_typing
        self._rung = asyncio.Event()

    async def listen(self) -> None:
        """Begin to hear. The first `wait` returns at once, for what came before."""
        # Plain functions: asyncpg calls them in order (a coroutine would become a task each time).
        await self._connection.add_listener(CHANNEL, self._hear_ring)
        await self._connection.add_listener(TYPING_CHANNEL, self._hear_typing)
        self._connection.add_termination_listener(self._hear_ring)
        self.ring()

    def ring(self) -> None:
        """Wake the relay from within this process."""
        self._rung.set()

    async def wait(self) -> None:
        """Return when rung, or after `SAFETY_SECONDS`.

        Raises:
            ConnectionError: the connection is gone.
        """
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                await self._rung.wait()
        except TimeoutError:
            pass  # time to look in any case
        self._rung.clear()
        if self._connection.is_closed():
            raise ConnectionResetError("the connection that listens was closed")

    def _hear_ring(self, *_: Any) -> None:
        self._rung.set()

    def _hear_typing(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._on_typing(str(payload))
