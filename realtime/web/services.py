"""What the handlers are given: everything about this process that a request may need.

Composed by `server`; named here as small Protocols where it comes from Postgres.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from realtime.auth import TokenVerifier
from realtime.relay.cursor import Cursor, Database, encode_cursor
from realtime.relay.history import History
from realtime.relay.hub import Hub
from realtime.relay.refusals import Refusals
from realtime.relay.typing_relay import TypingRelay
from realtime.settings import Settings


class Admission(Protocol):
    """Somebody who may open a socket, as of that place in the log."""

    @property
    def user_id(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def bot_name(self) -> str | None: ...
    @property
    def role(self) -> str | None: ...
    @property
    def place(self) -> Cursor: ...


class Access(Protocol):
    """Who may open a socket; implemented by `postgres.access`."""

    async def admit(self, subject: str, bot_id: str | None) -> Admission:
        """Ask for a token's subject.

        Raises:
            Refused: with the close code and reason.
        """
        ...


@dataclass
class Status:
    """What the process knows of its own condition; `server` keeps it up to date."""

    round_trip: Callable[[], float | None]
    """Seconds that the latest read of the log took."""
    hears_postgres: bool = False
    is_draining: bool = False

    @property
    def is_ready(self) -> bool:
        return self.hears_postgres and not self.is_draining


@dataclass(frozen=True)
class Services:
    settings: Settings
    hub: Hub
    access: Access
    verifier: TokenVerifier
    typing: TypingRelay
    refusals: Refusals
    history: History
    database: Callable[[], Database]
    """Which database's cursors are good here, at the moment."""
    clock: Callable[[], float]
    """Epoch seconds."""
    monotonic: Callable[[], float]
    new_id: Callable[[], str]
    status: Status

    def encode_place(self, cursor: Cursor) -> str:
        """Write a cursor of this process's database."""
        return encode_cursor(self.database(), cursor)
