"""Clients that come back with a cursor that is not theirs to use.

A user loses access, things are written, access is given back. Then the user comes with
- the own cursor from before, its text edited to claim what was written meanwhile;
- a genuine cursor of another topic, taken while locked out;
- a genuine cursor of another user on the same topic, taken while locked out;
- the own cursor from before, as it was.
None may be answered `recovered: true`, and nothing that was written meanwhile may be shown. Each is
a record of its own, which the verdict judges.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

from rowcast.rules import Closed
from rowcast.transport import open_socket
from tests.chaos.access import Access
from tests.chaos.arena import Arena, make_token
from tests.chaos.drama import Strike
from tests.chaos.population import Seat
from tests.chaos.record import Greeting, Record, Seen, event_id

AWAY_SECONDS = (0.8, 2.0)
STAY_SECONDS = 1.0
OPEN_SECONDS = 5.0
ATTEMPTS = 3


class Borrowed(NamedTuple):
    """A cursor, and with which reasons it may be turned away."""

    name: str
    cursor: str | None
    reasons: frozenset[str]


class Intruders:
    """The intruders of one run."""

    def __init__(self, arena: Arena, access: Access) -> None:
        self._arena = arena
        self._access = access
        self._numbers = count(1)
        self.records: list[Record] = []

    def kinds(self) -> dict[str, Strike]:
        """One, by its name in the table."""
        return {"back with forged and borrowed cursors": self._intrude}

    async def _intrude(self, chance: random.Random) -> None:
        async with self._arena.access_lock:
            seat = await self._access.take(chance)
            own = self._cursor_at(seat)
            await asyncio.sleep(chance.uniform(*AWAY_SECONDS))
            borrowed = list(self._borrow(seat, own))
            await self._access.give_back(seat, chance)
        await asyncio.gather(*(self._try(seat, one, chance.random()) for one in borrowed))

    def _borrow(self, seat: Seat, own: str | None) -> Iterator[Borrowed]:
        elsewhere = self._cursor_at(Seat(seat.user, None))
        beside = self._cursor_beside(seat)
        yield Borrowed("own, from before", own, frozenset({"access_changed"}))
        yield Borrowed("of another topic", elsewhere, frozenset({"invalid"}))
        yield Borrowed("of another user", beside, frozenset({"access_changed"}))
        if own and beside and _body(own) != _body(beside):
            edited = _body(beside) + own[len(_body(own)) :]
            yield Borrowed("edited", edited, frozenset({"invalid"}))

    def _cursor_at(self, seat: Seat) -> str | None:
        cursors = (one.cursor for one in self._arena.clients if one.seat == seat)
        return next(filter(None, cursors), None)

    def _cursor_beside(self, seat: Seat) -> str | None:
        """The newest of somebody who is there; cursors are as long as transaction ids are high."""
        cursors = (
            one.cursor for one in self._arena.clients
            if one.is_live and one.seat.bot == seat.bot and one.seat != seat
        )  # fmt: skip
        return next(filter(None, cursors), None)

    async def _try(self, seat: Seat, borrowed: Borrowed, choice: float) -> None:
        if borrowed.cursor is None:
            return
        record = Record(f"intruder {next(self._numbers)} ({borrowed.name})", seat)
        record.only_told = borrowed.reasons
        chance = random.Random(choice)
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(OPEN_SECONDS + STAY_SECONDS):
                    await self._visit(record, borrowed.cursor, chance)
            except (Closed, TimeoutError):
                pass  # the process is down, or has no database
            if record.greetings:
                self.records.append(record)
                return
            await asyncio.sleep(chance.random())

    async def _visit(self, record: Record, cursor: str, chance: random.Random) -> None:
        """Come, and write down what is shown for a while."""
        port, began = chance.choice(self._arena.relays).port, self._arena.clock()
        url = f"ws://127.0.0.1:{port}{record.seat.path}?cursor={cursor}"
        token = {"Authorization": f"Bearer {make_token(record.seat.user)}"}
        socket = await open_socket(url, token, OPEN_SECONDS)
        try:
            async with asyncio.timeout(STAY_SECONDS):
                while True:
                    self._see(record, json.loads(await socket.receive()), cursor, began)
        except TimeoutError:
            pass
        finally:
            socket.abort()

    def _see(self, record: Record, message: dict[str, Any], cursor: str, began: float) -> None:
        now, identifier = self._arena.clock(), event_id(message)
        if message["type"] == "connection_established":
            data = message["data"]
            said = data.get("recovered"), data.get("reason")
            record.greetings.append(Greeting(1, began, now, cursor, *said))
        elif identifier is not None:
            record.seen.append(Seen(identifier, now, 1))


def _body(cursor: str) -> str:
    """All of it but the signature."""
    return cursor.rpartition(".")[0]
