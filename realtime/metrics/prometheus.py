"""Writes the metrics of all processes in the text format of Prometheus.

A new collector each time and no registry: nothing is kept between scrapes.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from realtime.metrics.snapshot import Buckets, ClusterMetrics, LogMetrics, ProcessMetrics
from realtime.relay.closing import CloseCode
from realtime.relay.resume import GapReason

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
COMMON_CODES: Final = (1000, 1001, 1005, 1006)
"""Close codes of clients, and of connections that broke."""
DOORBELL_MODES = ("asleep", "awake", "fenced", "polling")

_Number = Callable[[ProcessMetrics], float | None]
_GAUGES: Final[Mapping[str, tuple[str, _Number]]] = {
    "start_time_seconds": (
        "When the process started, in epoch seconds.",
        lambda one: one.started_at,
    ),
    "resident_memory_bytes": ("Memory of the process.", lambda one: one.resident_bytes),
    "event_loop_lag_seconds": (
        "The longest time that a task had to wait for its turn in the last ten seconds.",
        lambda one: one.loop_lag,
    ),
    "ready": (
        "1: new sockets should come to the process, as /api/ready says.",
        lambda one: float(one.ready),
    ),
    "subscriptions": (
        "Subscriptions of the sockets at /api/ws.",
        lambda one: one.subscriptions,
    ),
    "sockets_over_http": (
        "Clients that take events over HTTP; each is also one of the sockets.",
        lambda one: one.over_http,
    ),
    "users": ("Users with a socket on this process.", lambda one: one.users),
    "buffered_bytes": (
        "Bytes that wait for clients that read slowly.",
        lambda one: one.buffered_bytes,
    ),
    "log_lag_seconds": (
        "Age of the oldest event of the latest read of the log; 0 if it found none.",
        lambda one: one.lag,
    ),
}
_COUNTERS: Final[Mapping[str, tuple[str, _Number]]] = {
    "events": ("Events found in the log, or come with a notification.", lambda one: one.events),
    "deliveries": ("Events times the sockets that each was sent to.", lambda one: one.deliveries),
    "reads": ("Reads of the log; each page of a large read counts.", lambda one: one.reads),
    "read_seconds": (
        "Seconds that all reads of the log took together.",
        lambda one: one.read_seconds,
    ),
    "rings": ("Rings of the doorbell that were heard.", lambda one: one.rings),
    "carried": (
        "Events that rings carried and that were sent ahead of a read.",
        lambda one: one.carried,
    ),
    "confirmed": ("How many of those a read has found since.", lambda one: one.confirmed),
    "bare": ("Rings that asked for a read.", lambda one: one.bare),
    "silences": ("How often the process silenced the doorbell.", lambda one: one.silences),
    "database_losses": (
        "How often the listening connection was lost, or could not be made.",
        lambda one: one.losses,
    ),
    "opens": ("Sockets that were accepted.", lambda one: one.opens),
}
_HISTOGRAMS: Final[Mapping[str, tuple[str, Callable[[ProcessMetrics], Buckets]]]] = {
    "latency_seconds": (
        "From the writing of a row until its event was sent to the last of its sockets.",
        lambda one: one.latency,
    ),
    "batch_events": ("Events of each read that found any.", lambda one: one.batches),
}
RESUMES: Final = dict.fromkeys(["recovered", *GapReason], 0)
CLOSES: Final = dict.fromkeys([*map(str, [*CloseCode, *COMMON_CODES]), "other"], 0)
_LABELLED: Final[Mapping[str, tuple[str, str, Callable[[ProcessMetrics], Mapping[str, int]]]]] = {
    "resumes": (
        "result",
        "Sockets that came with a cursor, by what became of it: recovered, or why not.",
        lambda one: RESUMES | one.resumes,
    ),
    "closes": (
        "code",
        "Sockets that were closed, by close code.",
        lambda one: CLOSES | one.closes,
    ),
}
"""What is counted by a label. All labels that are expected are there from the start, at 0: else the
first of a kind would be no increase."""


def render(cluster: ClusterMetrics) -> bytes:
    """Write the answer to a scrape."""
    return generate_latest(_Collector(cluster))


class _Collector(Collector):
    def __init__(self, cluster: ClusterMetrics) -> None:
        self._nodes = cluster.nodes
        self._log = cluster.log

    def collect(self) -> Iterator[Metric]:
        yield self._info()
        for name, (meaning, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"realtime_{name}", meaning, labels=["node"])
            yield self._filled(gauge, read)
        for name, (meaning, read) in _COUNTERS.items():
            counter = CounterMetricFamily(f"realtime_{name}", meaning, labels=["node"])
            yield self._filled(counter, read)
        for name, (meaning, read_buckets) in _HISTOGRAMS.items():
            yield self._histogram(name, meaning, read_buckets)
        for name, (label, meaning, read_counts) in _LABELLED.items():
            yield self._labelled(name, label, meaning, read_counts)
        yield self._sockets()
        yield self._doorbell()
        yield from _database_metrics(self._log)

    def _info(self) -> Metric:
        labels = ["node", "hostname", "pid", "port"]
        info = GaugeMetricFamily("realtime_node_info", "The processes; always 1.", labels=labels)
        for node_id, one in self._nodes.items():
            info.add_metric([node_id, one.hostname, str(one.pid), str(one.port)], 1)
        return info

    def _filled(self, family: GaugeMetricFamily | CounterMetricFamily, read: _Number) -> Metric:
        for node_id, one in self._nodes.items():
            value = read(one)
            if value is not None:
                family.add_metric([node_id], value)
        return family

    def _histogram(
        self, name: str, meaning: str, read: Callable[[ProcessMetrics], Buckets]
    ) -> Metric:
        family = HistogramMetricFamily(f"realtime_{name}", meaning, labels=["node"])
        for node_id, one in self._nodes.items():
            buckets = read(one)
            bounds = [*(str(float(bound)) for bound in buckets.bounds), "+Inf"]
            counts = accumulate(buckets.counts)
            family.add_metric([node_id], list(zip(bounds, counts, strict=True)), buckets.total)
        return family

    def _labelled(
        self,
        name: str,
        label: str,
        meaning: str,
        read: Callable[[ProcessMetrics], Mapping[str, int]],
    ) -> Metric:
        family = CounterMetricFamily(f"realtime_{name}", meaning, labels=["node", label])
        for node_id, one in self._nodes.items():
            for key, count in sorted(read(one).items()):
                family.add_metric([node_id, key], count)
        return family

    def _sockets(self) -> Metric:
        labels = ["node", "endpoint"]
        family = GaugeMetricFamily("realtime_sockets", "Open sockets.", labels=labels)
        for node_id, one in self._nodes.items():
            family.add_metric([node_id, "chat"], one.chats)
            family.add_metric([node_id, "multi"], one.multi)
            notifications = one.connections - one.chats - one.multi
            family.add_metric([node_id, "notifications"], notifications)
        return family

    def _doorbell(self) -> Metric:
        meaning = "1: this is how the process waits for events."
        family = GaugeMetricFamily("realtime_doorbell", meaning, labels=["node", "mode"])
        for node_id, one in self._nodes.items():
            for mode in DOORBELL_MODES:
                family.add_metric([node_id, mode], one.relay == mode)
        return family


def _database_metrics(log: LogMetrics | None) -> Iterable[Metric]:
    """The metrics that all processes share: whether the database answers, and how its log is."""
    yield _once("database_up", "1: the database answered this scrape.", log is not None)
    if log is not None:
        yield _once("log_rows", "Rows in the log, estimated.", log.rows)
        yield _once("log_bytes", "Bytes of the log on disk.", log.size)
        yield _once("log_age_seconds", "Age of the oldest row in the log.", log.age)
        meaning = "How full PostgreSQL's queue of notifications is, from 0 to 1."
        yield _once("notification_queue_usage", meaning, log.queue_usage)


def _once(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"realtime_{name}", meaning, value=value)
