"""The sockets of all processes on the same database, as far as this process knows."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from realtime.relay.subscriber import Subscriber


class ConnectedSocket(NamedTuple):
    """A socket that has joined, in any process."""

    connection_id: str
    node_id: str
    topic: str
    user_id: str
    username: str
    opened_at: float
    """When the socket was opened, in epoch seconds."""
    is_over_http: bool
    """Whether it is no WebSocket, but takes events over HTTP."""
    topics: Sequence[str] = ()
    """Those of its subscriptions, where it may have many."""


def connected(subscribers: Iterable[Subscriber], node_id: str) -> Iterator[ConnectedSocket]:
    """The sockets of this process, each with its subscriptions."""
    topics: defaultdict[str, list[str]] = defaultdict(list)
    sockets: list[Subscriber] = []
    for one in subscribers:
        if one.socket_id is None:
            sockets.append(one)
        else:
            topics[one.socket_id].append(one.topic)
    for one in sockets:
        key, user_id, username = one.connection_id, one.user_id or "", one.username or ""
        yield ConnectedSocket(
            *(key, node_id, one.topic, user_id, username, one.opened_at, one.is_over_http),
            topics=topics.get(key, ()),
        )


class RemoteCounts(NamedTuple):
    """What the other processes add to the counts of this one."""

    nodes: int
    connections: int
    users: int
    bots: int


class RemoteSockets(Protocol):
    """The sockets of the other processes; implemented by `postgres.socket_table`.

    Both methods raise `Refused` (1013) where the database cannot be asked.
    """

    async def count(self, users: Iterable[str], topics: Iterable[str]) -> RemoteCounts:
        """Count them, without these users and topics, which are here already."""
        ...

    async def page(self, after: str | None, limit: int) -> Sequence[ConnectedSocket]:
        """List the sockets whose ids come after that one, in the order of the ids."""
        ...
