"""ProcessMetrics as they cross between processes, and as Prometheus reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from realtime.metrics.prometheus import render
from realtime.metrics.snapshot import (
    ClusterMetrics,
    DatabaseMetrics,
    LogMetrics,
    ProcessMetrics,
    cluster_metrics,
    counter_fields,
)
from realtime.relay.counters import Counters
from tests.scraping import Scrape

LOG = LogMetrics(rows=5, size=8192, age=1.5, queue_usage=0.25)


def some_metrics(counters: Counters | None = None, **more: Any) -> ProcessMetrics:
    given: dict[str, Any] = {
        "hostname": 'a "host"',
        "pid": 7,
        "port": 8000,
        "at": 1000.0,
        "started_at": 900.0,
        "resident_bytes": 123,
        "loop_lag": 0.01,
        "connections": 5,
        "chats": 3,
        "users": 2,
        "buffered_bytes": 10,
        "relay": "awake",
        **counter_fields(counters or Counters(lambda: 0.0)),
    }
    return ProcessMetrics(**given | more)


def scraped(*nodes: ProcessMetrics, log: LogMetrics | None = LOG) -> Scrape:
    named = {f"node-{number}": one for number, one in enumerate(nodes)}
    return Scrape(render(ClusterMetrics(named, log)).decode())


def test_a_process_reads_what_another_told() -> None:
    """The heartbeat's JSON has all of it."""
    counters = Counters(lambda: 0.0)
    counters.latency.observe(0.02)
    counters.gone(4003, is_ours=True)
    other = some_metrics(counters)
    told = json.dumps(other.model_dump())
    assert (
        cluster_metrics("a", some_metrics(), DatabaseMetrics([("b", told)], LOG)).nodes["b"]
        == other
    )


@pytest.mark.parametrize(
    "told",
    [
        "{}",
        "null",
        json.dumps(some_metrics().model_dump() | {"latency": {}}),
        json.dumps(some_metrics().model_dump() | {"loop_lag": float("nan")}),
        json.dumps(
            some_metrics().model_dump() | {"batches": {"bounds": [1], "counts": [1], "total": 1}}
        ),
        json.dumps(some_metrics().model_dump() | {"closes": {str(n): 1 for n in range(1000)}}),
    ],
)
def test_a_process_of_another_release_is_left_out(told: str) -> None:
    """Rather than have no metrics at all while a deployment rolls."""
    own = some_metrics()
    assert cluster_metrics("a", own, DatabaseMetrics([("b", told)], LOG)) == ClusterMetrics(
        {"a": own}, LOG
    )


def test_more_than_is_known_does_no_harm() -> None:
    """A newer release may tell more."""
    told = json.dumps(some_metrics().model_dump() | {"news": 1})
    assert cluster_metrics(
        "a", some_metrics(), DatabaseMetrics([("b", told)], LOG)
    ).nodes.keys() == {"a", "b"}


def test_prometheus_reads_every_figure() -> None:
    """Each under its node; counters with their suffix, and names that Prometheus takes."""
    counters = Counters(lambda: 0.0)
    counters.rings, counters.silences, counters.losses = 3, 2, 1
    counters.resumes["recovered"] += 4
    seen = scraped(some_metrics(counters), some_metrics(relay="polling"))
    assert seen.find("realtime_rings_total") == {"node-0": 3, "node-1": 0}
    assert seen.value("realtime_silences_total", node="node-0") == 2
    assert seen.value("realtime_database_losses_total", node="node-0") == 1
    assert seen.value("realtime_resumes_total", node="node-0", result="recovered") == 4
    assert seen.value("realtime_node_info", node="node-0", hostname='a "host"', pid="7") == 1
    assert seen.value("realtime_sockets", node="node-1", endpoint="notifications") == 2
    assert seen.find("realtime_doorbell", mode="awake") == {"node-0": 1, "node-1": 0}
    assert seen.find("realtime_doorbell", mode="polling") == {"node-0": 0, "node-1": 1}
    assert seen.find("realtime_notification_queue_usage") == {"": 0.25}
    assert seen.families["realtime_latency_seconds"].type == "histogram"


def test_a_histograms_buckets_are_cumulative() -> None:
    """As Prometheus has them; the last one holds all."""
    counters = Counters(lambda: 0.0)
    for value in (0.0005, 0.02, 0.02, 999.0):
        counters.latency.observe(value)
    buckets = scraped(some_metrics(counters)).buckets("realtime_latency_seconds", "node-0")
    assert buckets[0.001] == 1
    assert buckets[0.01] == 1
    assert buckets[0.025] == buckets[300.0] == 3
    assert buckets[float("inf")] == 4


def test_what_is_not_known_is_left_out() -> None:
    """Rather than shown as nothing."""
    seen = scraped(some_metrics(resident_bytes=None), log=None)
    assert seen.find("realtime_resident_memory_bytes") == {}
    assert seen.find("realtime_database_up") == {"": 0}
    assert "realtime_log_rows" not in seen.families


def test_every_metric_is_described() -> None:
    """In docs/operations.md, by its name, and nothing there that is not."""
    counters = Counters(lambda: 0.0)
    counters.gone(1000, is_ours=False)
    counters.resumes["recovered"] += 1
    families = scraped(some_metrics(counters)).families.values()
    names = {one.name + ("_total" if one.type == "counter" else "") for one in families}
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    rows = re.findall(r"^\| (`realtime_.*?`) \|", text, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(realtime_[a-z_]+)`", row)} == names
