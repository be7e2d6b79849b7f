"""What every handler and socket is given: the parts of this process that a request may need.

Parts that ask the database are named here as small Protocols.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from realtime.auth.tokens import TokenVerifier
from realtime.config.intervals import Intervals
from realtime.config.settings import Settings
from realtime.relay.admission import AdmissionBatcher
from realtime.relay.counters import Counters
from realtime.relay.cursor import Cursor
from realtime.relay.hub import Hub
from realtime.relay.presence import PresenceBroadcaster
from realtime.relay.refusals import Refusals
from realtime.relay.resume import ResumeBatcher
from realtime.relay.typing import TypingBroadcaster
from realtime.web.metrics_source import MetricsSource
from realtime.web.pings import Pings
from realtime.web.status import Status


class Connection(Protocol):
    """A socket that was let in; of this process, a `relay.subscriber.Subscriber`."""

    @property
    def connection_id(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def username(self) -> str | None: ...
    @property
    def opened_at(self) -> float: ...


class RemoteConnection(Connection, Protocol):
    """A socket of another process."""

    @property
    def node_id(self) -> str: ...


class Elsewhere(Protocol):
    """What the other processes add to the counts of this one."""

    @property
    def nodes(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def users(self) -> int: ...
    @property
    def bots(self) -> int: ...


class Connections(Protocol):
    """The sockets of the other processes; implemented by `postgres.connections`.

    Both raise `Refused` where the database cannot be asked.
    """

    async def count(self, users: Iterable[str], topics: Iterable[str]) -> Elsewhere:
        """Count them, without these users and topics, which are here already."""
        ...

    async def page(self, after: str | None, limit: int) -> Sequence[RemoteConnection]:
        """List those whose ids come after that one, in their order."""
        ...


@dataclass(frozen=True)
class Services:
    """The parts of this process that a request may need."""

    settings: Settings
    intervals: Intervals
    hub: Hub
    access: AdmissionBatcher
    verifier: TokenVerifier
    typing: TypingBroadcaster
    presence: PresenceBroadcaster
    refusals: Refusals
    history: ResumeBatcher
    connections: Connections
    node_id: str
    """The id of this process in `relay.nodes`."""
    pings: Pings
    counters: Counters
    metrics: MetricsSource
    clock: Callable[[], float]
    """Tells the time in epoch seconds."""
    monotonic: Callable[[], float]
    """Tells the time in seconds since some moment. It never goes back."""
    new_id: Callable[[], str]
    """Makes a new id for a connection."""
    status: Status

    def encode_cursor(self, cursor: Cursor) -> str:
        """Write a cursor of this process's database."""
        return self.hub.position.encode(cursor)
