"""Tests of `realtime.web.joining`: what changes while the database is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from realtime.config.intervals import Intervals
from realtime.relay import closing
from realtime.relay.admission import Admission
from realtime.relay.counters import Counters
from realtime.relay.cursor import Anchor
from realtime.relay.errors import Refused
from realtime.relay.position import Position
from realtime.relay.refusals import Refusals
from realtime.relay.resume import GapReason, Missed, Unrecoverable
from realtime.relay.subscriber import State, Subscriber
from realtime.web.joining import Joining, require_few, require_room
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    SIGNER,
    START,
    Named,
    at,
    event,
    grant_row,
    make_hub,
    make_subscriber,
    no_pause,
    page,
    seen,
)

UNTIL = at(30)


class Asked:
    """Somebody who joins, and the database that it asks."""

    def __init__(
        self, *answers: Admission | Refused, hold_bytes: int = 1, socket_id: str | None = None
    ) -> None:
        self.meanwhile: Callable[[], Awaitable[object]] = no_pause
        """What happens while it is asked."""
        self.answers = list(answers)
        self.hub = make_hub()
        self.refusals = Refusals(lambda: 0.0)
        self.history = SimpleNamespace(since=self.since, log=None)
        services: Any = SimpleNamespace(
            hub=self.hub,
            refusals=self.refusals,
            access=self,
            history=self.history,
            counters=Counters(lambda: 0.0),
            intervals=Intervals(refusal=0.0),
            settings=SimpleNamespace(max_connections_per_user=1),
            read_budget=None,
        )
        self.subscriber, self.sink = make_subscriber(hold_bytes=hold_bytes, socket_id=socket_id)
        self.joining = Joining(
            services, self.subscriber, Reading(self.sink), subject="ada", bot_id="b1"
        )

    async def authorize(self, _subject: str, _bot_id: str | None) -> Admission:
        await self.meanwhile()
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

    async def grant() -> None:
        asked.refusals.forget([grant_row(1, BOT, ADA)] if is_granted else [])

    asked.meanwhile = grant
    with pytest.raises(Refused):
        await asked.joining.authorize()
    assert (asked.refusals.find("ada", BOT) is None) is is_granted


@pytest.mark.gen_test
async def test_every_refusal_waits_for_a_read_of_the_log() -> None:
    """Also one that nobody remembers yet, so that its time tells nothing."""
    asked, waits = Asked(DENIED), []

    async def up_to_date() -> None:
        waits.append(len(asked.answers))

    asked.refusals.up_to_date = up_to_date  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(Refused):
            await asked.joining.authorize()
    assert waits == [0, 0]


@pytest.mark.gen_test
async def test_a_refusal_is_not_repeated_while_the_log_cannot_be_read() -> None:
    """There may be a grant in it."""
    asked = Asked(admitted(ADA))
    asked.refusals.remember("ada", BOT, DENIED, asked.refusals.generation)
    assert await asked.joining.authorize() == admitted(ADA)


@pytest.mark.gen_test
async def test_a_refusal_is_not_repeated_after_a_grant_that_was_not_read_yet() -> None:
    """It was there before they came, and the read that they wait for finds it."""
    asked = Asked(admitted(ADA))
    asked.refusals.remember("ada", BOT, DENIED, asked.refusals.generation)

    async def up_to_date() -> None:
        asked.refusals.forget([grant_row(1, BOT, ADA)])

    asked.refusals.up_to_date = up_to_date  # type: ignore[method-assign]
    assert await asked.joining.authorize() == admitted(ADA)


@pytest.mark.gen_test
async def test_who_leaves_while_being_asked_about_is_nobody() -> None:
    """No user has them; before the question, nobody is asked at all."""
    asked = Asked(admitted(ADA), admitted(ADA))

    async def leave() -> None:
        asked.sink.close(1000, "")

    asked.meanwhile = leave
    for left in (1, 1):
        assert await asked.joining.authorize() is None
        assert (asked.subscriber.user_id, len(asked.answers)) == (None, left)


@pytest.mark.gen_test
async def test_who_cannot_resume_is_where_it_was_let_in() -> None:
    """A pong claims what the answer covers, and no longer the place that it came with."""
    asked = Asked(admitted(ADA))
    admission = await asked.joining.authorize()
    assert admission is not None

    async def since(_request: object) -> Missed:
        given = SIGNER.write(START, BOT)
        assert asked.hub.cursor_of(asked.subscriber) == given
        raise Unrecoverable(GapReason.TOO_OLD)

    asked.history.since = since
    told, missed = await asked.joining.recover(SIGNER.write(START, BOT), admission)
    assert told == {"recovered": False, "reason": "too_old"}
    assert not missed
    assert asked.hub.cursor_of(asked.subscriber) == SIGNER.write(UNTIL, BOT)


# Too many.


@pytest.mark.parametrize(
    ("here", "elsewhere", "why"),
    [
        (1, 0, None),
        (0, 1, None),
        (2, 0, closing.TOO_MANY_CONNECTIONS),
        (1, 1, closing.TOO_MANY_IN_ALL),
        (0, 2, closing.TOO_MANY_IN_ALL),
    ],
)
def test_a_user_may_have_so_many_sockets(
    here: int, elsewhere: int, why: closing.Closing | None
) -> None:
    """With the one that asks. What other processes have is not final."""
    services: Any = SimpleNamespace(
        hub=SimpleNamespace(subscribers=SimpleNamespace(count_of={ADA: here}.get)),
        settings=SimpleNamespace(max_connections_per_user=2),
    )
    admission = admitted(ADA)._replace(remote_sockets=elsewhere)
    assert refusal(partial(require_few, services, admission)) == why


@pytest.mark.parametrize(
    ("here", "is_draining", "why"),
    [(1, False, None), (2, False, closing.PROCESS_FULL), (0, True, closing.RESTARTING)],
)
def test_a_process_may_have_so_many_sockets(
    here: int, is_draining: bool, why: closing.Closing | None
) -> None:
    """With the one that comes; and none any more once it was told to stop."""
    services: Any = SimpleNamespace(
        hub=SimpleNamespace(subscribers=SimpleNamespace(open_count=here)),
        settings=SimpleNamespace(max_connections=2),
        status=SimpleNamespace(is_draining=is_draining),
    )
    assert refusal(partial(require_room, services)) == why


def refusal(require: Callable[[], object]) -> tuple[int, str] | None:
    try:
        require()
    except Refused as refused:
        return refused.code, refused.reason
    return None


@pytest.mark.gen_test
async def test_a_subscription_is_not_one_more_socket() -> None:
    """It comes on one that was counted."""
    one = admitted(ADA)._replace(remote_sockets=1)
    assert await Asked(one, socket_id="s").joining.authorize() == one
    with pytest.raises(Refused):
        await Asked(one).joining.authorize()


# Going live.


async def overflow(asked: Asked) -> Subscriber:
    """Let it in, while more comes than may be held."""
    admission = await asked.joining.authorize()
    assert admission is not None
    large = event(1, 20, payload='{"type":"' + "x" * 1000 + '"}')
    await asked.hub.deliver(page(seen(0), large), Named(at(20), "later"))
    assert asked.subscriber.has_overflowed
    return asked.subscriber


@pytest.mark.gen_test
async def test_who_had_too_much_to_be_held_is_asked_about_again() -> None:
    """And goes live as of the second answer."""
    asked = Asked(admitted(ADA), admitted(ADA))
    subscriber = await overflow(asked)
    await asked.joining.go_live(START, Missed())
    assert (subscriber.state, subscriber.since, asked.answers) == (State.LIVE, UNTIL, [])


@pytest.mark.gen_test
async def test_where_it_has_come_names_the_newest_row_that_it_had_seen() -> None:
    """Later than all that the answer covers: it is told if a crash has forgotten that row."""
    asked = Asked(admitted(ADA))
    assert await asked.joining.authorize()
    seen_before = Position(START.naming(Anchor(40, 7, 1)), SIGNER)
    asked.subscriber.cursor = seen_before
    await asked.joining.go_live(UNTIL, Missed())
    assert asked.subscriber.cursor.cursor == UNTIL.naming(Anchor(40, 7, 1))


@pytest.mark.gen_test
async def test_what_comes_while_it_is_asked_about_again_is_held() -> None:
    """It is later than the answer, so no read of what was missed brings it."""
    asked = Asked(admitted(ADA), admitted(ADA), hold_bytes=500)
    await overflow(asked)

    async def write() -> None:
        await asked.hub.deliver(page(seen(0), event(2, 31)), Named(at(31), "last"))

    asked.meanwhile = write
    await asked.joining.go_live(START, Missed())
    assert (asked.sink.ids, asked.answers) == ([2], [])


@pytest.mark.gen_test
async def test_nobody_is_asked_about_who_is_gone() -> None:
    """Though too much came for them to be held."""
    asked = Asked(admitted(ADA), admitted(ADA))
    await overflow(asked)
    asked.sink.close(1000, "")
    await asked.joining.go_live(START, Missed())
    assert len(asked.answers) == 1


@pytest.mark.gen_test
async def test_whose_name_is_somebody_elses_meanwhile_is_refused() -> None:
    """What that user may read is not for the first one."""
    asked = Asked(admitted(ADA), admitted(GRACE))
    subscriber = await overflow(asked)
    with pytest.raises(Refused) as refused:
        await asked.joining.go_live(START, Missed())
    assert (refused.value.code, refused.value.reason) == closing.USER_RENAMED
    assert subscriber.state is State.JOINING
