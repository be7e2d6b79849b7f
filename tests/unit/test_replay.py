"""Tests of `realtime.web.replay`: which cursors missed events have, and what is broken off."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from realtime.config.intervals import DEFAULTS
from realtime.relay import closing
from realtime.relay.budget import ReadBudget
from realtime.relay.cursor import Anchor, Cursor
from realtime.relay.errors import Refused
from realtime.relay.events import Event, Part, RowKey
from realtime.relay.owed import Owed
from realtime.relay.position import Position
from realtime.relay.protocol import Message
from realtime.relay.resume import Missed
from realtime.relay.subscriber import Subscriber
from realtime.web import replay as module
from realtime.web.replay import FIRST_BYTES, MOST_BYTES, TRIES, Replay
from tests.unit.relay_fakes import ADA, BOT, GRACE, SIGNER, at, event, make_subscriber
from tests.waiting import eventually

PART_BYTES = 1_048_576
CAME_WITH, UNTIL = at(7, 5), at(20)


def returning() -> Subscriber:
    """One that came back with a cursor, and is owed what it missed."""
    subscriber, _ = make_subscriber()
    subscriber.user_id = ADA
    subscriber.cursor = Position(CAME_WITH, SIGNER)
    return subscriber


def make_replay(
    sink: "Sink",
    log: Any,
    subscriber: Subscriber,
    *,
    echoes: bool = True,
    budget: ReadBudget | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Replay:
    services: Any = SimpleNamespace(
        history=SimpleNamespace(log=log),
        read_budget=budget or ReadBudget(64 * PART_BYTES),
        intervals=DEFAULTS,
        monotonic=clock,
        settings=SimpleNamespace(echo_to_author=echoes),
    )
    return Replay(services, sink, subscriber)


class Sink:
    """Notes what it is sent."""

    waiting_bytes = taken_bytes = 0
    is_closed = is_within_message = False
    is_idle = False

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.parts = 0
        self.broken_off: list[int] = []
        self.cursors: list[list[str | None]] = []
        """Of the messages of each portion, and of each message that is sent in parts."""

    @staticmethod
    def frame(messages: Iterable[Message]) -> bytes:
        return json.dumps([message.cursor for message in messages]).encode()

    def send(self, frames: bytes) -> None:
        self.cursors.append(json.loads(frames))

    def send_part(self, part: Message, *, is_first: bool, is_last: bool) -> None:
        assert is_first == (not self.parts)
        self.parts += 1
        if is_first:
            self.cursors.append([part.cursor])
        self.is_within_message = not is_last

    def break_off(self, code: int, _reason: str) -> None:
        self.broken_off.append(code)

    async def drained(self) -> None:
        return


class Log:
    """Has one large message, and stands still or fails after some parts of it."""

    portion_bytes = 65_536

    def __init__(self, parts: int, *, fails: bool) -> None:
        self._parts = parts
        self._fails = fails

    async def part(self, _key: RowKey, start: int, size: int) -> Part:
        if self._parts:
            self._parts -= 1
            return Part(b'{"type":"x"', Anchor(1, 1, 2), is_last=False, author=None)
        if self._fails:
            raise Refused(*closing.DATABASE_AWAY)
        await asyncio.Event().wait()
        raise AssertionError(start, size)


@pytest.mark.gen_test
@pytest.mark.parametrize("parts", [0, 1])
@pytest.mark.parametrize("fails", [True, False])
async def test_a_socket_is_ended_only_if_half_of_a_message_was_sent(
    parts: int, fails: bool
) -> None:
    """Other topics may be on it. Before the first part, the subscription ends alone."""
    sink = Sink()
    replay = make_replay(sink, Log(parts, fails=fails), returning())
    missed = Missed(owed=Owed([RowKey(1, 1, 20 * PART_BYTES)]))
    sending = asyncio.create_task(replay.send(missed, Position(UNTIL, SIGNER)))
    await eventually(lambda: sink.parts == parts)
    if not fails:
        await asyncio.sleep(0)
        sending.cancel()
    await asyncio.wait([sending], timeout=10)
    assert sending.done()
    assert bool(sink.broken_off) == bool(parts)


# Cursors.


class Rows:
    """A log that has some events."""

    portion_bytes = 65_536

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = {one.key: one for one in events}
        self.parts_read: list[tuple[int, int]] = []
        """Where each part of a message began that was read, and how many bytes were asked for."""

    @property
    def keys(self) -> list[RowKey]:
        return list(self._events)

    async def payloads(self, keys: Sequence[RowKey]) -> Sequence[Event]:
        return [self._events[key] for key in keys]

    async def part(self, key: RowKey, start: int, size: int) -> Part:
        self.parts_read.append((start, size))
        one = self._events[key]
        return Part(b'{"type":"x"', one.anchor, is_last=bool(start), author=one.author)


def row(event_id: int, xid: int, size: int = 40_000, author: str | None = None) -> Event:
    return event(event_id, xid, author=author)._replace(size=size, written_at=9)


async def sent(
    *events: Event, echoes: bool = True, is_little: bool = False
) -> list[list[Cursor | None]]:
    """The cursors of what one that returns is sent, portion by portion."""
    subscriber, sink = returning(), Sink()
    replay = make_replay(sink, Rows(events), subscriber, echoes=echoes)
    missed = Missed(events) if is_little else Missed(owed=Owed(one.key for one in events))
    await replay.send(missed, Position(UNTIL, SIGNER))
    return [
        [None if text is None else SIGNER.read(text, BOT) for text in portion]
        for portion in sink.cursors
    ]


@pytest.mark.gen_test
async def test_the_first_of_a_portion_names_its_newest_row() -> None:
    """And claims what the client came with. Only the last event of all claims more."""
    events = [row(1, 9, 30_000), row(2, 8, 30_000), row(3, 5, 10_000), row(4, 10), row(5, 11)]
    assert await sent(*events) == [
        [CAME_WITH.naming(Anchor(9, 1, 9)), None],
        [CAME_WITH.naming(Anchor(10, 4, 9)), None],
        [UNTIL],
    ]


@pytest.mark.gen_test
async def test_what_is_sent_at_once_has_both_cursors() -> None:
    """The client may have only a part of it when it is cut off."""
    events = [row(1, 8, 10), row(2, 9, 10), row(3, 9, 10)]
    both = [[CAME_WITH.naming(events[-1].anchor), None, UNTIL]]
    assert await sent(*events) == both
    assert await sent(*events, is_little=True) == both


@pytest.mark.gen_test
async def test_a_message_in_parts_names_itself() -> None:
    """Its cursor is in its first part; the last message has the cursor of the end."""
    events = [row(1, 8, PART_BYTES), row(2, 9), row(3, 10, PART_BYTES)]
    first, second, third = await sent(*events[:2]), await sent(*events[1:]), await sent(events[2])
    assert first == [[CAME_WITH.naming(events[0].anchor)], [UNTIL]]
    assert second == [[CAME_WITH.naming(events[1].anchor)], [UNTIL]]
    assert third == [[UNTIL]]


@pytest.mark.gen_test
async def test_what_the_client_wrote_itself_is_not_named() -> None:
    """Where it is not sent its own, nothing is sent of a portion that has no others."""
    events = [row(1, 8, 30_000), row(2, 9, 30_000, ADA), row(3, 10, 60_000, ADA), row(4, 11)]
    assert await sent(*events, echoes=False) == [
        [CAME_WITH.naming(Anchor(8, 1, 9))],
        [],
        [UNTIL],
    ]
    own = [row(1, 8, PART_BYTES, ADA), row(2, 9, author=GRACE)]
    assert await sent(*own, echoes=False) == [[UNTIL]]


@pytest.mark.gen_test
async def test_a_pong_in_the_middle_names_the_newest_row() -> None:
    """Or the client, which keeps the newest cursor that it was told, would forget the row.

    Nor may it forget the end, once that is on its way: a pong comes behind the last event.
    """
    events = [row(1, 8), row(2, 9), row(3, 10)]
    named = await cursors_while_it_takes(*events)
    assert named == [*(CAME_WITH.naming(one.anchor) for one in events[:2]), UNTIL]
    assert await cursors_while_it_takes(*events, is_little=True) == [UNTIL]
    parts = await cursors_while_it_takes(row(1, 8), row(2, 9, PART_BYTES))
    assert parts == [CAME_WITH.naming(events[0].anchor), UNTIL, UNTIL]


async def cursors_while_it_takes(*events: Event, is_little: bool = False) -> list[Cursor]:
    """What a pong would have, each time that the client is waited for."""
    subscriber, sink = returning(), Sink()
    replay = make_replay(sink, Rows(events), subscriber)
    named: list[Cursor] = []

    async def drained() -> None:
        assert subscriber.cursor is not None
        named.append(subscriber.cursor.cursor)

    sink.drained = drained  # type: ignore[method-assign]
    missed = Missed(events) if is_little else Missed(owed=Owed(one.key for one in events))
    await replay.send(missed, Position(UNTIL, SIGNER))
    return named


@pytest.mark.gen_test
async def test_who_has_taken_a_portion_already_is_not_waited_for() -> None:
    """A thousand that come back at once take most portions as soon as they are sent."""
    sink = Sink()
    sink.is_idle = True

    async def drained() -> None:
        raise AssertionError("it was waited for")

    sink.drained = drained  # type: ignore[method-assign]
    events = [row(1, 8), row(2, 9)]
    owed = Owed(one.key for one in events)
    await make_replay(sink, Rows(events), returning()).send(
        Missed(owed=owed), Position(UNTIL, SIGNER)
    )
    assert len(sink.cursors) == 2


def test_the_newest_row_of_a_portion_is_found_for_the_first_who_is_sent_it() -> None:
    """A thousand clients who looked for it took longer for that than for sending."""
    events = [row(3, 8), row(1, 9), row(2, 9)]
    portion = Owed(one.key for one in events).portion(1_000_000, 10)
    assert portion.newest(events) == events[2].anchor
    assert portion.newest([]) == events[2].anchor


# Too much, and too slow.


@pytest.mark.gen_test
async def test_a_message_that_may_not_be_held_whole_is_sent_in_parts() -> None:
    """However small the portions of others may be."""
    budget = ReadBudget(640_000)
    assert budget.largest == 60_000 < MOST_BYTES
    sink, events = Sink(), [row(1, 8, 60_000), row(2, 9, 60_001)]
    replay = make_replay(sink, Rows(events), returning(), budget=budget)
    owed = Owed(one.key for one in events)
    await replay.send(Missed(owed=owed), Position(UNTIL, SIGNER))
    assert (len(sink.cursors), sink.parts) == (2, 2)


class Weak(Rows):
    """A log that cannot send more than so many events in time."""

    def __init__(self, events: Iterable[Event], most: int) -> None:
        super().__init__(events)
        self.most = most
        self.asked: list[int] = []

    async def payloads(self, keys: Sequence[RowKey]) -> Sequence[Event]:
        self.asked.append(len(keys))
        if len(keys) > self.most:
            raise Refused(*closing.DATABASE_AWAY)
        return await super().payloads(keys)


@pytest.mark.gen_test
async def test_of_a_portion_that_does_not_come_half_is_asked_for() -> None:
    """And then a quarter, but not less; one event is asked for as often."""
    sink, log = Sink(), Weak([row(number, number, 10) for number in range(8, 12)], most=1)
    owed = Owed(log.keys)
    await make_replay(sink, log, returning()).send(Missed(owed=owed), Position(UNTIL, SIGNER))
    assert log.asked == [4, 2, 1, 3, 1, 2, 1, 1]
    assert [len(portion) for portion in sink.cursors] == [1, 1, 1, 1]
    log = Weak([row(8, 8, 10)], most=0)
    with pytest.raises(Refused):
        await make_replay(Sink(), log, returning()).send(
            Missed(owed=Owed(log.keys)), Position(UNTIL, SIGNER)
        )
    assert log.asked == [1] * TRIES


class Stuck(Sink):
    """Its client takes nothing until it was looked at some times; each look takes a second."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.now = 0.0
        self._looks = looks
        self._takes_all = asyncio.Event()

    @property
    def taken_bytes(self) -> int:  # type: ignore[override]
        self.now += 1.0
        if self.now > self._looks:
            self._takes_all.set()
        return 0

    async def drained(self) -> None:
        await self._takes_all.wait()


@pytest.mark.gen_test
@pytest.mark.parametrize("is_wanted", [True, False])
async def test_who_takes_nothing_is_hurried_only_while_somebody_waits(
    is_wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client has much more time, as behind a line that was cut for a moment."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    assert DEFAULTS.replay_wanted < 10 < DEFAULTS.replay
    sink, budget = Stuck(10), ReadBudget(64 * PART_BYTES)
    log = Rows([row(1, 8)])
    replay = make_replay(sink, log, returning(), budget=budget, clock=lambda: sink.now)
    sending = asyncio.create_task(replay.send(Missed(owed=Owed(log.keys)), Position(UNTIL, SIGNER)))
    # It begins when the other has reserved its portion.
    waiting = asyncio.create_task(hold(budget, budget.largest)) if is_wanted else None
    await asyncio.wait([sending], timeout=10)
    refused = sending.exception()
    assert isinstance(refused, Refused) is is_wanted
    if waiting is not None:
        assert isinstance(refused, Refused)
        assert (refused.code, refused.reason) == closing.REPLAY_TOO_SLOW
        await asyncio.wait_for(waiting, 10)


@pytest.mark.gen_test
async def test_who_takes_nothing_for_very_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nobody waits."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    sink, log = Stuck(1000), Rows([row(1, 8)])
    replay = make_replay(sink, log, returning(), clock=lambda: sink.now)
    with pytest.raises(Refused) as refused:
        await replay.send(Missed(owed=Owed(log.keys)), Position(UNTIL, SIGNER))
    assert refused.value.reason == closing.REPLAY_TOO_SLOW.reason
    assert DEFAULTS.replay <= sink.now <= DEFAULTS.replay + 2


class Moving(Stuck):
    """Its client takes a byte a second."""

    @property
    def taken_bytes(self) -> int:  # type: ignore[override]
        return super().taken_bytes + int(self.now)


@pytest.mark.gen_test
@pytest.mark.parametrize("is_wanted", [True, False])
async def test_who_takes_little_is_hurried_only_while_somebody_waits(
    is_wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A speed is asked for then; else it is enough to go on."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    sink, budget, log = Moving(50), ReadBudget(64 * PART_BYTES), Rows([row(1, 8)])
    replay = make_replay(sink, log, returning(), budget=budget, clock=lambda: sink.now)
    sending = asyncio.create_task(replay.send(Missed(owed=Owed(log.keys)), Position(UNTIL, SIGNER)))
    waiting = asyncio.create_task(hold(budget, budget.largest)) if is_wanted else None
    await asyncio.wait([sending], timeout=10)
    assert isinstance(sending.exception(), Refused) is is_wanted
    if waiting is not None:
        await asyncio.wait_for(waiting, 10)


@pytest.mark.gen_test
@pytest.mark.parametrize("is_too_much", [True, False])
async def test_what_waits_already_is_taken_first(is_too_much: bool) -> None:
    """It counts as held; who has more of it than may be held is sent nothing more."""
    sink, budget, log = Sink(), ReadBudget(64 * PART_BYTES), Rows([row(1, 8)])
    sink.waiting_bytes = budget.largest + 1 if is_too_much else FIRST_BYTES
    sent: list[int] = []

    async def drained() -> None:
        sent.append(len(sink.cursors))

    sink.drained = drained  # type: ignore[method-assign]
    replay = make_replay(sink, log, returning(), budget=budget)
    sending = replay.send(Missed(owed=Owed(log.keys)), Position(UNTIL, SIGNER))
    if is_too_much:
        with pytest.raises(Refused):
            await sending
    else:
        await sending
    assert sent == ([] if is_too_much else [0, 1])


async def hold(budget: ReadBudget, size: int) -> None:
    async with budget.reserve(size, ADA):
        return


@pytest.mark.gen_test
async def test_a_part_of_a_message_is_read_once_for_all_who_are_owed_it() -> None:
    """PostgreSQL reads all of the message for each part: that is not to be done for each client."""
    one = row(1, 9, size=4 * PART_BYTES)
    log, missed = Rows([one]), Missed(owed=Owed([one.key]))
    sinks = [Sink() for _ in range(5)]
    sending = [
        make_replay(sink, log, returning()).send(missed.for_another(), Position(UNTIL, SIGNER))
        for sink in sinks
    ]
    await asyncio.gather(*sending)
    assert [sink.parts for sink in sinks] == [2] * 5
    assert log.parts_read == [(0, MOST_BYTES), (MOST_BYTES, MOST_BYTES)]


@pytest.mark.gen_test
async def test_a_part_that_could_not_be_read_is_read_anew_for_who_comes_later() -> None:
    """The database is there again; the error was for those who waited for that read."""
    one = row(1, 9, size=4 * PART_BYTES)
    missed = Missed(owed=Owed([one.key]))
    away = Log(0, fails=True)
    kept = []
    for _ in range(2):
        replay = make_replay(Sink(), away, returning())
        with pytest.raises(Refused) as refused:
            await replay.send(missed.for_another(), Position(UNTIL, SIGNER))
        kept.append(refused)  # with its traceback, and so with all that it holds
    sink = Sink()
    again = make_replay(sink, Rows([one]), returning())
    await again.send(missed.for_another(), Position(UNTIL, SIGNER))
    assert sink.parts == 2


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("size", "memory", "expected"),
    [
        (300_000, 64 * PART_BYTES, MOST_BYTES),
        (8 * PART_BYTES, 64 * PART_BYTES, 8 * PART_BYTES // 16),
        (64 * PART_BYTES, 64 * PART_BYTES, PART_BYTES),
        (64 * PART_BYTES, 4 * PART_BYTES, ReadBudget(4 * PART_BYTES).largest),
    ],
)
async def test_how_large_a_part_is(size: int, memory: int, expected: int) -> None:
    """It does not depend on the client, or clients could not share it."""
    one = row(1, 9, size=size)
    log, budget = Rows([one]), ReadBudget(memory)
    replay = make_replay(Sink(), log, returning(), budget=budget)
    await replay.send(Missed(owed=Owed([one.key])), Position(UNTIL, SIGNER))
    assert log.parts_read == [(0, expected), (expected, expected)]
