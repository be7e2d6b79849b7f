"""The condition of this process: whether new sockets should come here, and how events arrive."""

from typing import Protocol

from realtime.relay.reader import Reader
from realtime.web.acceptor import NO_FILES, OpenFiles


class ListenerStatus(Protocol):
    """The connection that listens to the database; implemented in `postgres.listener`."""

    @property
    def is_connected(self) -> bool: ...
    @property
    def can_hear(self) -> bool: ...
    @property
    def round_trip(self) -> float | None: ...


class PoolStatus(Protocol):
    """The connections for questions; implemented in `postgres.nodes`."""

    @property
    def is_pool_answering(self) -> bool: ...
    @property
    def is_pool_elsewhere(self) -> bool: ...


class AccessStatus(Protocol):
    """Whether anybody can be let in; implemented in `postgres.access_check`."""

    @property
    def fault(self) -> str | None: ...


class Status:
    """Whether this process is ready to serve, and why not.

    Args:
        port: the TCP port that the process serves on.
        listener: the connection that listens to the database.
        pool: the connections that are asked whether somebody may be let in.
        reader: what reads the log.
        files: whether more connections can be accepted.
        access: whether the functions that decide about access work.
    """

    def __init__(
        self,
        port: int,
        listener: ListenerStatus,
        pool: PoolStatus,
        reader: Reader,
        files: OpenFiles,
        access: AccessStatus,
    ) -> None:
        self.port = port
        self.is_draining = False
        """Whether the process has been told to stop."""
        self.retry_after = 0.0
        """How many seconds a client should wait before it returns, once that is so."""
        self._listener = listener
        self._pool = pool
        self._reader = reader
        self.files = files
        self._access = access

    @property
    def is_connected(self) -> bool:
        """Whether the process listens to the database at the moment."""
        return self._listener.is_connected

    @property
    def is_ready(self) -> bool:
        """Whether new sockets should come to this process."""
        return self.not_ready is None

    @property
    def not_ready(self) -> str | None:
        """Why new sockets should not come to this process; None: they should."""
        if self.is_draining:
            return "draining"
        if not self.is_connected:
            return "not connected to the database"
        if self._reader.is_stuck:
            return "the log cannot be read"
        if self._pool.is_pool_elsewhere:
            return "DATABASE_URL leads to another database than DATABASE_DIRECT_URL"
        if not self._pool.is_pool_answering:
            return "the database does not answer over DATABASE_URL"
        if self._access.fault is not None:
            return self._access.fault
        return NO_FILES if self.files.is_full else None

    @property
    def round_trip(self) -> float | None:
        """Seconds that the latest read of the log took; None: there was none since the connect."""
        return self._listener.round_trip

    @property
    def doorbell_mode(self) -> str:
        """How the process waits for events: `asleep`, `awake` or `fenced`, as in `relay.pace`, or
        `polling`, where rings do not arrive."""
        return self._reader.state.value if self._listener.can_hear else "polling"
