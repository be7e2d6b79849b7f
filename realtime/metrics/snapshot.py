"""The metrics of one process at one moment, and those of all processes put together.

Each process writes its `ProcessMetrics` as JSON into `relay.nodes.info` with every heartbeat, so
whichever process is asked can answer for all.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from realtime.relay.counters import Counters, Histogram

MAX_LABELS = 64
"""How many labels of one metric are accepted from another process. This server has fewer, but a
table's row may hold anything."""
_Counts = Annotated[dict[str, int], Field(max_length=MAX_LABELS)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Buckets(_Model):
    """A histogram: `counts[i]` values were at most `bounds[i]` and above the bound before it."""

    bounds: Annotated[tuple[FiniteFloat, ...], Field(max_length=MAX_LABELS)]
    """The upper bound of each bucket but the last, in rising order."""
    counts: Annotated[tuple[int, ...], Field(max_length=MAX_LABELS + 1)]
    """The number of values in each bucket. The last bucket, one more than there are bounds, has the
    values above all bounds."""
    total: FiniteFloat
    """The sum of the values."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError("a histogram has one count for each bound, and one more")
        return self

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        """Copy a histogram as it stands now."""
        counts = tuple(histogram.counts)
        return cls(bounds=histogram.bounds, counts=counts, total=histogram.total)


class ProcessMetrics(_Model):
    """The metrics of one process. Counts start with the process."""

    hostname: str
    pid: int
    port: int
    at: FiniteFloat
    """When these metrics were taken, in epoch seconds by that process's clock."""
    started_at: FiniteFloat
    """When the process started, in epoch seconds."""
    resident_bytes: int | None
    """Memory of the process; None where the system does not tell it."""
    loop_lag: FiniteFloat
    """The longest time, in seconds, that a task lately had to wait for its turn."""
    connections: int
    """Open sockets that were accepted."""
    chats: int
    """Open sockets on a bot; the other connections are for notifications, or for many bots."""
    multi: int = 0
    """Open sockets at `/api/ws`, for many bots."""
    subscriptions: int = 0
    """What these sockets are subscribed to, in all."""
    over_http: int = 0
    """Clients that take events over HTTP; each is also one of the connections."""
    users: int
    """Users with an open socket on this process."""
    buffered_bytes: int
    """Bytes that wait for clients that read slowly."""
    ready: bool = True
    """Whether new sockets should come to the process."""
    relay: str
    """How the process waits for events: `asleep`, `awake`, `fenced` or `polling`."""
    events: int
    """Events found in the log, or come with a notification."""
    deliveries: int
    """Events times the sockets that each was sent to."""
    latency: Buckets
    """Seconds from the writing of a row until its event was sent to the last of its sockets."""
    batches: Buckets
    """Events of each read that found any."""
    reads: int
    """Reads of the log; each page of a large read counts."""
    read_seconds: FiniteFloat
    """Seconds that all reads of the log took together."""
    lag: FiniteFloat
    """Age in seconds of the oldest event of the latest read; 0: it found none."""
    rings: int
    """Rings of the doorbell that were heard."""
    silences: int
    """How often the process silenced the doorbell."""
    losses: int
    """How often the listening connection was lost, or could not be made."""
    opens: int
    """Sockets that were accepted."""
    resumes: _Counts
    """Sockets that came with a cursor, by what became of it: `recovered`, or why not."""
    closes: _Counts
    """Sockets that were closed, by close code."""
    carried: int = 0
    """Events that rings carried and that were sent ahead of a read."""
    confirmed: int = 0
    """How many of those a read has found since."""
    bare: int = 0
    """Rings that asked for a read."""


def counter_fields(counters: Counters) -> dict[str, object]:
    """The fields of `ProcessMetrics` that are counted."""
    names = ("events", "deliveries", "reads", "read_seconds", "lag", "rings", "silences", "losses")
    of_rings = ("carried", "confirmed", "bare")
    return {
        **{name: getattr(counters, name) for name in (*names, *of_rings)},
        "opens": counters.opens,
        "latency": Buckets.of(counters.latency),
        "batches": Buckets.of(counters.batches),
        "resumes": dict(counters.resumes),
        "closes": dict(counters.closes),
    }


class LogMetrics(NamedTuple):
    """The metrics of the log, which are the same for all processes."""

    rows: int
    """How many rows the log has, as PostgreSQL estimates."""
    size: int
    """Bytes of the log with its indexes."""
    age: float
    """Seconds since the oldest row was written; 0: there is none."""
    queue_usage: float
    """How full PostgreSQL's queue of notifications is, from 0 to 1."""


class DatabaseMetrics(NamedTuple):
    """The metrics that the database has."""

    others: Sequence[tuple[str, str]]
    """The other live processes: each one's node id, and the JSON of its latest heartbeat."""
    log: LogMetrics


class ClusterMetrics(NamedTuple):
    """The metrics of all processes and of the log."""

    nodes: dict[str, ProcessMetrics]
    """The metrics of each process by its node id. The process that answers comes first."""
    log: LogMetrics | None
    """None: the database could not be asked, so `nodes` has only the process that answers."""


def cluster_metrics(
    node_id: str, own: ProcessMetrics, database: DatabaseMetrics | None
) -> ClusterMetrics:
    """Put together what this process knows and what the database knows (None: nothing)."""
    nodes = {node_id: own}
    for other_id, info in database.others if database else ():
        try:
            nodes[other_id] = ProcessMetrics.model_validate_json(info)
        except ValidationError:
            continue  # a process of another release, for as long as both run
    return ClusterMetrics(nodes, database.log if database else None)
