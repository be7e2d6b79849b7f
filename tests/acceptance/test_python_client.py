"""The Python client against a real server: it resumes, refreshes, gives up, and loses nothing."""

from __future__ import annotations

import asyncio
import json
from itertools import count

import pytest

from rowcast import Closed, Event, RealtimeClient, Reconnecting, Timings, connect
from rowcast.rules import OTHER_USER
from tests.commands import free_port
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

QUICK = Timings(backoff_first=0.05, backoff_most=0.2)


def client_of(server: RunningServer, world: World, **options: object) -> RealtimeClient:
    """On the world's bot, as its guest."""
    given: dict[str, object] = {"token": token(world.guest), "bot_id": world.bot, "timings": QUICK}
    return connect(f"http://{server.base}", **given | options)  # type: ignore[arg-type]


async def next_of(events: RealtimeClient, kind: str) -> Event:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.type == kind:
                return event
    raise AssertionError("iterating ended")


async def contents(events: RealtimeClient, number: int) -> list[str]:
    """Of the next chat messages."""
    return [(await next_of(events, "chat_message")).data["content"] for _ in range(number)]


@pytest.mark.gen_test
async def test_what_is_committed_arrives_as_events(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """First who one is, then what happens; each with its data, its id and the whole message."""
    async with client_of(server, world) as events:
        opened = await next_of(events, "connection_established")
        assert (opened.data["role"], opened.id) == ("viewer", None)
        assert events.cursor == opened.data["cursor"]
        await platform.message(world.session, world.bot, world.owner, "hello")
        event = await next_of(events, "chat_message")
        assert event.data["content"] == "hello"
        assert event.raw["id"] == event.id
        assert events.cursor == event.cursor != opened.cursor
        states = [events.state]
    assert [*states, events.state] == ["open", "closed"]
    await eventually(lambda: len(server.server.hub.subscribers) == 0)


@pytest.mark.gen_test
async def test_no_value_costs_an_event(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """What jsonb takes and parsers refuse: the event comes, and so does the next one."""
    digits, levels = "7" * 10_000, 5000
    metadata = [f'{{"n": {digits}}}', "[" * levels + "]" * levels, "[" * 500 + "]" * 500, "{}"]
    async with client_of(server, world) as events:
        await next_of(events, "connection_established")
        for one in metadata:
            await platform.execute(
                "INSERT INTO messages (session_id, bot_id, user_id, role, content, metadata)"
                " VALUES ($1, $2, $3, 'user', '', $4::text::jsonb)",
                *(world.session, world.bot, world.guest, one),
            )
        read = [(await next_of(events, "chat_message")).data["metadata"] for _ in metadata]
    assert read[:2] == [{"n": digits}, {"omitted": "nested too deeply"}]
    assert read[2:] == [json.loads(one) for one in metadata[2:]]


@pytest.mark.gen_test
async def test_a_server_that_restarts_costs_nothing(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Rows that are inserted while there is no server arrive once each, in order."""
    port = str(free_port())
    first = await start_server(PORT=port)
    told: list[Reconnecting] = []
    async with client_of(first, world, on_reconnecting=told.append) as events:
        await next_of(events, "connection_established")
        await first.stop()
        for number in range(10):
            await platform.message(world.session, world.bot, world.owner, f"missed {number}")
        second = await start_server(PORT=port)
        opened = await next_of(events, "connection_established")
        assert opened.data["recovered"] is True
        assert await contents(events, 10) == [f"missed {number}" for number in range(10)]
        await platform.message(world.session, world.bot, world.owner, "live")
        assert await contents(events, 1) == ["live"]
        await second.stop()
    assert told[0].code == 1001
    assert {one.code for one in told[1:]} <= {1001, 1006}


@pytest.mark.gen_test
async def test_the_client_of_tomorrow_goes_on_with_todays_cursor(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """As a service that is deployed: another client, with the cursor that was kept."""
    server = await start_server(CARRY_EVENTS="false")  # else what was seen may come again
    async with client_of(server, world) as events:
        await next_of(events, "connection_established")
        await platform.message(world.session, world.bot, world.owner, "seen")
        await next_of(events, "chat_message")
    await platform.message(world.session, world.bot, world.owner, "missed")
    async with client_of(server, world, cursor=events.cursor) as later:
        assert await contents(later, 1) == ["missed"]


@pytest.mark.gen_test
async def test_a_token_that_expires_is_renewed_on_the_open_connection(
    start_server: StartServer, world: World
) -> None:
    """The server warns, `get_token` is asked, and the socket is never closed."""
    server = await start_server(TOKEN_WARNING_SECONDS="60")
    asked: list[str] = []

    async def get_token() -> str:
        asked.append(token(world.guest, ttl=600))
        return asked[-1]

    told: list[Reconnecting] = []
    client = client_of(
        server,
        world,
        token=token(world.guest, ttl=2),
        get_token=get_token,
        on_reconnecting=told.append,
    )
    async with client as events:
        await next_of(events, "token_expiring")
        await next_of(events, "authenticated")
    assert (len(asked), told) == (1, [])


@pytest.mark.gen_test
async def test_a_refused_token_is_replaced_once(server: RunningServer, world: World) -> None:
    """After 4001 a new one is asked for; the old one is not tried again."""
    told: list[Reconnecting] = []

    async def get_token() -> str:
        return token(world.guest)

    client = client_of(
        server, world, token="stale", get_token=get_token, on_reconnecting=told.append
    )
    async with client as events:
        await next_of(events, "connection_established")
    assert [one.code for one in told] == [4001]


@pytest.mark.gen_test
async def test_after_another_person_has_signed_in_the_client_is_theirs(
    server: RunningServer, world: World
) -> None:
    """One connection is lost by it, and the state has to be loaded anew."""
    lost: list[Reconnecting] = []
    async with client_of(server, world, on_reconnecting=lost.append) as events:
        first = await next_of(events, "connection_established")
        events.refresh(token(world.owner))
        await next_of(events, "resync")
        second = await next_of(events, "connection_established")
    assert [first.data["user_id"], second.data["user_id"]] == [world.guest, world.owner]
    assert [(one.code, one.reason) for one in lost] == [(4001, OTHER_USER)]


@pytest.mark.gen_test
async def test_a_refused_token_without_another_is_the_end(
    server: RunningServer, world: World
) -> None:
    """It is told as an exception, and every further step tells it again."""
    async with client_of(server, world, token="stale") as events:
        for _ in range(2):
            with pytest.raises(Closed, match=r"^4001, token invalid$") as told:
                await next_of(events, "connection_established")
    assert told.value.code == 4001


@pytest.mark.gen_test
async def test_who_is_revoked_hears_it_and_is_out(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The final message is handed over, then 4003 is raised; after a grant a second start works."""
    client = client_of(server, world)
    async with client as events:
        await next_of(events, "connection_established")
        await platform.revoke(world.bot, world.guest)
        assert (await next_of(events, "permission_change")).data["action"] == "revoked"
        with pytest.raises(Closed, match="4003"):
            await next_of(events, "chat_message")
    await platform.permit(world.bot, world.guest, "viewer")
    async with client as events:
        assert (await next_of(events, "resync")).data == {"reason": "access_changed"}
        assert (await next_of(events, "connection_established")).data["recovered"] is False


@pytest.mark.gen_test
async def test_a_gap_that_cannot_be_mended_is_an_event(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """More was missed than the server replays: `resync`, and then what is live."""
    server = await start_server(RESUME_MAX_EVENTS="3")
    async with client_of(server, world) as events:
        cursor = (await next_of(events, "connection_established")).cursor
    for number in range(4):
        await platform.message(world.session, world.bot, world.owner, str(number))
    async with client_of(server, world, cursor=cursor) as events:
        assert (await next_of(events, "resync")).data == {"reason": "too_many"}
        await platform.message(world.session, world.bot, world.owner, "live")
        assert await contents(events, 1) == ["live"]


@pytest.mark.gen_test
async def test_a_slow_application_holds_up_the_socket_and_loses_nothing(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """It is sent away with 1013 while it does not look, and has everything in the end."""
    server = await start_server(SEND_BUFFER_BYTES="65536")
    told: list[Reconnecting] = []
    timings = Timings(backoff_first=0.05, backoff_most=0.2, queue_events=5)
    filler, rows = "x" * 60_000, 400
    client = client_of(server, world, on_reconnecting=told.append, timings=timings)
    async with client as events:
        await next_of(events, "connection_established")
        for number in range(rows):
            text = f"{number} {filler}"
            await platform.message(world.session, world.bot, world.owner, text)
        await eventually(lambda: len(server.server.hub.subscribers) == 0)
        heard = [text.split()[0] for text in await contents(events, rows)]
    assert heard == [str(number) for number in range(rows)]
    assert {one.code for one in told} & {1006, 1013}


@pytest.mark.gen_test
async def test_two_clients_share_a_loop(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """One on a bot and one on notifications; each hears its own."""
    notified = connect(f"ws://{server.base}", token=token(world.guest), notifications=True)
    async with client_of(server, world) as events, notified as notes:
        await next_of(events, "connection_established")
        await next_of(notes, "connection_established")
        await platform.revoke(world.bot, world.guest)
        note = await next_of(notes, "notification")
        assert note.raw["notification_type"] == "permission_change"
        assert (await next_of(events, "permission_change")).data["action"] == "revoked"


@pytest.mark.gen_test
async def test_what_a_client_says_is_answered(server: RunningServer, world: World) -> None:
    """Pings move the latency, sessions are synced, typing is shown to others, once."""
    owner = await server.chat(world.bot, world.owner)
    async with client_of(server, world) as events:
        assert not events.ping()
        await next_of(events, "connection_established")
        assert events.session_sync("session")
        assert (await next_of(events, "session_synced")).data["session_id"] == "session"
        events.typing(True)
        events.typing(True)
        assert (await owner.next("typing_indicator"))["data"]["is_typing"] is True
        events.typing(False)
        assert (await owner.next("typing_indicator", 2))["data"]["is_typing"] is False
        assert events.ping()
        await eventually(lambda: events.latency is not None)


@pytest.mark.gen_test
async def test_a_time_out_takes_nothing_away(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Waiting for an event is given up over and over while events arrive."""
    heard: list[str] = []
    async with client_of(server, world) as events:
        await next_of(events, "connection_established")
        writing = asyncio.create_task(
            platform.execute(
                "INSERT INTO messages (session_id, bot_id, user_id, role, content) "
                f"SELECT '{world.session}', '{world.bot}', '{world.owner}', 'user', n::text "
                "FROM generate_series(1, 300) AS n"
            )
        )
        async with asyncio.timeout(LIMIT):
            for tries in count():
                if len(heard) == 300:
                    break
                step = asyncio.ensure_future(anext(events))
                for _ in range(tries % 4):
                    await asyncio.sleep(0)
                step.cancel()
                await asyncio.wait([step])
                if not step.cancelled():
                    heard.append(step.result().data["content"])
        await writing
    assert heard == [str(number) for number in range(1, 301)]
