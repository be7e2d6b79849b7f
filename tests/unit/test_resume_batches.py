"""Tests of `realtime.relay.resume`: one request to the log for many that come back."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import pytest

from realtime.relay.cursor import Anchor
from realtime.relay.errors import Refused
from realtime.relay.events import Event, RowKey
from realtime.relay.resume import (
    Floor,
    LogState,
    Missed,
    ReadRange,
    ResumeBatcher,
    ResumeRequest,
    TopicHistory,
    Unrecoverable,
)
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    OTHER_BOT,
    at,
    event,
    raise_it,
    run,
    while_running,
)
from tests.unit.relay_fakes import seen as snapshot


class FakeHistoryLog:
    """Has events on the topics of two bots; out of order, it refuses to answer."""

    def __init__(self) -> None:
        self.is_down = False
        self.rows = [event(1, 11), event(2, 12), event(3, 13, OTHER_BOT)]
        self.gone: set[Anchor | None] = set()
        """Rows that are not there any more."""
        self.seen: Sequence[Anchor] = ()
        self.asked: list[tuple[Mapping[str, ReadRange], Sequence[str]]] = []

    async def read(
        self,
        ranges: Mapping[str, ReadRange],
        user_ids: Sequence[str],
        limit: int,
        seen: Sequence[Anchor],
    ) -> Mapping[str, TopicHistory]:
        self.asked.append((ranges, user_ids))
        self.seen = seen
        if self.is_down:
            raise Refused(1013, "the database cannot be asked")
        rows = self.rows
        state = LogState(Floor(5, snapshot(6)), set(seen) - self.gone)
        return {
            topic: TopicHistory(state, (), [row for row in rows if row.topic == topic], 0)
            for topic in ranges
        }

    async def payloads(self, keys: Sequence[RowKey]) -> list[Event]:
        return [event(key.id, key.xid) for key in keys]

    @property
    def portion_bytes(self) -> int:
        return 1000


def request(last: int = 10, topic: str = BOT, user_id: str = ADA) -> ResumeRequest:
    return ResumeRequest(topic, user_id, at(last), at(20))


def batcher(log: FakeHistoryLog, *, limit: int = 10, **how: Any) -> ResumeBatcher:
    return ResumeBatcher(log, raise_it, limit=limit, gather_seconds=0, **how)


def ask(history: ResumeBatcher, *questions: ResumeRequest | Coroutine[Any, Any, Any]) -> list[Any]:
    """Ask all of it at once; what was raised is returned."""

    async def all_at_once() -> list[Any]:
        asked = (history.since(one) if isinstance(one, ResumeRequest) else one for one in questions)
        found = asyncio.gather(*asked, return_exceptions=True)
        await while_running(history.run(), found.done)
        return await found

    return run(all_at_once())


def ids(missed: Missed) -> list[int]:
    return [one.id for one in missed.events]


def test_one_question_for_all() -> None:
    """Many who come at once are served by one read, each with what is theirs."""
    log = FakeHistoryLog()
    history = batcher(log)
    questions = [request(), request(11), request(12, OTHER_BOT, GRACE)]
    found = ask(history, *questions)
    assert list(map(ids, found)) == [[1, 2], [2], [3]]
    assert log.asked == [({BOT: ReadRange(10, []), OTHER_BOT: ReadRange(12, [])}, [ADA, GRACE])]
    assert log.seen == [at(last).anchor for last in (10, 11, 12, 20)]
    assert history.reads == 1


def test_authors_do_not_get_their_own() -> None:
    """Where they are not sent what they wrote, they have not missed it either."""
    log = FakeHistoryLog()
    log.rows[0] = event(1, 11, author=ADA)
    history = batcher(log, echoes_to_author=False)
    assert list(map(ids, ask(history, request(), request(user_id=GRACE)))) == [[2], [1, 2]]
    assert list(map(ids, ask(batcher(log), request()))) == [[1, 2]]


def test_whose_newest_row_is_gone() -> None:
    """Each request's own cursor must be of this log; another's does not count."""
    log = FakeHistoryLog()
    log.gone = {at(10).anchor}
    lost, found = ask(batcher(log), request(10), request(11))
    assert isinstance(lost, Unrecoverable)
    assert (lost.reason, ids(found)) == ("foreign", [2])


def test_again_and_again() -> None:
    """Who comes later is served by a later read."""
    log = FakeHistoryLog()
    history = batcher(log)

    async def twice() -> list[list[int]]:
        return [ids(await history.since(request())), ids(await history.since(request(11)))]

    assert ask(history, twice()) == [[[1, 2], [2]]]
    assert history.reads == 2


def test_many_topics() -> None:
    """One read is for so many topics at most."""
    log = FakeHistoryLog()
    history = batcher(log, topics_per_read=2)
    questions = [request(topic=f"bot:{number}") for number in range(5)]
    assert list(map(ids, ask(history, *questions))) == [[]] * 5
    assert [len(ranges) for ranges, _ in log.asked] == [2, 2, 1]


def test_each_is_told_its_own_reason() -> None:
    """Who cannot be brought up to date is told so, and nobody else."""
    log = FakeHistoryLog()
    history = batcher(log, limit=1)
    questions = [request(4), request(10), request(11)]
    old, many, found = ask(history, *questions)
    assert isinstance(old, Unrecoverable)
    assert isinstance(many, Unrecoverable)
    assert (old.reason, many.reason, ids(found)) == ("too_old", "too_many", [2])


def test_who_missed_much_is_served_alone() -> None:
    """What is too much for a shared read is read again for that topic, up to the client's limit."""
    log = FakeHistoryLog()
    history = batcher(log, shared_events=1)
    found = ask(history, request(10), request(12, OTHER_BOT, GRACE))
    assert list(map(ids, found)) == [[1, 2], [3]]
    assert [list(ranges) for ranges, _ in log.asked] == [[BOT, OTHER_BOT], [BOT]]


def test_nobody_can_be_asked() -> None:
    """Where the database cannot be asked, everybody is told, and asking goes on."""
    log = FakeHistoryLog()
    log.is_down = True
    history = batcher(log)

    async def until_it_is_back() -> list[int]:
        with pytest.raises(Refused):
            await history.since(request())
        log.is_down = False
        return ids(await history.since(request()))

    found, refused = ask(history, until_it_is_back(), request(11))
    assert (found, type(refused)) == ([1, 2], Refused)


@pytest.mark.parametrize(("is_down", "last"), [(False, 10), (False, 4), (True, 10)])
def test_leaving_meanwhile(is_down: bool, last: int) -> None:
    """Who leaves before the answer is not answered, and does not disturb the others."""
    log = FakeHistoryLog()
    log.is_down = is_down
    history = batcher(log)

    async def leave_and_stay() -> str:
        leaving = asyncio.create_task(history.since(request(last)))
        staying = asyncio.create_task(history.since(request(11)))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving, staying])
        return type(staying.exception()).__name__

    assert ask(history, leave_and_stay()) == ["Refused" if is_down else "NoneType"]
    assert len(log.asked) == 1


def test_who_left_and_came_together_shares_what_is_owed() -> None:
    """Its keys are found once; each takes them at a pace of their own."""
    log = FakeHistoryLog()
    log.rows = [event(number, 10 + number)._replace(payload=None) for number in (1, 2, 3)]
    first, second, other = ask(
        batcher(log), request(), request(user_id=GRACE), request(11, user_id=GRACE)
    )
    portion = first.owed.portion(0, 1)
    assert second.owed.portion(0, 1) is portion
    assert other.owed.portion(0, 1) is not portion
    first.owed.drop(portion.keys[-1])
    assert [key.id for key in second.owed.first(10**6, 9)] == [1, 2, 3]
    assert [key.id for key in first.owed.first(10**6, 9)] == [2, 3]


def test_when_one_loop_ends_so_does_the_other() -> None:
    """Nothing goes on that nobody supervises any more; the error is not lost."""

    class Broken(Exception):
        pass

    async def fail(_requests: object) -> Sequence[Exception]:
        raise Broken

    async def run_both() -> None:
        before = asyncio.all_tasks()
        resumes = batcher(FakeHistoryLog())
        resumes._shared._answer = fail
        asked = asyncio.ensure_future(resumes.since(request()))
        with pytest.raises(ExceptionGroup) as failed:
            await resumes.run()
        assert failed.group_contains(Broken)
        asked.cancel()
        await asyncio.wait([asked])
        assert asyncio.all_tasks() == before

    run(run_both())
