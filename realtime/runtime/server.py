"""One process: starts its parts, keeps their tasks running, and drains when it is told to stop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from tornado.httpserver import HTTPServer

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.config.settings import Settings
from realtime.postgres.listener import is_behind_pooler, is_path_needed, read_position
from realtime.postgres.pool import DATABASE_ERRORS, open_pool
from realtime.postgres.reasons import why_unreachable
from realtime.relay import closing
from realtime.relay.admission import AT_ONCE
from realtime.relay.position import Lineage, Position
from realtime.relay.protocol import going_away
from realtime.runtime.listening import StartError, bind
from realtime.runtime.parts import DatabaseParts, RelayParts, WebParts, make_listener
from realtime.web.acceptor import Acceptor
from realtime.web.app import make_app
from realtime.web.demo_platform import DemoPlatform
from realtime.web.entrance import Entrance
from realtime.web.sockets import Sockets

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

Background = Callable[[], Coroutine[None, None, None]]
"""Starts what runs for as long as the process serves."""
MAX_HEADER_BYTES = 32768
"""How long the headers of one request may be."""
MAX_BODY_BYTES = 65536
"""How long the body of one request may be; no endpoint needs one."""


READY_STEP = 0.02
"""How often a process that starts looks whether it is ready, in seconds."""
RETURN_SECONDS = 1.0
"""About how long a process takes to start, after the one before has drained."""

Item = TypeVar("Item")


async def evenly(
    items: Iterable[Item],
    delay: float,
    monotonic: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Item]:
    """Give the items one by one, and end `delay` seconds after the time of the last.

    Each has its time by the clock. A sleep takes longer than it was asked to, by a millisecond or
    more: for thousands of items that would add up.

    Args:
        delay: seconds from one item to the next.
        monotonic: seconds.
        sleep: waits for so many seconds; for none, it lets others have a turn.
    """
    began = monotonic()
    for number, item in enumerate(items, 1):
        yield item
        await sleep(max(0.0, began + number * delay - monotonic()))


class Stop(asyncio.Event):
    """Set when the process should end."""

    is_replaced = False
    """Whether another process serves in its place already."""


async def serve(
    settings: Settings,
    stop: Stop,
    announce: Callable[["Server"], None],
    sockets: list[socket.socket] | None = None,
    *,
    intervals: Intervals = DEFAULTS,
    beside: Sequence[Background] = (),
    demo: DemoPlatform | None = None,
    waits: bool = False,
) -> None:
    """Serve until `stop` is set, then drain.

    Args:
        announce: called once new sockets can be served.
        sockets: listening sockets to serve on; None: new ones, on the port of the settings.
        beside: what else runs for as long as the process serves.
        demo: what the console of `bin/dev` may ask.
        waits: whether nobody is accepted until the process is ready.

    Raises:
        CommandError: the process could not start.
        ExceptionGroup: a background task failed, which none may; the process should end.
    """
    position = await _read_position(settings, intervals)
    is_pooled = await _is_behind_pooler(settings, intervals)
    keeps_path = await _keeps_path(settings)
    sockets = bind(settings.listen_host, settings.port) if sockets is None else sockets
    async with open_pool(
        settings.database_url.get_secret_value(),
        size=settings.database_pool_size,
        timeout=settings.database_timeout_seconds,
        is_pooled=settings.has_direct_url or is_pooled,
        keeps_path=keeps_path,
    ) as pool:
        server = Server(settings, intervals, pool, position, sockets, demo, is_pooled=is_pooled)
        await server.run(stop, announce, beside, waits=waits)


async def _read_position(settings: Settings, intervals: Intervals) -> Position:
    timeout = max(settings.database_timeout_seconds, intervals.start)
    return await _ask_at_start(settings, timeout, read_position)


async def _is_behind_pooler(settings: Settings, intervals: Intervals) -> bool:
    dsn = settings.database_direct_url.get_secret_value()
    return await is_behind_pooler(dsn, settings.database_timeout_seconds, intervals)


async def _keeps_path(settings: Settings) -> bool:
    return await _ask_at_start(settings, settings.database_timeout_seconds, is_path_needed)


async def _ask_at_start(
    settings: Settings, timeout: float, question: Callable[[str, float], Awaitable[Item]]
) -> Item:
    dsn = settings.database_direct_url.get_secret_value()
    try:
        return await question(dsn, timeout)
    except DATABASE_ERRORS as error:
        named = "DATABASE_DIRECT_URL" if settings.has_direct_url else "DATABASE_URL"
        raise StartError(why_unreachable(error, dsn, named)) from error


class Server:
    """The server of one process, from its start until it has drained.

    Args:
        pool: for everything that is asked of the database but the log.
        position: which database this is, and where in its log the reader starts.
        sockets: listening sockets to serve on.
        is_pooled: the address that is listened on may be a transaction-mode pooler's.
    """

    def __init__(
        self,
        settings: Settings,
        intervals: Intervals,
        pool: "Pool",
        position: Position,
        sockets: list[socket.socket],
        demo: DemoPlatform | None = None,
        *,
        is_pooled: bool = False,
    ) -> None:
        self.node_id = str(uuid4())
        self.port: int = sockets[0].getsockname()[1]
        self._sockets = sockets
        self._drain_seconds = settings.drain_seconds
        self._intervals = intervals
        lineage = Lineage(position)
        self.database = DatabaseParts(settings, intervals, pool, self.node_id, lineage)
        self.relaying = RelayParts(settings, intervals, self.database, position, lineage)
        self.listener = make_listener(
            settings, intervals, self.node_id, self.relaying, is_pooled=is_pooled
        )
        self.web = WebParts(
            settings,
            intervals,
            node_id=self.node_id,
            port=self.port,
            database=self.database,
            relaying=self.relaying,
            listener=self.listener,
            demo=demo,
        )
        self.hub = self.relaying.hub

    async def run(
        self,
        stop: Stop,
        announce: Callable[["Server"], None],
        beside: Sequence[Background] = (),
        *,
        waits: bool = False,
    ) -> None:
        """Serve until `stop` is set, then drain."""
        sockets = Sockets(self.web.services)
        http = HTTPServer(
            make_app(self.web.services, sockets),
            max_header_size=MAX_HEADER_BYTES,
            max_body_size=MAX_BODY_BYTES,
            idle_connection_timeout=self._intervals.idle_request,
            body_timeout=self._intervals.body,
        )
        entrance = Entrance(sockets, http.handle_stream, self._intervals.idle_request)
        acceptor = Acceptor(self._sockets, entrance.take, self.web.files)
        async with asyncio.TaskGroup() as tasks:
            ready = self._announce(announce, acceptor.start if waits else None)
            work = [*self._background(), sockets.run(), entrance.run(), ready]
            work += [one() for one in beside]
            background = [tasks.create_task(one) for one in work]
            if not waits:
                acceptor.start()
            await stop.wait()
            acceptor.stop()
            await self._drain(is_replaced=stop.is_replaced)
            await self._answer_the_last(entrance, http)
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
            database.access_check.run(),
            relaying.socket_table.keep_writing(),
            database.retention.run(),
            web.pings.run(),
            web.clock_watch.run(),
            web.vitals.run(),
        ]

    async def _announce(
        self, announce: Callable[["Server"], None], accept: Callable[[], None] | None
    ) -> None:
        """Say that the process serves, once it does.

        Args:
            accept: begins to accept clients; None: they are accepted already.
        """
        while not self.web.status.is_ready:  # noqa: ASYNC110 - it is worked out when asked for
            await asyncio.sleep(READY_STEP)
        await self.database.access.warm_up(AT_ONCE)
        if self.web.status.is_draining:
            return  # told to end meanwhile: its listening sockets are closed
        if accept is not None:
            accept()
        announce(self)

    async def _drain(self, *, is_replaced: bool) -> None:
        """Close every socket, spread over the drain time so that they do not return at once."""
        self.web.status.is_draining = True
        leaving = [one for one in self.hub.subscribers if one.is_socket]
        delay = min(self._drain_seconds / max(len(leaving), 1), self._intervals.drain_step)
        retry_after = await self._retry_after(delay * len(leaving), is_replaced)
        self.web.status.retry_after = retry_after
        message = going_away(retry_after)
        async for subscriber in evenly(leaving, delay, asyncio.get_running_loop().time):
            if subscriber.is_joined:
                subscriber.tell(message)
            subscriber.sink.close(*closing.RESTARTING)

    async def _answer_the_last(self, entrance: Entrance, http: HTTPServer) -> None:
        """Answer those who connected just before, and end what is left."""
        last = min(self._drain_seconds, self._intervals.last_requests)
        await asyncio.sleep(last)  # their requests may still be on the way
        entrance.stop()
        await self.web.services.openings.end(closing.RESTARTING)
        for late in self.hub.subscribers:  # those who were let in since the drain began
            late.sink.close(*closing.RESTARTING)
        await http.close_all_connections()
        # To end with input unread would reset connections, and destroy their close frames.
        await self.web.services.room.empty(last)

    async def _retry_after(self, drain: float, is_replaced: bool) -> float:
        """Seconds that a client should wait before it returns.

        None have to where another process serves. Else this one must end first, and another one
        start: each waits as long, so they return spread as they left.
        """
        if is_replaced or await self.database.nodes.are_elsewhere(socket.gethostname(), self.port):
            return 0
        return round(drain + RETURN_SECONDS, 1)
