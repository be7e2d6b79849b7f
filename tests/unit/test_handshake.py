"""Tests of `realtime.web.handshake`: what changes while the database is asked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from realtime.config.intervals import Intervals
from realtime.relay import closing
from realtime.relay.admission import Admission
from realtime.relay.errors import Refused
from realtime.relay.refusals import Refusals
from realtime.relay.resume import Missed
from realtime.relay.subscriber import State, Subscriber
from realtime.web.handshake import Handshake
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    START,
    Named,
    at,
    event,
    grant_row,
    make_hub,
    make_subscriber,
    page,
    seen,
)

UNTIL = at(30)


class Asked:
    """A handshake, and the database that it asks."""

    def __init__(self, *answers: Admission | Refused) -> None:
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while it is asked."""
        self.answers = list(answers)
        self.hub = make_hub()
        self.refusals = Refusals(lambda: 0.0)
        services: Any = SimpleNamespace(
            hub=self.hub,
            refusals=self.refusals,
            access=self,
            history=SimpleNamespace(since=self.since, log=None),
            intervals=Intervals(refusal=0.0),
            settings=SimpleNamespace(max_connections_per_user=1),
            read_budget=None,
        )
        self.subscriber, self.sink = make_subscriber(hold_bytes=1)
        self.handshake = Handshake(
            services, self.subscriber, Reading(self.sink), subject="ada", bot_id="b1"
        )

    async def authorize(self, _subject: str, _bot_id: str | None) -> Admission:
        self.meanwhile()
        answer = self.answers.pop(0)
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def since(self, _request: object) -> Missed:
        return Missed()


class Reading:
    """The way to a client that takes all that it is sent."""

    waiting_bytes = 0

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)


def admitted(user_id: str) -> Admission:
    return Admission(user_id, user_id, "Bot", "viewer", UNTIL)


DENIED = Refused(*closing.ACCESS_DENIED)


@pytest.mark.gen_test
@pytest.mark.parametrize("is_granted", [True, False])
async def test_a_refusal_from_before_a_grant_is_not_remembered(is_granted: bool) -> None:
    """The grant is read while the database is asked, which had not seen it yet."""
    asked = Asked(DENIED)
    grants = [grant_row(1, BOT, ADA)] if is_granted else []
    asked.meanwhile = lambda: asked.refusals.forget(grants)
    with pytest.raises(Refused):
        await asked.handshake.authorize()
    assert (asked.refusals.find("ada", BOT) is None) is is_granted


async def overflow(asked: Asked) -> Subscriber:
    """Let it in, while more comes than may be held."""
    admission = await asked.handshake.authorize()
    assert admission is not None
    await asked.hub.deliver(page(seen(0), event(1, 20)), Named(at(20), "later"))
    assert asked.subscriber.has_overflowed
    return asked.subscriber


@pytest.mark.gen_test
async def test_who_had_too_much_to_be_held_is_asked_about_again() -> None:
    """And goes live as of the second answer."""
    asked = Asked(admitted(ADA), admitted(ADA))
    subscriber = await overflow(asked)
    await asked.handshake.go_live(START, Missed())
    assert (subscriber.state, subscriber.since, asked.answers) == (State.LIVE, UNTIL, [])


@pytest.mark.gen_test
async def test_whose_name_is_somebody_elses_meanwhile_is_refused() -> None:
    """What that user may read is not for the first one."""
    asked = Asked(admitted(ADA), admitted(GRACE))
    subscriber = await overflow(asked)
    with pytest.raises(Refused) as refused:
        await asked.handshake.go_live(START, Missed())
    assert (refused.value.code, refused.value.reason) == closing.USER_RENAMED
    assert subscriber.state is State.JOINING
