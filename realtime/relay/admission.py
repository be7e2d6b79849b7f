"""Who may come in? Asked in batches: who comes while a question is under way is in the next one.

A thousand sockets that open at once do not ask a thousand times. The sockets call `authorize`;
`server` keeps `run` going.
"""

import asyncio
from collections.abc import Sequence
from typing import Generic, NamedTuple, NoReturn, Protocol, TypeVar

from realtime.relay.closing import CloseCode
from realtime.relay.errors import Refused

BATCH = 50
"""Bounds how long one statement takes."""

Admission = TypeVar("Admission")
_Answer = TypeVar("_Answer", covariant=True)


class AdmissionRequest(NamedTuple):
    """May a token's subject be on a bot, or (None) have their own notifications?"""

    subject: str
    bot_id: str | None


class Access(Protocol[_Answer]):
    """Who may be where; implemented by `postgres.access`."""

    async def authorize(self, questions: Sequence[AdmissionRequest]) -> Sequence[_Answer | Refused]:
        """Answer each, as of one moment that comes after the call."""
        ...


class _Waiting(NamedTuple, Generic[Admission]):
    question: AdmissionRequest
    answered: "asyncio.Future[Admission]"


class AdmissionBatcher(Generic[Admission]):
    """The sockets that wait to be let in, and the loop that asks for them.

    Args:
        access: the database's answers.
    """

    def __init__(self, access: Access[Admission]) -> None:
        self._access = access
        self._waiting: list[_Waiting[Admission]] = []
        self._some = asyncio.Event()
        self._size = BATCH

    async def authorize(self, subject: str, bot_id: str | None) -> Admission:
        """Ask for one. The queue is as long as there are sockets: each waits at most once.

        Raises:
            Refused: with the close code and reason.
        """
        answered: asyncio.Future[Admission] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(AdmissionRequest(subject, bot_id), answered))
        self._some.set()
        return await answered

    async def run(self) -> NoReturn:
        """Answer for ever. Cancel to end."""
        while True:
            await self._some.wait()
            # Whoever has left since need not be asked about.
            waiting = [one for one in self._waiting if not one.answered.done()]
            batch, self._waiting = waiting[: self._size], waiting[self._size :]
            if not self._waiting:
                self._some.clear()
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: Sequence[_Waiting[Admission]]) -> None:
        try:
            answers = await self._access.authorize([one.question for one in batch])
        except Exception as error:  # noqa: BLE001 - theirs to report; it must not end the others
            for one in batch:
                _answer(one, error)
            return
        for one, answer in zip(batch, answers, strict=True):
            _answer(one, answer)
        self._size = self._next_size(answers)

    def _next_size(self, answers: Sequence[Admission | Refused]) -> int:
        """Where the database is too slow for many at once, ask for fewer, so that some get in."""
        is_unanswered = all(
            isinstance(one, Refused) and one.code == CloseCode.TRY_AGAIN_LATER for one in answers
        )
        return max(1, len(answers) // 2) if is_unanswered else min(BATCH, 2 * self._size)


def _answer(waiting: _Waiting[Admission], answer: Admission | Exception) -> None:
    if waiting.answered.done():  # whoever asked has left
        return
    if isinstance(answer, Exception):
        waiting.answered.set_exception(answer)
    else:
        waiting.answered.set_result(answer)
