"""Answers many requests with one query. Requests that come during a query are in the next one.

So a thousand sockets that open together do not ask the database a thousand times. An unexpected
error fails the requests of that batch and is reported. The loop goes on with the next batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import Generic, NamedTuple, NoReturn, TypeVar

from realtime.relay.errors import Refused

Request = TypeVar("Request")
Result = TypeVar("Result")

Report = Callable[[Exception], None]
"""Logs an unexpected error."""


class _Waiting(NamedTuple, Generic[Request, Result]):
    request: Request
    finish: Callable[[Result | Exception], None]
    has_left: Callable[[], bool]


class Batcher(Generic[Request, Result]):
    """The requests that wait, and the loop that answers them.

    Args:
        answer: answers a batch: for each request, in order, a result, or the exception to raise
            for it. It may raise `Refused`, which is then raised for the whole batch.
        size: how many keys one batch may have; `answer` may change `size` between batches.
        report: called with an unexpected error.
        key: requests with equal keys count once, and are in the same batch. By default each
            request counts.
        gather_seconds: seconds that the first client waits for others.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Request]], Awaitable[Sequence[Result | Exception]]],
        *,
        size: int,
        report: Report,
        key: Callable[[Request], object] = id,
        gather_seconds: float = 0.0,
    ) -> None:
        self.size = size
        self._answer = answer
        self._report = report
        self._key = key
        self._gather_seconds = gather_seconds
        self._waiting: list[_Waiting[Request, Result]] = []
        self._has_waiting = asyncio.Event()

    async def ask(self, request: Request) -> Result:
        """Wait for the result. The queue is as long as there are sockets: each waits once.

        Raises:
            Exception: what `answer` gave as the result, or raised.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.add(request, partial(_finish, result), result.done)
        return await result

    def add(
        self,
        request: Request,
        finish: Callable[[Result | Exception], None],
        has_left: Callable[[], bool] = lambda: False,
    ) -> None:
        """Ask with the next batch, without waiting.

        Args:
            finish: called with the result.
            has_left: whether nobody wants the result any more.
        """
        self._waiting.append(_Waiting(request, finish, has_left))
        self._has_waiting.set()

    async def run(self) -> NoReturn:
        """Answer batches until cancelled."""
        while True:
            await self._has_waiting.wait()
            await asyncio.sleep(self._gather_seconds)
            while batch := self._take():
                await self._settle(batch)
            self._has_waiting.clear()

    def _take(self) -> list[_Waiting[Request, Result]]:
        # Who has left since need not be asked about.
        waiting = [one for one in self._waiting if not one.has_left()]
        keys = dict.fromkeys(self._key(one.request) for one in waiting)
        chosen = set(islice(keys, self.size))
        self._waiting = [one for one in waiting if self._key(one.request) not in chosen]
        return [one for one in waiting if self._key(one.request) in chosen]

    async def _settle(self, batch: Sequence[_Waiting[Request, Result]]) -> None:
        results = await self._results([one.request for one in batch])
        for one, result in zip(batch, results, strict=True):
            if not one.has_left():
                one.finish(result)

    async def _results(self, requests: Sequence[Request]) -> Sequence[Result | Exception]:
        try:
            return await self._answer(requests)
        except Refused as refused:
            return [Refused(refused.code, refused.reason) for _ in requests]
        except Exception as error:  # noqa: BLE001 - reported; it must not end the others' batches
            self._report(error)
            return [error] * len(requests)


def _finish(waiting: "asyncio.Future[Result]", result: Result | Exception) -> None:
    if isinstance(result, Exception):
        waiting.set_exception(result)
    else:
        waiting.set_result(result)
