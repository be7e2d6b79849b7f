"""The sockets of the other processes on the same database, as far as this process knows."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from realtime.relay.subscriber import Subscriber


class RemoteSocket(NamedTuple):
    """A socket of another process."""

    connection_id: str
    node_id: str
    topic: str
    user_id: str
    username: str
    opened_at: float
    """When the socket was opened, in epoch seconds."""


AnySocket = Subscriber | RemoteSocket
"""A socket that has joined, of this process or of another."""


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

    async def page(self, after: str | None, limit: int) -> Sequence[RemoteSocket]:
        """List the sockets whose ids come after that one, in the order of the ids."""
        ...
