"""What the demo's API asks of the platform behind it, which is `realtime.dev.platform`."""

from collections.abc import Sequence
from typing import Any, Final, Protocol

ACTIONS: Final = ("disconnect", "eject", "try_event")


class DemoRefused(Exception):
    """What was asked for cannot be done; the text says why, and `status` how to answer."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status
        self.more: dict[str, Any] = {}
        """What else there is to tell: fields of the answer."""


class DemoPlatform(Protocol):
    """The platform behind the demo. Every method but `sign_in` may raise `DemoRefused`."""

    @property
    def people(self) -> Sequence[str]:
        """Whom a visitor may be."""

    @property
    def bot_id(self) -> str:
        """The demo's bot."""

    @property
    def can_run(self) -> bool:
        """Whether there is a role to run a reader's SQL as."""

    def sign_in(self, name: str) -> str:
        """A token of one of the people."""

    async def history(self, subject: str, bot_id: str) -> dict[str, Any]:
        """The newest messages, oldest first, and the cursor of that very moment."""

    async def post(self, subject: str, bot_id: str, message_id: str, content: str) -> None:
        """Write a message, once for an id."""

    async def run(self, statements: Sequence[str]) -> list[str]:
        """Run statements, each in a transaction of its own, with the rights of a service.

        `DemoRefused` has the `results` of those before the one that failed: they are committed.
        """

    async def act(self, action: str, user_id: str, bot_id: str | None) -> None:
        """Do one of `ACTIONS` by the SQL contract."""
