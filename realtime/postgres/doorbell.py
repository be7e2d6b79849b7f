"""What wakes the relay, NOTIFY on a channel with a secret name, and how the relay silences it.

A ring says "look", and may carry what there is to see: what happened is in the log, so no event is
lost if rings do not arrive, and a spurious one does no harm. `relay.carried` says when what it
carries may be delivered at once: who hears a ring must have heard all before it. The
same connection also hears typing, on a channel of its own. Opened by `listener`; `relay.pace` says
what is done when.

The bell is the sequence `relay.bell`, whose value writers read outside MVCC (2: do not ring; 3:
carry nothing). It may be silent only while every live process is awake: who goes to sleep and who
silences take turns by locking one table, each in statements of their own under READ COMMITTED, so
that each sees what the one before did.
https://www.postgresql.org/docs/current/explicit-locking.html
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.log_line import LogLine
from realtime.postgres.wakeup import Wakeup
from realtime.relay.carried import Inbox
from realtime.relay.counters import Counters

if TYPE_CHECKING:
    from realtime.postgres.pool import HearingConnection

log = logging.getLogger(__name__)

RING_CHANNEL = "relay_ring_"
TYPING_CHANNEL = "relay_typing_"
"""How the channels' names begin. The rest is a number that only the database knows."""
FULL = 0.5
"""So much of the queue of notifications may be used. When all of it is, every commit that rings
fails; so above this nobody rings, and the log is polled."""
BARE = 0.1
"""So much of it may be used by rings that carry events."""
RELEASE = 2
"""Which release this is, in `relay.nodes`. Those of 1 silence the bell, and the epoch stays."""
RENAMING = "renaming"
"""Heard before the channels are given new names: from then on this process may not hear all."""
TAKE_ROTATION_TURN = "LOCK TABLE relay.cursor_keys IN EXCLUSIVE MODE"
"""Who gives new names has this lock before saying so, and until it is done or has failed. So it is
seen to be over, whatever became of it."""
ALIVE_SECONDS = 10.0
"""How long after its last heartbeat a process counts as running."""


def beat_within(seconds: float) -> str:
    """In SQL: whether the last heartbeat of a row of `relay.nodes` is not longer ago.

    Where PostgreSQL's clock was set back, it may lie in the future: that far says as little.
    """
    return f"abs(extract(epoch FROM clock_timestamp() - heartbeat_at)) < {seconds}"


IS_ALIVE = beat_within(ALIVE_SECONDS)
"""In SQL: whether a row of `relay.nodes` is of a running process."""
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
"""
_SAY = f"""
INSERT INTO relay.nodes (id, awake, backend, release)
VALUES ('{{node_id}}', {{awake}}, pg_backend_pid(), {RELEASE})
    ON CONFLICT (id) DO UPDATE SET awake = excluded.awake, backend = excluded.backend,
                                   release = excluded.release, heartbeat_at = clock_timestamp();
"""
# The argument is there before the call: the epoch is advanced before the bell is silent.
_SILENT = "CASE WHEN nextval('relay.epoch') > 0 THEN 2 END"
_SILENCE = f"""{_BEGIN}{_SAY}
SELECT setval('relay.bell', {_SILENT}) WHERE NOT EXISTS (
    SELECT FROM relay.nodes WHERE NOT awake AND {IS_ALIVE});
COMMIT
"""
_SET_BELL = f"""
SELECT setval('relay.bell', CASE WHEN used > {{full}} THEN {_SILENT}
                                 WHEN used > {BARE} OR NOT {{carries}} THEN 3 ELSE 1 END)
  FROM pg_notification_queue_usage() AS used;
SELECT set_config('relay.epoch_before_fence', relay.epoch_as_told(), false);
COMMIT
"""
_RING_ON = f"{_BEGIN}{_SAY}{_SET_BELL}"
_SEE_THAT_IT_RINGS = f"{_BEGIN}{_SET_BELL}"
# The names may have been changed.
_LISTEN_ANEW = "SELECT relay.listen() WHERE NOT relay.is_listening()"
# In this order: whoever takes the lock after the first question renames after the second, and what
# they say before that is heard on these names.
_HEARS_ALL = """
SELECT CASE WHEN EXISTS (
    SELECT FROM pg_locks
     WHERE relation = 'relay.cursor_keys'::regclass AND mode = 'ExclusiveLock' AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
  THEN false ELSE relay.is_listening() END
"""
# Read under the lock, after the bell is on: who silences it later advances what was read. And
# before the fence: who advances it later, without a ring, has a higher id.
_EPOCH = f"""
SELECT current_setting('relay.epoch_before_fence') AS epoch,
       EXISTS (SELECT FROM relay.nodes WHERE release < {RELEASE}) AS has_older
"""
# Not part of the script: whoever found the bell silent must have a lower id.
_FENCE = """
SELECT pg_current_xact_id() AS fence,
       pg_sequence_last_value('relay.bell') IS NOT DISTINCT FROM 2 AS is_silent
"""
_CHECK = f"""
SELECT bell = 2 AS is_silent,
       bell = CASE WHEN used > $2 THEN 2 WHEN used > {BARE} OR NOT $3 THEN 3 ELSE 1 END AS is_right,
       EXISTS (SELECT FROM relay.nodes WHERE id = $1 AND NOT awake) AS is_asleep,
       EXISTS (SELECT FROM relay.nodes WHERE release < {RELEASE}) AS has_older
  FROM pg_notification_queue_usage() AS used,
       coalesce(pg_sequence_last_value('relay.bell'), 1) AS bell
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
        carries: whether rings may carry events.
    """

    def __init__(
        self,
        connection: "HearingConnection",
        node_id: str,
        on_typing: Callable[[str], None],
        counters: Counters | None = None,
        intervals: Intervals = DEFAULTS,
        full: float = FULL,
        carries: bool = True,
    ) -> None:
        self._full = full
        self._carries = carries
        self._intervals = intervals
        self._counters = counters or Counters(time.monotonic)
        self._connection = connection
        self._node_id = node_id
        self._on_typing = on_typing
        self._rung = Wakeup(asyncio.get_running_loop())
        self._is_silenced = False
        self._is_said = True
        """Whether the others know if this process sleeps. If not, the bell may stay silent."""
        self._is_renaming = True
        """Whether the channels may get new names before this process hears of it: it has heard that
        they will, or has only begun to listen."""
        self.inbox = Inbox(self._counters)
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
        if not await self._rung.wait(self._intervals.hearing):
            self.can_hear = False
        self._raise_if_closed()

    def ring(self) -> None:
        """Make the relay read, from within this process."""
        self.inbox.hear("")
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Return when rung, or after that time.

        Raises:
            ConnectionError: the connection is gone.
        """
        limit = seconds if self._is_rung_for else min(seconds, self._intervals.poll)
        await self._rung.wait(limit)
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
        return await self._take_fence()

    async def fence(self) -> int:
        """See that the bell is on, and return a fence, without a word of this process."""
        await self._run(_SEE_THAT_IT_RINGS)
        return await self._take_fence()

    async def _take_fence(self) -> int:
        self.inbox.close()
        if self._is_said and self.can_hear:
            epoch = await self._connection.fetchrow(_EPOCH)
            assert epoch is not None
            if self._carries and not epoch["has_older"] and not self._is_renaming:
                self.inbox.open(epoch["epoch"])
        row = await self._connection.fetchrow(_FENCE)
        assert row is not None
        self._is_silenced = row["is_silent"]
        return int(row["fence"])

    async def check(self) -> bool:
        """See whether the bell rings, rings are heard, and this process is known to sleep.

        Also where the bell is silent because the queue of notifications is full: then `wait` polls.
        """
        if not self._is_said or await self._listens_anew():
            return False
        found = await self._connection.fetchrow(_CHECK, self._node_id, self._full, self._carries)
        assert found is not None
        self._is_silenced = found["is_silent"]
        if found["has_older"]:
            self.inbox.close()
        may_open = self._carries and self.can_hear and not found["has_older"]
        is_open = self.inbox.is_open or self._is_renaming or not may_open
        return bool(found["is_asleep"] and found["is_right"] and is_open)

    @property
    def _is_rung_for(self) -> bool:
        return self.can_hear and self._is_said and not self._is_silenced

    async def _run(self, script: str, *, awake: bool = False) -> None:
        settings = {"awake": awake, "full": self._full, "carries": self._carries}
        try:
            await self._connection.execute(script.format(node_id=self._node_id, **settings))
        except asyncpg.InsufficientResourcesError as error:
            # As where the disk is full. What there is can be read all the same.
            await self._connection.execute("ROLLBACK")
            if self._is_said:
                poll = self._intervals.poll
                log.warning(LogLine("listen_failed", error=error, poll_seconds=poll))
            self._is_said = False
        else:
            self._is_said = True
            await self._listens_anew()

    async def _listens_anew(self) -> bool:
        """Listen to the channels' names of now; return whether these are others than before."""
        if not self.can_hear:
            return False
        is_new = await self._connection.fetchrow(_LISTEN_ANEW) is not None
        if is_new or self._is_renaming:
            self._is_renaming = False  # whoever says so from now on sets it again
            if not await self._connection.fetchval(_HEARS_ALL):
                self._is_renaming = True
        return is_new

    def _raise_if_closed(self) -> None:
        if self._connection.is_closed():
            raise ConnectionResetError("the connection that listens was closed")

    def _hear(self, channel: str, payload: str) -> None:
        if channel.startswith(RING_CHANNEL):
            self._counters.rings += 1
            if payload == RENAMING:
                self._is_renaming = True
                self.inbox.close()
            self.inbox.hear(payload)
            self._rung.set()
        elif channel.startswith(TYPING_CHANNEL):
            asyncio.get_running_loop().call_soon(self._on_typing, payload)

    def _hear_end(self, _connection: Any) -> None:
        self._rung.set()
