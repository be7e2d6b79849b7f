"""What wakes the relay, NOTIFY on a channel with a secret name, and how the relay silences it.

The bell only says "look": what happened is in the log, so a lost or spurious ring does no harm. The
same connection also hears typing, on a channel of its own. Opened by `listener`; `relay.pace` says
what is done when.

The bell is the sequence `relay.bell`, whose value writers read outside MVCC (2: do not ring). It
may be silent only while every live process is awake: who goes to sleep and who silences take turns
by locking one table, each in statements of their own under READ COMMITTED, so that each sees what
the one before did. https://www.postgresql.org/docs/current/explicit-locking.html
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.relay.counters import Counters

if TYPE_CHECKING:
    from realtime.postgres.pool import HearingConnection

RING_CHANNEL = "relay_ring_"
TYPING_CHANNEL = "relay_typing_"
"""How the channels' names begin. The rest is a number that only the database knows."""
FULL = 0.5
"""So much of the queue of notifications may be used. When all of it is, every commit that rings
fails; so above this nobody rings, and the log is polled."""
ALIVE_SECONDS = 10.0
"""How long after its last heartbeat a process counts as running."""
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
INSERT INTO relay.nodes (id, awake, backend) VALUES ('{{node_id}}', {{awake}}, pg_backend_pid())
    ON CONFLICT (id) DO UPDATE SET awake = excluded.awake, backend = excluded.backend,
                                   heartbeat_at = clock_timestamp();
"""
_SILENCE = f"""{_BEGIN}
SELECT setval('relay.bell', 2) WHERE NOT EXISTS (
    SELECT FROM relay.nodes WHERE NOT awake
       AND heartbeat_at > clock_timestamp() - make_interval(secs => {ALIVE_SECONDS}));
COMMIT
"""
_RING_ON = f"""{_BEGIN}
SELECT setval('relay.bell', CASE WHEN pg_notification_queue_usage() > {{full}} THEN 2 ELSE 1 END);
COMMIT
"""
# The names may have been changed.
_LISTEN_ANEW = "SELECT relay.listen() WHERE NOT relay.is_listening()"
# Not part of the script: whoever found the bell silent must have a lower id.
_FENCE = """
SELECT pg_current_xact_id() AS fence,
       pg_sequence_last_value('relay.bell') IS NOT DISTINCT FROM 2 AS is_silent
"""
_CHECK = """
SELECT pg_sequence_last_value('relay.bell') IS NOT DISTINCT FROM 2 AS is_silent,
       pg_notification_queue_usage() > $2 AS is_full,
       EXISTS (SELECT FROM relay.nodes WHERE id = $1 AND NOT awake) AS is_asleep
"""


class Doorbell:
    """Hears the bell over one connection.

    Args:
        connection: its own, on which nothing leaves a transaction open: NOTIFY is delivered only
            between transactions.
        node_id: this process's, in `relay.nodes`.
        on_typing: called with each payload heard on the typing channel.
        counters: counts rings.
        full: above which use of the queue of notifications nobody rings.
    """

    def __init__(
        self,
        connection: "HearingConnection",
        node_id: str,
        on_typing: Callable[[str], None],
        counters: Counters | None = None,
        intervals: Intervals = DEFAULTS,
        full: float = FULL,
    ) -> None:
        self._full = full
        self._intervals = intervals
        self._counters = counters or Counters(time.monotonic)
        self._connection = connection
        self._node_id = node_id
        self._on_typing = on_typing
        self._rung = asyncio.Event()
        self._is_silenced = False
        self.can_hear = True
        """Whether other connections' rings arrive here."""

    async def listen(self) -> None:
        """Start to listen."""
        self._connection.hear = self._hear
        self._connection.add_termination_listener(self._hear_end)
        await self._connection.execute("SELECT relay.listen()")

    async def try_hearing(self, ring: Callable[[], Awaitable[None]]) -> None:
        """Find out whether a ring arrives, while nothing else is asked of this connection.

        Args:
            ring: calls `relay.tell('ring', …)` over another connection: behind a pooler one may
                hear one's own ring, and nobody else's ever.

        Raises:
            ConnectionError: the connection is gone.
        """
        self._rung.clear()
        await ring()
        try:
            async with asyncio.timeout(self._intervals.hearing):
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
            async with asyncio.timeout(
                seconds if self._is_rung_for else min(seconds, self._intervals.poll)
            ):
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
        await self._run(_SILENCE, awake=True)

    async def ring_on(self) -> int:
        """Say that this process sleeps, switch the bell on, and return a fence for `relay.pace`."""
        await self._run(_RING_ON, awake=False)
        row = await self._connection.fetchrow(_FENCE)
        assert row is not None
        self._is_silenced = row["is_silent"]
        return int(row["fence"])

    async def is_on(self) -> bool:
        """Whether the bell rings and this process is known to sleep.

        Also where the bell is silent because the queue of notifications is full: then `wait` polls.
        """
        if self.can_hear:
            await self._connection.execute(_LISTEN_ANEW)
        found = await self._connection.fetchrow(_CHECK, self._node_id, self._full)
        assert found is not None
        self._is_silenced = found["is_silent"]
        return bool(found["is_asleep"] and found["is_silent"] == found["is_full"])

    @property
    def _is_rung_for(self) -> bool:
        return self.can_hear and not self._is_silenced

    async def _run(self, script: str, *, awake: bool) -> None:
        script = script.format(node_id=self._node_id, awake=awake, full=self._full)
        await self._connection.execute(f"{script};{_LISTEN_ANEW}" if self.can_hear else script)

    def _raise_if_closed(self) -> None:
        if self._connection.is_closed():
            raise ConnectionResetError("the connection that listens was closed")

    def _hear(self, channel: str, payload: str) -> None:
        if channel.startswith(TYPING_CHANNEL):
            self._on_typing(payload)
        elif channel.startswith(RING_CHANNEL):
            self._counters.rings += 1
            self._rung.set()

    def _hear_end(self, _connection: Any) -> None:
        self._rung.set()
