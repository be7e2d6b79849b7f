"""The Python client hands each event over once, begins, goes on, and ends."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.client import RealtimeClient, Reconnecting, Timings
from tests.unit.client_fakes import URL, FakeServer, Played, settle


@pytest.mark.gen_test
async def test_the_token_travels_in_a_header() -> None:
    """Never in the address, which proxies write down; the cursor is there even when empty."""
    async with Played() as played:
        expected = "wss://relay.example/prefix/api/ws/chat/b1?cursor="
        assert played.socket.url == expected
        assert played.socket.headers == {"Authorization": "Bearer one"}


@pytest.mark.gen_test
async def test_a_place_for_everyone_and_parameters() -> None:
    """Notifications, ports, queries that are there already, ids that need quoting."""
    async with Played(bot_id=None, notifications=True, parameters={"presence": "true"}) as played:
        assert played.socket.url.endswith("/api/ws/notifications?presence=true&cursor=")
    async with Played(bot_id="a/b?") as played:
        assert "/chat/a%2Fb%3F?" in played.socket.url
    async with Played(presence=True, parameters={"a": "b"}) as played:
        assert played.socket.url.endswith("/chat/b1?a=b&presence=true&cursor=")


@pytest.mark.parametrize(
    "options",
    [{}, {"bot_id": "b", "notifications": True}, {"bot_id": "b", "token": None}],
)
def test_a_client_of_nothing_is_refused(options: dict[str, Any]) -> None:
    """Neither or both endpoints; no way to a token."""
    with pytest.raises(TypeError, match="give"):
        RealtimeClient(URL, **{"token": "t", **options})


@pytest.mark.parametrize("url", ["relay.example", "ftp://relay.example", "http://", "http://a:b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """At once, and not by trying for ever."""
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        RealtimeClient(url, token="t", bot_id="b")


@pytest.mark.gen_test
async def test_events_come_once_whatever_the_server_repeats() -> None:
    """By their ids, over connections; the cursor of a repeat counts all the same."""
    async with Played() as played:
        played.socket.greet()
        played.socket.say("chat_message", {}, id="1")
        played.socket.say("chat_message", {}, id="2", cursor="c2")
        await played.lose(1006)
        played.socket.greet(recovered=True, cursor="c9")
        played.socket.say("chat_message", {}, id="2", cursor="c3")
        played.socket.say("chat_message", {}, id="3")
        await settle()
        assert played.ids == ["1", "2", "3"]
        assert played.client.cursor == "c3"
    assert played.asked == ["", "c2"]


@pytest.mark.gen_test
async def test_a_replay_that_is_cut_short_is_asked_for_again() -> None:
    """The greeting's cursor is ahead of what was sent, so the old one holds."""
    async with Played(cursor="old") as played:
        played.socket.greet(recovered=True, cursor="ahead")
        await played.lose(1006)
        assert played.asked == ["old", "old"]
        assert played.client.cursor == "old"


@pytest.mark.gen_test
async def test_what_was_not_recovered_is_a_resync() -> None:
    """Said before the greeting; ids are forgotten, for they may mean other events now."""
    async with Played(cursor="old") as played:
        played.socket.greet(recovered=True)
        played.socket.say("chat_message", {}, id="1", cursor="c1")
        await played.lose(1006)
        played.socket.greet(recovered=False, reason="foreign", cursor="new")
        played.socket.say("chat_message", {}, id="1")
        await settle()
        kinds = ["chat_message", "resync", "connection_established", "chat_message"]
        assert played.types[1:] == kinds
        assert played.events[2].data == {"reason": "foreign"}
        assert played.client.cursor == "new"


@pytest.mark.gen_test
async def test_a_server_that_says_nothing_of_a_cursor_has_recovered_nothing() -> None:
    """As one of another make; without a cursor there was nothing to recover."""
    async with Played(cursor="old") as played:
        played.socket.greet()
        await settle()
        assert played.types == ["resync", "connection_established"]
    async with Played() as played:
        played.socket.greet()
        await settle()
        assert played.types == ["connection_established"]


@pytest.mark.gen_test
async def test_a_resync_on_the_open_connection_keeps_the_cursor() -> None:
    """Where the connection ends before there is a newer one, the gap must be told again."""
    async with Played() as played:
        played.socket.greet()
        played.socket.say("chat_message", {}, id="1")
        played.socket.say("resync", {"reason": "too_old"})
        played.socket.say("chat_message", {}, id="1")
        await played.lose(1006)
        assert played.ids == ["1", "1"]
        assert played.asked == ["", "c0"]


@pytest.mark.gen_test
async def test_pongs_move_the_cursor_and_are_not_handed_over() -> None:
    """A client of a quiet bot does not come back with a cursor that is too old."""
    async with Played() as played:
        played.socket.greet()
        played.socket.say("pong", cursor="c5", timestamp="unknown")
        played.socket.say("pong")
        played.socket.say("chat_message", {}, id="1")
        await settle()
        assert played.types == ["connection_established", "chat_message"]
        assert (played.client.cursor, played.client.latency) == ("c5", None)


@pytest.mark.gen_test
async def test_old_ids_are_forgotten() -> None:
    """Memory is bounded: as many as the server ever replays."""
    async with Played(timings=Timings(remember_ids=2)) as played:
        played.socket.greet()
        for number in ("1", "2", "3", "2", "1"):
            played.socket.say("chat_message", {}, id=number)
        await settle()
        assert played.ids == ["1", "2", "3", "1"]


@pytest.mark.gen_test
async def test_what_is_no_message_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """Text that is not JSON, JSON that is no message, bytes; they are logged."""
    async with Played() as played:
        for frame in ("{", "[]", '{"type": 1}', b"x", "[" * 100_000):
            played.socket.frame(frame)
        played.socket.greet()
        await settle()
        assert played.types == ["connection_established"]
    assert caplog.text.count("server_message_ignored") == 5


@pytest.mark.gen_test
async def test_leaving_says_goodbye_and_ends_the_iteration() -> None:
    """With 1000, and without an exception where another task iterates."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        await played.client.close()
        await settle()
        assert played.socket.closed_with == 1000
        assert played.raised is None
        assert played.reading is not None
        assert played.reading.done()


@pytest.mark.gen_test
async def test_a_second_start_goes_on_where_the_first_was() -> None:
    """With its cursor, its ids, and what was not handed over yet."""
    played = Played()
    async with played:
        played.socket.greet()
        await settle()
        await played.stop_reading()
        played.socket.say("chat_message", {}, id="1", cursor="c1")
        await settle()
        assert played.client.cursor == "c0"
    async with played:
        assert played.asked == ["", "c1"]
        played.socket.greet(recovered=True)
        played.socket.say("chat_message", {}, id="1", cursor="c1")
        played.socket.say("chat_message", {}, id="2")
        await settle()
        assert played.ids == ["1", "2"]
        with pytest.raises(RuntimeError, match="running"):
            await played.client.__aenter__()


@pytest.mark.gen_test
async def test_what_could_not_be_handed_over_is_asked_for_again() -> None:
    """The client is left while an event waits for room: its cursor does not count."""
    played = Played(timings=Timings(queue_events=1))
    async with played:
        await played.stop_reading()
        played.socket.greet()
        played.socket.say("chat_message", {}, id="1", cursor="c1")
        await settle()
    async with played:
        assert played.asked == ["", "c0"]
        played.socket.greet(recovered=True)
        played.socket.say("chat_message", {}, id="1", cursor="c1")
        await settle()
        assert played.ids == ["1"]


@pytest.mark.gen_test
async def test_a_client_that_was_not_entered_says_how() -> None:
    """And closing it is no harm."""
    client = Played().client
    with pytest.raises(RuntimeError, match="async with"):
        await anext(client)
    await client.close()


def fail(_told: Reconnecting) -> None:
    raise LookupError("the application's own")


@pytest.mark.gen_test
async def test_a_fault_in_a_callback_reaches_who_iterates() -> None:
    """An application's own error is not swallowed, and ends the client."""
    server = FakeServer()
    server.is_down = True
    client = RealtimeClient(
        URL, token="t", bot_id="b", open_socket=server.open, on_reconnecting=fail
    )
    with pytest.raises(ExceptionGroup) as raised:
        async with client as events:
            await anext(events)
    assert raised.group_contains(LookupError)
