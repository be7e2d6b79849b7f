"""Tests of `realtime.web.replay`: what ends with a message that is sent in parts."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from realtime.config.intervals import DEFAULTS
from realtime.relay import closing
from realtime.relay.budget import ReadBudget
from realtime.relay.errors import Refused
from realtime.relay.events import Part, RowKey
from realtime.relay.owed import Owed
from realtime.relay.resume import Missed
from realtime.web.replay import Replay
from tests.waiting import eventually

PART_BYTES = 1_048_576


class Sink:
    """Notes what it is sent."""

    waiting_bytes = taken_bytes = 0
    is_closed = is_within_message = False

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.parts = 0
        self.broken_off: list[int] = []

    def send_part(self, _part: object, *, is_first: bool, is_last: bool) -> None:
        assert is_first == (not self.parts)
        self.parts += 1
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
            return Part(b'{"type":"x"', "1-2", is_last=False, author=None)
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
    services: Any = SimpleNamespace(
        history=SimpleNamespace(log=Log(parts, fails=fails)),
        read_budget=ReadBudget(64 * PART_BYTES),
        intervals=DEFAULTS,
        monotonic=time.monotonic,
        settings=SimpleNamespace(echo_to_author=True),
    )
    replay = Replay(services, sink, "user")  # type: ignore[arg-type]
    missed = Missed(owed=Owed([RowKey(1, 1, 20 * PART_BYTES)]))
    sending = asyncio.create_task(replay.send(missed, None))
    await eventually(lambda: sink.parts == parts)
    if not fails:
        await asyncio.sleep(0)
        sending.cancel()
    await asyncio.wait([sending], timeout=10)
    assert sending.done()
    assert bool(sink.broken_off) == bool(parts)
