"""What a process tells of itself: taken down with each heartbeat, read by whichever is asked.

`server` makes a `Figures` and puts it into `relay.nodes.info`; `web.figures` shows those of all
processes, `metrics` writes them for Prometheus.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from realtime.relay.counters import Counters, Histogram

MAX_LABELS = 64
"""More than this server ever counts by; what stands in a table may be anything."""
_Counts = Annotated[dict[str, int], Field(max_length=MAX_LABELS)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Buckets(_Model):
    """A histogram: `counts[i]` values were at most `bounds[i]` and above the bound before it."""

    bounds: Annotated[tuple[FiniteFloat, ...], Field(max_length=MAX_LABELS)]
    counts: Annotated[tuple[int, ...], Field(max_length=MAX_LABELS + 1)]
    """One more than bounds: the last is what was above them all."""
    total: FiniteFloat
    """The sum of the values."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError("a count for each bound, and one")
        return self

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        """As it stands now."""
        counts = tuple(histogram.counts)
        return cls(bounds=histogram.bounds, counts=counts, total=histogram.total)


class Figures(_Model):
    """One process's figures. What is counted, is counted from its start."""

    hostname: str
    pid: int
    port: int
    at: FiniteFloat
    """When this was taken down: epoch seconds, by that process's clock."""
    started_at: FiniteFloat
    resident_bytes: int | None
    loop_lag: FiniteFloat
    connections: int
    """Open sockets whose user is known."""
    chats: int
    """Of these, the ones on a bot."""
    users: int
    buffered_bytes: int
    """What waits for clients that read slowly."""
    relay: str
    """`asleep`, `awake`, `fenced` or `polling`."""
    events: int
    deliveries: int
    latency: Buckets
    batches: Buckets
    reads: int
    read_seconds: FiniteFloat
    lag: FiniteFloat
    rings: int
    silences: int
    losses: int
    opens: int
    resumes: _Counts
    closes: _Counts


def counted(counters: Counters) -> dict[str, object]:
    """The fields of `Figures` that are a counters's."""
    names = ("events", "deliveries", "reads", "read_seconds", "lag", "rings", "silences", "losses")
    return {
        **{name: getattr(counters, name) for name in names},
        "opens": counters.opens,
        "latency": Buckets.of(counters.latency),
        "batches": Buckets.of(counters.batches),
        "resumes": dict(counters.resumes),
        "closes": dict(counters.closes),
    }


class LogState(NamedTuple):
    """What is to be said of the database once, and not by each process."""

    rows: int
    """About how many rows the log has."""
    size: int
    """Bytes, with its indexes."""
    age: float
    """Seconds since the oldest row was written; 0: there is none."""
    queue_usage: float
    """How full PostgreSQL's queue of notifications is, from 0 to 1."""


class DatabaseState(NamedTuple):
    """What the database knows."""

    others: Sequence[tuple[str, str]]
    """Node ids of the other live processes, and what their heartbeats told, as JSON."""
    log: LogState


class Everywhere(NamedTuple):
    """All processes' figures by node id, this one's first; and the log's state.

    `log` is None where the database could not be asked: then only this process is there.
    """

    nodes: dict[str, Figures]
    log: LogState | None


def everywhere(node_id: str, own: Figures, answer: DatabaseState | None) -> Everywhere:
    """Put together what this process knows and what the database said (None: nothing)."""
    nodes = {node_id: own}
    for other_id, info in answer.others if answer else ():
        try:
            nodes[other_id] = Figures.model_validate_json(info)
        except ValidationError:
            continue  # a process of another release, for as long as both run
    return Everywhere(nodes, answer.log if answer else None)
