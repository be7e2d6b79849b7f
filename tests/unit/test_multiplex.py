"""Tests of `realtime.web.multiplex`: how the subscriptions of one socket share it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from realtime.config.intervals import Intervals
from realtime.relay import closing
from realtime.relay.admission import Admission
from realtime.relay.errors import Refused
from realtime.relay.protocol import Message, Target
from realtime.relay.rate_limit import SHORT
from realtime.relay.subscriber import HoldLimit, State
from realtime.relay.subscribing import SUBSCRIBING_AT_ONCE
from realtime.web.conversation import HandshakeRequest
from realtime.web.multiplex import MultiConversation, SharedSocket, Subscription
from realtime.web.sink import SocketSink
from realtime.web.stream import ClientStream
from tests.unit.relay_fakes import ADA, GRACE, NOWHERE, SIGNER, START, at, unframe
from tests.unit.test_conversation import BOT_ID, SETTINGS, TOPIC, Slow, make_services
from tests.waiting import eventually


class Shared:
    """A socket with two subscriptions, and its other end."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        self.theirs = theirs
        self.stream = ClientStream(ours, 1_000_000, asyncio.get_running_loop())
        self.ended: list[tuple[Target, int]] = []
        self.closed: list[int] = []
        self.sink = SocketSink(self.stream, lambda code, _reason: self.closed.append(code))
        shared = SharedSocket(self.sink, HoldLimit(0))
        self.first, self.second = (
            Subscription(Target(name), shared, self._on_close) for name in ("first", "second")
        )

    def _on_close(self, one: Subscription, code: int, _reason: str) -> None:
        self.ended.append((one.target, code))


@contextmanager
def shared() -> Iterator[Shared]:
    ours, theirs = socket.socketpair()
    with theirs:
        one = Shared(ours, theirs)
        yield one
        one.stream.close()


@pytest.mark.gen_test
async def test_what_is_lent_to_all_is_taken_back_from_all() -> None:
    """They lend the same; when something waits, whoever sent it, all have it no longer."""
    with shared() as one:
        withdrawn: list[str] = []
        sends = [
            one.first.lend(lambda: withdrawn.append("first")),
            one.second.lend(lambda: withdrawn.append("second")),
        ]
        assert sends[0] is not None
        assert sends[0] == sends[1]
        one.first.send(b"x" * 100_000)
        assert sorted(withdrawn) == ["first", "second"]
        assert one.second.lend(lambda: None) is None
        assert (one.first.is_idle, one.second.is_idle) == (False, False)
        one.second.send(b"x" * 2_000_000)
        assert one.closed == [1013]
        assert sorted(withdrawn) == ["first", "second"]


@pytest.mark.gen_test
async def test_what_is_lent_is_taken_back_once() -> None:
    """Who has nothing of it any more is not asked for it again."""
    with shared() as one:
        withdrawn: list[str] = []
        one.second.lend(lambda: withdrawn.append("second"))
        for _ in range(2):
            one.first.lend(lambda: withdrawn.append("first"))
            one.first.send_part(Message(b"x"), is_first=True, is_last=True)
        assert withdrawn == ["second", "first", "first"]


@pytest.mark.gen_test
async def test_who_has_ended_has_nothing_lent_any_more() -> None:
    """Its end is told once; the other goes on with what it has."""
    with shared() as one:
        withdrawn: list[str] = []
        for subscription, name in ((one.first, "first"), (one.second, "second")):
            subscription.lend(lambda name=name: withdrawn.append(name))  # type: ignore[misc]
        for code in (4003, 1013):
            one.first.close(code, "why")
        assert (one.ended, one.first.is_closed) == ([(Target("first"), 4003)], True)
        assert (one.second.is_closed, one.closed) == (False, [])
        assert one.first.lend(lambda: None) is None
        one.first.send(b"nothing")
        one.second.send(one.second.frame([Message(b"hello")]))
        assert one.theirs.recv(100) == b"\x81\x05hello"
        one.second.send(b"x" * 100_000)
        assert withdrawn == ["second"]


@pytest.mark.gen_test
async def test_a_message_that_is_broken_off_ends_the_socket() -> None:
    """The rest of it is all that may follow."""
    with shared() as one:
        one.first.send_part(Message(b"begun"), is_first=True, is_last=False)
        one.second.send(b"later")
        one.first.break_off(1013, "why")
        assert one.theirs.recv(100) == b"\x01\x05begun"
        assert (one.closed, one.ended) == ([1013], [])
        assert one.second.is_closed


@pytest.mark.gen_test
async def test_missed_events_are_sent_in_turns() -> None:
    """All have the one turn of their socket."""
    with shared() as one:
        async with one.first.turn:
            assert one.second.turn.locked()


@pytest.mark.gen_test
async def test_who_ends_within_a_message_in_parts_sends_the_rest_of_it() -> None:
    """Nothing else can follow half a message; and then nothing more of it is sent."""
    with shared() as one:
        goes_on = asyncio.Event()

        async def send_all() -> None:
            one.first.send_part(Message(b"begun"), is_first=True, is_last=False)
            await goes_on.wait()
            one.first.send_part(Message(b"over"), is_first=False, is_last=True)

        one.first.start(send_all())
        await eventually(lambda: one.first.is_within_message)
        one.first.close(1000, "unsubscribed")
        one.second.send(one.second.frame([Message(b"next")]))
        assert not one.first.is_closed
        goes_on.set()
        await eventually(lambda: one.first.is_closed)
        one.first.send(one.first.frame([Message(b"nothing")]))
        assert one.theirs.recv(100) == b"\x01\x05begun\x80\x04over\x81\x04next"
        assert (one.ended, one.closed) == ([(Target("first"), 1000)], [])


# What its client says.


class Conversing(MultiConversation):
    """One whose client has connected; notes what that is sent, and with what it is closed."""

    def __init__(self, user_ids: list[str | Refused], **settings: int) -> None:
        self.database = Slow("refusal")
        services = make_services(self.database)
        services.access = self
        services.intervals = Intervals(refusal=0.0)
        services.settings = SETTINGS.model_copy(update=settings)
        services.monotonic = lambda: 0.0
        super().__init__(services)
        self.user_ids = user_ids
        self.cursor = START
        """As of which they are let in."""
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.stream = ClientStream(self.ours, None, asyncio.get_running_loop())
        self.sent: list[dict[str, Any]] = []
        self.codes: list[int] = []

    async def connect(self) -> None:
        await self.open(self, HandshakeRequest((), "t", None, False, False))
        self.sent.clear()

    def start(self) -> None:
        """The client's messages are passed by `says`."""

    def send_close(self, code: int, _reason: str) -> None:
        self.codes.append(code)

    async def authorize(self, _subject: str, _bot_id: str | None) -> Admission:
        answer = self.user_ids.pop(0)
        if isinstance(answer, Refused):
            raise answer
        return Admission(answer, "ada", "Bot", "viewer", self.cursor)

    def _send(self, message: Message) -> None:
        self.sent += unframe(message.text)

    def says(self, kind: str, length: int = 0, bot_id: str = BOT_ID) -> list[tuple[str, int | str]]:
        """Pass a message about one bot, at least so long; return what it is answered at once."""
        self.sent.clear()
        text = json.dumps({"type": kind, "data": {"bot_id": bot_id}})
        self.on_message(text.ljust(length))
        return [(one["type"], one.get("code") or one["data"]["code"]) for one in self.sent]


SUBSCRIBED_ALREADY = [("error", "already_subscribed")]
TOO_OFTEN = [("error", "rate_limited")]


@contextmanager
def conversing(*user_ids: str | Refused, **settings: int) -> Iterator[Conversing]:
    one = Conversing([*user_ids], **settings)
    with one.theirs:
        try:
            yield one
        finally:
            one.stream.close()
            one.on_ws_connection_close()


@pytest.mark.gen_test
async def test_whose_name_is_somebody_elses_loses_the_socket() -> None:
    """Found out at a subscription: what that user may read is not for this socket."""
    with conversing(ADA, GRACE) as one:
        await one.connect()
        assert one.says("subscribe") == []
        await eventually(lambda: one.codes or one.sent)
        assert (one.codes, one.sent) == ([closing.USER_RENAMED.code], [])


@pytest.mark.gen_test
async def test_who_is_refused_a_subscription_is_stopped_while_the_answer_waits() -> None:
    """It waits so that its time tells nothing; the socket stays."""
    with conversing(ADA, Refused(*closing.DATABASE_AWAY)) as one:
        await one.connect()
        assert one.says("subscribe") == []
        [subscription] = one._subscriptions.values()
        await asyncio.wait_for(one.database.is_asked.wait(), 10)
        assert (subscription.subscriber.state, one.sent) == (State.STOPPED, [])
        one.database.goes_on.set()
        await eventually(lambda: one.sent)
        [told] = one.sent
        assert (told["type"], told["data"]["code"]) == ("unsubscribed", closing.DATABASE_AWAY.code)
        assert (one.codes, one._subscriptions) == ([], {})


@pytest.mark.gen_test
async def test_a_pong_claims_no_missed_event_that_is_still_looked_for() -> None:
    """Who returned with its cursor would not be sent them any more."""
    with conversing(ADA, ADA) as one:
        await one.connect()
        one.database.at, one.cursor = "missed events", at(START.last + 10)
        given = SIGNER.write(START, TOPIC)
        subscribe = {"type": "subscribe", "data": {"bot_id": BOT_ID, "cursor": given}}
        one.on_message(json.dumps(subscribe))
        await asyncio.wait_for(one.database.is_asked.wait(), 10)
        one.on_message(json.dumps({"type": "ping", "data": {"bot_id": BOT_ID}}))
        [pong] = one.sent
        assert (pong["type"], pong["cursor"]) == ("pong", given)
        one.database.goes_on.set()


@pytest.mark.gen_test
async def test_who_has_joined_or_was_refused_leaves_its_place_to_others() -> None:
    """So many of a user may join at the same time, on all sockets."""
    answers: list[str | Refused] = [ADA, Refused(*closing.ACCESS_DENIED)]
    with conversing(ADA, *answers * SUBSCRIBING_AT_ONCE) as one:
        await one.connect()
        one.database.goes_on.set()
        for number in range(2 * SUBSCRIBING_AT_ONCE):
            one.says("subscribe", bot_id=f"{BOT_ID[:-2]}{number:02}")
            await eventually(lambda: one.sent)
        assert (one.user_ids, len(one._services.room.subscribing)) == ([], 0)


@pytest.mark.gen_test
@pytest.mark.parametrize("cursor", [None, ""])
async def test_who_subscribed_without_a_cursor_is_told_of_no_gap(cursor: str | None) -> None:
    """It would not understand `resync`, so it has to subscribe again."""
    with conversing(ADA, ADA) as one:
        await one.connect()
        data = {"bot_id": BOT_ID} | ({} if cursor is None else {"cursor": cursor})
        one.on_message(json.dumps({"type": "subscribe", "data": data}))
        await eventually(lambda: one.sent)
        one.sent.clear()
        one._services.hub.lose_track(NOWHERE, "too_old")
        told = [(each["type"], each["data"]["code"]) for each in one.sent]
        missed = [("unsubscribed", closing.EVENTS_MISSED.code)]
        assert told == (missed if cursor is None else [])


@pytest.mark.gen_test
async def test_nothing_is_acted_on_after_a_close() -> None:
    """What the client had sent until it has the close frame begins nothing, and is not answered."""
    with conversing(ADA, ADA) as one:
        await one.connect()
        one.close(*closing.TOO_SLOW)
        assert [one.says("unsubscribe"), one.says("subscribe")] == [[], []]
        assert (one._subscriptions, one.user_ids) == ({}, [ADA])


@pytest.mark.gen_test
@pytest.mark.parametrize("is_closed_first", [True, False])
async def test_all_subscriptions_end_with_their_socket(is_closed_first: bool) -> None:
    """They are sent nothing from its close on, and nothing of them stays when it is gone."""
    with conversing(ADA, ADA) as one:
        await one.connect()
        one.says("subscribe")
        await eventually(lambda: one.sent)
        [subscriber] = [each.subscriber for each in one._subscriptions.values()]
        if is_closed_first:
            one.close(*closing.TOO_SLOW)
        else:
            one.on_ws_connection_close()
        assert subscriber.state is State.STOPPED
        one.on_ws_connection_close()
        assert len(one._services.hub.subscribers) == 0


@pytest.mark.gen_test
async def test_a_socket_may_have_so_many_subscriptions() -> None:
    """One more is refused; when one has ended, there is room for another."""
    with conversing(*[ADA] * 5, max_subscriptions=3) as one:
        await one.connect()
        *bots, another = (BOT_ID[:-1] + digit for digit in "1234")
        assert [one.says("subscribe", bot_id=bot) for bot in bots] == [[], [], []]
        refused = [("unsubscribed", closing.TOO_MANY_SUBSCRIPTIONS.code)]
        assert one.says("subscribe", bot_id=another) == refused
        one.says("unsubscribe", bot_id=bots[0])
        assert one.says("subscribe", bot_id=another) == []


@pytest.mark.gen_test
async def test_what_can_be_no_bot_is_refused_without_a_question() -> None:
    """PostgreSQL would find it to be an error."""
    with conversing(ADA, ADA) as one:
        await one.connect()
        denied = [("unsubscribed", closing.ACCESS_DENIED.code)]
        assert one.says("subscribe", bot_id="b1") == denied
        assert one.user_ids == [ADA]


@pytest.mark.gen_test
async def test_a_long_message_has_no_rate_of_its_own() -> None:
    """Whatever words are in it: no message that subscribes is as long."""
    with conversing(ADA, ADA, messages_per_second=1, max_subscriptions=10) as one:
        await one.connect()
        assert one.says("subscribe") == []
        burst = one._services.settings.message_burst
        for _ in range(burst // 2):  # it counts twice
            assert one.says("subscribe", SHORT + 1) == SUBSCRIBED_ALREADY
        assert one.says("subscribe", SHORT + 1) == TOO_OFTEN
        assert one.says("subscribe", SHORT) == SUBSCRIBED_ALREADY


@pytest.mark.gen_test
async def test_what_ends_a_subscription_above_the_rate_is_forgiven() -> None:
    """It is obeyed, and does not count towards the end of the socket."""
    with conversing(ADA, ADA, max_subscriptions=1) as one:
        await one.connect()
        assert [one.says("subscribe"), one.says("subscribe")] == [[], SUBSCRIBED_ALREADY]
        assert one.says("unsubscribe") == [("unsubscribed", closing.UNSUBSCRIBED.code)]
        for _ in range(2):
            often = closing.SUBSCRIBING_TOO_OFTEN.code
            assert one.says("subscribe") == [("unsubscribed", often)]
        assert one.codes == []
        one.says("subscribe")
        assert one.codes == [closing.RATE_LIMITED.code]
