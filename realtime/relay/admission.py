"""Who may open a socket? Asked in batches, as large as the database can answer in time."""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn, Protocol

from realtime.relay.batcher import Batcher, Report
from realtime.relay.closing import CloseCode
from realtime.relay.cursor import Cursor
from realtime.relay.errors import Refused

MAX_BATCH = 32
"""How many are asked about in one statement: so few that it does not take long, and that of 64 who
come together half are asked about while the other half is let in."""
AT_ONCE = 2
"""How many statements may be under way: the database answers one while the other's sockets are let
in."""


class AdmissionRequest(NamedTuple):
    """May a token's subject be on a bot, or (None) have their own notifications?"""

    subject: str
    bot_id: str | None


class Admission(NamedTuple):
    """Somebody who may open a socket, as of that cursor."""

    user_id: str
    username: str
    bot_name: str | None
    role: str | None
    cursor: Cursor
    remote_sockets: int = 0
    """How many sockets the user has in other processes, as far as those have written it."""


class Authorizer(Protocol):
    """Who may open a socket; implemented by `postgres.access`."""

    async def authorize(
        self, requests: Sequence[AdmissionRequest]
    ) -> Sequence[Admission | Refused]:
        """Answer all, as of one moment after the call."""
        ...


class AdmissionBatcher:
    """The sockets and subscriptions that wait to be accepted; users have turns.

    Args:
        authorizer: the database's answers.
        report: called with an unexpected error.
        max_batch: the maximum number in one query.
    """

    def __init__(
        self, authorizer: Authorizer, report: Report, *, max_batch: int = MAX_BATCH
    ) -> None:
        self._authorizer = authorizer
        self._max_batch = max_batch
        self._batcher = Batcher[AdmissionRequest, Admission](
            self._answer,
            size=max_batch,
            at_once=AT_ONCE,
            report=report,
            user=lambda request: request.subject,
        )

    async def authorize(self, subject: str, bot_id: str | None) -> Admission:
        """Ask whether a user may watch a topic.

        Raises:
            Refused: with the close code and reason.
        """
        return await self._batcher.ask(AdmissionRequest(subject, bot_id))

    async def run(self) -> NoReturn:
        """Answer until cancelled."""
        await self._batcher.run()

    async def _answer(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission | Refused]:
        answers = await self._authorizer.authorize(requests)
        self._batcher.size = self._next_size(answers)
        # A database that is too slow is not asked twice at once.
        self._batcher.at_once = AT_ONCE if self._batcher.size == self._max_batch else 1
        return answers

    def _next_size(self, answers: Sequence[Admission | Refused]) -> int:
        """Ask for fewer if the database is too slow for many, so that at least some get in."""
        is_unanswered = all(
            isinstance(one, Refused) and one.code == CloseCode.TRY_AGAIN_LATER for one in answers
        )
        if is_unanswered:
            return max(1, len(answers) // 2)
        return min(self._max_batch, 2 * self._batcher.size)
