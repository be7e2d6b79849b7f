"""Tests of `realtime.relay.refusals`: who was refused lately."""

import asyncio
import gc
import weakref

import pytest

from realtime.relay.errors import Refused
from realtime.relay.events import AccessChange
from realtime.relay.refusals import KEPT_SECONDS, Refusals
from tests.unit.relay_fakes import ADA, BOT, GRACE, OTHER_BOT, grant_row

DENIED = Refused(4003, "access denied")


class ClockedRefusals:
    def __init__(self, **limits: int) -> None:
        self.now = 100.0
        self.refusals = Refusals(lambda: self.now, **limits)

    def refuse(self, subject: str = ADA, topic: str = BOT, refused: Refused = DENIED) -> None:
        self.refusals.remember(subject, topic, refused, self.refusals.generation)

    def is_refused(self, subject: str = ADA, topic: str = BOT) -> bool:
        return self.refusals.find(subject, topic) is not None


def test_remembered() -> None:
    """Who was refused is refused again with the same words, there and not elsewhere."""
    clocked = ClockedRefusals()
    assert not clocked.is_refused()
    clocked.refuse()
    assert clocked.refusals.find(ADA, BOT) == (DENIED.code, DENIED.reason)
    assert not clocked.is_refused(GRACE)
    assert not clocked.is_refused(topic=OTHER_BOT)


def test_for_a_while() -> None:
    """A refusal is forgotten after a while, counted from the latest."""
    clocked = ClockedRefusals()
    clocked.refuse()
    clocked.now += KEPT_SECONDS - 1
    assert clocked.is_refused()
    clocked.refuse()
    clocked.now += KEPT_SECONDS - 1
    assert clocked.is_refused()
    clocked.now += 1
    assert not clocked.is_refused()


def test_those_whose_time_is_over_take_no_room() -> None:
    """Who comes once is not kept for long; who comes again is the newest."""
    clocked = ClockedRefusals()
    for subject in (ADA, GRACE):
        clocked.refuse(subject)
        clocked.now += KEPT_SECONDS / 2
    clocked.refuse(GRACE, OTHER_BOT)
    assert len(clocked.refusals) == 2
    clocked.refuse(GRACE)
    clocked.now += KEPT_SECONDS
    clocked.refuse(ADA)
    assert len(clocked.refusals) == 1


def test_a_refusal_keeps_nothing_of_who_was_refused() -> None:
    """An error that was raised has a traceback, and with it all that its caller had."""

    class Socket:
        pass

    def refuse(clocked: ClockedRefusals, socket: Socket) -> None:
        try:
            raise Refused(4003, "access denied")
        except Refused as refused:
            assert socket is not None
            clocked.refuse(refused=refused)

    clocked, socket = ClockedRefusals(), Socket()
    kept = weakref.ref(socket)
    refuse(clocked, socket)
    del socket
    gc.collect()
    assert clocked.is_refused()
    assert kept() is None


@pytest.mark.parametrize(
    ("code", "is_remembered"), [(4001, True), (4003, True), (1013, False), (4029, False)]
)
def test_only_what_a_grant_can_change(code: int, is_remembered: bool) -> None:
    """That the database could not be asked, or that a user has too many, is not remembered."""
    clocked = ClockedRefusals()
    clocked.refuse(refused=Refused(code, "no"))
    assert clocked.is_refused() == is_remembered


def test_bounded() -> None:
    """Of too many, those are forgotten that were refused the longest ago."""
    clocked = ClockedRefusals(max_kept=2)
    for subject in ("a", "b", "a", "c"):
        clocked.refuse(subject)
    assert [clocked.is_refused(subject) for subject in ("a", "b", "c")] == [True, False, True]


@pytest.mark.parametrize(
    ("grants", "here", "there"),
    [
        ([], True, True),
        ([grant_row(1, BOT, ADA)], False, True),
        ([grant_row(1, BOT, GRACE)], False, True),
        ([grant_row(1, BOT, None), grant_row(1, OTHER_BOT, None)], False, False),
        ([grant_row(1, None, None)], False, False),
        ([grant_row(1, None, GRACE), grant_row(1, "bot:b3", None)], False, False),
    ],
)
def test_grants(grants: list[AccessChange], here: bool, there: bool) -> None:
    """A grant has everybody on its topic asked about anew, for a subject may be a name."""
    clocked = ClockedRefusals()
    clocked.refuse()
    clocked.refuse(topic=OTHER_BOT)
    clocked.refusals.forget(grants)
    assert (clocked.is_refused(), clocked.is_refused(topic=OTHER_BOT)) == (here, there)


def test_of_what_is_forgotten_nothing_is_kept() -> None:
    """Neither by a grant, nor by time, nor where events were missed."""
    clocked = ClockedRefusals(max_kept=2)
    for subject, topic in (("a", BOT), ("b", BOT), ("c", OTHER_BOT)):
        clocked.refuse(subject, topic=topic)
    assert clocked.refusals._subjects == {BOT: {"b"}, OTHER_BOT: {"c"}}
    clocked.refuse("d", topic="bot:b3")
    assert clocked.refusals._subjects == {OTHER_BOT: {"c"}, "bot:b3": {"d"}}
    clocked.refusals.forget([grant_row(1, OTHER_BOT, ADA), grant_row(1, BOT, ADA)])
    assert clocked.refusals._subjects == {"bot:b3": {"d"}}
    assert len(clocked.refusals) == 1
    clocked.refusals.forget_all()
    assert (clocked.refusals._subjects, len(clocked.refusals)) == ({}, 0)


@pytest.mark.parametrize(
    "grant", [grant_row(1, BOT, ADA), grant_row(1, "bot:b3", None), grant_row(1, None, None)]
)
def test_granted_while_being_asked_about(grant: AccessChange) -> None:
    """A refusal that was asked for before a grant is not remembered after it."""
    clocked = ClockedRefusals()
    generation = clocked.refusals.generation
    clocked.refusals.forget([grant])
    clocked.refusals.remember(ADA, BOT, DENIED, generation)
    assert not clocked.is_refused()


def test_events_missed_while_being_asked_about() -> None:
    """There may have been a grant among them."""
    clocked = ClockedRefusals()
    generation = clocked.refusals.generation
    clocked.refusals.forget_all()
    clocked.refusals.remember(ADA, BOT, DENIED, generation)
    assert not clocked.is_refused()


def test_up_to_date_after_a_read_that_began_later() -> None:
    """A read that was under way already may have missed a grant; the next one has not."""

    async def wait_through_two_reads() -> list[bool]:
        refusals = ClockedRefusals().refusals
        under_way = refusals.read_begins()
        waiting = asyncio.create_task(refusals.up_to_date())
        await asyncio.sleep(0)
        done = []
        for number in (under_way, refusals.read_begins()):
            refusals.read_ends(number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            done.append(waiting.done())
        return done

    assert asyncio.run(wait_through_two_reads()) == [False, True]


def test_who_waits_has_the_log_read() -> None:
    """Once for all who wait, and not while nobody does."""

    async def wait_twice() -> list[int]:
        refusals = ClockedRefusals().refusals
        asked: list[int] = []

        def read() -> None:
            asked.append(len(asked))
            refusals.read_ends(refusals.read_begins())

        running = asyncio.create_task(refusals.run(read))
        await asyncio.gather(*(refusals.up_to_date() for _ in range(3)))
        assert asked == [0]
        await refusals.up_to_date()
        running.cancel()
        return asked

    assert asyncio.run(wait_twice()) == [0, 1]
