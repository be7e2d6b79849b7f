"""Answers many requests with one query. Requests that come during a query are in the next one.

So a thousand sockets that open together do not ask the database a thousand times. While a query is
under way, another may begin if it is full: then neither this process nor the database waits for the
other. An unexpected error fails the requests of that batch and is reported. The others go on.

Where many wait, users have turns: who has one request waits no longer for those of a user who has
thousands.
"""

import asyncio
from collections import OrderedDict
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


_Queue = OrderedDict[object, list[_Waiting[Request, Result]]]
"""What one user waits for, by key."""


class Batcher(Generic[Request, Result]):
    """The requests that wait, and the loop that answers them.

    Args:
        answer: answers a batch: for each request, in order, a result, or the exception to raise
            for it. It may raise `Refused`, which is then raised for the whole batch.
        size: how many keys one batch may have.
        at_once: how many batches may be under way; all but the first of them are full. `answer` may
            change both between batches.
        report: called with an unexpected error.
        key: a user's requests with equal keys count once, and are in the same batch. By default
            each request counts.
        user: whose request it is. Users have turns; by default all are one user's.
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
        user: Callable[[Request], object] = lambda _: None,
        gather_seconds: float = 0.0,
    ) -> None:
        self.size = size
        self.at_once = at_once
        self._answer = answer
        self._report = report
        self._key = key
        self._user = user
        self._gather_seconds = gather_seconds
        self._waiting: OrderedDict[object, _Queue[Request, Result]] = OrderedDict()
        """What each user waits for; the first is next."""
        self._keys = 0
        """How many keys wait, of all users."""
        self._under_way = 0
        self._has_changed = asyncio.Event()
        """Something waits that did not, or a batch is answered."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """To ask which loop runs is a system call, each time."""

    async def ask(self, request: Request) -> Result:
        """Wait for the result. Whoever asks bounds how many wait: each socket waits once, and few
        subscriptions of a user do.

        Raises:
            Exception: what `answer` gave as the result, or raised.
        """
        self._loop = self._loop or asyncio.get_running_loop()
        result: asyncio.Future[Result] = self._loop.create_future()
        self.add(request, partial(_finish, result), result.done)
        try:
            return await result
        finally:
            # An error has this frame in its traceback. If the frame had the future, which has the
            # error, all that was refused would be kept until the collector comes by.
            del result

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
        theirs = self._waiting.setdefault(self._user(request), OrderedDict())
        same = theirs.setdefault(self._key(request), [])
        self._keys += not same
        same.append(_Waiting(request, finish, has_left))
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
                    while self._is_due and self._begin(group):
                        pass
                    if self._under_way:
                        await self._has_changed.wait()

    def _begin(self, group: asyncio.TaskGroup) -> bool:
        """Have the next batch answered; False: nobody waits. Nothing of it stays here."""
        batch = self._take()
        if batch:
            self._under_way += 1
            group.create_task(self._settle(batch))
        return bool(batch)

    @property
    def _is_due(self) -> bool:
        """Whether a batch may begin."""
        if not self._under_way:
            return True
        return self._under_way < self.at_once and self._keys >= self.size

    def _take(self) -> list[_Waiting[Request, Result]]:
        """The next batch: one key of each user in turn, until it is full."""
        batch: list[_Waiting[Request, Result]] = []
        keys = 0
        while self._waiting and keys < self.size:
            # Nobody need be asked about those who have left.
            same = [one for one in self._take_next() if not one.has_left()]
            batch += same
            keys += bool(same)
        return batch

    def _take_next(self) -> list[_Waiting[Request, Result]]:
        """The requests with the first key of the user whose turn it is."""
        user, theirs = next(iter(self._waiting.items()))
        _, same = theirs.popitem(last=False)
        self._keys -= 1
        if theirs:
            self._waiting.move_to_end(user)
        else:
            del self._waiting[user]
        return same

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
