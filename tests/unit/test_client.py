"""The Python client hands each event over once, begins, goes on, and ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast import RealtimeClient, Reconnecting, Timings
from rowcast.events import parse
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


@pytest.mark.parametrize("reason", ["foreign", "too_old"])
@pytest.mark.gen_test
async def test_a_first_cursor_that_is_refused_is_a_resync(reason: str) -> None:
    """The cursor that was given to `connect` is sent at once, and the server's takes its place."""
    async with Played(cursor="loaded") as played:
        played.socket.greet(recovered=False, reason=reason, cursor="new")
        await settle()
        assert played.asked == ["loaded"]
        assert played.types == ["resync", "connection_established"]
        assert played.events[0].data == {"reason": reason}
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
async def test_a_connection_after_one_that_gave_no_cursor_has_lost_what_came_between() -> None:
    """With hundreds of open transactions there is none."""
    async with Played() as played:
        played.socket.greet(cursor=None)
        await played.lose(1006)
        played.socket.greet()
        await settle()
        assert played.asked == ["", ""]
        assert played.types == [
            "connection_established",
            "resync",
            "connection_established",
        ]


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
async def test_what_is_no_message_is_handed_over_as_it_came(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a resync, for it may have been anything; the cursor stays, and the next message counts."""
    frames = ("{", "", "[]", '"text"', "null", '{"type": 1}', "{}", b"\xff", "[" * 100_000)
    async with Played() as played:
        played.socket.greet()
        for frame in frames:
            played.socket.frame(frame)
        await settle()
        assert played.client.cursor == "c0"
        played.socket.say("chat_message", {}, id="1")
        await settle()
        assert played.types == [
            "connection_established",
            *("resync" for _ in frames),
            "chat_message",
        ]
        told = played.events[1:-1]
        assert [event.data for event in told] == [{"reason": "unreadable"}] * len(frames)
        assert [event.raw["frame"] for event in told] == list(frames)
    assert caplog.text.count("server_message_unreadable") == len(frames)


@pytest.mark.parametrize("odd", [None, 7, True, [], {}, ""])
@pytest.mark.gen_test
async def test_members_of_the_wrong_type_cost_no_message(odd: object) -> None:
    """What is no id does not make two messages one, and what is no cursor does not count."""
    async with Played() as played:
        played.socket.greet()
        for _ in range(2):
            played.socket.say("chat_message", odd, id=odd, cursor=odd)
        played.socket.frame('{"type": "chat_message"}')
        await settle()
        assert played.types[1:] == ["chat_message"] * 3
        assert played.client.cursor == "c0"


@pytest.mark.parametrize("cursor", ["\ud800", "\u00e9", "x" * 5000])
@pytest.mark.gen_test
async def test_a_cursor_that_no_address_can_hold_does_not_count(cursor: str) -> None:
    """Sent back it would end the client, or be refused for ever."""
    async with Played() as played:
        played.socket.greet()
        played.socket.say("chat_message", {}, id="1", cursor=cursor)
        await played.lose(1006)
        assert played.ids == ["1"]
        assert played.asked == ["", "c0"]
        played.socket.greet(recovered=False, cursor=cursor)
        await settle()
        assert played.types[-2:] == ["resync", "connection_established"]


@pytest.mark.gen_test
async def test_numbers_of_any_length_are_read() -> None:
    """Beyond what Python reads as an integer it is a Decimal, to the last digit."""
    digits = "9" * 50_000
    async with Played() as played:
        played.socket.greet()
        for number in (digits, f"-{digits}", "9" * 640, "1e999", "NaN"):
            played.socket.frame(f'{{"type": "chat_message", "data": {number}}}')
        await settle()
        assert [str(event.data) for event in played.events[1:3]] == [digits, f"-{digits}"]
        assert played.events[3].data == int("9" * 640)
        assert [str(event.data) for event in played.events[4:]] == ["inf", "nan"]


@pytest.mark.parametrize("data", [None, 7, "text", [], {"cursor": 7, "recovered": None}])
@pytest.mark.gen_test
async def test_a_greeting_that_lacks_its_members_is_one_all_the_same(data: object) -> None:
    """It says nothing of the cursor that was sent, so nothing was recovered."""
    async with Played(cursor="old") as played:
        played.socket.say("connection_established", data)
        await settle()
        assert played.types == ["resync", "connection_established"]
        assert played.client.state == "open"


@pytest.mark.parametrize("recovered", [False, 0, 1, "true", {}])
@pytest.mark.gen_test
async def test_only_true_is_recovered(recovered: object) -> None:
    """All else that a server could say there is no promise that nothing was missed."""
    async with Played(cursor="old") as played:
        played.socket.greet(recovered=recovered, cursor="new")
        await settle()
        assert played.types == ["resync", "connection_established"]
        assert played.client.cursor == "new"


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
    assert client.state == "closed"


@pytest.mark.gen_test
async def test_the_bot_may_be_a_uuid() -> None:
    """As drivers of PostgreSQL give it."""
    bot = UUID("0a3f8d1c-52b7-4c11-9a7e-3f0c2d9b8e10")
    async with Played(bot_id=bot) as played:
        assert played.socket.url.endswith(f"/chat/{bot}?cursor=")


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TYPES = ["connection_established", "pong", "authenticated", "token_expiring", "resync", "other"]
DATA = JSON | st.dictionaries(st.sampled_from(["cursor", "recovered", "reason"]), JSON)
MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)}, optional={"data": DATA, "cursor": JSON, "timestamp": JSON}
)
FRAMES = st.text() | st.binary() | (MESSAGES | DATA).map(json.dumps)


async def handed_over(frames: list[str | bytes]) -> list[object]:
    """What an application gets of these frames: the messages, and as it is what is none."""
    async with Played() as played:
        for frame in frames:
            played.socket.frame(frame)
        await settle()
        assert played.client.state in ("connecting", "open")
        return [event.raw.get("frame", event.raw) for event in played.events]


@settings(max_examples=60)
@given(frames=st.lists(FRAMES, max_size=5))
def test_no_frame_is_lost_or_ends_the_client(frames: list[str | bytes]) -> None:
    """Whatever comes is handed over in its order, but for pongs; a greeting may add a resync."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        told = runner.run(handed_over(frames))
    remaining = iter(told)
    for frame in frames:
        event = parse(frame)
        if event is None or event.type != "pong":
            assert (event.raw if event else frame) in remaining
