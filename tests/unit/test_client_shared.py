"""Many clients of Python on one connection, with a server that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from rowcast import Closed, Event, RealtimeClient, Reconnecting, SharedConnection, Timings
from tests.unit.client_fakes import URL, FakeServer, FakeSocket, Time, settle
from tests.waiting import eventually

NOTES = {"notifications": True}


class Reader:
    """A client, and what it handed over."""

    def __init__(self, client: RealtimeClient) -> None:
        self.client = client
        self.events: list[Event] = []
        self.raised: Exception | None = None
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with self.client as events:
                async for event in events:
                    self.events.append(event)
        except Closed as closed:
            self.raised = closed

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events if event.id]

    @property
    def code(self) -> int | None:
        return self.raised.code if isinstance(self.raised, Closed) else None


class Stage:
    """A shared connection and its readers."""

    def __init__(self, **options: Any) -> None:
        self.time = Time()
        self.server = FakeServer()
        self.told: list[Reconnecting] = []
        self.shared = SharedConnection(
            URL,
            on_reconnecting=self.told.append,
            open_socket=self.server.open,
            sleep=self.time.sleep,
            clock=self.time.clock,
            now=self.time.clock,
            random=lambda: 0.5,
            **{"token": "one", **options},
        )
        self.readers: list[Reader] = []

    @property
    def socket(self) -> FakeSocket:
        return self.server.socket

    async def read(self, bot_id: str | UUID | None, **options: Any) -> Reader:
        client = (
            self.shared.notifications(**options)
            if bot_id is None
            else self.shared.chat(bot_id, **options)
        )
        self.readers.append(Reader(client))
        await settle()
        return self.readers[-1]

    async def greet(self) -> None:
        self.socket.say("connection_established", {"connection_type": "multi", "user_id": "u"})
        await settle()

    def asked(self) -> list[dict[str, Any]]:
        """What was subscribed to on the present connection."""
        return [one["data"] for one in self.socket.of_type("subscribe")]

    async def admit(self, bot_id: str | None, cursor: str = "c0", **data: Any) -> None:
        who: dict[str, Any] = NOTES if bot_id is None else {"bot_id": bot_id}
        self.socket.say("subscribed", {"cursor": cursor, **data}, **who)
        await settle()


@asynccontextmanager
async def staged(**options: Any) -> AsyncIterator[Stage]:
    stage = Stage(**options)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stage.shared)
        await settle()
        yield stage
        for reader in stage.readers:
            await reader.client.close()
            await asyncio.wait([reader.reading])
            reader.reading.result()


@pytest.mark.gen_test
async def test_each_client_is_told_what_concerns_it() -> None:
    """Its greeting as on a socket of its own, its bot's messages, and what is about all."""
    async with staged() as stage:
        ada = await stage.read("A", presence=True, cursor="kept")
        bob = await stage.read("b")
        notes = await stage.read(None)
        assert stage.socket.url == "wss://relay.example/prefix/api/ws?cursor="
        assert stage.asked() == []
        await stage.greet()
        assert stage.asked() == [
            {"bot_id": "a", "cursor": "kept", "presence": True},
            {"bot_id": "b", "cursor": ""},
            {"notifications": True, "cursor": ""},
        ]
        await stage.admit("a", recovered=True, role="viewer", bot_name="Ada")
        await stage.admit("b")
        await stage.admit(None)
        greeting = {"user_id": "u", "bot_id": "a", "cursor": "c0", "recovered": True}
        assert ada.events[0].data == {**greeting, "role": "viewer", "bot_name": "Ada"}
        assert notes.events[0].data["connection_type"] == "notifications"
        stage.socket.say("chat_message", {}, id="1", bot_id="a", cursor="c1")
        stage.socket.say("chat_message", {}, id="2", bot_id="b")
        stage.socket.say("notification", {"bot_id": "a"}, id="3")
        stage.socket.say("token_expiring", {})
        stage.socket.frame("{")
        await settle()
        common = ["token_expiring", "resync"]
        assert ada.types == ["connection_established", "chat_message", *common]
        assert (ada.ids, bob.ids, notes.ids) == (["1"], ["2"], ["3"])
        assert bob.types[-2:] == notes.types[-2:] == common
        assert (ada.client.cursor, bob.client.cursor) == ("c1", "c0")


@pytest.mark.gen_test
async def test_what_is_of_the_notifications_is_for_nobody_else() -> None:
    """Also once they are left, while some is on its way."""
    async with staged() as stage:
        await stage.greet()
        ada, notes = await stage.read("a"), await stage.read(None)
        await stage.admit("a", "a0")
        await stage.admit(None, "n0")
        await notes.client.close()
        stage.socket.say("notification", {}, id="1", cursor="n1")
        stage.socket.say("resync", {}, cursor="n2")
        await settle()
        assert (ada.types, ada.client.cursor) == (["connection_established"], "a0")


@pytest.mark.gen_test
async def test_what_a_client_says_names_its_bot() -> None:
    """A ping too, whose pong brings the cursor; a token is the connection's."""
    async with staged() as stage:
        await stage.greet()
        ada, bob = await stage.read("a"), await stage.read("b")
        await stage.admit("a")
        await stage.admit("b")
        ada.client.typing(True)
        assert ada.client.session_sync("s")
        assert ada.client.ping()
        sent = {one["type"]: one.get("data") for one in stage.socket.sent}
        assert sent["typing"] == {"is_typing": True, "bot_id": "a"}
        assert sent["session_sync"] == {"session_id": "s", "bot_id": "a"}
        assert sent["ping"] == {"bot_id": "a"}
        stamp = stage.socket.of_type("ping")[-1]["timestamp"]
        stage.socket.say("pong", timestamp=stamp, bot_id="a", cursor="c7")
        await settle()
        assert (ada.client.cursor, bob.client.cursor) == ("c7", "c0")
        assert ada.client.latency == 0
        ada.client.refresh("two")
        assert [one["data"]["token"] for one in stage.socket.of_type("authenticate")] == ["two"]
        stage.socket.say("authenticated", {})
        await settle()
        assert bob.types[-1] == ada.types[-1] == "authenticated"


@pytest.mark.gen_test
async def test_one_that_ends_leaves_the_others() -> None:
    """4003 is final for its client, 1013 is not, and the connection stays."""
    async with staged() as stage:
        await stage.greet()
        readers = {bot: await stage.read(bot) for bot in "abc"}
        for bot in "abc":
            await stage.admit(bot)
        stage.socket.say("unsubscribed", {"code": 4003, "reason": "access ended"}, bot_id="a")
        stage.socket.say("unsubscribed", {"code": 1013, "reason": "busy"}, bot_id="b")
        stage.socket.say("chat_message", {}, id="1", bot_id="c", cursor="c1")
        await stage.time.move(1)
        assert [readers[bot].code for bot in "abc"] == [4003, None, None]
        assert readers["c"].ids == ["1"]
        assert stage.asked()[3:] == [{"bot_id": "b", "cursor": "c0"}]
        assert (len(stage.server.sockets), stage.told) == (1, [])


@pytest.mark.parametrize("code", [1001, 1006, 1013])
@pytest.mark.gen_test
async def test_all_resume_when_the_connection_is_back(code: int) -> None:
    """Each with its own cursor, on one connection, however long it takes."""
    async with staged() as stage:
        await stage.greet()
        ada, bob = await stage.read("a"), await stage.read("b")
        await stage.admit("a", "a0")
        await stage.admit("b", "b0")
        stage.socket.say("chat_message", {}, id="1", bot_id="a", cursor="a1")
        stage.socket.end(code)
        stage.server.is_down = True
        await stage.time.move(300)
        stage.server.is_down = False
        while len(stage.server.sockets) == 1:
            await stage.time.move(1)
        assert ada.types == ["connection_established", "chat_message"]
        assert stage.asked() == []
        await stage.greet()
        assert stage.asked() == [{"bot_id": "a", "cursor": "a1"}, {"bot_id": "b", "cursor": "b0"}]
        await stage.admit("b", "b9", recovered=False, reason="too_old")
        assert bob.types[1:] == ["resync", "connection_established"]


@pytest.mark.gen_test
async def test_the_clients_return_as_soon_as_the_connection_does() -> None:
    """However often it was lost: none sits out a wait of its own."""
    async with staged() as stage:
        await stage.greet()
        ada = await stage.read("a")
        await stage.admit("a", "a0")
        for cut in range(1, 8):
            stage.socket.end(1006)
            await settle()
            stage.shared.wake()
            await settle()
            assert len(stage.server.sockets) == cut + 1
            await stage.greet()
            assert stage.asked() == [{"bot_id": "a", "cursor": "a0"}]
        await stage.admit("a", "a0", recovered=True)
        stage.socket.say("unsubscribed", {"code": 1013, "reason": "busy"}, bot_id="a")
        await settle()
        assert ada.client.state == "reconnecting"
        stage.shared.wake()
        await settle()
        assert len(stage.asked()) == 2


@pytest.mark.gen_test
async def test_the_issuer_is_asked_once_for_all() -> None:
    """And a refusal that another token mends is not the end of any client."""
    asked: list[float] = []

    async def get_token() -> str:
        asked.append(stage.time.now)
        return f"token-{len(asked)}"

    stage = Stage(get_token=get_token)
    async with stage.shared:
        await settle()
        await stage.greet()
        ada, bob = await stage.read("a"), await stage.read("b")
        await stage.admit("a")
        await stage.admit("b")
        stage.socket.say("token_expiring", {})
        await settle()
        assert len(stage.socket.of_type("authenticate")) == len(asked) == 1
        stage.socket.say("authenticated", {})
        stage.socket.end(4001, "token expired")
        await stage.time.move(5)
        await stage.greet()
        assert len(stage.asked()) == len(asked) == 2
        for _ in range(2):
            stage.socket.end(4001)
            await stage.time.move(60)
    await asyncio.wait([ada.reading, bob.reading])
    assert ada.code == bob.code == 4001


@pytest.mark.gen_test
async def test_leaving_and_coming_again() -> None:
    """What is still on its way for the old subscription is not handed to the new one."""
    async with staged() as stage:
        await stage.greet()
        old = await stage.read("a")
        await stage.admit("a", "c1")
        await old.client.close()
        assert stage.socket.of_type("unsubscribe") == [
            {"type": "unsubscribe", "data": {"bot_id": "a"}}
        ]
        new = await stage.read("a", cursor="c1")
        stage.socket.say("chat_message", {}, id="1", bot_id="a", cursor="c2")
        stage.socket.say("unsubscribed", {"code": 1000, "reason": "as asked"}, bot_id="a")
        await settle()
        assert (new.types, new.client.cursor) == ([], "c1")
        await stage.admit("a", "c3", recovered=True)
        stage.socket.say("chat_message", {}, id="1", bot_id="a", cursor="c2")
        await settle()
        assert new.ids == ["1"]
        with pytest.raises(ValueError, match="has a client"):
            stage.shared.chat("A")


@pytest.mark.gen_test
async def test_an_error_in_answer_to_subscribing_is_tried_again() -> None:
    """Where too much was said. Once it is accepted, an error is for the application."""
    async with staged() as stage:
        await stage.greet()
        ada = await stage.read("a")
        stage.socket.say("error", code="rate_limited", message="too much", bot_id="a")
        await stage.time.move(1)
        assert len(stage.asked()) == 2
        await stage.admit("a")
        stage.socket.say("error", code="rate_limited", message="too much", bot_id="a")
        await settle()
        assert ada.types == ["connection_established", "error"]


@pytest.mark.gen_test
async def test_a_bot_that_is_left_where_the_server_is_too_busy_to_hear_it_comes_back() -> None:
    """Neither was done: the server has the old subscription still, and then refuses another."""
    async with staged() as stage:
        await stage.greet()
        old = await stage.read("a")
        await stage.admit("a", "c1")
        await old.client.close()
        new = await stage.read("a", cursor="c1")
        stage.socket.say("error", code="rate_limited", message="too much", bot_id="a")
        stage.socket.say("chat_message", {}, id="1", bot_id="a", cursor="old")
        stage.socket.say("error", code="already_subscribed", message="again", bot_id="a")
        await settle()
        assert (new.client.state, new.client.cursor) == ("reconnecting", "c1")
        assert len(stage.socket.of_type("unsubscribe")) == 2
        stage.socket.say("unsubscribed", {"code": 1000}, bot_id="a")
        await stage.time.move(1)
        assert len(stage.asked()) == 3
        await stage.admit("a", "c1", recovered=True)
        stage.socket.say("chat_message", {}, id="1", bot_id="a", cursor="c2")
        await settle()
        assert (new.ids, new.client.cursor) == (["1"], "c2")


@pytest.mark.gen_test
async def test_an_old_client_of_a_bot_does_not_push_out_the_newer_one() -> None:
    """It is refused as it starts, and may start when the newer one is closed."""
    async with staged() as stage:
        await stage.greet()
        old = stage.shared.chat("a")
        new = await stage.read("A")
        await stage.admit("a")
        with pytest.raises(ValueError, match="close it first"):
            await old.__aenter__()
        assert (old.state, new.client.state, len(stage.asked())) == ("idle", "open", 1)
        await new.client.close()
        stage.readers.append(Reader(old))
        await settle()
        assert len(stage.asked()) == 2


@pytest.mark.gen_test
async def test_a_client_that_was_never_started_is_in_nobodys_way() -> None:
    """Whether it is closed or forgotten."""
    async with staged() as stage:
        forgotten, closed = stage.shared.chat("a"), stage.shared.chat("a")
        await closed.close()
        assert (forgotten.state, closed.state) == ("idle", "closed")
        await stage.greet()
        reader = await stage.read("a")
        await stage.admit("a")
        assert reader.types == ["connection_established"]


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.gen_test
async def test_a_token_that_a_client_is_given_is_the_connections(is_open: bool) -> None:
    """Also while there is no connection."""
    async with staged() as stage:
        await stage.greet()
        ada = await stage.read("a")
        if is_open:
            await stage.admit("a")
        stage.socket.end(1006)
        await settle()
        ada.client.refresh("two")
        await stage.time.move(5)
        assert stage.socket.headers["Authorization"] == "Bearer two"


@pytest.mark.gen_test
async def test_one_that_takes_too_little_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds are for half of what may wait, not for each event."""
    monkeypatch.setattr("rowcast.shared.ROOM_WITHIN", 0.05)
    async with staged(timings=Timings(queue_events=50)) as stage:
        await stage.greet()
        bob = await stage.read("b")
        await stage.admit("b")
        async with stage.shared.chat("a") as events:
            await settle()
            await stage.admit("a")
            for number in range(300):
                stage.socket.say("chat_message", {}, id=f"a{number}", bot_id="a", cursor="c")
            stage.socket.say("chat_message", {}, id="b1", bot_id="b")
            while not bob.ids:
                await anext(events)
                await asyncio.sleep(0.01)
            assert stage.socket.of_type("unsubscribe") == [
                {"type": "unsubscribe", "data": {"bot_id": "a"}}
            ]


@pytest.mark.gen_test
async def test_one_that_takes_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left after a while, and comes back with its cursor when it takes again."""
    monkeypatch.setattr("rowcast.shared.ROOM_WITHIN", 0.01)
    async with staged(timings=Timings(queue_events=2)) as stage:
        await stage.greet()
        bob = await stage.read("b")
        await stage.admit("b")
        slow = stage.shared.chat("a")
        async with slow as events:
            await settle()
            await stage.admit("a")
            for number in range(10):
                stage.socket.say("chat_message", {}, id=f"a{number}", bot_id="a", cursor="c")
            stage.socket.say("chat_message", {}, id="b1", bot_id="b")
            await eventually(lambda: bob.ids == ["b1"])
            taken = [await anext(events) for _ in range(6)]
            assert [event.id for event in taken] == [None, *(f"a{n}" for n in range(5))]
            await stage.time.move(1)
            assert stage.asked()[-1] == {"bot_id": "a", "cursor": "c"}


@pytest.mark.gen_test
async def test_many_that_take_nothing_hold_up_all_together_no_longer_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time of each runs from when it took too little, not from when it is its turn."""
    monkeypatch.setattr("rowcast.shared.ROOM_WITHIN", 1000.0)
    bots = [f"a{number}" for number in range(8)]
    async with staged(timings=Timings(queue_events=2)) as stage, AsyncExitStack() as stack:
        await stage.greet()
        bob = await stage.read("b")
        await stage.admit("b")
        for bot in bots:
            await stack.enter_async_context(stage.shared.chat(bot))
            await settle()
            await stage.admit(bot)
            for number in range(4):
                stage.socket.say("chat_message", {}, id=f"{bot}{number}", bot_id=bot)
        await settle()
        assert stage.socket.of_type("unsubscribe") == []
        stage.time.now += 1000
        for bot in bots:
            stage.socket.say("chat_message", {}, id=f"{bot}4", bot_id=bot)
        stage.socket.say("chat_message", {}, id="b1", bot_id="b")
        await eventually(lambda: bob.ids == ["b1"])
        assert len(stage.socket.of_type("unsubscribe")) == 8


@pytest.mark.gen_test
async def test_what_is_for_its_clients_is_no_answer_to_a_ping() -> None:
    """So the connection's patience grows, and its latency is that of its own pings."""
    async with staged() as stage:
        await stage.greet()
        await stage.read("a")
        for seconds in (10, 40, 160):
            await stage.admit("a", recovered=True)
            await stage.time.move(27.5)
            await stage.time.move(seconds - 0.1)
            assert stage.shared.state == "open"
            await stage.time.move(0.2)
            assert stage.shared.state == "reconnecting"
            await stage.time.move(1)
            await stage.greet()
        await stage.admit("a", recovered=True)
        await stage.time.move(27.5)
        stamp = stage.socket.of_type("ping")[0]["timestamp"]
        stage.socket.say("chat_message", {}, id="1", bot_id="a")
        stage.socket.say("pong", timestamp=stamp)
        await settle()
        assert stage.shared.latency is not None


@pytest.mark.gen_test
async def test_what_the_server_ends_by_itself_is_no_answer_to_an_unsubscribe() -> None:
    """The first ended as it was being left; the second was let in, and left; the third stays."""
    async with staged() as stage:
        await stage.greet()
        for _ in range(2):
            left = await stage.read("a")
            await left.client.close()
        third = await stage.read("a")
        stage.socket.say("unsubscribed", {"code": 1013, "reason": "busy"}, bot_id="a")
        stage.socket.say("error", code="not_subscribed", message="", bot_id="a")
        await stage.admit("a", "second")
        stage.socket.say("unsubscribed", {"code": 1000}, bot_id="a")
        await settle()
        assert (third.types, third.client.cursor) == ([], None)
        await stage.admit("a", "third")
        assert (third.types, third.client.cursor) == (["connection_established"], "third")


@pytest.mark.gen_test
async def test_an_error_about_something_else_is_no_answer_to_an_unsubscribe() -> None:
    """It comes before that, and the answer itself ends nothing that was begun after it."""
    async with staged() as stage:
        await stage.greet()
        old = await stage.read("a")
        await stage.admit("a", "c1")
        old.client.session_sync("too often")
        await old.client.close()
        new = await stage.read("a", cursor="c1")
        stage.socket.say("error", code="rate_limited", message="too often", bot_id="a")
        stage.socket.say("unsubscribed", {"code": 1000}, bot_id="a")
        await stage.admit("a", "c1", recovered=True)
        assert (new.types, new.raised) == (["connection_established"], None)


@pytest.mark.gen_test
async def test_an_issuer_that_ends_the_connections_task_is_told_to_all() -> None:
    """Whatever it raises."""

    class Odd(BaseException):
        pass

    async def get_token() -> str:
        raise Odd

    stage = Stage(get_token=get_token)
    await stage.shared.__aenter__()
    await settle()
    await stage.greet()
    ada = await stage.read("a")
    await stage.admit("a")
    stage.socket.say("token_expiring", {})
    await settle()
    assert (ada.code, stage.shared.state) == (1000, "closed")
    assert "Odd" in str(ada.raised)
    with pytest.raises(BaseExceptionGroup):
        await stage.shared.close()


@pytest.mark.parametrize("code", ["not_subscribed", "rate_limited", 1000])
@pytest.mark.gen_test
async def test_what_an_event_says_itself_is_no_word_of_the_servers(code: object) -> None:
    """An application's own event may hold a member of any name."""
    async with staged() as stage:
        await stage.greet()
        ada = await stage.read("a")
        await stage.admit("a")
        stage.socket.say("poll_closed", {"code": code}, id="1", bot_id="a")
        await settle()
        assert ada.ids == ["1"]


@pytest.mark.gen_test
async def test_a_number_that_json_cannot_write_ends_nothing() -> None:
    """It is in what the server says of a subscription."""
    async with staged() as stage:
        await stage.greet()
        ada = await stage.read("a")
        digits = "9" * 5000
        stage.socket.frame(
            f'{{"type": "subscribed", "bot_id": "a", "data": {{"cursor": "c", "odd": {digits}}}}}'
        )
        await settle()
        assert (ada.types, ada.client.cursor) == (["connection_established"], "c")


@pytest.mark.gen_test
async def test_an_end_that_is_cancelled_is_told_to_all() -> None:
    """Whoever waits to return is told at once, too."""
    async with staged() as stage:
        await stage.greet()
        ada, bob = await stage.read("a"), await stage.read("b")
        await stage.admit("a")
        await stage.admit("b")
        stage.socket.say("unsubscribed", {"code": 1013, "reason": "busy"}, bot_id="b")
        await settle()
        assert bob.client.state == "reconnecting"
        closing = asyncio.create_task(stage.shared.close())
        await asyncio.sleep(0)
        closing.cancel()
        await settle()
        assert (ada.code, bob.code) == (1000, 1000)


@pytest.mark.gen_test
async def test_a_get_token_that_closes_the_connection_ends_it() -> None:
    """As for a sign-out. It may be entered again, and whoever does so is asked for a token."""
    asked = 0

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            await stage.shared.close()
        return "two"

    stage = Stage(get_token=get_token)
    async with stage.shared:
        await settle()
        await stage.greet()
        ada = await stage.read("a")
        await stage.admit("a")
        stage.socket.say("token_expiring", {})
        await settle()
        assert (ada.code, stage.shared.state) == (1000, "closed")
        async with stage.shared:
            await settle()
            bob = await stage.read("b")
            await stage.greet()
            await stage.admit("b")
            assert bob.types == ["connection_established"]
            assert stage.socket.headers["Authorization"] == "Bearer two"
            await bob.client.close()


@pytest.mark.gen_test
async def test_a_subscription_that_cannot_be_asked_for_is_tried_again() -> None:
    """Nothing is sent twice, and nobody waits for an answer."""
    async with staged() as stage:
        await stage.greet()
        stage.socket.hears_only = True
        ada = await stage.read("a")
        stage.socket.hears_only = False
        await stage.time.move(1)
        await stage.admit("a")
        assert ada.types == ["connection_established"]
        assert stage.socket.of_type("unsubscribe") == []


@pytest.mark.gen_test
async def test_a_burst_is_no_slowness() -> None:
    """A thousand frames are read at once, and each is handed over."""
    async with staged(timings=Timings(queue_events=2)) as stage:
        await stage.greet()
        ada = await stage.read("a")
        await stage.admit("a")
        for number in range(1000):
            stage.socket.say("chat_message", {}, id=str(number), bot_id="a")
        await eventually(lambda: len(ada.ids) == 1000)
        assert stage.socket.of_type("unsubscribe") == []


@pytest.mark.gen_test
async def test_the_end_of_the_connection_is_the_end_of_its_clients() -> None:
    """Closed here, or by a final code there; one that begins later is told as well."""
    async with staged() as stage:
        await stage.greet()
        ada = await stage.read("a")
        await stage.admit("a")
        stage.socket.end(4029, "too many")
        await stage.time.move(1)
        assert ada.code == 4029
        assert (await stage.read("b")).code == 4029
    async with staged() as stage:
        await stage.greet()
        ada = await stage.read("a")
        await stage.admit("a")
        await stage.shared.close()
        await stage.time.move(1)
        assert (ada.code, stage.socket.closed_with) == (1000, 1000)
        assert stage.socket.of_type("unsubscribe") == []


@pytest.mark.gen_test
async def test_ids_may_be_uuids() -> None:
    """As drivers of PostgreSQL give them: one bot, however it is written."""
    bot = UUID("0A3F8D1C-52B7-4C11-9A7E-3F0C2D9B8E10")
    async with staged() as stage:
        await stage.greet()
        reader = await stage.read(bot)
        assert stage.asked() == [{"bot_id": str(bot), "cursor": ""}]
        await stage.admit(str(bot))
        assert reader.types == ["connection_established"]
        with pytest.raises(ValueError, match="close it first"):
            stage.shared.chat(str(bot).upper())
        assert reader.client.session_sync(bot)
        sent = stage.socket.of_type("session_sync")
        assert [one["data"]["session_id"] for one in sent] == [str(bot)]


@pytest.mark.gen_test
async def test_a_client_of_a_connection_that_was_not_entered_says_how() -> None:
    """And is no silent wait."""
    shared = SharedConnection(URL, token="t", open_socket=FakeServer().open)
    client = shared.chat("a")
    with pytest.raises(RuntimeError, match="async with SharedConnection"):
        await client.__aenter__()
    with pytest.raises(RuntimeError, match="async with SharedConnection"):
        await client.run()
    assert not client.is_running
    with pytest.raises(TypeError, match="token"):
        SharedConnection(URL)
