"""One process: composes the three rooms, keeps its tasks running, and ends in good order.

`serve` is what `process` runs. The only module that knows postgres, relay and web.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from realtime.auth.tokens import TokenVerifier
from realtime.config.intervals import DEFAULTS, Intervals
from realtime.config.settings import Settings
from realtime.errors import CommandError
from realtime.metrics.snapshot import Everywhere, Figures, everywhere
from realtime.metrics.vitals import Vitals
from realtime.postgres.access import Access
from realtime.postgres.history_log import HistoryLog
from realtime.postgres.listener import Beginning, Listener, begin
from realtime.postgres.metrics import DatabaseMetrics
from realtime.postgres.nodes import Nodes, unpack
from realtime.postgres.pool import DATABASE_ERRORS, open_pool
from realtime.postgres.retention import Retention
from realtime.postgres.socket_table import SocketTable
from realtime.relay import closing
from realtime.relay.admission import AdmissionBatcher
from realtime.relay.backoff import Backoff
from realtime.relay.counters import Counters
from realtime.relay.history import ResumeBatcher
from realtime.relay.hub import Hub
from realtime.relay.presence import Presence
from realtime.relay.presence_relay import PresenceRelay
from realtime.relay.reader import Reader
from realtime.relay.recheck import RecheckBatcher
from realtime.relay.refusals import Refusals
from realtime.relay.subscriber import Subscriber
from realtime.relay.typing_indicators import TypingIndicators
from realtime.relay.typing_relay import TypingRelay
from realtime.web.app import make_app
from realtime.web.metrics import own_figures
from realtime.web.pings import Pings
from realtime.web.services import Services, Status
from realtime.web.sink import frame

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

log = logging.getLogger(__name__)

BACKLOG = 1024
MAX_HEADER_BYTES = 32768


class StartError(CommandError):
    """The process cannot start; the text is one line for whoever started it."""


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    announce: Callable[["Server"], None],
    sockets: list[socket.socket] | None = None,
    *,
    intervals: Intervals = DEFAULTS,
) -> None:
    """Serve until `stop` is set, then drain.

    Args:
        sockets: to serve on, in place of new ones on the port of the settings.

    Raises:
        CommandError: it could not start.
        ExceptionGroup: a background task failed, which none may; the process should end.
    """
    beginning = await _begin(settings, intervals)
    sockets = bind(settings.port) if sockets is None else sockets
    async with open_pool(
        settings.database_url.get_secret_value(),
        size=settings.database_pool_size,
        timeout=settings.database_timeout_seconds,
        is_pooled=settings.database_url != settings.database_direct_url,
    ) as pool:
        await Server(settings, intervals, pool, beginning).run(sockets, stop, announce)


async def _begin(settings: Settings, intervals: Intervals) -> Beginning:
    dsn = settings.database_direct_url.get_secret_value()
    try:
        return await begin(dsn, max(settings.database_timeout_seconds, intervals.start))
    except DATABASE_ERRORS as error:
        raise StartError(
            "the database cannot be reached; check DATABASE_URL, and that the server is up"
            f" ({type(error).__name__}: {error})"
        ) from error


def bind(port: int) -> list[socket.socket]:
    """Listen on a port, on every interface.

    Raises:
        StartError: it is taken, or not for us.
    """
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

    def __init__(
        self, settings: Settings, intervals: Intervals, pool: "Pool", beginning: Beginning
    ) -> None:
        self.settings = settings
        self.intervals = intervals
        self.status = Status(
            round_trip=lambda: self.listener.round_trip,
            relay=lambda: self.relay.state.value if self.listener.can_hear else "polling",
        )
        self.port = settings.port
        self.counters = Counters(time.monotonic)
        self.vitals = Vitals(time.time, time.monotonic, seconds=intervals.loop_lag)
        access = Access(
            pool, subject_kind=settings.jwt_subject, timeout=settings.database_timeout_seconds
        )
        self.admissions = AdmissionBatcher(access)
        self.rechecks = RecheckBatcher(access)
        self.node_id = str(uuid4())
        self.connections = SocketTable(
            pool,
            self.node_id,
            present=lambda: self.hub.joined(),
            timeout=settings.database_timeout_seconds,
        )
        self.hub = Hub(
            frame=frame,
            pause=lambda: asyncio.sleep(0),
            ask_again=self.rechecks.ask,
            monotonic=time.monotonic,
            on_move=self._move,
            on_access_change=lambda change: self.presence.access_changed(change),
            counters=self.counters,
        )
        self.presence = PresenceRelay(
            Presence(time.monotonic),
            self.hub,
            elsewhere=self.connections.people_on,
            frame=frame,
            pause=lambda: asyncio.sleep(0),
            monotonic=time.monotonic,
            clock=time.time,
        )
        self.history = ResumeBatcher(
            HistoryLog(pool, timeout=settings.database_timeout_seconds),
            limit=settings.resume_max_events,
        )
        self.retention = Retention(pool, seconds=settings.retention_seconds)
        self.cluster = Nodes(pool, self.node_id, self.info)
        self.others = DatabaseMetrics(pool, self.node_id, timeout=settings.database_timeout_seconds)
        self.typing = TypingRelay(
            TypingIndicators(time.monotonic),
            self.hub,
            frame=frame,
            tell=self.cluster.tell,
            clock=time.time,
        )
        self.refusals = Refusals(time.monotonic)
        self.relay = Reader(
            self.hub,
            self.refusals,
            beginning.database,
            beginning.cursor,
            monotonic=time.monotonic,
            counters=self.counters,
        )
        self.listener = Listener(
            settings.database_direct_url.get_secret_value(),
            self.node_id,
            timeout=settings.database_timeout_seconds,
            backoff=Backoff(random.random),
            on_typing=self._hear_typing,
            on_change=self._on_database,
            counters=self.counters,
        )
        self.services = Services(
            settings=settings,
            intervals=intervals,
            hub=self.hub,
            access=self.admissions,
            verifier=TokenVerifier(settings, time.time),
            typing=self.typing,
            presence=self.presence,
            refusals=self.refusals,
            history=self.history,
            connections=self.connections,
            node_id=self.node_id,
            pings=Pings(intervals.ping),
            counters=self.counters,
            everywhere=self.everywhere,
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
            idle_connection_timeout=self.intervals.idle_request,
        )
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self.listener.run(self.relay)),
                tasks.create_task(self.rechecks.run(self.hub, self.listener.ring)),
                tasks.create_task(self.admissions.run()),
                tasks.create_task(self.history.run()),
                tasks.create_task(self.services.pings.run()),
                tasks.create_task(self.typing.run()),
                tasks.create_task(self.presence.run()),
                tasks.create_task(self.cluster.keep_alive()),
                tasks.create_task(self.cluster.keep_telling()),
                tasks.create_task(self.connections.keep_writing()),
                tasks.create_task(self.retention.run()),
                tasks.create_task(self.vitals.run()),
            ]
            http.add_sockets(sockets)
            announce(self)
            await stop.wait()
            await self._drain(http)
            for task in background:
                task.cancel()
        await self.cluster.leave()

    def info(self) -> dict[str, object]:
        """What each heartbeat tells of this process, in `relay.nodes`."""
        return self.figures().model_dump()

    def figures(self) -> Figures:
        """How this process is doing at the moment."""
        relay = self.status.relay()
        return own_figures(self.hub, self.counters, self.vitals, port=self.port, relay=relay)

    async def everywhere(self) -> Everywhere:
        """How all processes and the log are doing; this one alone without the database."""
        return everywhere(self.node_id, self.figures(), await self.others.ask())

    def _move(self, subscriber: Subscriber, is_here: bool) -> None:
        self.connections.moved(subscriber, is_here)
        self.presence.moved(subscriber, is_here)

    def _hear_typing(self, payload: str) -> None:
        for indicator in unpack(self.cluster.node_id, payload):
            self.typing.heard(*indicator)

    def _on_database(self, is_heard: bool) -> None:
        if is_heard and not self.status.hears_postgres:
            log.info("listening to the database")
        self.status.hears_postgres = is_heard
        if not is_heard:
            self.presence.database_lost()

    async def _drain(self, http: HTTPServer) -> None:
        """Send everybody away, spread over the drain time so that they do not return at once."""
        self.status.is_draining = True
        http.stop()
        leaving = list(self.hub)
        if leaving:
            delay = min(self.settings.drain_seconds / len(leaving), self.intervals.drain_step)
            for subscriber in leaving:
                subscriber.sink.close(*closing.RESTARTING)
                await asyncio.sleep(delay)
        await http.close_all_connections()
