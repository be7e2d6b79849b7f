"""Tests of `realtime.relay.recheck`: asking about those whom an access change cut off."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from realtime.relay import closing
from realtime.relay.errors import Refused
from realtime.relay.hub import Hub
from realtime.relay.recheck import RecheckAnswer, RecheckBatcher
from realtime.relay.subscriber import State
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    NOWHERE,
    Named,
    RecordingSink,
    access_change,
    at,
    event,
    frame,
    join,
    no_pause,
    page,
    read,
    run,
    seen,
    while_running,
)

FINAL_MESSAGE = '{"type":"permission_change"}'


class FakeAccess:
    """Allows some users, as of a snapshot; out of order, it refuses to answer."""

    def __init__(self, *allowed: str, is_down: bool = False) -> None:
        self.allowed = allowed
        self.is_down = is_down
        self.is_broken = False
        self.failing: Sequence[str] = ()
        self.questions: list[Sequence[tuple[str, str]]] = []
        self.may_answer = asyncio.Semaphore(1000)

    async def recheck(self, questions: Sequence[tuple[str, str]]) -> list[RecheckAnswer | Refused]:
        self.questions.append(questions)
        if self.is_broken:
            raise ZeroDivisionError
        answers = [self._answer(user) for user, _ in questions]
        await self.may_answer.acquire()
        return answers

    def _answer(self, user: str) -> RecheckAnswer | Refused:
        if self.is_down or user in self.failing:
            return Refused(1013, "the database cannot be asked")
        return RecheckAnswer(user in self.allowed, at(11))


class RecheckingHub:
    """A hub whose changes are asked about, and how often the relay was woken."""

    def __init__(self, access: FakeAccess, **how: int) -> None:
        self.access = access
        self.reported: list[Exception] = []
        self.rechecks = RecheckBatcher(access, self.reported.append, **how)
        self.hub = Hub(
            NOWHERE, frame=frame, pause=no_pause, ask_again=self.rechecks.ask, monotonic=lambda: 0.0
        )
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1

    async def until(self, condition: Callable[[], object]) -> None:
        await while_running(self.rechecks.run(self.hub, self.wake), condition)


def cut_off(
    rechecking: RecheckingHub, *users: str, is_recheck: bool = False
) -> list[RecordingSink]:
    """Sockets of these users, which one read's changes cut off."""
    sinks = [join(rechecking.hub, user)[1] for user in users]
    rows = [
        access_change(number, 10, user_id=user, final_message=FINAL_MESSAGE, is_recheck=is_recheck)
        for number, user in enumerate(dict.fromkeys(users), 1)
    ]
    read(rechecking.hub, at(10), "c", *rows)
    return sinks


@pytest.mark.parametrize("is_recheck", [False, True])
def test_no_longer_allowed(is_recheck: bool) -> None:
    """Who is not allowed any more is closed with the change's code, after one final_message."""
    rechecking = RecheckingHub(FakeAccess())
    (sink,) = cut_off(rechecking, ADA, is_recheck=is_recheck)
    run(rechecking.until(lambda: sink.closed))
    assert sink.closed == (4003, "access ended")
    assert sink.messages == [{"id": "1-0", "type": "permission_change"}]
    assert (rechecking.access.questions, rechecking.wakes) == ([[(ADA, BOT)]], 1)


def test_allowed_again() -> None:
    """Who was cut off for sure but is allowed again has to come back."""
    rechecking = RecheckingHub(FakeAccess(ADA))
    (sink,) = cut_off(rechecking, ADA)
    run(rechecking.until(lambda: sink.closed))
    assert sink.closed == closing.ACCESS_CHANGED


def test_may_stay() -> None:
    """Who probably remained, and did, goes on once the relay has read as far as the answer."""
    rechecking = RecheckingHub(FakeAccess(ADA))
    (sink,) = cut_off(rechecking, ADA, is_recheck=True)
    run(rechecking.until(lambda: rechecking.wakes))
    (subscriber,) = rechecking.hub.subscribers
    assert subscriber.state is State.PAUSED
    read(rechecking.hub, at(13), "d", event(5, 13))
    assert (subscriber.state, sink.ids, sink.closed) == (State.LIVE, [5], None)


def test_each_has_its_own_answer() -> None:
    """Of those asked about together, each is told what is true for it."""
    rechecking = RecheckingHub(FakeAccess(ADA))
    ada, grace = cut_off(rechecking, ADA, GRACE)
    run(rechecking.until(lambda: ada.closed and grace.closed))
    assert (ada.closed, grace.closed) == (closing.ACCESS_CHANGED, (4003, "access ended"))


def test_who_cannot_be_asked_about_is_not_the_others_fault() -> None:
    """The one has to come back; the others stay where they are."""
    rechecking = RecheckingHub(FakeAccess(ADA))
    rechecking.access.failing = [GRACE]
    ada, grace = cut_off(rechecking, ADA, GRACE, is_recheck=True)
    run(rechecking.until(lambda: grace.closed))
    assert (ada.closed, grace.closed) == (None, (1013, "the database cannot be asked"))


def test_nobody_can_be_asked() -> None:
    """Where the database cannot be asked, sockets have to come back, and asking goes on."""
    rechecking = RecheckingHub(FakeAccess(is_down=True))
    (first,) = cut_off(rechecking, ADA)
    _, second = join(rechecking.hub, GRACE)

    async def one_after_the_other() -> None:
        await rechecking.until(lambda: first.closed)
        rechecking.access.is_down = False
        revoke = page(seen(0), access_change(2, 12, user_id=GRACE))
        await rechecking.hub.deliver(revoke, Named(at(12), "d"))
        await rechecking.until(lambda: second.closed)

    run(one_after_the_other())
    assert first.closed == (1013, "the database cannot be asked")
    assert second.closed == (4003, "access ended")


def test_an_error_that_nobody_foresaw() -> None:
    """It is reported, the sockets that were asked about are closed, and asking goes on."""
    rechecking = RecheckingHub(FakeAccess())
    rechecking.access.is_broken = True
    (first,) = cut_off(rechecking, ADA, is_recheck=True)
    _, second = join(rechecking.hub, GRACE)

    async def one_after_the_other() -> None:
        await rechecking.until(lambda: first.closed)
        rechecking.access.is_broken = False
        revoke = page(seen(0), access_change(2, 12, user_id=GRACE))
        await rechecking.hub.deliver(revoke, Named(at(12), "d"))
        await rechecking.until(lambda: second.closed)

    run(one_after_the_other())
    assert first.closed == closing.SERVER_ERROR
    assert [type(error) for error in rechecking.reported] == [ZeroDivisionError]
    assert second.closed == (4003, "access ended")


def test_in_batches() -> None:
    """Many are asked about in few questions, all of them, and each once."""
    rechecking = RecheckingHub(FakeAccess(), max_batch=2)
    sinks = cut_off(rechecking, ADA, ADA, GRACE, GRACE, GRACE)
    run(rechecking.until(lambda: all(sink.closed for sink in sinks)))
    assert [len(batch) for batch in rechecking.access.questions] == [2, 2, 1]


def test_gone_meanwhile() -> None:
    """A socket that left before the answer does not come back with it."""
    rechecking = RecheckingHub(FakeAccess(ADA))
    (sink,) = cut_off(rechecking, ADA, is_recheck=True)
    (subscriber,) = rechecking.hub.subscribers
    rechecking.hub.unsubscribe(subscriber)
    run(rechecking.until(lambda: rechecking.wakes))
    read(rechecking.hub, at(13), "d", event(5, 13))
    assert (subscriber.state, sink.messages, sink.closed) == (State.STOPPED, [], None)


def test_an_answer_from_before_a_gap() -> None:
    """When events are lost while a socket is asked about, only the next answer lets it back."""
    rechecking = RecheckingHub(FakeAccess(ADA))
    (sink,) = cut_off(rechecking, ADA, is_recheck=True)
    (subscriber,) = rechecking.hub.subscribers
    subscriber.knows_cursors = True

    async def lose_track_meanwhile() -> None:
        rechecking.access.may_answer = asyncio.Semaphore(0)
        asking = rechecking.rechecks.run(rechecking.hub, rechecking.wake)
        await while_running(asking, lambda: rechecking.access.questions and one_answer())
        await rechecking.hub.deliver(page(seen(0), event(5, 13)), Named(at(13), "d"))

    def one_answer() -> bool:
        if not rechecking.wakes and rechecking.access.may_answer.locked():
            rechecking.access.allowed = ()
            rechecking.hub.lose_track(NOWHERE, "too_old")
            rechecking.access.may_answer.release()
        return len(rechecking.access.questions) == 2

    run(lose_track_meanwhile())
    assert (subscriber.state, sink.messages) == (State.PAUSED, [])


def test_who_keeps_access_goes_on_after_a_gap() -> None:
    """Whoever was there when events were lost is asked about, and told what was lost."""
    rechecking = RecheckingHub(FakeAccess(ADA))
    subscriber, sink = join(rechecking.hub)
    subscriber.knows_cursors = True
    rechecking.hub.lose_track(NOWHERE, "too_old")
    run(rechecking.until(lambda: rechecking.wakes))
    read(rechecking.hub, at(13), "d", event(5, 13))
    assert (subscriber.state, sink.closed) == (State.LIVE, None)
    assert [message["type"] for message in sink.messages] == ["resync", "x"]
