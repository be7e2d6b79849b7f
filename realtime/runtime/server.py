"""One process: starts its parts, keeps their tasks running, and drains when it is told to stop."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.config.settings import Settings
from realtime.errors import CommandError
from realtime.postgres.listener import read_position
from realtime.postgres.pool import DATABASE_ERRORS, open_pool
from realtime.relay import closing
from realtime.relay.position import Lineage, Position
from realtime.runtime.parts import DatabaseParts, RelayParts, WebParts, make_listener
from realtime.web.acceptor import Acceptor
from realtime.web.app import make_app
from realtime.web.entrance import Entrance
from realtime.web.sockets import Sockets

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

BACKLOG = 1024
"""How many connections may wait to be accepted."""
MAX_HEADER_BYTES = 32768
"""How long the headers of one request may be."""
MAX_BODY_BYTES = 65536
"""How long the body of one request may be; no endpoint needs one."""


class StartError(CommandError):
    """The process cannot start; the text is one line that says what to do."""


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
        announce: called once everything is up.
        sockets: listening sockets to serve on; None: new ones, on the port of the settings.

    Raises:
        CommandError: the process could not start.
        ExceptionGroup: a background task failed, which none may; the process should end.
    """
    position = await _read_position(settings, intervals)
    sockets = bind(settings.port) if sockets is None else sockets
    async with open_pool(
        settings.database_url.get_secret_value(),
        size=settings.database_pool_size,
        timeout=settings.database_timeout_seconds,
        is_pooled=settings.database_url != settings.database_direct_url,
    ) as pool:
        await Server(settings, intervals, pool, position, sockets).run(stop, announce)


async def _read_position(settings: Settings, intervals: Intervals) -> Position:
    dsn = settings.database_direct_url.get_secret_value()
    try:
        return await read_position(dsn, max(settings.database_timeout_seconds, intervals.start))
    except asyncpg.InsufficientPrivilegeError as error:
        raise StartError(
            f"PostgreSQL refused: {error}; grant it to the role of DATABASE_URL (bin/doctor lists"
            " all that it needs), or ask the host of the database"
        ) from error
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
    """The server of one process, from its start until it has drained.

    Args:
        pool: for everything that is asked of the database but the log.
        position: which database this is, and where in its log the reader starts.
        sockets: listening sockets to serve on.
    """

    def __init__(
        self,
        settings: Settings,
        intervals: Intervals,
        pool: "Pool",
        position: Position,
        sockets: list[socket.socket],
    ) -> None:
        self.node_id = str(uuid4())
        self.port: int = sockets[0].getsockname()[1]
        self._sockets = sockets
        self._drain_seconds = settings.drain_seconds
        self._intervals = intervals
        lineage = Lineage(position)
        self.database = DatabaseParts(settings, intervals, pool, self.node_id, lineage)
        self.relaying = RelayParts(settings, intervals, self.database, position, lineage)
        self.listener = make_listener(settings, intervals, self.node_id, self.relaying)
        self.web = WebParts(
            settings,
            intervals,
            node_id=self.node_id,
            port=self.port,
            database=self.database,
            relaying=self.relaying,
            listener=self.listener,
        )
        self.hub = self.relaying.hub

    async def run(self, stop: asyncio.Event, announce: Callable[["Server"], None]) -> None:
        """Serve until `stop` is set, then drain."""
        sockets = Sockets(self.web.services)
        http = HTTPServer(
            make_app(self.web.services, sockets),
            max_header_size=MAX_HEADER_BYTES,
            max_body_size=MAX_BODY_BYTES,
            idle_connection_timeout=self._intervals.idle_request,
            body_timeout=self._intervals.body,
        )
        entrance = Entrance(sockets, http.handle_stream)
        acceptor = Acceptor(self._sockets, entrance.take, self.web.files)
        async with asyncio.TaskGroup() as tasks:
            work = (*self._background(), sockets.run(), entrance.run())
            background = [tasks.create_task(one) for one in work]
            acceptor.start()
            announce(self)
            await stop.wait()
            acceptor.stop()
            entrance.stop()
            await self._drain(http)
            for task in background:
                task.cancel()
        await self.database.nodes.leave()

    def _background(self) -> list[Coroutine[None, None, None]]:
        """The tasks that run for as long as the process serves."""
        database, relaying, web = self.database, self.relaying, self.web
        return [
            self.listener.run(relaying.reader),
            relaying.rechecks.run(relaying.hub, self.listener.ring),
            relaying.refusals.run(self.listener.ring),
            relaying.admissions.run(),
            relaying.history.run(),
            relaying.typing.run(),
            relaying.presence.run(),
            database.nodes.keep_alive(web.metrics.heartbeat_info),
            database.nodes.keep_telling(),
            relaying.socket_table.keep_writing(),
            database.retention.run(),
            web.pings.run(),
            web.vitals.run(),
        ]

    async def _drain(self, http: HTTPServer) -> None:
        """Close every socket, spread over the drain time so that they do not return at once."""
        self.web.status.is_draining = True
        leaving = [one for one in self.hub if one.is_socket]
        if leaving:
            delay = min(self._drain_seconds / len(leaving), self._intervals.drain_step)
            for subscriber in leaving:
                subscriber.sink.close(*closing.RESTARTING)
                await asyncio.sleep(delay)
        await http.close_all_connections()
