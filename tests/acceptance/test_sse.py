"""Events over HTTP: what a client of `/api/sse/…` is sent, and what it is told when it may not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from realtime.config.intervals import Intervals
from realtime.relay.cursor import parse_cursor
from tests.clients import Message
from tests.event_stream import EventStream
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

NOBODY = "00000000-0000-4000-8000-000000000000"


async def say(platform: Platform, world: World, *texts: str) -> None:
    for text in texts:
        await platform.message(world.session, world.bot, world.owner, text)


def contents(events: EventStream) -> list[str]:
    return [one["data"]["content"] for one in events.of_type("chat_message")]


@pytest.mark.gen_test
async def test_a_message_is_one_event_with_its_cursor(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The same JSON as on a socket; the browser's id is the cursor."""
    socket = await server.chat(world.bot, world.owner)
    events = await server.events(f"chat/{world.bot}", world.guest)
    assert events.status == 200
    told = await events.next("connection_established")
    assert told["data"]["role"] == "viewer"
    assert events.last_event_id == told["data"]["cursor"]
    await say(platform, world, "hello")
    sent = await events.next("chat_message")
    assert sent == await socket.next("chat_message")
    assert events.last_event_id == sent["cursor"] != told["data"]["cursor"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.gen_test
async def test_nothing_on_the_way_may_keep_compress_or_collect_it(
    server: RunningServer, world: World, version: str
) -> None:
    """The answer has no length and no chunks: so HTTP/1.0 can read it, too."""
    asked = {"Accept-Encoding": "gzip, br", "Origin": "https://app.example"}
    events = await server.events("notifications", world.guest, headers=asked, version=version)
    assert (await events.next("connection_established"))["data"]["connection_type"]
    headers = events.headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["connection"] == "close"
    assert headers["access-control-allow-origin"] == "https://app.example"
    assert headers.keys().isdisjoint({"content-encoding", "transfer-encoding", "content-length"})


@pytest.mark.gen_test
async def test_json_with_line_ends_is_still_one_line(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Those of the platform's JSON stand between its parts; those in a text are escaped."""
    events = await server.events(f"chat/{world.bot}", world.guest)
    await events.next("connection_established")
    data = '{\r\n "a":\r 1,\n\n "b": "x\\r\\ny"}'
    await platform.execute(
        "INSERT INTO relay.events (topic, type, payload) VALUES ($1, 'odd', $2);",
        f"bot:{world.bot}",
        f'{{"type": "odd", "data": {data}, "timestamp": "2026-01-31T12:00:00.000000Z"}}',
    )
    await platform.execute("SELECT relay.ring('odd')")
    assert (await events.next("odd"))["data"] == {"a": 1, "b": "x\r\ny"}


def claim_of(text: str) -> tuple[int, tuple[int, ...]]:
    """What a cursor says has been seen, whichever row it names."""
    _, cursor = parse_cursor(text)
    return cursor.last, cursor.open


@pytest.mark.gen_test
async def test_last_event_id_wins_over_the_cursor(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """A browser comes back to the address that it knows, with the cursor of its page's load."""
    server = await start_server(CARRY_EVENTS="false")  # else what was seen may come again
    events = await server.events(f"chat/{world.bot}", world.guest)
    first = (await events.next("connection_established"))["data"]["cursor"]
    await say(platform, world, "seen")
    await events.next("chat_message")
    seen = events.last_event_id
    events.close()
    await say(platform, world, "missed 1", "missed 2")
    back = await server.events(
        f"chat/{world.bot}", world.guest, cursor=first, headers={"Last-Event-ID": seen}
    )
    assert (await back.next("connection_established"))["data"]["recovered"] is True
    await back.next("chat_message", 2)
    assert contents(back) == ["missed 1", "missed 2"]
    # Until the last of them, it would have to come back to where it was.
    ids = [block.last_event_id for block in back.blocks if block.data]
    assert ids[0] == ""
    assert claim_of(ids[1]) == claim_of(seen)
    assert back.last_event_id == back.of_type("chat_message")[-1]["cursor"]
    other = await server.events(f"chat/{world.bot}", world.guest, cursor=first)
    await other.next("chat_message", 3)
    assert contents(other) == ["seen", "missed 1", "missed 2"]


@pytest.mark.gen_test
async def test_pings_bring_a_new_cursor(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """A client of a quiet bot cannot ask for one, and its cursor would become too old."""
    server = await start_server(intervals=Intervals(ping=0.1))
    events = await server.events(f"chat/{world.bot}", world.guest)
    told = (await events.next("connection_established"))["data"]["cursor"]
    other = await platform.bot(world.owner)
    session = await platform.session(other, world.owner)
    await platform.message(session, other, world.owner)
    await eventually(lambda: events.last_event_id != told)
    assert events.messages == events.of_type("connection_established")
    await say(platform, world, "hello")
    await events.next("chat_message")
    back = await server.events(f"chat/{world.bot}", world.guest, cursor=events.last_event_id)
    assert (await back.next("connection_established"))["data"]["recovered"] is True


# Refusals.


async def refused(events: EventStream) -> tuple[int, str]:
    error = await events.error()
    assert events.headers["content-type"] == "application/json; charset=utf-8"
    return events.status, error


@pytest.mark.gen_test
async def test_refusals_are_http(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """With the words of the close codes; `EventSource` does not come back after any of them."""
    server = await start_server(MAX_CONNECTIONS_PER_USER="1", ALLOWED_ORIGINS="https://app.example")
    stranger = await platform.user("sam")
    bad = await server.events(f"chat/{world.bot}", world.guest, token="x.y.z")
    assert await refused(bad) == (401, "token invalid")
    assert bad.headers["www-authenticate"] == "Bearer"
    for bot in (world.bot, NOBODY, "no-id"):
        denied = await server.events(f"chat/{bot}", stranger)
        assert await refused(denied) == (403, "bot not found or access denied")
    foreign = {"Origin": "https://other.example"}
    page = await server.events("notifications", world.guest, headers=foreign)
    assert page.status == 403
    assert "access-control-allow-origin" not in page.headers
    page.close()
    await server.notifications(world.guest)
    full = await server.events("notifications", world.guest)
    assert await refused(full) == (429, "this user has too many connections: close one first")
    assert "retry-after" not in full.headers
    assert (await head(server, "notifications", world.guest)).code == 429


@pytest.mark.gen_test
async def test_a_refusal_for_now_says_when_to_come_back(
    start_server: StartServer, world: World
) -> None:
    """As when the process is full; a page of another origin may read that."""
    server = await start_server(MAX_CONNECTIONS="1")
    await server.notifications(world.owner)
    origin = {"Origin": "https://app.example"}
    full = await server.events("notifications", world.guest, headers=origin)
    assert (await refused(full))[0] == 503
    assert int(full.headers["retry-after"]) > 0
    assert full.headers["access-control-expose-headers"] == "Retry-After"
    assert server.server.relaying.counters.closes["1013"] == 1


@pytest.mark.gen_test
async def test_the_header_authorization_is_enough(server: RunningServer, world: World) -> None:
    """For clients that read the stream with `fetch`, or curl."""
    header = {"Authorization": f"Bearer {token(world.guest)}"}
    events = await server.events("notifications", "", headers=header, token="")
    assert (await events.next("connection_established"))["data"]["user_id"] == world.guest


async def head(server: RunningServer, path: str, user_id: str) -> HTTPResponse:
    url = server.url(f"/api/sse/{path}", token=token(user_id))
    return await AsyncHTTPClient().fetch(url, method="HEAD", raise_error=False)


@pytest.mark.gen_test
async def test_head_is_answered_and_opens_nothing(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """With the status and the headers of GET."""
    answer = await head(server, f"chat/{world.bot}", world.guest)
    assert (answer.code, answer.headers["X-Accel-Buffering"]) == (200, "no")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert (await head(server, "notifications", world.guest)).code == 200
    stranger = await platform.user("sam")
    for bot in (world.bot, "no-id"):
        assert (await head(server, f"chat/{bot}", stranger)).code == 403
    assert server.server.relaying.counters.opens == 0


# Who is there.


async def ask(server: RunningServer, path: str, user_id: str) -> Any:
    url = server.url(path, token=token(user_id, is_admin=True))
    return json.loads((await AsyncHTTPClient().fetch(url)).body)


@pytest.mark.gen_test
async def test_only_who_asks_for_presence_is_present(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """On every process: others may be programs. Who asks is told, as on a socket."""
    here, there = await start_server(), await start_server()
    friend = await platform.user("fay")
    await platform.permit(world.bot, friend)
    program = await here.events(f"chat/{world.bot}", world.guest)
    await program.next("connection_established")
    person = await here.events(f"chat/{world.bot}", friend, presence="true")
    state = (await person.next("presence_state"))["data"]["users"]
    assert [user["username"] for user in state] == ["fay"]

    async def people(server: RunningServer) -> list[str]:
        answer = await ask(server, f"/api/ws/presence/{world.bot}", world.owner)
        return [user["username"] for user in answer["users"]]

    async def is_seen_there() -> bool:
        return await people(there) == ["fay"]

    await eventually(is_seen_there)
    assert await people(here) == ["fay"]
    await here.chat(world.bot, world.guest)
    await person.next("presence_diff")
    assert await people(here) == ["fay", "gus"]


@pytest.mark.gen_test
async def test_it_counts_as_a_socket_and_says_which(
    start_server: StartServer, world: World
) -> None:
    """In the counts, the list and the metrics, of all processes."""
    here, there = await start_server(), await start_server()
    socket = await here.chat(world.bot, world.owner)
    events = await here.events(f"chat/{world.bot}", world.guest)
    ids = [
        (await one.next("connection_established"))["data"]["connection_id"]
        for one in (socket, events)
    ]

    async def counted_there() -> bool:
        counts = await ask(there, "/api/ws/stats", world.owner)
        return bool(counts["total_connections"] == counts["connected_users"] == 2)

    await eventually(counted_there)
    for server in (here, there):
        listed = (await ask(server, "/api/ws/connections", world.owner))["connection_metadata"]
        assert [listed[one].get("transport") for one in ids] == [None, "sse"]
        assert listed[ids[1]]["bot_id"] == world.bot
    metrics = here.server.web.metrics.of_process()
    assert (metrics.connections, metrics.chats, metrics.over_http) == (2, 2, 1)


# The end.


@pytest.mark.gen_test
async def test_access_that_ends_is_an_event_and_then_the_end(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """After the message that says why. Who comes back is refused, which is final to a browser."""
    events = await server.events(f"chat/{world.bot}", world.guest)
    await events.next("connection_established")
    await platform.revoke(world.bot, world.guest)
    await say(platform, world, "not for the guest")
    assert await events.ended() == {"code": 4003, "reason": "access ended"}
    assert [one["type"] for one in events.messages][1:] == ["permission_change"]
    assert events.text.count("retry:") == 1
    again = {"Last-Event-ID": events.last_event_id}
    back = await server.events(f"chat/{world.bot}", world.guest, headers=again)
    assert (await refused(back))[0] == 403
    assert server.server.relaying.counters.closes["4003"] == 2


@pytest.mark.gen_test
async def test_a_token_ends_with_a_warning(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """A page gets a new one, and opens a new stream with the cursor that it has."""
    server = await start_server()
    short = token(world.guest, ttl=2)
    events = await server.events(f"chat/{world.bot}", world.guest, token=short)
    await events.next("token_expiring")
    assert await events.ended() == {"code": 4001, "reason": "token expired"}
    assert events.last_event_id == events.messages[0]["data"]["cursor"]


async def told_to_wait(events: EventStream) -> int:
    """Milliseconds, when the server is going away."""
    reason = "the server is restarting: connect again"
    assert await events.ended() == {"code": 1001, "reason": reason}
    return int(events.text.split("retry: ")[-1].split("\n")[0])


@pytest.mark.gen_test
async def test_a_drain_tells_clients_when_to_come_back(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Each after a time of its own, and with what it has seen."""
    first, second = await start_server(), await start_server()
    streams = [await first.events(f"chat/{world.bot}", world.guest) for _ in range(5)]
    for events in streams:
        await events.next("connection_established")
    await first.stop()
    waits = [await told_to_wait(events) for events in streams]
    assert len(set(waits)) > 1
    assert 1000 <= min(waits) <= max(waits) < 4000
    await say(platform, world, "meanwhile")
    again = {"Last-Event-ID": streams[0].last_event_id}
    back = await second.events(f"chat/{world.bot}", world.guest, headers=again)
    await back.next("chat_message")
    assert contents(back) == ["meanwhile"]
    await second.stop()
    # Nobody else serves: a new process has to start first.
    longer = 1000 * back.of_type("going_away")[0]["data"]["retry_after_seconds"]
    assert longer > 0
    assert 1000 <= await told_to_wait(back) - longer < 4000


@pytest.mark.gen_test
async def test_a_message_that_is_cut_is_no_event(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """A client that takes nothing is ended in the middle of one, and told nothing within it.

    Its `id` claims what the client came with. So it returns as it came, and is sent all of it.
    """
    server = await start_server(intervals=Intervals(replay=0.3))
    first = await server.events(f"chat/{world.bot}", world.guest)
    cursor = (await first.next("connection_established"))["data"]["cursor"]
    first.close()
    await eventually(lambda: server.server.hub.subscribers.open_count == 0)
    await say(platform, world, "small", "x" * 20_000_000)
    slow = await server.events(f"chat/{world.bot}", world.guest, cursor=cursor)
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await eventually(lambda: server.server.hub.subscribers.open_count == 0)
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert await slow.ended() is None
    assert contents(slow) == ["small"]
    assert claim_of(slow.last_event_id) == claim_of(cursor)
    assert "xxx" in slow.text
    headers = {"Last-Event-ID": slow.last_event_id}
    back = await server.events(f"chat/{world.bot}", world.guest, headers=headers)
    await back.next("chat_message", 2)
    assert [len(text) for text in contents(back)] == [5, 20_000_000]


@pytest.mark.gen_test
async def test_who_leaves_takes_no_room(server: RunningServer, world: World) -> None:
    """It is noticed at once, though nothing is sent."""
    events = await server.events(f"chat/{world.bot}", world.guest)
    await events.next("connection_established")
    hub = server.server.hub
    assert len(hub.subscribers) == 1
    events.close()
    await eventually(lambda: len(hub.subscribers) == 0)
    assert dict(server.server.relaying.counters.closes) == {"1000": 1}
    assert not server.server.web.services.room._closing


def without_cursors(messages: list[Message]) -> list[Message]:
    """Missed events have one in other places than live ones."""
    return [{key: one[key] for key in one if key != "cursor"} for one in messages]


@pytest.mark.gen_test
async def test_who_reads_nothing_is_ended_and_comes_back(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """No more waits for it than for a socket; the others are not held up."""
    server = await start_server(SEND_BUFFER_BYTES="65536")
    other = await server.chat(world.bot, world.owner)
    slow = await server.events(f"chat/{world.bot}", world.guest)
    await slow.next("connection_established")
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    text = "x" * 500_000
    for number in range(1, 41):
        await say(platform, world, text)
        await other.next("chat_message", number)
        if server.server.hub.subscribers.open_count == 1:
            break
    assert server.server.hub.subscribers.open_count == 1
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    # None: the end came within a message.
    ended = await slow.ended()
    assert ended is None or ended["code"] == 1013
    seen = len(contents(slow))
    back = await server.events(
        f"chat/{world.bot}", world.guest, headers={"Last-Event-ID": slow.last_event_id}
    )
    await back.next("chat_message", len(other.of_type("chat_message")) - seen)
    found = slow.of_type("chat_message") + back.of_type("chat_message")
    assert without_cursors(found) == without_cursors(other.of_type("chat_message"))


@pytest.mark.gen_test
async def test_who_takes_nothing_is_ended_however_little_waits(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """At the second ping, as a socket is that answers none; a peer that is gone, by the kernel."""
    server = await start_server(intervals=Intervals(ping=0.2), SEND_BUFFER_BYTES="50000000")
    slow = await server.events(f"chat/{world.bot}", world.guest)
    await slow.next("connection_established")
    (subscriber,) = server.server.hub.subscribers
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    while subscriber.sink.is_idle:
        await say(platform, world, "x" * 500_000)
    await eventually(lambda: server.server.hub.subscribers.open_count == 0)
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await slow.ended()
    assert server.server.relaying.counters.closes == {"1013": 1}


@pytest.mark.gen_test
async def test_who_goes_on_talking_is_cut_off(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """A little behind the request is discarded; what never ends would cost the others."""
    quiet, loud = [await server.events(f"chat/{world.bot}", world.guest) for _ in range(2)]
    quiet.writer.write(b"x" * 1000)
    async with asyncio.timeout(LIMIT):
        while not loud.is_closed:
            loud.writer.write(b"x" * 10_000)
            await asyncio.sleep(0)
    await say(platform, world, "hello")
    await quiet.next("chat_message")
