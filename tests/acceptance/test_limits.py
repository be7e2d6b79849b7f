"""One user cannot take everybody's room, and no refusal tells by its time what it knows."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from realtime.config.intervals import Intervals
from realtime.postgres.access import Access
from realtime.postgres.socket_table import SocketTable
from realtime.relay.admission import AdmissionRequest
from realtime.relay.refusals import Refusals
from realtime.relay.subscribing import SUBSCRIBING_AT_ONCE
from realtime.web.conversation import Conversation
from realtime.web.multiplex import Subscription
from realtime.web.services import Services
from tests.acceptance.test_close_codes import NOBODY, RawSocket, raw_frame
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import eventually


def unanswering(server: RunningServer, path: str, subject: str) -> RawSocket:
    """A socket that answers no close."""
    return RawSocket(server, f"{path}?token={token(subject)}")


@pytest.mark.gen_test
async def test_refused_sockets_take_no_room(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """They do not answer their close; who is welcome comes in all the same."""
    stranger = await platform.user("sam")
    server = await start_server(MAX_CONNECTIONS="1")
    room, hub = server.server.web.services.room, server.server.hub
    refused = [unanswering(server, f"/api/ws/chat/{world.bot}", stranger) for _ in range(5)]
    refused += [unanswering(server, "/api/ws/chat/no-id", stranger) for _ in range(5)]
    await eventually(lambda: len(room._closing) == 10)
    assert hub.subscribers.open_count == 0
    await server.chat(world.bot, world.guest)
    for one in refused:
        await one.ended()
    await eventually(lambda: len(room._closing) == 0)


@pytest.mark.gen_test
async def test_closing_sockets_are_bounded(
    server: RunningServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest goes first, without waiting for its answer."""
    room = server.server.web.services.room
    monkeypatch.setattr(room, "_max_closing", 3)
    refused = []
    for number in range(1, 6):
        refused.append(unanswering(server, "/api/ws/chat/no-id", world.guest))
        await eventually(lambda number=number: len(room._closing) == min(number, 3))
    for one in refused:
        assert await one.close_code() == 4003


@pytest.mark.gen_test
async def test_so_many_sockets_of_one_token_may_join_at_a_time(
    start_server: StartServer, world: World
) -> None:
    """However long each of them waits."""
    server = await start_server(MAX_CONNECTIONS_PER_USER="2", MAX_CONNECTIONS="3")
    opening = (server.open(f"/api/ws/chat/{NOBODY}", world.guest) for _ in range(6))
    codes = Counter([await one.closed() for one in await asyncio.gather(*opening)])
    assert codes.keys() == {4003, 1013}
    assert codes[1013] >= 2


@pytest.mark.gen_test
async def test_the_sockets_of_a_user_count_in_all_processes(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """As far as the others have written them down."""
    first, second = [await start_server(MAX_CONNECTIONS_PER_USER="2") for _ in range(2)]
    here, there = await first.chat(world.bot, world.guest), await second.notifications(world.guest)
    await second.chat(world.bot, world.owner)

    async def of_guest() -> int:
        count = "SELECT count(*) FROM relay.connections WHERE user_id = $1"
        return int(await platform.connection.fetchval(count, world.guest))

    async def are_written(number: int) -> None:
        async def is_so() -> bool:
            return await of_guest() == number

        await eventually(is_so)

    await are_written(2)
    for server in (first, second):
        refused = await server.open(f"/api/ws/chat/{world.bot}", world.guest)
        assert await refused.closed() == 1013
        assert refused.reason == "this user has too many connections in all processes"
    await first.chat(world.bot, world.owner)
    there.close()
    await are_written(1)
    await first.chat(world.bot, world.guest)
    await here.caught_up()


@pytest.mark.parametrize("opcode", [0x9, 0xA], ids=["pings", "pongs"])
@pytest.mark.gen_test
async def test_control_frames_count_in_the_rate_limit(
    start_server: StartServer, world: World, opcode: int
) -> None:
    """As messages do: first errors, then the close."""
    server = await start_server(MESSAGES_PER_SECOND="1")
    other = await server.chat(world.bot, world.owner)
    raw = RawSocket(server, f"/api/ws/chat/{world.bot}?token={token(world.guest)}")
    await raw.is_established()
    with suppress(OSError):
        raw.send(raw_frame(opcode, b"x") * 100)
    assert await raw.close_code() == 1008
    await other.caught_up()


@pytest.mark.parametrize(("frames", "code"), [(4, 1000), (200, 1008)])
@pytest.mark.parametrize("path", ["/chat/{bot}", ""], ids=["chat", "multi"])
@pytest.mark.gen_test
async def test_the_frames_of_a_message_count_in_the_rate_limit(
    start_server: StartServer, world: World, path: str, frames: int, code: int
) -> None:
    """To cut a short message into many of them gives nobody more of the process's time."""
    server = await start_server(MESSAGES_PER_SECOND="4")  # ten in a burst
    raw = RawSocket(server, f"/api/ws{path.format(bot=world.bot)}?token={token(world.guest)}")
    await raw.is_established()
    first, last = raw_frame(0x1, b"", first_byte=0), raw_frame(0x0, b'{"type":"ping"}')
    message = first + raw_frame(0x0, b"", first_byte=0) * (frames - 2) + last
    with suppress(OSError):
        raw.send(message * 8 + raw_frame(0x8, (1000).to_bytes(2, "big")))
    assert await raw.close_code() == code


@pytest.mark.gen_test
async def test_pongs_that_were_asked_for_do_not_count(
    start_server: StartServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However low the limit is, who answers each ping stays."""
    pongs: list[bytes] = []
    on_pong = Conversation.on_pong

    def counting(self: Conversation, data: bytes) -> None:
        pongs.append(data)
        on_pong(self, data)

    monkeypatch.setattr(Conversation, "on_pong", counting)
    server = await start_server(intervals=Intervals(ping=0.1), MESSAGES_PER_SECOND="1")
    guest = await server.chat(world.bot, world.guest)
    await eventually(lambda: len(pongs) >= 12)
    await guest.caught_up()
    assert guest.of_type("error") == []


@pytest.mark.gen_test
async def test_every_refusal_waits_alike(
    server: RunningServer, platform: Platform, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one read of the log and for one beat, whether the bot exists, whether the refusal is
    remembered, and whether somebody else was granted access since."""
    waits: list[str] = []
    up_to_date, refuse_evenly = Refusals.up_to_date, Services.refuse_evenly
    authorize = Access.authorize

    async def counting_reads(self: Refusals) -> None:
        waits.append("read")
        await up_to_date(self)

    async def counting_beats(self: Services, began: float) -> None:
        waits.append("beat")
        await refuse_evenly(self, began)

    async def counting_queries(self: Access, questions: object) -> object:
        waits.append("query")
        return await authorize(self, questions)  # type: ignore[arg-type]

    stranger, friend = await platform.user("sam"), await platform.user("fay")
    monkeypatch.setattr(Refusals, "up_to_date", counting_reads)
    monkeypatch.setattr(Services, "refuse_evenly", counting_beats)
    monkeypatch.setattr(Access, "authorize", counting_queries)

    async def refused(bot: str) -> list[str]:
        waits.clear()
        socket = await server.open(f"/api/ws/chat/{bot}", stranger)
        assert (await socket.closed(), socket.reason) == (4003, "bot not found or access denied")
        return [wait for wait in waits if wait != "query"]

    for bot in (world.bot, NOBODY, world.bot, NOBODY):
        assert await refused(bot) == ["read", "beat"]
    await platform.permit(world.bot, friend)
    await server.chat(world.bot, friend)
    assert await refused(world.bot) == ["read", "beat"]
    assert await refused("no-id") == ["beat"]

    for bot in (world.bot, NOBODY, "no-id"):
        waits.clear()
        url = server.url(f"/api/ws/presence/{bot}", token=token(stranger))
        answer = await AsyncHTTPClient().fetch(url, raise_error=False)
        assert answer.code == 403
        assert waits[-1] == "beat"


@pytest.mark.gen_test
async def test_who_subscribes_much_does_not_hold_up_others(
    server: RunningServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few subscriptions of a user join at a time, over all their sockets, and users have turns."""
    asked: list[list[str]] = []
    may_answer = asyncio.Event()
    authorize = Access.authorize

    async def waiting(self: Access, questions: Sequence[AdmissionRequest]) -> object:
        asked.append([one.subject for one in questions])
        await may_answer.wait()
        return await authorize(self, questions)

    subscribing = server.server.web.services.room.subscribing
    sockets = [await server.multi(world.guest) for _ in range(2)]
    monkeypatch.setattr(Access, "authorize", waiting)
    for socket in sockets:
        for _ in range(50):
            await socket.send({"type": "subscribe", "data": {"bot_id": str(uuid4())}})
    await eventually(lambda: len(subscribing) == 100)
    await eventually(lambda: asked)
    assert sum(map(len, asked)) <= SUBSCRIBING_AT_ONCE
    before = len(asked)
    opening = asyncio.create_task(server.chat(world.bot, world.owner))
    await eventually(lambda: len(server.server.web.services.openings) == 1)
    may_answer.set()
    await opening
    assert any(world.owner in one for one in asked[before : before + 2])
    for socket in sockets:
        await socket.next("unsubscribed", 50)
        assert {one["data"]["code"] for one in socket.of_type("unsubscribed")} == {4003}
    assert len(subscribing) == 0


@pytest.mark.gen_test
async def test_what_waits_to_subscribe_goes_with_its_socket(
    server: RunningServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with its `unsubscribe`; nobody is asked about it."""
    asked: list[AdmissionRequest] = []
    may_answer = asyncio.Event()

    async def waiting(self: Access, questions: Sequence[AdmissionRequest]) -> object:
        asked.extend(questions)
        await may_answer.wait()
        return await authorize(self, questions)

    subscribing = server.server.web.services.room.subscribing
    staying, leaving = [await server.multi(world.guest) for _ in range(2)]
    authorize = Access.authorize
    monkeypatch.setattr(Access, "authorize", waiting)
    for count, socket in enumerate((staying, leaving), 1):
        bots = [str(uuid4()) for _ in range(SUBSCRIBING_AT_ONCE)]
        for bot in bots:
            await socket.send({"type": "subscribe", "data": {"bot_id": bot}})
        await eventually(lambda count=count: len(subscribing) == count * SUBSCRIBING_AT_ONCE)
    await leaving.send({"type": "unsubscribe", "data": {"bot_id": bots[0]}})
    await leaving.next("unsubscribed")
    assert len(subscribing) == 2 * SUBSCRIBING_AT_ONCE - 1
    leaving.close()
    await eventually(lambda: len(subscribing) == SUBSCRIBING_AT_ONCE)
    may_answer.set()
    await staying.next("unsubscribed", SUBSCRIBING_AT_ONCE)
    assert len(asked) == SUBSCRIBING_AT_ONCE


@pytest.mark.parametrize("path", ["/api/ws/stats", "/api/ws/presence/{bot}"])
@pytest.mark.gen_test
async def test_so_many_questions_over_http_of_one_token_may_wait(
    start_server: StartServer, world: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Others ask meanwhile, and so do they when they are answered."""
    asked: list[object] = []
    may_answer = asyncio.Event()
    ask = SocketTable._ask

    async def waiting(self: SocketTable, *question: Any) -> object:
        asked.append(question)
        await may_answer.wait()
        return await ask(self, *question)

    server = await start_server(MAX_CONNECTIONS_PER_USER="1")
    monkeypatch.setattr(SocketTable, "_ask", waiting)

    async def answer(user: str) -> HTTPResponse:
        url = server.url(path.format(bot=world.bot), token=token(user))
        return await AsyncHTTPClient().fetch(url, raise_error=False)

    first = asyncio.create_task(answer(world.guest))
    await eventually(lambda: len(asked) == 1)
    refused = await answer(world.guest)
    assert refused.code == 503
    assert b"too many connections at the same time" in refused.body
    another = asyncio.create_task(answer(world.owner))
    await eventually(lambda: len(asked) == 2)
    may_answer.set()
    codes = [(await one).code for one in (first, another)]
    assert [*codes, (await answer(world.guest)).code] == [200, 200, 200]


@pytest.mark.gen_test
async def test_a_refused_subscription_keeps_nothing(server: RunningServer, world: World) -> None:
    """The collector need not come by: it does so seldom, and a user may be refused much."""
    socket = await server.multi(world.guest)

    async def is_refused(count: int) -> None:
        await socket.send({"type": "subscribe", "data": {"bot_id": str(uuid4())}})
        await socket.next("unsubscribed", count)

    await is_refused(1)
    gc.collect()
    gc.disable()
    try:
        before = subscriptions()
        await is_refused(2)
        await eventually(lambda: subscriptions() <= before)
    finally:
        gc.enable()


def subscriptions() -> int:
    """How many subscriptions are kept, those that nobody needs any more included."""
    return sum(isinstance(one, Subscription) for one in gc.get_objects())
