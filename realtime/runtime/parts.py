"""The parts of one process, made in order: what asks the database, what relays, what serves.

Each part is given the parts that it needs when it is made; what would be made later is given to its
`run`. Nothing here starts anything, which `server.py` does.
"""

import asyncio
import logging
import random
import time
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from realtime.auth.tokens import TokenVerifier
from realtime.config.intervals import Intervals
from realtime.config.settings import Settings
from realtime.log_line import LogLine
from realtime.metrics.vitals import Vitals
from realtime.postgres.access import Access
from realtime.postgres.access_check import AccessCheck
from realtime.postgres.history_log import HistoryLog
from realtime.postgres.listener import Listener
from realtime.postgres.nodes import MetricsQuery, Nodes, TypingInbox
from realtime.postgres.retention import Retention
from realtime.postgres.socket_table import SocketTable
from realtime.postgres.wire import Wire
from realtime.relay.admission import AdmissionBatcher
from realtime.relay.backoff import Backoff
from realtime.relay.budget import ReadBudget, live_bytes
from realtime.relay.counters import Counters
from realtime.relay.hub import Hub
from realtime.relay.position import Lineage, Position
from realtime.relay.presence import Presence, PresenceBroadcaster
from realtime.relay.reader import Reader
from realtime.relay.recheck import RecheckBatcher
from realtime.relay.refusals import Refusals
from realtime.relay.resume import GapReason, ResumeBatcher
from realtime.relay.room import Room
from realtime.relay.typing import TypingBroadcaster, TypingIndicators
from realtime.web.acceptor import OpenFiles
from realtime.web.demo_platform import DemoPlatform
from realtime.web.metrics_source import MetricsSource
from realtime.web.openings import Openings
from realtime.web.pings import Pings
from realtime.web.services import Services
from realtime.web.sink import SocketSink
from realtime.web.status import Status
from realtime.web.token_life import ClockWatch

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

log = logging.getLogger(__name__)

SPARE_FILES = 16
"""How many files a process may open beside those of its clients and its pool: the connection that
listens, one that cancels a query, a fetch of keys, a static file."""


class DatabaseParts:
    """The parts that ask the database over the pool, on behalf of the others."""

    def __init__(
        self,
        settings: Settings,
        intervals: Intervals,
        pool: "Pool",
        node_id: str,
        lineage: Lineage,
    ) -> None:
        self._intervals = intervals
        self._pool = pool
        self._node_id = node_id
        self._timeout = timeout = settings.database_timeout_seconds
        self.access = Access(
            pool,
            lineage,
            subject_kind=settings.jwt_subject,
            timeout=timeout,
            node_id=node_id,
        )
        self.access_check = AccessCheck(
            pool,
            subject_kind=settings.jwt_subject,
            timeout=timeout,
            seconds=intervals.access_check,
        )
        # Half of the connections remain for those who ask for little.
        at_once = max(1, settings.database_pool_size // 2)
        self.history_log = HistoryLog(pool, lineage, Wire(timeout), at_once=at_once)
        self.retention = Retention(pool, seconds=settings.retention_seconds, intervals=intervals)
        self.nodes = Nodes(pool, node_id, intervals, lineage, timeout=timeout)
        self.metrics = MetricsQuery(pool, node_id, timeout=timeout)

    def make_socket_table(self, hub: Hub) -> SocketTable:
        """Make what writes down the hub's sockets for the other processes, and reads theirs."""
        return SocketTable(
            self._pool, self._node_id, hub, timeout=self._timeout, intervals=self._intervals
        )


class RelayParts:
    """The parts that decide which socket is sent what."""

    def __init__(
        self,
        settings: Settings,
        intervals: Intervals,
        database: DatabaseParts,
        position: Position,
        lineage: Lineage,
    ) -> None:
        self.counters = Counters(time.monotonic)
        self.refusals = Refusals(time.monotonic)
        self.admissions = AdmissionBatcher(database.access, _report)
        self.rechecks = RecheckBatcher(database.access, _report)
        self.history = ResumeBatcher(
            database.history_log,
            _report,
            limit=settings.resume_max_events,
            echoes_to_author=settings.echo_to_author,
        )
        self.hub = Hub(
            position,
            frame=SocketSink.frame,
            pause=_give_way,
            ask_again=self.rechecks.ask,
            monotonic=time.monotonic,
            echoes_to_author=settings.echo_to_author,
            counters=self.counters,
            live_bytes=live_bytes(settings.read_buffer_bytes),
        )
        self.socket_table = database.make_socket_table(self.hub)
        self.presence = _make_presence(self.hub, self.socket_table, intervals)
        self.typing = _make_typing(self.hub, database.nodes, intervals)
        self.reader = Reader(
            self.hub,
            self.refusals,
            lineage,
            monotonic=time.monotonic,
            counters=self.counters,
            on_missed=_report_missed,
        )


def _report_missed(reason: GapReason) -> None:
    log.warning(LogLine("events_missed", reason=reason))


def _report(error: Exception) -> None:
    log.error(LogLine("batch_failed", error=error), exc_info=error)


async def _give_way() -> None:
    """Let other tasks have a turn."""
    await asyncio.sleep(0)


def _make_presence(
    hub: Hub, socket_table: SocketTable, intervals: Intervals
) -> PresenceBroadcaster:
    return PresenceBroadcaster(
        Presence(time.monotonic, grace=intervals.presence_grace),
        hub,
        read_remote=socket_table.people_on,
        pause=_give_way,
        monotonic=time.monotonic,
        clock=time.time,
        tick=intervals.presence,
        read_seconds=intervals.presence_read,
    )


def _make_typing(hub: Hub, nodes: Nodes, intervals: Intervals) -> TypingBroadcaster:
    return TypingBroadcaster(
        TypingIndicators(time.monotonic),
        hub,
        tell=nodes.tell,
        pause=_give_way,
        clock=time.time,
        tick=intervals.typing_check,
    )


def make_listener(
    settings: Settings,
    intervals: Intervals,
    node_id: str,
    relaying: RelayParts,
    *,
    is_pooled: bool,
) -> Listener:
    """Make the connection that listens to the database; nothing is connected yet.

    Args:
        is_pooled: its address may be a transaction-mode pooler's.
    """
    return Listener(
        settings.database_direct_url.get_secret_value(),
        node_id,
        timeout=settings.database_timeout_seconds,
        is_pooled=is_pooled,
        backoff=Backoff(random.random),
        on_typing=TypingInbox(node_id, relaying.typing.heard, time.monotonic).hear,
        on_change=partial(_on_connection, relaying.presence),
        counters=relaying.counters,
        intervals=intervals,
        carries=settings.carry_events,
    )


def _on_connection(presence: PresenceBroadcaster, is_connected: bool) -> None:
    """The listening connection was made, or lost."""
    if is_connected:
        log.info(LogLine("database_connected"))
    else:
        presence.database_lost()


def _on_standstill(reader: Reader, nodes: Nodes, seconds: float) -> None:
    """The process was stopped for a time: that is neither the log's fault nor the database's."""
    reader.stood_still(seconds)
    nodes.stood_still(seconds)


class WebParts:
    """The parts that serve requests and sockets."""

    def __init__(
        self,
        settings: Settings,
        intervals: Intervals,
        *,
        node_id: str,
        port: int,
        database: DatabaseParts,
        relaying: RelayParts,
        listener: Listener,
        demo: DemoPlatform | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.vitals = Vitals(
            time.time,
            time.monotonic,
            seconds=intervals.loop_lag,
            on_standstill=partial(_on_standstill, relaying.reader, database.nodes),
        )
        self.pings = Pings(intervals.ping)
        self.clock_watch = ClockWatch(self.pings, time.time, time.monotonic)
        self.files = OpenFiles(settings.database_pool_size + SPARE_FILES, time.monotonic)
        self.status = Status(
            port,
            listener,
            database.nodes,
            relaying.reader,
            self.files,
            database.access_check,
        )
        self.metrics = MetricsSource(
            node_id,
            database.metrics,
            hub=relaying.hub,
            counters=relaying.counters,
            vitals=self.vitals,
            status=self.status,
        )
        self.services = Services(
            settings=settings,
            intervals=intervals,
            hub=relaying.hub,
            access=relaying.admissions,
            verifier=TokenVerifier(settings, time.time),
            typing=relaying.typing,
            presence=relaying.presence,
            refusals=relaying.refusals,
            room=Room(settings.max_connections_per_user),
            openings=Openings(loop),
            history=relaying.history,
            read_budget=ReadBudget(settings.read_buffer_bytes),
            remote_sockets=relaying.socket_table,
            node_id=node_id,
            pings=self.pings,
            counters=relaying.counters,
            metrics=self.metrics,
            clock=time.time,
            monotonic=time.monotonic,
            random=random.random,
            new_id=_new_id,
            loop=loop,
            status=self.status,
            demo=demo,
        )


def _new_id() -> str:
    return str(uuid4())
