"""Everything that a run starts: a PostgreSQL of its own, proxies, relay processes, clients.

`Stage` owns what outlives the event loop (the server, the processes, their directory) and ends it
by pid whatever happened, Ctrl-C included; `Arena` puts the rest on it.
"""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from realtime.auth.tokens import mint_token
from realtime.embedded.server import PORT, EmbeddedPostgres
from realtime.postgres.schema import migrate
from tests.chaos.clients import Client
from tests.chaos.gate import Gate
from tests.chaos.ledger import SCHEMA, Book
from tests.chaos.loader import Loader
from tests.chaos.population import Population, Seat, make_population
from tests.chaos.processes import RelayProcess
from tests.chaos.proxy import Proxy
from tests.chaos.scribe import Scribe
from tests.commands import SECRET, free_port
from tests.platform import Platform

POSTGRES_SETTINGS = {
    "fsync": "off",
    "max_connections": "200",
    "max_prepared_transactions": "50",
    # A crash then forgets transactions that were rolled back, and their ids are handed out again.
    "wal_writer_delay": "10s",
    # And asynchronous commits, unless something flushes the log in time.
    "wal_writer_flush_after": "1GB",
    "wal_buffers": "64MB",
}
RELAY_SETTINGS = {
    "JWT_SECRET": SECRET,
    "DRAIN_SECONDS": "1",
    "RETENTION_SECONDS": "30",
    "SEND_BUFFER_BYTES": "524288",
}


@dataclass
class Stage:
    """What must be ended in any case."""

    home: Path
    postgres: EmbeddedPostgres
    relays: list[RelayProcess] = field(default_factory=list)

    def end_relays(self) -> None:
        for relay in self.relays:
            relay.end()


@contextmanager
def stage(say: Callable[[str], None]) -> Iterator[Stage]:
    """A migrated server in a directory of its own; afterwards nothing is left of it."""
    with tempfile.TemporaryDirectory(prefix="realtime-chaos-") as name:
        home = Path(name)
        home.chmod(0o711)  # as root, the server's own account must get in
        postgres = EmbeddedPostgres(home / "postgres", settings=POSTGRES_SETTINGS, say=say)
        built = Stage(home, postgres)
        with ExitStack() as afterwards:
            afterwards.callback(postgres.stop, "immediate")
            afterwards.callback(built.end_relays)
            postgres.start()
            migrate(postgres.dsn())
            yield built


@dataclass
class Arena:
    """What faults are done to, and what they are measured by."""

    seed: int
    stage: Stage
    dsn: str
    population: Population
    book: Book
    scribe: Scribe
    relays: list[RelayProcess]
    proxies: list[Proxy]
    clients: list[Client]
    say: Callable[[str], None]
    clock: Callable[[], float]
    gate: Gate
    postgres_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    access_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while somebody's access is taken and given back."""
    figures: list[str] = field(default_factory=list)
    """What faults measured beside the time to recovery."""

    def admin_token(self) -> str:
        return make_token(self.population.users[0], is_admin=True)

    def call_back(self, seat: object) -> None:
        for client in self.clients:
            if client.seat == seat:
                client.come_back()

    def proxy_of(self, relay: RelayProcess) -> Proxy:
        return self.proxies[self.relays.index(relay)]

    def some_relay(self, chance: random.Random) -> RelayProcess:
        return chance.choice(self.relays)


def make_token(user: str, *, is_admin: bool = False) -> str:
    return mint_token(SECRET, user, ttl=3600, now=time.time(), is_admin=is_admin)


@asynccontextmanager
async def arena(
    built: Stage, *, seed: int, relays: int, say: Callable[[str], None], clock: Callable[[], float]
) -> AsyncIterator[Arena]:
    """Start the proxies, the processes and the clients."""
    book = Book(clock)
    dsn = built.postgres.dsn()
    platform = await Platform.connect(dsn)
    await platform.execute(SCHEMA)
    population = await make_population(platform)
    await platform.connection.close(timeout=5)
    proxies = [Proxy(_socket_of(dsn)) for _ in range(relays)]
    clients: list[Client] = []
    gate = Gate()
    scribe = Scribe(dsn, book, gate)
    try:
        for number, proxy in enumerate(proxies, 1):
            await proxy.start()
            built.relays.append(_relay(built.home, number, proxy))
        await asyncio.gather(*(relay.start() for relay in built.relays))
        ports = [relay.port for relay in built.relays]
        bots = [bot.id for bot in population.bots]
        clients += [
            Client(seat, number, seed=seed, ports=ports, token=make_token, clock=clock, bots=bots)
            for number, seat in enumerate(population.seats, 1)
        ]
        clients += [
            Client(
                Seat(viewer, bot.id),
                number,
                seed=seed,
                ports=ports,
                token=make_token,
                clock=clock,
                bots=bots,
                loader=Loader(dsn, bot, random.Random(f"{seed}/loader {number}")),
            )
            for number, (viewer, bot) in enumerate(
                zip(population.viewers, population.bots, strict=False), len(clients) + 1
            )
        ]
        for client in clients:
            client.start()
        yield Arena(
            seed,
            built,
            dsn,
            population,
            book,
            scribe,
            built.relays,
            proxies,
            clients,
            say,
            clock,
            gate,
        )
    finally:
        await asyncio.gather(*(client.finish() for client in clients))
        await scribe.close()
        for relay in built.relays:
            relay.send(signal.SIGCONT)
        for proxy in proxies:
            await proxy.stop()


def _relay(home: Path, number: int, proxy: Proxy) -> RelayProcess:
    dsn = f"postgresql://postgres@127.0.0.1:{proxy.port}/realtime"
    return RelayProcess(
        number,
        free_port(),
        home / f"relay-{number}.log",
        DATABASE_URL=dsn,
        **RELAY_SETTINGS,
    )


def _socket_of(dsn: str) -> str:
    directory = parse_qs(urlsplit(dsn).query)["host"][0]
    return f"{directory}/.s.PGSQL.{PORT}"
