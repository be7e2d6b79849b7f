"""Tests of `realtime.relay.typing`: who is shown that somebody types."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest

from realtime.relay.events import AccessChange
from realtime.relay.protocol import rfc3339
from realtime.relay.typing import SILENCE, Indicator, TypingBroadcaster, TypingIndicators
from tests.unit.relay_fakes import (
    ADA,
    GRACE,
    OTHER_BOT,
    access_change,
    join,
    make_hub,
    make_subscriber,
    page,
    seen,
    while_running,
)

NOW = 1_700_000_000.0


class Chat:
    """A hub with two of Ada's sockets and one of Grace's on a bot, and one of hers elsewhere."""

    def __init__(self, fan_out_slice: int = 500) -> None:
        self.now = 100.0
        self.told: list[Indicator] = []
        self.pauses = 0
        self.in_a_pause: Callable[[], object] = lambda: None
        self.hub = make_hub()
        self.indicators = TypingIndicators(lambda: self.now)
        self.relay = TypingBroadcaster(
            self.indicators,
            self.hub,
            tell=self.tell,
            pause=self.pause,
            clock=lambda: NOW,
            tick=0,
            fan_out_slice=fan_out_slice,
        )
        self.ada, self.ada_sink = join(self.hub)
        self.other_tab = join(self.hub)[1]
        self.grace, self.grace_sink = join(self.hub, GRACE)
        self.elsewhere = join(self.hub, GRACE, OTHER_BOT)[1]

    def tell(self, indicators: Iterable[Indicator]) -> None:
        self.told += indicators

    async def pause(self) -> None:
        self.pauses += 1
        self.in_a_pause()

    def change_access(self, change: AccessChange) -> None:
        """Have it read and applied, which waits for nothing here."""
        with suppress(StopIteration):
            self.hub.deliver(page(seen(0), change), self.hub.position).send(None)

    async def show(self) -> None:
        """Have all that waits shown."""
        await self.until(lambda: not self.relay._has_waiting.is_set())

    async def until(self, condition: Callable[[], object]) -> None:
        await while_running(self.relay.run(), condition)


def indicator(user_id: str, is_typing: bool) -> dict[str, object]:
    return {
        "type": "typing_indicator",
        "bot_id": "b1",
        "data": {"user_id": user_id, "username": f"{user_id}'s name", "is_typing": is_typing},
        "timestamp": rfc3339(NOW),
    }


@pytest.mark.gen_test
async def test_shown_to_the_others() -> None:
    """The bot's other users are shown it, the typist on none of their sockets."""
    chat = Chat()
    chat.relay.said(chat.ada, "b1", True)
    await chat.show()
    assert chat.grace_sink.messages == [indicator(ADA, True)]
    assert (chat.ada_sink.messages, chat.other_tab.messages) == ([], [])
    assert chat.elsewhere.messages == []
    assert chat.told == [Indicator("b1", ADA, "ada's name", True, True)]


@pytest.mark.gen_test
async def test_not_to_those_on_their_way() -> None:
    """Sockets that are joining, paused or stopped are shown nothing."""
    chat = Chat()
    joining, sink = make_subscriber()
    chat.hub.subscribe(joining)
    chat.change_access(access_change(1, 10, user_id=GRACE))
    chat.relay.said(chat.ada, "b1", True)
    await chat.show()
    assert (sink.messages, chat.grace_sink.messages) == ([], [])


@pytest.mark.gen_test
async def test_not_of_those_who_are_asked_about() -> None:
    """Who may not read at the moment may not type either."""
    chat = Chat()
    chat.change_access(access_change(1, 10, user_id=ADA, is_recheck=True))
    chat.relay.said(chat.ada, "b1", True)
    await chat.show()
    assert (chat.grace_sink.messages, chat.told) == ([], [])


@pytest.mark.gen_test
async def test_leaving() -> None:
    """Who types and leaves is shown as stopped, here and on other processes."""
    chat = Chat()
    chat.relay.said(chat.ada, "b1", True)
    await chat.show()
    chat.hub.unsubscribe(chat.ada)
    chat.relay.left(chat.ada, "b1")
    chat.now += 1
    await chat.until(lambda: len(chat.grace_sink.messages) == 2)
    assert chat.grace_sink.messages == [indicator(ADA, True), indicator(ADA, False)]
    assert [one.is_typing for one in chat.told] == [True, False]


@pytest.mark.gen_test
async def test_heard_from_another_process() -> None:
    """What another process says is shown here, and recognizable as not ours to pass on."""
    chat = Chat()
    chat.relay.heard("b1", ADA, "ada's name", True)
    await chat.show()
    assert chat.grace_sink.messages == [indicator(ADA, True)]
    assert chat.other_tab.messages == []
    assert not any(one.is_local for one in chat.told)


@pytest.mark.gen_test
async def test_heard_of_a_bot_that_nobody_here_watches() -> None:
    """It is not kept: other processes may speak of any number of bots."""
    chat = Chat()
    chat.relay.heard("b3", ADA, "ada's name", True)
    assert chat.indicators.is_idle
    assert (chat.grace_sink.messages, chat.elsewhere.messages) == ([], [])


@pytest.mark.gen_test
async def test_time_alone() -> None:
    """What becomes due by time is shown without anybody saying anything, again and again."""
    chat = Chat()
    for count in (1, 2):
        chat.relay.said(chat.ada, "b1", True)
        await chat.show()
        chat.now += SILENCE
        await chat.until(lambda: len(chat.grace_sink.messages) == 2 * count)  # noqa: B023
        assert chat.grace_sink.messages[-1] == indicator(ADA, False)
        chat.now += 1
        await chat.until(lambda: chat.indicators.is_idle)


def heard(chat: Chat, number: int) -> None:
    """So many users of another process begin to type."""
    for name in range(number):
        chat.relay.heard("b1", f"u{name}", "x", True)


@pytest.mark.gen_test
async def test_others_have_a_turn() -> None:
    """Nothing is sent where it is said, and between any two slices of sockets there is a pause."""
    chat = Chat(fan_out_slice=10)
    longest, before = 0, 0

    def look() -> None:
        nonlocal longest, before
        longest, before = max(longest, sent() - before), sent()

    def sent() -> int:
        return sum(len(sink.messages) for sink in (chat.ada_sink, chat.other_tab, chat.grace_sink))

    chat.in_a_pause = look
    heard(chat, 100)
    assert sent() == 0
    await chat.show()
    look()
    assert sent() == 300
    assert longest <= 10
    assert chat.pauses >= 30


@pytest.mark.gen_test
async def test_the_newest_of_what_waits() -> None:
    """Of one user on one bot only the newest waits, so that it is never more than the typists."""
    chat = Chat()
    for number in range(5):
        chat.relay.said(chat.ada, "b1", number % 2 == 0)
        chat.now += 1
    chat.relay.said(chat.ada, "b1", False)
    assert len(chat.relay._waiting) == 1
    await chat.show()
    assert chat.grace_sink.messages == [indicator(ADA, False)]


@pytest.mark.gen_test
async def test_who_loses_access_during_a_pause() -> None:
    """They are shown nothing after it."""
    chat = Chat(fan_out_slice=1)
    chat.in_a_pause = lambda: chat.change_access(access_change(1, 10, user_id=None))
    heard(chat, 3)
    await chat.show()
    shown = [sink.messages for sink in (chat.ada_sink, chat.other_tab, chat.grace_sink)]
    assert sum(map(len, shown)) == 1
