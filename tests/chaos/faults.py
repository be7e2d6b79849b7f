"""What can go wrong between Postgres, the relays and their clients: each fault, begun and ended.

A fault is a coroutine that returns when the fault is over; from then on the time to recovery is
measured (`drama`). Those that only happen (a kill, a cut) are over at once: whoever was killed is
started again afterwards, in the background, while clients must already be served by the others.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

from realtime.embedded.server import StopMode
from tests.chaos.arena import Arena
from tests.chaos.clients import Client
from tests.chaos.processes import RelayProcess

Fault = Callable[[random.Random], Awaitable[None]]
SHORT_SECONDS = (0.5, 2.0)
LONG_SECONDS = (2.0, 4.0)
NOT_READING_LIMIT = 20.0
BURSTS = 15
BURST_ROWS, BURST_BYTES = 12, 30_000
_BURST = """
INSERT INTO messages (session_id, bot_id, user_id, role, content)
SELECT $1, $2, $3, 'assistant',
       jsonb_build_object('mark', $4::text || '.' || n, 'saw', '[]'::jsonb,
                          'filler', repeat('x', $6))::text
  FROM generate_series(1, $5::int) AS n
"""
_MARKS = """
INSERT INTO chaos.ledger (mark, tag, topic)
SELECT $1::text || '.' || n, $1, $2 FROM generate_series(1, $3::int) AS n
"""
_END_OTHERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Faults:
    """The faults of one run."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._restarts: set[asyncio.Task[None]] = set()
        self._bursts = 0

    def kinds(self) -> dict[str, Fault]:
        """Every kind, by its name in the table."""
        return {
            "LISTEN backend killed": self._kill_listener,
            "all backends killed": self._kill_backends,
            "backends killed, end of connection late": self._kill_backends_late,
            "Postgres stopped fast, started": lambda chance: self._restart_postgres(chance, "fast"),
            "Postgres stopped immediate, started": lambda chance: self._restart_postgres(
                chance, "immediate"
            ),
            "relay kill -9": self._kill_relay,
            "relay SIGTERM": self._terminate_relay,
            "relay SIGSTOP, SIGCONT": self._freeze_relay,
            "network cut": self._cut,
            "network down": self._close_network,
            "network half open": self._half_open,
            "network stalled": self._stall,
            "client stops reading": self._stop_reading,
        }

    async def finish(self) -> None:
        """Wait until whatever was killed runs again."""
        await asyncio.gather(*self._restarts)

    # Postgres.

    async def _kill_listener(self, chance: random.Random) -> None:
        relay = self._arena.some_relay(chance)
        pid = self._arena.proxy_of(relay).listener_pid
        await self._arena.scribe.fetch("SELECT pg_terminate_backend($1)", pid or 0)

    async def _kill_backends(self, _chance: random.Random) -> None:
        await self._arena.scribe.fetch(_END_OTHERS)

    async def _kill_backends_late(self, chance: random.Random) -> None:
        """Each says that it is terminated; that its connection is closed is heard of later."""
        relay = self._arena.some_relay(chance)
        proxy = self._arena.proxy_of(relay)
        async with relay.lock:
            proxy.delay_ends()
            try:
                await self._arena.scribe.fetch(_END_OTHERS)
                await asyncio.sleep(chance.uniform(*LONG_SECONDS))
            finally:
                proxy.heal()

    async def _restart_postgres(self, chance: random.Random, mode: StopMode) -> None:
        postgres = self._arena.stage.postgres
        async with self._arena.postgres_lock:
            await asyncio.to_thread(postgres.stop, mode)
            await asyncio.sleep(chance.uniform(*SHORT_SECONDS))
            await asyncio.to_thread(postgres.start)

    # The processes.

    async def _kill_relay(self, chance: random.Random) -> None:
        relay = self._arena.some_relay(chance)
        await relay.lock.acquire()
        await relay.kill()
        self._start_again(relay, chance)

    async def _terminate_relay(self, chance: random.Random) -> None:
        relay = self._arena.some_relay(chance)
        await relay.lock.acquire()
        await relay.terminate()
        self._start_again(relay, chance)

    def _start_again(self, relay: RelayProcess, chance: random.Random) -> None:
        """Later, and let go of its lock then."""

        async def start(delay: float) -> None:
            try:
                await asyncio.sleep(delay)
                await relay.start()
            finally:
                relay.lock.release()

        task = asyncio.create_task(start(chance.uniform(*SHORT_SECONDS)))
        self._restarts.add(task)

    async def _freeze_relay(self, chance: random.Random) -> None:
        relay = self._arena.some_relay(chance)
        async with relay.lock:
            relay.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(chance.uniform(*LONG_SECONDS))
            finally:
                relay.send(signal.SIGCONT)

    # The network between a relay and Postgres.

    async def _cut(self, chance: random.Random) -> None:
        self._arena.proxy_of(self._arena.some_relay(chance)).cut()

    async def _close_network(self, chance: random.Random) -> None:
        await self._with_network(chance, "close", SHORT_SECONDS)

    async def _half_open(self, chance: random.Random) -> None:
        await self._with_network(chance, "half_open", LONG_SECONDS)

    async def _stall(self, chance: random.Random) -> None:
        await self._with_network(chance, "stall", LONG_SECONDS)

    async def _with_network(
        self, chance: random.Random, fault: str, seconds: tuple[float, float]
    ) -> None:
        relay = self._arena.some_relay(chance)
        proxy = self._arena.proxy_of(relay)
        async with relay.lock:
            getattr(proxy, fault)()
            try:
                await asyncio.sleep(chance.uniform(*seconds))
            finally:
                proxy.heal()

    # A client.

    async def _stop_reading(self, chance: random.Random) -> None:
        """It takes nothing while megabytes are written; over when the process has let go of it."""
        candidates = [
            client for client in self._arena.clients
            if client.is_live and client.is_reading and client.seat.bot
        ]  # fmt: skip
        if not candidates:
            return
        client = chance.choice(candidates)
        relay = next(one for one in self._arena.relays if one.port == client.port)
        connection_id, before = client.connection_id, relay.memory_megabytes()
        client.stop_reading()
        began = self._arena.clock()
        try:
            async with asyncio.timeout(NOT_READING_LIMIT):
                await self._write_bursts(client)
                peak = relay.memory_megabytes()
                await self._wait_until_gone(relay, connection_id)
        except TimeoutError:
            self._arena.figures.append(f"{client.record.name} still there: {NOT_READING_LIMIT} s")
        else:
            self._arena.figures.append(
                f"{client.record.name} stopped reading and was gone from {relay} after"
                f" {self._arena.clock() - began:.1f} s; the process's memory: {before:.0f} MB"
                f" before, {peak:.0f} then, {relay.memory_megabytes():.0f} MB after"
            )
        finally:
            client.read_again()

    async def _write_bursts(self, client: Client) -> None:
        bot = next(bot for bot in self._arena.population.bots if bot.id == client.seat.bot)
        for _ in range(BURSTS):
            self._bursts += 1
            tag = f"burst.{self._bursts}"
            place = (bot.session, bot.id, bot.owner)
            await self._arena.scribe.transact(
                tag,
                (_MARKS, (tag, bot.topic, BURST_ROWS)),
                (_BURST, (*place, tag, BURST_ROWS, BURST_BYTES)),
            )

    async def _wait_until_gone(self, relay: RelayProcess, connection_id: str) -> None:
        while True:
            try:
                if connection_id not in await relay.connections(self._arena.admin_token()):
                    return
            except (OSError, ValueError):
                pass  # it is stopped, or is being started again
            await asyncio.sleep(0.2)
