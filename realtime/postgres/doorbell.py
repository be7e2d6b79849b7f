"""What wakes the relay, NOTIFY on the channel `relay`, and how the relay silences it while awake.

The bell only says "look": what happened is in the log, so a lost or spurious ring does no harm. The
same connection also hears `relay_typing`. Opened by `listener`; what is done when, `relay.pace`
says.

The bell is the sequence `relay.bell`, whose value writers read outside MVCC (2: do not ring). It
may be silent only while every live process is awake: who goes to sleep and who silences take turns
by locking one table, each in statements of their own under READ COMMITTED, so that each sees what
the one before did. https://www.postgresql.org/docs/current/explicit-locking.html
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from realtime.relay.counters import Counters

if TYPE_CHECKING:
    import asyncpg

CHANNEL = "relay"
TYPING_CHANNEL = "relay_typing"
ALIVE_SECONDS = 10.0
"""How long after its last heartbeat a process counts as running."""
HEARING_SECONDS = 1.0
"""Seconds in which a ring of another connection must be heard."""
POLL_SECONDS = 0.25
"""Seconds between reads of the log if no ring is ever heard."""
TURN_SECONDS = 2
"""How long another process may keep the turn: it needs a few milliseconds."""
TAKE_TURN = "LOCK TABLE relay.doorbell_turn IN EXCLUSIVE MODE"

# One script each, so one round trip. Whatever the database's defaults are, a statement must see
# what was committed before it began: the lock may have been waited for. Nothing of it has to
# outlive a crash, after which every process connects anew.
_BEGIN = f"""
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL synchronous_commit = off;
SET LOCAL lock_timeout = '{TURN_SECONDS}s';
SET LOCAL statement_timeout = '{2 * TURN_SECONDS}s';
{TAKE_TURN};
INSERT INTO relay.nodes (id, awake) VALUES ('{{node_id}}', {{awake}})
    ON CONFLICT (id) DO UPDATE SET awake = excluded.awake, heartbeat_at = clock_timestamp();
"""
_SILENCE = f"""{_BEGIN}
SELECT setval('relay.bell', 2) WHERE NOT EXISTS (
    SELECT FROM relay.nodes WHERE NOT awake
       AND heartbeat_at > clock_timestamp() - make_interval(secs => {ALIVE_SECONDS}));
COMMIT
"""
_RING_ON = f"""{_BEGIN}
SELECT setval('relay.bell', 1);
COMMIT
"""
# Not part of the script: whoever found the bell silent must have a lower id.
_FENCE = "SELECT pg_current_xact_id()"
_IS_ON = """
SELECT pg_sequence_last_value('relay.bell') IS DISTINCT FROM 2
   AND EXISTS (SELECT FROM relay.nodes WHERE id = $1 AND NOT awake)
"""


class Doorbell:
    """Hears the bell over one connection.

    Args:
        connection: its own, on which nothing leaves a transaction open: NOTIFY is delivered only
            between transactions.
        node_id: this process's, in `relay.nodes`.
        on_typing: called with each payload heard on the typing channel.
        counters: counts rings.
    """

    def __init__(
        self,
        connection: "asyncpg.Connection[asyncpg.Record]",
        node_id: str,
        on_typing: Callable[[str], None],
        counters: Counters | None = None,
    ) -> None:
        self._counters = counters or Counters(time.monotonic)
        self._connection = connection
        self._node_id = node_id
        self._on_typing = on_typing
        self._rung = asyncio.Event()
        self.can_hear = True
        """Whether other connections' rings arrive here."""

    async def listen(self) -> None:
        """Start to listen."""
        # Plain functions: asyncpg calls them in order (a coroutine would become a task each time).
        await self._connection.add_listener(CHANNEL, self._hear_ring)
        await self._connection.add_listener(TYPING_CHANNEL, self._hear_typing)
        self._connection.add_termination_listener(self._hear_end)

    async def try_hearing(self, ring: Callable[[], Awaitable[None]]) -> None:
        """Find out whether a ring arrives, while nothing else is asked of this connection.

        Args:
            ring: notifies `CHANNEL` over another connection: behind a pooler one may hear one's
                own ring, and nobody else's ever.

        Raises:
            ConnectionError: the connection is gone.
        """
        self._rung.clear()
        await ring()
        try:
            async with asyncio.timeout(HEARING_SECONDS):
                await self._rung.wait()
        except TimeoutError:
            self.can_hear = False
        self._raise_if_closed()

    def ring(self) -> None:
        """Wake the relay from within this process."""
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Return when rung, or after that time.

        Raises:
            ConnectionError: the connection is gone.
        """
        try:
            async with asyncio.timeout(seconds if self.can_hear else min(seconds, POLL_SECONDS)):
                await self._rung.wait()
        except TimeoutError:
            pass  # time to look in any case
        self._rung.clear()
        self._raise_if_closed()

    async def pause(self, seconds: float) -> None:
        """Return after that time. The next read answers the rings that came meanwhile."""
        await asyncio.sleep(seconds)
        self._rung.clear()

    async def silence(self) -> None:
        """Say that this process is awake, and silence the bell if all live processes are."""
        await self._connection.execute(_SILENCE.format(node_id=self._node_id, awake=True))

    async def ring_on(self) -> int:
        """Say that this process sleeps, switch the bell on, and return a fence for `relay.pace`."""
        await self._connection.execute(_RING_ON.format(node_id=self._node_id, awake=False))
        fence: int = await self._connection.fetchval(_FENCE)
        return fence

    async def is_on(self) -> bool:
        """Whether the bell rings and this process is known to sleep."""
        is_on: bool = await self._connection.fetchval(_IS_ON, self._node_id)
        return is_on

    def _raise_if_closed(self) -> None:
        if self._connection.is_closed():
            raise ConnectionResetError("the connection that listens was closed")

    def _hear_ring(self, *_: Any) -> None:
        self._counters.rings += 1
        self._rung.set()

    def _hear_end(self, _connection: Any) -> None:
        self._rung.set()

    def _hear_typing(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._on_typing(str(payload))
