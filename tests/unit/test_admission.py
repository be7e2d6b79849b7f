"""Tests of `realtime.relay.admission`: one question to the database for many that come."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from realtime.relay.admission import MAX_BATCH, AdmissionBatcher, AdmissionRequest
from realtime.relay.errors import Refused
from tests.unit.relay_fakes import raise_it, run, while_running
from tests.waiting import eventually


class FakeAccess:
    """Lets everybody in but `mallory`; can be slow, and can be down, for `trent` always."""

    def __init__(self) -> None:
        self.asked: list[list[AdmissionRequest]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.most = 1000
        """More at once are not answered."""

    async def authorize(self, questions: Sequence[AdmissionRequest]) -> list[Any]:
        self.asked.append(list(questions))
        await self.may_answer.wait()
        if "chaos" in [one.subject for one in questions]:
            raise ZeroDivisionError
        if len(questions) > self.most:
            return [Refused(1013, "the database cannot be asked") for _ in questions]
        return [self._answer(one) for one in questions]

    def _answer(self, question: AdmissionRequest) -> Any:
        if question.subject == "mallory":
            return Refused(4003, "denied")
        if question.subject == "trent":
            return Refused(1013, "the database cannot be asked")
        return f"{question.subject} on {question.bot_id}"


async def all_of(admissions: AdmissionBatcher, *subjects: str) -> list[Any]:
    """Ask for all at once; what was raised is returned."""
    asked = asyncio.gather(
        *(admissions.authorize(s, "b") for s in subjects), return_exceptions=True
    )
    await while_running(admissions.run(), asked.done)
    return await asked


def test_one_question_for_all_who_wait() -> None:
    """And each gets their own answer; a refusal is nobody else's."""

    async def come() -> None:
        access = FakeAccess()
        ada, mallory, grace = await all_of(
            AdmissionBatcher(access, raise_it), "ada", "mallory", "grace"
        )
        assert (ada, grace) == ("ada on b", "grace on b")
        assert isinstance(mallory, Refused)
        assert mallory.code == 4003
        assert len(access.asked) == 1

    run(come())


def test_who_comes_during_a_question_is_in_the_next_one() -> None:
    """The answer must be of a moment after they subscribed."""

    async def come() -> None:
        access = FakeAccess()
        access.may_answer.clear()
        admissions = AdmissionBatcher(access, raise_it)
        loop = asyncio.create_task(admissions.run())
        first = asyncio.create_task(admissions.authorize("ada", None))
        await eventually(lambda: access.asked)
        later = [asyncio.create_task(admissions.authorize(s, "b")) for s in ("grace", "joan")]
        await asyncio.sleep(0)
        access.may_answer.set()
        assert await asyncio.gather(first, *later) == ["ada on None", "grace on b", "joan on b"]
        loop.cancel()
        assert [len(asked) for asked in access.asked] == [1, 2]

    run(come())


def test_a_loop_that_was_cancelled_within_a_question_may_run_again() -> None:
    """What was under way is over with it."""

    async def come() -> None:
        access = FakeAccess()
        access.may_answer.clear()
        admissions = AdmissionBatcher(access, raise_it)
        loop = asyncio.create_task(admissions.run())
        lost = asyncio.create_task(admissions.authorize("ada", None))
        await eventually(lambda: access.asked)
        for task in (loop, lost):
            task.cancel()
        await asyncio.wait([loop, lost])
        access.may_answer.set()
        assert await all_of(admissions, "grace") == ["grace on b"]

    run(come())


def test_a_question_is_bounded() -> None:
    """Whoever is above it is in the next one."""

    async def come() -> None:
        access = FakeAccess()
        names = [str(number) for number in range(2 * MAX_BATCH + 1)]
        assert await all_of(AdmissionBatcher(access, raise_it), *names) == [
            f"{name} on b" for name in names
        ]
        assert [len(asked) for asked in access.asked] == [MAX_BATCH, MAX_BATCH, 1]

    run(come())


def test_a_full_question_begins_beside_another() -> None:
    """One that is not full waits for those who come meanwhile, and there are two at most."""

    async def come() -> None:
        access = FakeAccess()
        access.may_answer.clear()
        admissions = AdmissionBatcher(access, raise_it, max_batch=3)
        loop = asyncio.create_task(admissions.run())
        asked = [asyncio.create_task(admissions.authorize("ada", None))]
        await eventually(lambda: access.asked)
        for number, sizes in enumerate([[1], [1], [1, 3], [1, 3], [1, 3], [1, 3], [1, 3]]):
            asked.append(asyncio.create_task(admissions.authorize(str(number), "b")))
            for _ in range(5):
                await asyncio.sleep(0)
            assert [len(one) for one in access.asked] == sizes
        access.may_answer.set()
        assert len(await asyncio.gather(*asked)) == 8
        loop.cancel()
        assert [len(one) for one in access.asked] == [1, 3, 3, 1]

    run(come())


def test_who_has_left_is_not_asked_about() -> None:
    """Or is not answered, where the question was out already."""

    async def come() -> None:
        access = FakeAccess()
        admissions = AdmissionBatcher(access, raise_it)
        gone = asyncio.create_task(admissions.authorize("gone", None))
        await asyncio.sleep(0)
        gone.cancel()
        assert await all_of(admissions, "ada") == ["ada on b"]
        assert access.asked == [[AdmissionRequest("ada", "b")]]

        access.may_answer.clear()
        loop = asyncio.create_task(admissions.run())
        leaving = asyncio.create_task(admissions.authorize("leaving", None))
        staying = asyncio.create_task(admissions.authorize("staying", None))
        await eventually(lambda: len(access.asked) == 2)
        leaving.cancel()
        access.may_answer.set()
        assert await staying == "staying on None"
        leaves_alone = asyncio.create_task(admissions.authorize("alone", None))
        await asyncio.sleep(0)
        leaves_alone.cancel()
        assert await admissions.authorize("ada", None) == "ada on None"
        loop.cancel()

    run(come())


@pytest.mark.parametrize("everybody_left", [True, False])
def test_nobody_is_left_to_ask_about(everybody_left: bool) -> None:
    """Then the database is not asked."""

    async def come() -> None:
        access = FakeAccess()
        admissions = AdmissionBatcher(access, raise_it)
        gone = asyncio.create_task(admissions.authorize("gone", None))
        await asyncio.sleep(0)
        gone.cancel()
        loop = asyncio.create_task(admissions.run())
        await asyncio.sleep(0)
        if not everybody_left:
            await admissions.authorize("ada", None)
        await asyncio.sleep(0)
        loop.cancel()
        assert len(access.asked) == (0 if everybody_left else 1)

    run(come())


def test_an_unforeseen_error_ends_nobody_else() -> None:
    """It is reported, and for those who asked; who comes later is answered."""

    async def come() -> None:
        access = FakeAccess()
        reported: list[Exception] = []
        admissions = AdmissionBatcher(access, reported.append)
        (error,) = await all_of(admissions, "chaos")
        assert isinstance(error, ZeroDivisionError)
        assert reported == [error]
        assert await all_of(admissions, "ada") == ["ada on b"]

    run(come())


def test_a_slow_database_is_asked_for_fewer() -> None:
    """So that some get in; and for more again when it answers."""

    async def come() -> None:
        access = FakeAccess()
        access.most = 2
        admissions = AdmissionBatcher(access, raise_it, max_batch=8)
        answers = await all_of(admissions, *(str(number) for number in range(26)))
        sizes = [len(asked) for asked in access.asked]
        assert sizes[:4] == [8, 8, 4, 2]
        assert [isinstance(one, Refused) for one in answers[:22]] == [True] * 20 + [False] * 2
        access.most = 1000
        access.asked.clear()
        await all_of(admissions, *(str(number) for number in range(40)))
        assert max(len(asked) for asked in access.asked) == 8

    run(come())


def test_a_database_that_answers_nobody_is_asked_about_one() -> None:
    """Never about none: then nobody would get in again."""

    async def come() -> None:
        access = FakeAccess()
        access.most = 0
        admissions = AdmissionBatcher(access, raise_it, max_batch=2)
        for _ in range(3):
            assert isinstance((await all_of(admissions, "ada"))[0], Refused)
            assert admissions._batcher.size == 1
        access.most = 1000
        assert await all_of(admissions, "ada") == ["ada on b"]

    run(come())


def test_one_who_is_not_answered_makes_no_slow_database() -> None:
    """The others of the batch are, so the next one is as large."""

    async def come() -> None:
        access = FakeAccess()
        admissions = AdmissionBatcher(access, raise_it, max_batch=2)
        unanswered, answer = await all_of(admissions, "trent", "ada")
        assert isinstance(unanswered, Refused)
        assert answer == "ada on b"
        assert await all_of(admissions, "grace", "joan") == ["grace on b", "joan on b"]
        assert [len(asked) for asked in access.asked] == [2, 2]

    run(come())


def test_users_have_turns() -> None:
    """However many one user waits for, another who comes is asked about with the next batch."""

    async def come() -> None:
        access = FakeAccess()
        access.may_answer.clear()
        admissions = AdmissionBatcher(access, raise_it, max_batch=3)
        loop = asyncio.create_task(admissions.run())
        many = [asyncio.create_task(admissions.authorize("ada", str(n))) for n in range(9)]
        await eventually(lambda: len(access.asked) == 2)  # so many are asked at once
        others = [asyncio.create_task(admissions.authorize(s, "b")) for s in ("grace", "joan")]
        await asyncio.sleep(0)
        access.may_answer.set()
        assert await asyncio.gather(*others) == ["grace on b", "joan on b"]
        await asyncio.gather(*many)
        loop.cancel()
        assert [one.subject for one in access.asked[2]] == ["ada", "grace", "joan"]
        hers = [one.bot_id for batch in access.asked for one in batch if one.subject == "ada"]
        assert hers == [str(n) for n in range(9)]

    run(come())


def test_a_refusal_keeps_nothing_of_who_was_refused() -> None:
    """Its error is gone with the last who has it: the collector need not come by."""

    async def come() -> weakref.ref[Refused]:
        admissions = AdmissionBatcher(FakeAccess(), raise_it)
        loop = asyncio.create_task(admissions.run())
        try:
            await admissions.authorize("mallory", "b")
        except Refused as refused:
            return weakref.ref(refused)
        finally:
            loop.cancel()
        raise AssertionError("she was let in")

    gc.disable()
    try:
        assert run(come())() is None
    finally:
        gc.enable()
