"""Where metrics come from: this process counts its own, and the database knows the others'."""

import os
import socket
from typing import Protocol

from realtime.metrics.snapshot import (
    ClusterMetrics,
    DatabaseMetrics,
    ProcessMetrics,
    cluster_metrics,
    counter_fields,
)
from realtime.metrics.vitals import Vitals, resident_bytes
from realtime.relay.counters import Counters
from realtime.relay.hub import Hub
from realtime.relay.protocol import SOCKET_TOPIC, bot_of
from realtime.relay.subscribers import Subscribers
from realtime.web.status import Status


class DatabaseMetricsSource(Protocol):
    """Asks the database for what it knows; implemented in `postgres.nodes`."""

    async def ask(self) -> DatabaseMetrics | None:
        """None: the database cannot be asked at the moment."""
        ...


class MetricsSource:
    """The metrics of this process, and of all processes.

    Args:
        node_id: this process's, in `relay.nodes`.
        query: asks the database for the metrics of the other processes.
    """

    def __init__(
        self,
        node_id: str,
        query: DatabaseMetricsSource,
        *,
        hub: Hub,
        counters: Counters,
        vitals: Vitals,
        status: Status,
    ) -> None:
        self._node_id = node_id
        self._query = query
        self._hub = hub
        self._counters = counters
        self._vitals = vitals
        self._status = status

    def of_process(self) -> ProcessMetrics:
        """The metrics of this process, as of now."""
        return ProcessMetrics(
            hostname=socket.gethostname(),
            pid=os.getpid(),
            port=self._status.port,
            at=self._vitals.clock(),
            started_at=self._vitals.started_at,
            resident_bytes=resident_bytes(),
            loop_lag=self._vitals.loop_lag,
            **_counted(self._hub.subscribers),
            ready=self._status.is_ready,
            relay=self._status.doorbell_mode,
            **counter_fields(self._counters),
        )

    async def of_cluster(self) -> ClusterMetrics:
        """The metrics of all processes and of the log; of this process alone if the database
        cannot be asked."""
        return cluster_metrics(self._node_id, self.of_process(), await self._query.ask())

    def heartbeat_info(self) -> dict[str, object]:
        """What each heartbeat of this process tells the other processes."""
        return self.of_process().model_dump()


def _counted(subscribers: Subscribers) -> dict[str, int]:
    """How many there are of each kind: by one walk, for each of them has to be fetched."""
    joined = connections = chats = multi = over_http = buffered = 0
    users = set()
    for one in subscribers:
        buffered += one.sink.waiting_bytes
        if not one.is_joined:
            continue
        joined += 1
        users.add(one.user_id)
        if one.is_socket:
            connections += 1
            chats += bot_of(one.topic) is not None
            multi += one.topic == SOCKET_TOPIC
            over_http += one.is_over_http
    return {
        "connections": connections,
        "chats": chats,
        "multi": multi,
        "subscriptions": joined - connections,
        "over_http": over_http,
        "users": len(users),
        "buffered_bytes": buffered,
    }
