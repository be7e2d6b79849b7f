"""Access that is taken and given back while everything else goes on, and the record of it.

Each kind changes one user's access, waits, and gives it back; `Population.absences` says by which
transactions. A user whose access is being changed is busy, so that the changes of each have one
order. `drama` strikes these as it strikes faults.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count

import asyncpg

from tests.chaos.gate import Gate
from tests.chaos.ledger import Book
from tests.chaos.population import Absence, Bot, Population, Seat
from tests.chaos.scribe import OUTAGE, Scribe, Statement, connect
from tests.waiting import eventually

AWAY_SECONDS = (0.0, 3.0)
BUSY_LIMIT = 60.0
_REVOKE = "DELETE FROM permissions WHERE bot_id = $1 AND user_id = $2"
_GRANT = "INSERT INTO permissions (bot_id, user_id, role) VALUES ($1, $2, $3)"
_OWN = "UPDATE bots SET owner_id = $2 WHERE id = $1"
_ACTIVATE = "UPDATE users SET is_active = $2 WHERE id = $1"
_MESSAGE = """
INSERT INTO messages (session_id, bot_id, user_id, role, content)
VALUES ($1, $2, $3, 'user', jsonb_build_object('mark', $4::text, 'saw', '[]'::jsonb)::text)
"""
_MARK = "INSERT INTO chaos.ledger (mark, tag, topic) VALUES ($1, $2, $3)"


class Access:
    """Takes access and gives it back.

    Args:
        gate: to be passed by each transaction.
        lock: held from the beginning of a change to its end.
        call_back: called with a seat when its user has access again, and knows it.
    """

    def __init__(
        self,
        dsn: str,
        *,
        population: Population,
        book: Book,
        gate: Gate,
        lock: asyncio.Lock,
        call_back: Callable[[Seat], None],
    ) -> None:
        self._dsn = dsn
        self._population = population
        self._book = book
        self._gate = gate
        self._lock = lock
        self._scribe = Scribe(dsn, book, gate)
        self._call_back = call_back
        self._numbers = count(1)

    def kinds(self) -> dict[str, Callable[[random.Random], Awaitable[None]]]:
        """Every kind, by its name in the table."""
        kinds = {
            "revoke, grant": self.revoke_and_grant,
            "revoke and message in one transaction": self._revoke_with_messages,
            "message committed after the revoke": self._revoke_under_a_message,
            "role changed by DELETE and INSERT": self._replace,
            "ownership transferred and back": self._transfer,
            "user deactivated, reactivated": self._deactivate,
        }
        return {name: partial(self._alone, kind) for name, kind in kinds.items()}

    async def _alone(
        self, kind: Callable[[random.Random], Awaitable[None]], chance: random.Random
    ) -> None:
        async with self._lock:
            await kind(chance)

    async def close(self) -> None:
        await self._scribe.close()

    async def revoke_for_good(self, chance: random.Random, number: int) -> None:
        """At the end: some do not come back, so that nobody may be left in."""
        for viewer in chance.sample(self._population.viewers, number):
            seat = self._chat_seat(viewer, chance)
            await self._lose([seat], self._revocation(seat))

    # The kinds.

    async def revoke_and_grant(self, chance: random.Random) -> None:
        """For who holds the lock."""
        await self.give_back(await self.take(chance), chance)

    async def take(self, chance: random.Random) -> Seat:
        """Somebody's access, for who holds the lock."""
        seat = await self._viewer(chance)
        await self._lose([seat], self._revocation(seat))
        return seat

    async def _revoke_with_messages(self, chance: random.Random) -> None:
        """What the transaction writes first may be seen or not; what it writes after may not."""
        seat = await self._viewer(chance)
        tag = self._name()
        before, after = self._message(seat, tag, "before"), self._message(seat, tag, "after")
        await self._lose([seat], *before, self._revocation(seat), *after, tag=tag)
        await self.give_back(seat, chance)

    async def _revoke_under_a_message(self, chance: random.Random) -> None:
        """A message inserted before the revoke by another transaction, committed after it."""
        seat = await self._viewer(chance)
        tag = self._name()
        try:
            connection = await connect(self._dsn)
        except OUTAGE:
            connection = None
        try:
            is_open = await self._insert_open(connection, seat, tag)
            await self._lose([seat], self._revocation(seat))
            if connection is not None and is_open:
                await self._commit_late(connection, tag)
        finally:
            if connection is not None:
                connection.terminate()
        await self.give_back(seat, chance)

    async def _insert_open(
        self, connection: asyncpg.Connection[asyncpg.Record] | None, seat: Seat, tag: str
    ) -> bool:
        if connection is None:
            return False
        try:
            await connection.execute("BEGIN")
            for query, arguments in self._message(seat, tag, "late"):
                await connection.execute(query, *arguments)
        except OUTAGE:
            return False
        return True

    async def _commit_late(self, connection: asyncpg.Connection[asyncpg.Record], tag: str) -> None:
        async with self._gate.transaction():
            self._book.sent(tag)
            try:
                await connection.execute("COMMIT")
            except OUTAGE:
                return  # in doubt: the ledger knows
            self._book.acked(tag)

    async def _replace(self, chance: random.Random) -> None:
        """As some services change a role. Access is lost and given at the same moment."""
        seat = await self._viewer(chance)
        tag = self._name()
        role = chance.choice(["viewer", "editor", "admin"])
        await self._lose([seat], self._revocation(seat), self._grant(seat, role), tag=tag)
        self._gain([seat], tag)

    async def _transfer(self, chance: random.Random) -> None:
        """The old owner is out, unless a permission keeps them in; then back.

        The other one has access all the time. But the log names each new owner as one who gains it.
        """
        bot = chance.choice(self._population.bots)
        viewer = next(
            s.user for s in self._population.seats if s.bot == bot.id and s.user != bot.owner
        )
        owner = Seat(bot.owner, bot.id)
        await self._take_up(bot.owner, viewer)
        if chance.random() < 0.5:
            await self._transfer_with_permission(bot, owner, Seat(viewer, bot.id), chance)
        else:
            tag = self._name()
            await self._lose([owner], (_OWN, (bot.id, viewer)), tag=tag)
            self._population.shaken[Seat(viewer, bot.id)].append(tag)
            await self._wait(chance)
            tag = await self._write((_OWN, (bot.id, bot.owner)))
            self._population.shaken[Seat(viewer, bot.id)].append(tag)
            self._gain([owner], tag)
        self._population.busy.discard(viewer)

    async def _transfer_with_permission(
        self, bot: Bot, owner: Seat, viewer: Seat, chance: random.Random
    ) -> None:
        tag = await self._write(self._grant(owner, "admin"), (_OWN, (bot.id, viewer.user)))
        self._population.shaken[owner].append(tag)
        self._population.shaken[viewer].append(tag)
        await self._wait(chance)
        tag = await self._write((_OWN, (bot.id, bot.owner)))
        self._population.shaken[viewer].append(tag)
        tag = await self._write(self._revocation(owner))
        self._population.shaken[owner].append(tag)
        self._population.busy.discard(bot.owner)

    async def _deactivate(self, chance: random.Random) -> None:
        user = chance.choice(self._population.users)
        await self._take_up(user)
        seats = self._population.seats_of(user)
        await self._lose(seats, (_ACTIVATE, (user, False)))
        await self._wait(chance)
        self._gain(seats, await self._write((_ACTIVATE, (user, True))))

    # Their parts.

    async def _viewer(self, chance: random.Random) -> Seat:
        viewer = chance.choice(self._population.viewers)
        await self._take_up(viewer)
        return self._chat_seat(viewer, chance)

    def _chat_seat(self, user: str, chance: random.Random) -> Seat:
        return chance.choice([seat for seat in self._population.seats_of(user) if seat.bot])

    async def _take_up(self, *users: str) -> None:
        await eventually(lambda: not self._population.busy & set(users), limit=BUSY_LIMIT)
        self._population.busy.update(users)
        self._population.changes.update(users)

    async def _lose(self, seats: list[Seat], *statements: Statement, tag: str = "") -> None:
        # Entered first: nobody may count on somebody who is on the way out.
        tag = tag or self._name()
        for seat in seats:
            self._population.absences[seat].append(Absence(tag))
        await self._scribe.transact(tag, *statements)

    def _gain(self, seats: list[Seat], tag: str) -> None:
        for seat in seats:
            self._population.absences[seat][-1].gained = tag
            self._call_back(seat)
        self._population.busy.difference_update(seat.user for seat in seats)

    async def give_back(self, seat: Seat, chance: random.Random) -> None:
        await self._wait(chance)
        self._gain([seat], await self._write(self._grant(seat, "viewer")))

    async def _wait(self, chance: random.Random) -> None:
        await asyncio.sleep(chance.uniform(*AWAY_SECONDS))

    async def _write(self, *statements: Statement) -> str:
        tag = self._name()
        await self._scribe.transact(tag, *statements)
        return tag

    def _name(self) -> str:
        return f"access.{next(self._numbers)}"

    @staticmethod
    def _revocation(seat: Seat) -> Statement:
        return _REVOKE, (seat.bot, seat.user)

    @staticmethod
    def _grant(seat: Seat, role: str) -> Statement:
        return _GRANT, (seat.bot, seat.user, role)

    def _message(self, seat: Seat, tag: str, name: str) -> list[Statement]:
        bot = next(bot for bot in self._population.bots if bot.id == seat.bot)
        mark = f"{tag}.{name}"
        return [
            (_MARK, (mark, tag, bot.topic)),
            (_MESSAGE, (bot.session, bot.id, bot.owner, mark)),
        ]
