"""The tokens with which the Python client comes, and what it says on a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from rowcast import Closed, Reconnecting, Timings
from tests.unit.client_fakes import Played, settle
from tests.waiting import eventually


@pytest.mark.gen_test
async def test_a_refused_token_without_another_is_final() -> None:
    """4001, as any application wants to know it."""
    async with Played() as played:
        await played.lose(4001, "expired")
        assert isinstance(played.raised, Closed)
        assert (played.raised.code, len(played.server.sockets)) == (4001, 1)


@pytest.mark.gen_test
async def test_a_refused_token_is_replaced_and_a_second_refusal_is_final() -> None:
    """A token may be stale; two in a row mean that the user is not let in."""
    fresh = iter(["two", "three"])

    async def get_token() -> str:
        return next(fresh)

    async with Played(get_token=get_token) as played:
        await played.lose(4001)
        assert played.socket.headers["Authorization"] == "Bearer two"
        await played.lose(4001)
        assert isinstance(played.raised, Closed)
        assert len(played.server.sockets) == 2


@pytest.mark.gen_test
@pytest.mark.parametrize("answer", [None, ""])
async def test_no_new_token_is_final(answer: str | None) -> None:
    """The person is signed out."""

    async def get_token() -> str | None:
        return answer

    async with Played(get_token=get_token) as played:
        await played.lose(4001)
        assert isinstance(played.raised, Closed)
        assert str(played.raised).endswith("no new token")


@pytest.mark.gen_test
async def test_a_token_that_cannot_be_had_now_is_asked_for_again() -> None:
    """What `get_token` raises is not the end; it is logged, and told as a wait without a code."""
    answers: Iterator[str | OSError] = iter([OSError("down"), "one"])

    async def get_token() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Played(token=None, get_token=get_token) as played:
        assert played.told == [Reconnecting(1, 0.5, None, "get_token failed: OSError")]
        await played.time.move(1)
        assert played.socket.headers["Authorization"] == "Bearer one"


@pytest.mark.gen_test
async def test_get_token_may_not_take_for_ever() -> None:
    """It counts as one that failed."""

    async def get_token() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async with Played(
        token=None, get_token=get_token, timings=Timings(connect_within=0.01)
    ) as played:
        await eventually(lambda: played.told)
        assert played.told[0].reason == "get_token did not answer in time"


@pytest.mark.gen_test
@pytest.mark.parametrize("token", ["a b", "a\r\nX: y", "é", ""])
async def test_a_token_that_cannot_be_sent_is_final(token: str) -> None:
    """It would not get better by trying again."""
    async with Played(token=token) as played:
        assert isinstance(played.raised, Closed)
        assert (played.raised.code, played.server.sockets) == (4001, [])


@pytest.mark.gen_test
async def test_an_expiring_token_is_renewed_in_place() -> None:
    """Once, however often it is said meanwhile; and the next connection has the new one."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def get_token() -> str:
        return await answer

    async with Played(get_token=get_token) as played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        played.socket.say("token_expiring", {})
        await settle()
        answer.set_result("two")
        await settle()
        sent = played.socket.of_type("authenticate")
        assert sent == [{"type": "authenticate", "data": {"token": "two"}}]
        played.socket.say("authenticated", {})
        await played.lose(1001)
        assert played.socket.headers["Authorization"] == "Bearer two"
        played.socket.greet()
        await settle()
        assert played.socket.sent == []


@pytest.mark.gen_test
async def test_a_renewal_that_fails_leaves_the_connection() -> None:
    """The server decides when it is over."""

    async def get_token() -> str:
        raise OSError

    async with Played(get_token=get_token) as played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        await settle()
        assert (played.client.state, played.told) == ("open", [])


@pytest.mark.gen_test
async def test_a_token_given_while_connecting_follows_the_greeting() -> None:
    """It missed the handshake, and is put in as soon as there is a connection."""
    async with Played() as played:
        played.client.refresh("two")
        assert played.socket.sent == []
        played.socket.greet()
        await settle()
        assert [one["data"] for one in played.socket.sent] == [{"token": "two"}]


@pytest.mark.gen_test
async def test_a_renewal_under_way_does_not_outlive_the_client() -> None:
    """Neither a final code nor the end of the context waits for it."""

    async def get_token() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async with Played(get_token=get_token) as played:
        played.socket.greet()
        played.socket.say("token_expiring", {})
        await played.lose(4003, wait=0)
        await settle()
        assert isinstance(played.raised, Closed)


@pytest.mark.gen_test
async def test_nothing_is_said_without_a_connection() -> None:
    """And the caller knows."""
    async with Played() as played:
        assert not played.client.ping()
        assert not played.client.session_sync("s")
        played.client.typing(True)
        played.socket.greet()
        await settle()
        assert played.client.session_sync("s")
        assert played.socket.sent == [{"type": "session_sync", "data": {"session_id": "s"}}]


@pytest.mark.gen_test
async def test_keystrokes_become_few_messages() -> None:
    """Every two seconds while they go on, and false four seconds after the last."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        for _ in range(30):
            played.client.typing(True)
            await played.time.move(0.1)
        assert [one["data"]["is_typing"] for one in played.socket.sent] == [True, True]
        await played.time.move(4)
        assert [one["data"]["is_typing"] for one in played.socket.sent] == [True, True, False]
        played.client.typing(False)
        assert len(played.socket.sent) == 3


@pytest.mark.gen_test
async def test_typing_ends_at_once_and_with_the_connection() -> None:
    """False is said when it is known; nothing of the old connection is said on the new one."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        played.client.typing(True)
        played.client.typing(False)
        played.client.typing(True)
        assert [one["data"]["is_typing"] for one in played.socket.sent] == [True, False, True]
        await played.lose(1006)
        played.socket.greet()
        await played.time.move(10)
        assert played.socket.of_type("typing") == []
