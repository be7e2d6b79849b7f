"""Tests of `realtime.relay.typing`: who is shown that somebody types."""

from collections.abc import Callable, Iterable

from realtime.relay.protocol import rfc3339
from realtime.relay.typing import SILENCE, Indicator, TypingBroadcaster, TypingIndicators
from tests.unit.relay_fakes import (
    ADA,
    GRACE,
    OTHER_BOT,
    access_change,
    at,
    join,
    make_hub,
    make_subscriber,
    read,
    run,
    while_running,
)

NOW = 1_700_000_000.0


class Chat:
    """A hub with two of Ada's sockets and one of Grace's on a bot, and one of hers elsewhere."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[Indicator] = []
        self.hub = make_hub()
        self.indicators = TypingIndicators(lambda: self.now)
        self.relay = TypingBroadcaster(
            self.indicators,
            self.hub,
            tell=self.tell,
            clock=lambda: NOW,
            tick=0,
        )
        self.ada, self.ada_sink = join(self.hub)
        self.other_tab = join(self.hub)[1]
        self.grace, self.grace_sink = join(self.hub, GRACE)
        self.elsewhere = join(self.hub, GRACE, OTHER_BOT)[1]

    def tell(self, indicators: Iterable[Indicator]) -> None:
        self.told += indicators

    async def until(self, condition: Callable[[], object]) -> None:
        await while_running(self.relay.run(), condition)


def indicator(user_id: str, is_typing: bool) -> dict[str, object]:
    return {
        "type": "typing_indicator",
        "bot_id": "b1",
        "data": {"user_id": user_id, "username": f"{user_id}'s name", "is_typing": is_typing},
        "timestamp": rfc3339(NOW),
    }


def test_shown_to_the_others() -> None:
    """The bot's other users are shown it, the typist on none of their sockets."""
    chat = Chat()
    chat.relay.said(chat.ada, "b1", True)
    assert chat.grace_sink.messages == [indicator(ADA, True)]
    assert (chat.ada_sink.messages, chat.other_tab.messages) == ([], [])
    assert chat.elsewhere.messages == []
    assert chat.told == [Indicator("b1", ADA, "ada's name", True, True)]


def test_not_to_those_on_their_way() -> None:
    """Sockets that are joining, paused or stopped are shown nothing."""
    chat = Chat()
    joining, sink = make_subscriber()
    chat.hub.subscribe(joining)
    read(chat.hub, at(10), "c", access_change(1, 10, user_id=GRACE))
    chat.relay.said(chat.ada, "b1", True)
    assert (sink.messages, chat.grace_sink.messages) == ([], [])


def test_not_of_those_who_are_asked_about() -> None:
    """Who may not read at the moment may not type either."""
    chat = Chat()
    read(chat.hub, at(10), "c", access_change(1, 10, user_id=ADA, is_recheck=True))
    chat.relay.said(chat.ada, "b1", True)
    assert (chat.grace_sink.messages, chat.told) == ([], [])


def test_leaving() -> None:
    """Who types and leaves is shown as stopped, here and on other processes."""
    chat = Chat()
    chat.relay.said(chat.ada, "b1", True)
    chat.hub.unsubscribe(chat.ada)
    chat.relay.left(chat.ada, "b1")
    assert chat.grace_sink.messages == [indicator(ADA, True), indicator(ADA, False)]
    assert [one.is_typing for one in chat.told] == [True, False]


def test_heard_from_another_process() -> None:
    """What another process says is shown here, and recognizable as not ours to pass on."""
    chat = Chat()
    chat.relay.heard("b1", ADA, "ada's name", True)
    assert chat.grace_sink.messages == [indicator(ADA, True)]
    assert chat.other_tab.messages == []
    assert not any(one.is_local for one in chat.told)


def test_heard_of_a_bot_that_nobody_here_watches() -> None:
    """It is not kept: other processes may speak of any number of bots."""
    chat = Chat()
    chat.relay.heard("b3", ADA, "ada's name", True)
    assert chat.indicators.is_idle
    assert (chat.grace_sink.messages, chat.elsewhere.messages) == ([], [])


def test_time_alone() -> None:
    """What becomes due by time is shown without anybody saying anything, again and again."""
    chat = Chat()

    async def twice() -> None:
        for count in (1, 2):
            chat.relay.said(chat.ada, "b1", True)
            chat.now += SILENCE
            await chat.until(lambda: len(chat.grace_sink.messages) == 2 * count)  # noqa: B023
            assert chat.grace_sink.messages[-1] == indicator(ADA, False)
            chat.now += 1
            await chat.until(lambda: not chat.relay._some.is_set())

    run(twice())
