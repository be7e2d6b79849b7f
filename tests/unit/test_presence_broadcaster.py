"""Tests of `realtime.relay.presence`: which sockets are told, and when it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from realtime.relay.errors import Refused
from realtime.relay.hub import Hub
from realtime.relay.presence import Person, Presence, PresenceBroadcaster
from realtime.relay.protocol import rfc3339
from realtime.relay.subscriber import HoldLimit, Subscriber
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    NOWHERE,
    OTHER_BOT,
    START,
    Asked,
    RecordingSink,
    access_change,
    at,
    frame,
    read,
    run,
)

NOW = 1_700_000_000.0
JOAN = "joan"
GRACE_SECONDS = 5.0


class OneProcess:
    """A hub, and what other processes have."""

    def __init__(self, fan_out_slice: int = 500) -> None:
        self.now = 100.0
        self.others: dict[str, dict[str, Person]] = {BOT: {}, OTHER_BOT: {}}
        self.is_away = False
        self.readings: list[tuple[str, ...]] = []
        self.pauses = 0
        self.in_a_pause: Callable[[], object] = lambda: None
        self.asked = Asked()
        self.hub = Hub(
            NOWHERE,
            frame=frame,
            pause=self.pause,
            ask_again=self.asked,
            monotonic=lambda: self.now,
        )
        self.relay = PresenceBroadcaster(
            Presence(lambda: self.now, grace=GRACE_SECONDS),
            self.hub,
            read_remote=self.elsewhere,
            pause=self.pause,
            monotonic=lambda: self.now,
            clock=lambda: NOW,
            tick=0,
            read_seconds=1.0,
            fan_out_slice=fan_out_slice,
        )

    async def elsewhere(self, topics: Sequence[str]) -> dict[str, dict[str, Person]]:
        self.readings.append(tuple(topics))
        if self.is_away:
            raise Refused(1013, "away")
        return {topic: dict(self.others[topic]) for topic in topics}

    async def pause(self) -> None:
        self.pauses += 1
        self.in_a_pause()

    def join(
        self,
        user_id: str,
        topic: str = BOT,
        *,
        asks: bool = False,
        opened_at: float = 0.0,
        is_over_http: bool = False,
    ) -> tuple[Subscriber, RecordingSink]:
        sink = RecordingSink()
        subscriber = Subscriber(
            topic,
            "c",
            sink,
            opened_at=opened_at,
            hold=HoldLimit(99),
            wants_presence=asks,
            is_over_http=is_over_http,
        )
        self.hub.subscribe(subscriber)
        self.hub.identify(subscriber, user_id, f"{user_id}'s name")
        self.hub.go_live(subscriber, START)
        return subscriber, sink

    def look(self, *, seconds: float = 1.0) -> None:
        """What the loop does after that time."""
        self.now += seconds

        async def turn() -> None:
            task = asyncio.create_task(self.relay.run())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not task.done()
            task.cancel()

        run(turn())


def person(user_id: str, since: float = 0.0) -> dict[str, str]:
    return {"user_id": user_id, "username": f"{user_id}'s name", "since": rfc3339(since)}


def message(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "bot_id": "b1", "data": data, "timestamp": rfc3339(NOW)}


def test_the_state_and_then_what_changes() -> None:
    """To those who ask; a socket that comes later begins with a state of its own."""
    process = OneProcess()
    _, sink = process.join(ADA, asks=True, opened_at=2.0)
    _, silent = process.join(ADA, opened_at=1.0)
    process.join(ADA, opened_at=3.0)
    process.others[BOT] = {GRACE: Person(GRACE, "grace's name", 0.5)}
    process.look()
    state = message("presence_state", users=[person(GRACE, 0.5), person(ADA, 1.0)])
    assert sink.messages == [state]
    _, later = process.join(JOAN, asks=True, opened_at=4.0)
    process.look(seconds=0)
    assert sink.messages[1:] == [
        message("presence_diff", joined=[person(JOAN, 4.0)], left=[]),
    ]
    assert [one["type"] for one in later.messages] == ["presence_state"]
    process.look()
    assert (len(sink.messages), len(later.messages), silent.messages) == (2, 1, [])


def test_who_takes_events_over_http_is_there_only_if_it_asks() -> None:
    """It may be a program; a person's page asks who else is there."""
    process = OneProcess()
    process.join(GRACE, is_over_http=True)
    _, sink = process.join(ADA, asks=True, is_over_http=True)
    process.look()
    assert sink.messages == [message("presence_state", users=[person(ADA)])]


def test_who_leaves() -> None:
    """After the grace, as often as it is read meanwhile."""
    process = OneProcess()
    _, sink = process.join(ADA, asks=True)
    guest, _ = process.join(GRACE)
    process.look()
    process.hub.unsubscribe(guest)
    for _ in range(int(GRACE_SECONDS)):
        process.look()
    assert len(sink.messages) == 1
    process.look()
    assert sink.messages[1:] == [message("presence_diff", joined=[], left=[person(GRACE)])]


def test_nothing_is_read_where_nobody_asks() -> None:
    """Nor after the last one has left; bots with nobody who asks are not asked about."""
    process = OneProcess()
    process.join(GRACE, OTHER_BOT)
    watcher, _ = process.join(ADA, asks=True)
    second, _ = process.join(ADA, asks=True)
    process.look()
    process.hub.unsubscribe(watcher)
    process.look()
    assert process.readings == [(BOT,), (BOT,)]
    process.hub.unsubscribe(second)

    process.look()
    assert len(process.readings) == 2
    assert not any((process.relay._watchers, process.relay._told, process.relay._changed))


def test_who_may_not_read_is_not_told() -> None:
    """Neither who is cut off nor, for the time being, who is asked about; those get a new state."""
    process = OneProcess()
    _, sink = process.join(ADA, asks=True)
    rechecked, rechecked_sink = process.join(GRACE, asks=True)
    _, cut_sink = process.join("mallory", asks=True)
    process.look()
    read(process.hub, at(10), "c", access_change(1, 10, user_id=GRACE, is_recheck=True))
    read(process.hub, at(11), "d", access_change(2, 11, user_id="mallory"))
    process.join(JOAN)
    process.look()
    change = message("presence_diff", joined=[person(JOAN)], left=[person("mallory")])
    assert sink.messages[1:] == [change]
    assert [len(one.messages) for one in (rechecked_sink, cut_sink)] == [1, 1]
    process.hub.stay(rechecked, process.asked[0][1], at(12))
    read(process.hub, at(13), "e")
    process.look()
    assert rechecked_sink.messages[1:] == [
        message("presence_state", users=[person(ADA), person(GRACE), person(JOAN)])
    ]
    assert len(sink.messages) == 2


def test_an_access_change_from_everything() -> None:
    """Is about every bot that is asked about; one from another bot is about none of them."""
    process = OneProcess()
    _, sink = process.join(ADA, asks=True)
    process.others[BOT] = {GRACE: Person(GRACE, "grace's name", 0.0)}
    process.look()
    read(process.hub, at(9), "b", access_change(1, 9, OTHER_BOT, user_id=GRACE))
    assert not process.relay._changed
    read(process.hub, at(10), "c", access_change(1, 10, None, user_id=GRACE))
    process.look(seconds=0)
    assert sink.messages[1:] == [message("presence_diff", joined=[], left=[person(GRACE)])]


def test_many_changes_from_everything_cost_no_more_than_one() -> None:
    """A statement may end the access of thousands, and thousands of bots may be asked about."""
    process = OneProcess()
    for number in range(3):
        process.join(ADA, f"bot:b{number}", asks=True)
    process.relay._changed.clear()
    rows = [access_change(number, 9, None, f"{number}") for number in range(3)]
    read(process.hub, at(9), "b", *rows)
    assert not process.relay._changed
    assert process.relay._take_changed() == {"bot:b0", "bot:b1", "bot:b2"}
    assert process.relay._take_changed() == set()


def test_an_outage() -> None:
    """Nobody leaves in it or soon after; and who came when it was is told once it is over."""
    process = OneProcess()
    process.join(GRACE)
    process.others[BOT] = {JOAN: Person(JOAN, "joan's name", 0.0)}
    process.is_away = True
    _, sink = process.join(ADA, asks=True)
    process.look()
    assert sink.messages == []
    process.is_away = False
    process.look()
    assert [one["type"] for one in sink.messages] == ["presence_state"]
    process.relay.database_lost()
    process.others[BOT] = {}
    for _ in range(int(GRACE_SECONDS) + 2):
        process.look()
    assert len(sink.messages) == 1


def test_asked_for_this_moment() -> None:
    """Without any socket that asks, and without a grace."""
    process = OneProcess()
    process.join(ADA)
    process.others[BOT] = {GRACE: Person(GRACE, "grace's name", -1.0)}
    listing = run(process.relay.now(BOT))
    assert [one.user_id for one in listing.people] == [GRACE, ADA]
    process.is_away = True
    with pytest.raises(Refused):
        run(process.relay.now(BOT))


def test_everybody_is_written_out_only_for_who_was_not_told_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be a thousand users, for each who comes or leaves."""
    process, written = OneProcess(), []
    shown = Presence.shown
    monkeypatch.setattr(Presence, "shown", lambda *of: written.append(of) or shown(*of))
    _, first = process.join(ADA, asks=True)
    process.look()
    process.join(GRACE)
    process.look()
    assert [message["type"] for message in first.messages] == ["presence_state", "presence_diff"]
    assert len(written) == 1
    _, second = process.join(JOAN, asks=True)
    process.look()
    assert [message["type"] for message in second.messages] == ["presence_state"]
    assert len(written) == 2


def test_many_are_told_in_slices() -> None:
    """Others get a turn in between, in which anybody may leave, even all who ask."""
    process = OneProcess(fan_out_slice=2)
    crowd = [
        process.join(str(number), topic, asks=True)
        for topic in (BOT, OTHER_BOT)
        for number in range(5)
    ]

    def everyone_leaves() -> None:
        for one, _ in crowd:
            process.hub.unsubscribe(one)

    process.in_a_pause = everyone_leaves
    process.look()
    assert process.pauses == 2 + 2, "slices of the one bot, and one after each bot"
    assert sum(len(sink.messages) for _, sink in crowd) == 1
    assert not any((process.relay._watchers, process.relay._told))
