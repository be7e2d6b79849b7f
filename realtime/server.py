"""One process: composes the three rooms, keeps its tasks running, and ends in good order.

`run` is what `bin/serve` and `bin/dev` call. The only module that knows postgres, relay and web.
"""

import asyncio
import logging
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from realtime.auth import TokenVerifier
from realtime.logs import configure_logging
from realtime.postgres.access import Access
from realtime.postgres.cluster import Cluster, unpack
from realtime.postgres.connection import LOST, WrongServer, open_pool
from realtime.postgres.listener import Beginning, Listener, begin
from realtime.postgres.past_log import PastLog
from realtime.postgres.retention import Retention
from realtime.postgres.schema import SchemaError
from realtime.relay.backoff import Backoff
from realtime.relay.errors import CloseCode
from realtime.relay.history import History
from realtime.relay.hub import Hub
from realtime.relay.rechecks import Rechecks
from realtime.relay.refusals import Refusals
from realtime.relay.relay import Relay
from realtime.relay.typing_indicators import TypingIndicators
from realtime.relay.typing_relay import TypingRelay
from realtime.settings import Settings
from realtime.web.app import make_app
from realtime.web.services import Services, Status
from realtime.web.transport import frame

if TYPE_CHECKING:
    from realtime.postgres.connection import Pool

log = logging.getLogger(__name__)

BACKLOG = 1024
MAX_HEADER_BYTES = 32768
IDLE_SECONDS = 30.0
SLOWEST_GOODBYES = 0.05
"""Seconds between two closes of a drain, at most: a few sockets need not take all of its time."""


class StartError(Exception):
    """The process cannot start; the text is one line for whoever started it."""


def run(settings: Settings, *, announce: Callable[[], None] = lambda: None) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code.

    Args:
        announce: called once everything is up.
    """
    configure_logging(settings.log_format)
    try:
        asyncio.run(_run(settings, announce))
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(settings: Settings, announce: Callable[[], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        log.info("signal=%s draining", signal.Signals(number).name)
        stop.set()
        for each, handler in before.items():
            # A second signal ends at once, in the way in which it did before.
            loop.remove_signal_handler(each)
            signal.signal(each, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, on_signal, number)
    await serve(settings, stop, lambda _server: announce())


async def serve(
    settings: Settings, stop: asyncio.Event, announce: Callable[["Server"], None]
) -> None:
    """Serve until `stop` is set, then drain.

    Raises:
        StartError: it could not start.
        ExceptionGroup: a background task failed, which none may; the process should end.
    """
    beginning = await _begin(settings)
    sockets = _bind(settings.port)
    async with open_pool(
        settings.database_url.get_secret_value(),
        size=settings.database_pool_size,
        timeout=settings.database_timeout_seconds,
        is_pooled=settings.database_url != settings.database_direct_url,
    ) as pool:
        await Server(settings, pool, beginning).run(sockets, stop, announce)


async def _begin(settings: Settings) -> Beginning:
    dsn = settings.database_direct_url.get_secret_value()
    try:
        return await begin(dsn, settings.database_timeout_seconds)
    except (SchemaError, WrongServer) as error:
        raise StartError(str(error)) from error
    except LOST as error:
        raise StartError(
            "the database cannot be reached; check DATABASE_URL, and that the server is up"
            f" ({type(error).__name__}: {error})"
        ) from error


def _bind(port: int) -> list[socket.socket]:
    try:
        return bind_sockets(port, backlog=BACKLOG)
    except OSError as error:
        raise StartError(
            f"cannot listen on port {port} ({error.strerror}); "
            "stop what uses it, or set PORT to another"
        ) from error


class Server:
    """One process's parts, and the order in which they start and end.

    Args:
        pool: for everything that is asked of the database but the log.
        beginning: which database this is, and where in its log the relay starts.
    """

    def __init__(self, settings: Settings, pool: "Pool", beginning: Beginning) -> None:
        self.settings = settings
        self.status = Status(round_trip=lambda: self.listener.round_trip)
        self.port = settings.port
        access = Access(
            pool, subject_kind=settings.jwt_subject, timeout=settings.database_timeout_seconds
        )
        self.rechecks = Rechecks(access)
        self.hub = Hub(frame=frame, pause=lambda: asyncio.sleep(0), ask_again=self.rechecks.ask)
        self.history = History(
            PastLog(pool, timeout=settings.database_timeout_seconds),
            limit=settings.resume_max_events,
        )
        self.retention = Retention(pool, seconds=settings.retention_seconds)
        self.cluster = Cluster(pool)
        self.typing = TypingRelay(
            TypingIndicators(time.monotonic),
            self.hub,
            frame=frame,
            tell=self.cluster.tell,
            clock=time.time,
        )
        self.refusals = Refusals(time.monotonic)
        self.relay = Relay(
            self.hub,
            self.refusals,
            beginning.database,
            beginning.cursor,
            monotonic=time.monotonic,
        )
        self.listener = Listener(
            settings.database_direct_url.get_secret_value(),
            self.cluster.node_id,
            timeout=settings.database_timeout_seconds,
            backoff=Backoff(random.random),
            on_typing=self._hear_typing,
            on_change=self._on_database,
        )
        self.services = Services(
            settings=settings,
            hub=self.hub,
            access=access,
            verifier=TokenVerifier(settings, time.time),
            typing=self.typing,
            refusals=self.refusals,
            history=self.history,
            database=lambda: self.relay.database,
            clock=time.time,
            monotonic=time.monotonic,
            new_id=lambda: str(uuid4()),
            status=self.status,
        )

    async def run(
        self,
        sockets: list[socket.socket],
        stop: asyncio.Event,
        announce: Callable[["Server"], None],
    ) -> None:
        """Serve on the sockets until `stop` is set, then drain."""
        self.port = sockets[0].getsockname()[1]
        http = HTTPServer(
            make_app(self.services),
            max_header_size=MAX_HEADER_BYTES,
            idle_connection_timeout=IDLE_SECONDS,
        )
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self.listener.run(self.relay)),
                tasks.create_task(self.rechecks.run(self.hub, self.listener.ring)),
                tasks.create_task(self.history.run()),
                tasks.create_task(self.typing.run()),
                tasks.create_task(self.cluster.keep_alive()),
                tasks.create_task(self.cluster.keep_telling()),
                tasks.create_task(self.retention.run()),
            ]
            http.add_sockets(sockets)
            announce(self)
            await stop.wait()
            await self._drain(http)
            for task in background:
                task.cancel()
        await self.cluster.leave()

    def _hear_typing(self, payload: str) -> None:
        for indicator in unpack(self.cluster.node_id, payload):
            self.typing.heard(*indicator)

    def _on_database(self, is_heard: bool) -> None:
        if is_heard and not self.status.hears_postgres:
            log.info("listening to the database")
        self.status.hears_postgres = is_heard

    async def _drain(self, http: HTTPServer) -> None:
        """Send everybody away, spread over the drain time so that they do not return at once."""
        self.status.is_draining = True
        http.stop()
        leaving = list(self.hub)
        if leaving:
            delay = min(self.settings.drain_seconds / len(leaving), SLOWEST_GOODBYES)
            for subscriber in leaving:
                subscriber.sink.close(CloseCode.GOING_AWAY, "the server is restarting")
                await asyncio.sleep(delay)
        await http.close_all_connections()
