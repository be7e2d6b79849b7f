"""Answers many requests with one query. Requests that come during a query are in the next one.

So a thousand sockets that open together do not ask the database a thousand times. While a query is
under way, another may begin if it is full: then neither this process nor the database waits for the
other. An unexpected error fails the requests of that batch and is reported. The others go on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
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
        size: how many keys one batch may have.
        at_once: how many batches may be under way; all but the first of them are full. `answer` may
            change both between batches.
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
        at_once: int = 1,
        report: Report,
        key: Callable[[Request], object] = id,
        gather_seconds: float = 0.0,
    ) -> None:
        self.size = size
        self.at_once = at_once
        self._answer = answer
        self._report = report
        self._key = key
        self._gather_seconds = gather_seconds
        self._waiting: list[_Waiting[Request, Result]] = []
        self._under_way = 0
        self._has_changed = asyncio.Event()
        """Something waits that did not, or a batch is answered."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """To ask which loop runs is a system call, each time."""

    async def ask(self, request: Request) -> Result:
        """Wait for the result. The queue is as long as there are sockets: each waits once.

        Raises:
            Exception: what `answer` gave as the result, or raised.
        """
        self._loop = self._loop or asyncio.get_running_loop()
        result: asyncio.Future[Result] = self._loop.create_future()
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
        self._has_changed.set()

    async def run(self) -> NoReturn:
        """Answer batches until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                while not self._waiting:
                    self._has_changed.clear()
                    await self._has_changed.wait()
                await asyncio.sleep(self._gather_seconds)
                while self._waiting or self._under_way:
                    self._has_changed.clear()
                    while self._is_due and (batch := self._take()):
                        self._under_way += 1
                        group.create_task(self._settle(batch))
                    if self._under_way:
                        await self._has_changed.wait()

    @property
    def _is_due(self) -> bool:
        """Whether a batch may begin."""
        if not self._under_way:
            return True
        return self._under_way < self.at_once and len(self._waiting) >= self.size

    def _take(self) -> list[_Waiting[Request, Result]]:
        chosen: set[object] = set()
        batch: list[_Waiting[Request, Result]] = []
        rest: list[_Waiting[Request, Result]] = []
        for one in self._waiting:
            if one.has_left():
                continue  # nobody need be asked about them
            key = self._key(one.request)
            if key in chosen or len(chosen) < self.size:
                chosen.add(key)
                batch.append(one)
            else:
                rest.append(one)
        self._waiting = rest
        return batch

    async def _settle(self, batch: Sequence[_Waiting[Request, Result]]) -> None:
        try:
            results = await self._results([one.request for one in batch])
        finally:
            self._under_way -= 1
            self._has_changed.set()
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
