"""Services that write plain SQL, each transaction of another kind, through every outage.

Mixed isolation, savepoints, rollbacks, long transactions, statements of many rows, contention,
two-phase commit with `relay.two_phase`, `relay.emit` and `relay.notify_user`, edits and deletions,
documents and bot settings. Every marked event says which events of its topic its writer could see
just before: who is shown it before one of these has been shown an effect before its cause.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count

import asyncpg

from tests.chaos.gate import Gate
from tests.chaos.ledger import Book
from tests.chaos.population import Bot, Population
from tests.chaos.scribe import OUTAGE, connect

ISOLATION = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
PAUSE_SECONDS = 0.3
"""Between two transactions of a writer, at most; half of that on average."""
LONG_SECONDS = 5.0
MAX_PREPARED = 2

_CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)
_SAW = """
SELECT id || '-' || relay.microseconds(written_at) AS id FROM relay.events
 WHERE topic = $1 ORDER BY xid DESC LIMIT 3
"""
_TAG = "INSERT INTO chaos.ledger (mark, tag) VALUES ($1, $1)"
_MESSAGES = """
WITH marked AS (
    INSERT INTO chaos.ledger (mark, tag, topic)
    SELECT $4::text || '.' || n, $5, 'bot:' || $2::uuid FROM generate_series(1, $7::int) AS n)
INSERT INTO messages (session_id, bot_id, user_id, role, content)
SELECT $1, $2, $3, 'user', json_build_object('mark', $4::text || '.' || n, 'saw', $6::text[])
  FROM generate_series(1, $7::int) AS n
"""
_MARK_ONE = "WITH marked AS (INSERT INTO chaos.ledger (mark, tag, topic) VALUES ($2, $3, $1))"
_DATA = "jsonb_build_object('mark', $2::text, 'saw', $4::text[])"
_MODERATED = """
WITH wanted (mark, moderation) AS (
    SELECT $4::text || '.' || n, (ARRAY['edit', 'delete', NULL])[n % 3 + 1]
      FROM generate_series(1, $7::int) AS n),
marked AS (
    INSERT INTO chaos.ledger (mark, tag, topic)
    SELECT mark, $5, CASE WHEN moderation = 'delete' THEN NULL ELSE 'bot:' || $2::uuid END
      FROM wanted)
INSERT INTO messages (session_id, bot_id, user_id, role, content, metadata)
SELECT $1, $2, $3, 'user', json_build_object('mark', mark, 'saw', $6::text[]),
       jsonb_strip_nulls(jsonb_build_object('moderation', moderation))
  FROM wanted
"""
"""A trigger of the platform edits some of the rows, and deletes others."""
_EMIT = f"{_MARK_ONE} SELECT relay.emit($1, 'marked', {_DATA})"
_NOTIFY = f"{_MARK_ONE} SELECT relay.notify_user(substr($1, 6)::uuid, 'marked', {_DATA})"
_RECENT = """
(SELECT id FROM messages WHERE bot_id = $1 ORDER BY created_at DESC LIMIT 1 FOR UPDATE SKIP LOCKED)
"""
_EDITS = (
    f"UPDATE messages SET metadata = jsonb_build_object('n', $2::text) WHERE id IN {_RECENT}",
    f"DELETE FROM messages WHERE id IN {_RECENT} AND $2::text IS NOT NULL",
    "UPDATE bots SET config = jsonb_build_object('n', $2::text) WHERE id = $1",
    "INSERT INTO documents (bot_id, filename) VALUES ($1, $2)",
    "UPDATE documents SET status = 'failed', error = $2 WHERE bot_id = $1 AND status = 'uploaded'",
)


class Writer:
    """One connection that writes, transaction after transaction.

    Args:
        number: sets its tags apart from other writers'.
        gate: to be passed by each transaction; None: none.
        is_durable: whether commits are flushed; others may be forgotten by a crash.
    """

    def __init__(
        self,
        dsn: str,
        number: int,
        *,
        seed: int,
        population: Population,
        book: Book,
        gate: Gate | None = None,
        is_durable: bool = True,
    ) -> None:
        self._dsn = dsn
        self._number = number
        self._random = random.Random(f"{seed}/writer {number}")
        self._population = population
        self._book = book
        self._gate = gate or Gate()
        self._is_durable = is_durable
        self._pause = PAUSE_SECONDS if is_durable else PAUSE_SECONDS / 10
        self._numbers = count(1)
        self._tag = ""
        self._prepared: list[str] = []
        self._connection: asyncpg.Connection[asyncpg.Record]
        self.endings: Counter[str] = Counter()
        """How many transactions of each kind ended how."""

    @property
    def transactions(self) -> int:
        return self.endings.total()

    async def run(self, stop: asyncio.Event) -> None:
        """Write until told to stop, and leave nothing open or prepared."""
        while not stop.is_set() or self._prepared:
            try:
                self._connection = await connect(self._dsn)
                if not self._is_durable:
                    # Who would end what holds a lock may wait at the gate.
                    await self._connection.execute(
                        "SET synchronous_commit = off; SET lock_timeout = '300ms'"
                    )
                try:
                    await self._write_until(stop)
                finally:
                    self._connection.terminate()
            except OUTAGE:
                await asyncio.sleep(self._random.random() / 5)

    async def _write_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.sleep(self._random.random() * self._pause)
            async with self._gate.transaction(self._end_all_prepared):
                await self._transact()
        async with self._gate.transaction(self._end_all_prepared):
            await self._end_all_prepared()

    async def _end_all_prepared(self) -> None:
        while self._prepared:
            await self._end_prepared()

    async def _transact(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [self._single, self._short, self._savepoints]
        kinds += [self._contend, self._long, self._many, self._edit]
        kinds += [self._prepare, self._end_prepared, self._moderated]
        # A transaction that is prepared flushes all that was committed before it.
        weights = [30, 20, 12, 10, 2, 4, 8, *((4, 5) if self._is_durable else (0, 0)), 6]
        kind = self._random.choices(kinds, weights)[0]
        self._tag = self._name()
        if not self._is_durable:
            self._book.asynchronous.add(self._tag)
        try:
            await kind()
        except _CONFLICTS:
            await self._connection.execute("ROLLBACK")
            self._book.took_back(self._tag)
            self.endings["conflict"] += 1

    # The kinds of transactions.

    async def _single(self) -> None:
        """One statement, without BEGIN."""
        bot = self._bot()
        saw = await self._look(bot.topic)
        self._book.sent(self._tag)
        await self._insert_messages(bot, saw, 1)
        self._book.acked(self._tag)
        self.endings["single statement"] += 1

    async def _short(self) -> None:
        await self._begin()
        await self._write_some()
        await self._end("short")

    async def _savepoints(self) -> None:
        await self._begin()
        for level in range(self._random.randint(1, 3)):
            await self._write_some()
            await self._connection.execute(f"SAVEPOINT s{level}")
            await self._write_some()
            if self._random.random() < 0.5:
                await self._connection.execute(f"ROLLBACK TO s{level}")
        await self._end("savepoints")

    async def _contend(self) -> None:
        await self._begin(self._random.choice(ISOLATION[1:]))
        await self._write_some()
        await self._connection.execute(
            "UPDATE chaos.contended SET times = times + 1 WHERE id = $1", self._random.randint(1, 3)
        )
        await self._write_some()
        await self._end("contended")

    async def _long(self) -> None:
        await self._begin()
        await self._write_some()
        await asyncio.sleep(self._random.random() * LONG_SECONDS * self._pause / PAUSE_SECONDS)
        await self._write_some()
        await self._end("long")

    async def _many(self) -> None:
        """Mostly a few dozen rows; sometimes more than one page of the relay's reading."""
        await self._begin(ISOLATION[0])
        bot = self._bot()
        rows = 1300 if self._random.random() < 0.08 else self._random.randint(20, 80)
        await self._insert_messages(bot, await self._look(bot.topic), rows)
        await self._end("many rows")

    async def _moderated(self) -> None:
        await self._begin()
        bot = self._bot()
        saw, rows = await self._look(bot.topic), self._random.randint(1, 6)
        await self._insert_messages(bot, saw, rows, _MODERATED)
        await self._end("moderated")

    async def _edit(self) -> None:
        await self._begin(ISOLATION[0])
        await self._connection.execute(_TAG, self._tag)
        edit, bot = self._random.choice(_EDITS), self._bot()
        await self._connection.execute(edit, bot.id, self._tag)
        await self._end("edit")

    async def _prepare(self) -> None:
        if len(self._prepared) == MAX_PREPARED:
            return await self._end_prepared()
        await self._begin()
        await self._connection.execute("SET LOCAL relay.two_phase = 'on'")
        await self._write_some()
        # Remembered first: if the answer is lost, it is looked for.
        self._prepared.append(self._tag)
        try:
            await self._connection.execute(f"PREPARE TRANSACTION '{self._tag}'")
        except _CONFLICTS:
            self._prepared.remove(self._tag)
            raise
        return None

    async def _end_prepared(self) -> None:
        if not self._prepared:
            return
        tag = self._prepared[0]
        commits = self._random.random() < 0.8
        if commits:
            self._book.sent(tag)
        try:
            await self._connection.execute(
                f"{'COMMIT' if commits else 'ROLLBACK'} PREPARED '{tag}'"
            )
        except asyncpg.ObjectNotInPrerequisiteStateError:
            return  # whoever was at it when we were cut off is still at it: later
        except asyncpg.UndefinedObjectError:
            # An outage came between an order and its answer. The ledger knows how it went.
            self.endings["prepared, in doubt"] += 1
        else:
            (self._book.acked if commits else self._book.took_back)(tag)
            self.endings["prepared" if commits else "prepared, rolled back"] += 1
        self._prepared.remove(tag)

    # Their parts.

    async def _begin(self, isolation: str | None = None) -> None:
        isolation = isolation or self._random.choices(ISOLATION, [6, 3, 1])[0]
        await self._connection.execute(f"BEGIN ISOLATION LEVEL {isolation}")

    async def _end(self, kind: str) -> None:
        if self._random.random() < 0.15:
            await self._connection.execute("ROLLBACK")
            self._book.took_back(self._tag)
            self.endings[f"{kind}, rolled back"] += 1
            return
        self._book.sent(self._tag)
        await self._connection.execute("COMMIT")
        self._book.acked(self._tag)
        self.endings[kind] += 1

    async def _write_some(self) -> None:
        for _ in range(self._random.randint(1, 2)):
            if self._random.random() < 0.5:
                bot = self._bot()
                rows = self._random.choice([1, 1, 2, 5])
                await self._insert_messages(bot, await self._look(bot.topic), rows)
            else:
                await self._emit_or_notify()

    async def _insert_messages(
        self, bot: Bot, saw: list[str], rows: int, query: str = _MESSAGES
    ) -> None:
        ids = [bot.session, bot.id, bot.owner]
        await self._connection.execute(query, *ids, self._name(), self._tag, saw, rows)

    async def _emit_or_notify(self) -> None:
        emits = self._random.random() < 0.6
        topic = (
            self._bot().topic if emits else f"user:{self._random.choice(self._population.users)}"
        )
        saw = await self._look(topic)
        query = _EMIT if emits else _NOTIFY
        await self._connection.execute(query, topic, self._name(), self._tag, saw)

    async def _look(self, topic: str) -> list[str]:
        return [row["id"] for row in await self._connection.fetch(_SAW, topic)]

    def _bot(self) -> Bot:
        return self._random.choice(self._population.bots)

    def _name(self) -> str:
        return f"w{self._number}.{next(self._numbers)}"
