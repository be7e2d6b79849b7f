"""How the Python client gets another token before its token expires, and without haste."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from rowcast import Closed, Timings
from tests.unit.client_fakes import Played, settle

Answer = object


class Issuer:
    """Gives these answers, and the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = [*answers]
        self.asked = 0

    async def __call__(self) -> Any:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise type(answer)(*answer.args)
        return answer


class Slow:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        return await self.answer


def said(played: Played) -> list[str]:
    """The tokens in the present connection's `authenticate`s."""
    return [one["data"]["token"] for one in played.socket.of_type("authenticate")]


def used(played: Played) -> list[str]:
    """The tokens with which it came."""
    return [s.headers["Authorization"].removeprefix("Bearer ") for s in played.server.sockets]


@pytest.mark.parametrize("skew", [0, 600, -600])
@pytest.mark.parametrize("given", ["one", None])
@pytest.mark.gen_test
async def test_tokens_of_a_minute_are_asked_for_twice_a_minute(
    skew: float, given: str | None
) -> None:
    """Also where the server warns as soon as it has taken one, and whatever our clock says."""
    asked: list[float] = []

    async def get_token() -> str:
        asked.append(played.time.now)
        return f"token-{len(asked)}"

    def warn(kind: str) -> None:
        played.socket.say(kind, {"expires_at": played.time.after(60 + skew)})
        played.socket.say("token_expiring", {"expires_at": played.time.after(60 + skew)})

    played = Played(token=given, get_token=get_token)
    async with played:
        warn("connection_established")
        answered = 0
        for _ in range(600):
            await played.time.move(1)
            played.socket.say("pong")
            if len(said(played)) > answered:
                answered += 1
                warn("authenticated")
        assert len(played.server.sockets) == 1
        assert 15 <= len(asked) <= 21
        assert all(later - first >= 29 for first, later in pairwise(asked))


BAD: list[Answer] = [
    OSError("down"),
    "<html>502</html>",
    "a b",
    b"two",
    {"token": "two"},
    {},
    0,
    False,
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("bad", [*BAD, "one"])
@pytest.mark.gen_test
async def test_a_bad_answer_is_asked_for_again_on_the_open_connection(bad: Answer) -> None:
    """After waits that double; the old token's connection goes on, and nothing bad is sent."""
    issuer = Issuer(bad, bad, bad, "two")
    async with Played(get_token=issuer) as played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        await played.time.move(0.4)
        assert issuer.asked == 1
        await played.time.move(3.5)
        assert (issuer.asked, said(played), played.told) == (4, ["two"], [])


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.gen_test
async def test_a_bad_answer_is_asked_for_again_after_the_old_tokens_end(bad: Answer) -> None:
    """The server closes with 4001, and the issuer is down for an hour more."""
    issuer = Issuer(bad)
    async with Played(get_token=issuer) as played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        await played.lose(4001, "token expired", wait=3600)
        assert (played.raised, used(played)) == (None, ["one"])
        assert issuer.asked < 300
        issuer.answers = ["two"]
        await played.time.move(30)
        assert used(played) == ["one", "two"]


@pytest.mark.gen_test
async def test_a_refused_authenticate_does_not_condemn_the_old_token() -> None:
    """The server closes with 4001 for the new one; the client returns with the good one."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        played.client.refresh("502")
        assert said(played) == ["502"]
        await played.lose(4001, "token invalid")
        assert (played.raised, used(played)) == (None, ["one", "one"])
        played.socket.greet()
        await settle()
        assert said(played) == []


@pytest.mark.gen_test
async def test_an_answer_that_is_refused_is_not_sent_again() -> None:
    """It looks like a token and is none: one connection is lost by it, and no other."""
    issuer = Issuer("502", "502", "502", "two")
    async with Played(get_token=issuer) as played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        await settle()
        assert said(played) == ["502"]
        await played.lose(4001, wait=0.5)
        played.socket.greet()
        await played.time.move(10)
        assert used(played) == ["one", "one"]
        assert said(played) == ["two"]


@pytest.mark.gen_test
async def test_answers_that_are_refused_are_asked_for_with_waits_that_grow() -> None:
    """As while the server does not know a new key: the old token's connection is kept."""
    asked: list[float] = []

    async def get_token() -> str:
        asked.append(played.time.now)
        return f"token-{len(asked)}"

    played = Played(get_token=get_token, timings=Timings(stable_after=0))
    waits = []
    async with played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        for _ in range(5):
            await settle()
            assert len(said(played)) == 1
            await played.lose(4001, "token invalid", wait=0.5)
            opened = played.time.now
            played.socket.greet()
            await played.time.move(10)
            waits.append(asked[-1] - opened)
        assert waits == [0.5, 1, 2, 4, 8]
        assert set(used(played)) == {"one"}
        played.socket.say("authenticated", {})
        await settle()
        assert played.raised is None


@pytest.mark.gen_test
async def test_an_issuer_that_gives_the_refused_token_for_a_while_is_asked_again() -> None:
    """As libraries do that keep a token: it is no sign-out, and is not sent again."""
    issuer = Issuer("one", "one", "one", "two")
    async with Played(get_token=issuer) as played:
        played.socket.greet()
        await played.lose(4001, "token expired", wait=10)
        assert (played.raised, used(played)) == (None, ["one", "two"])
        assert [one.code for one in played.told] == [4001, None, None, None]


@pytest.mark.gen_test
async def test_a_client_that_was_closed_asks_who_comes_next() -> None:
    """The page may be another person's by then."""
    issuer = Issuer("theirs")
    played = Played(get_token=issuer)
    async with played:
        played.socket.greet()
        await settle()
    async with played:
        await settle()
        assert (issuer.asked, used(played)) == (1, ["one", "theirs"])


@pytest.mark.gen_test
async def test_a_token_that_came_too_late_is_tried_in_a_handshake() -> None:
    """4001 may have been for the old one, which expired while the new one was on its way."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        played.client.refresh("two")
        await played.lose(4001, "token expired")
        await played.lose(4001, "token expired")
        assert used(played) == ["one", "one", "two"]
        await played.lose(4001)
        assert isinstance(played.raised, Closed)


@pytest.mark.gen_test
async def test_of_two_tokens_on_their_way_the_first_is_refused() -> None:
    """The server answers in order, so the second one may be good."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        played.client.refresh("bad")
        played.client.refresh("two")
        await played.lose(4001)
        assert used(played) == ["one", "two"]


@pytest.mark.gen_test
async def test_a_token_of_the_applications_wins_over_an_older_question() -> None:
    """On the open connection: the answer that comes later does not count."""
    issuer = Slow()
    async with Played(get_token=issuer) as played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        await settle()
        played.client.refresh("newer")
        await settle()
        assert issuer.answer.cancelled()
        assert said(played) == ["newer"]
        played.socket.say("token_expiring", {})
        played.socket.say("authenticated", {})
        await settle()
        assert issuer.asked == 1


@pytest.mark.parametrize("answer", ["late", OSError("down"), asyncio.CancelledError()])
@pytest.mark.gen_test
async def test_what_an_issuer_makes_of_being_overtaken_does_not_count(answer: Answer) -> None:
    """It may answer all the same, or raise what it likes."""

    async def get_token() -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if isinstance(answer, BaseException):
                raise answer from None
            return answer

    async with Played(token=None, get_token=get_token) as played:
        played.client.refresh("newer")
        await settle()
        assert (used(played), played.told) == (["newer"], [])
        played.socket.greet()
        await settle()
        assert said(played) == []


@pytest.mark.gen_test
async def test_an_issuer_may_be_a_plain_function() -> None:
    """As a handler may: a bad answer is asked for again, and None is the end."""
    answers: list[str | None] = ["<html>", "two", None]

    async with Played(token=None, get_token=lambda: answers.pop(0)) as played:
        await played.time.move(5)
        assert used(played) == ["two"]
        played.socket.greet()
        played.socket.end(4001)
        await played.time.move(5)
        assert (str(played.raised), answers) == ("4001, no new token", [])


@pytest.mark.gen_test
async def test_an_issuer_that_cancels_itself_is_believed() -> None:
    """As old libraries do, for a time-out of their own: its answer counts, and it is asked once."""
    asked = 0

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "two"

    async with Played(token=None, get_token=get_token) as played:
        await settle()
        assert (asked, used(played)) == (1, ["two"])


@pytest.mark.gen_test
async def test_a_refused_token_within_get_token_is_no_haste() -> None:
    """The question is put again with the usual waits."""
    asked = 0

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        played.client.refresh("one")
        await asyncio.sleep(0)
        return "never"

    async with Played(get_token=get_token) as played:
        await played.lose(4001, wait=60)
        assert asked < 10


@pytest.mark.parametrize(
    ("token", "error"), [("a b", ValueError), ("", ValueError), (b"x", ValueError)]
)
@pytest.mark.gen_test
async def test_a_token_that_is_none_is_refused_at_once(token: Any, error: type[Exception]) -> None:
    """And the good one stays in use."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        with pytest.raises(error, match="no bearer token"):
            played.client.refresh(token)
        await played.lose(1001)
        assert (said(played), used(played)) == ([], ["one", "one"])


@pytest.mark.gen_test
async def test_a_token_of_the_applications_ends_the_wait_to_connect() -> None:
    """There is no connection yet, for the issuer has not answered."""
    issuer = Slow()
    async with Played(token=None, get_token=issuer) as played:
        assert played.server.sockets == []
        played.client.refresh("newer")
        await settle()
        assert used(played) == ["newer"]


@pytest.mark.gen_test
async def test_who_is_signed_out_is_asked_once() -> None:
    """However often the server warns; and when it closes, that is the end."""
    issuer = Issuer(None)
    async with Played(get_token=issuer) as played:
        played.socket.greet()
        for _ in range(3):
            played.socket.say("token_expiring", {})
            await settle()
        assert (issuer.asked, played.client.state) == (1, "open")
        await played.lose(4001)
        assert isinstance(played.raised, Closed)
        assert issuer.asked == 2


@pytest.mark.gen_test
async def test_the_answer_to_a_question_before_the_connection_ended_counts() -> None:
    """The connection was lost meanwhile; the issuer is asked once for both."""
    issuer = Slow()
    async with Played(get_token=issuer) as played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        await played.lose(4001)
        assert len(played.server.sockets) == 1
        issuer.answer.set_result("two")
        await settle()
        assert (issuer.asked, used(played)) == (1, ["one", "two"])


@pytest.mark.parametrize(
    ("seconds", "delay"), [(5, 5.5), (0.25, 0.75), (-1, 0.5), ("5", 0.5), (True, 0.5), (1e9, 0.5)]
)
@pytest.mark.gen_test
async def test_a_server_that_goes_away_says_when_to_return(seconds: object, delay: float) -> None:
    """That time and then as always, so that a crowd does not return at once; only this once."""
    async with Played() as played:
        played.socket.greet()
        played.socket.say("going_away", {"retry_after_seconds": seconds})
        await played.lose(1001, wait=delay + 0.1)
        assert [one.delay for one in played.told] == [delay]
        assert played.types == ["connection_established", "going_away"]
        await played.lose(1006)
        assert played.told[-1].delay == 1
