"""Writers of every kind at once, and readers beside them, for the tests of the event log.

Each event says which writer made it and which events that writer could see on the topic just
before, so that a reader's order can be held against what was known to whom. A ledger keeps what
was committed, what was undone, and what a crash left in doubt.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

import asyncpg

from realtime.postgres.event_log import EventLog
from realtime.postgres.pool import connect
from realtime.relay.cursor import Anchor, Cursor, newer
from realtime.relay.events import Event
from realtime.relay.reader import PORTION_ROWS
from tests.platform import Platform
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from realtime.relay.events import Page

    Connection = asyncpg.Connection[asyncpg.Record]

ISOLATION = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
LONG_READS = 20
"""A long transaction stays open until the log was read so many times more."""

_SAW = """
SELECT id FROM relay.events WHERE topic = $1 AND payload IS NOT NULL ORDER BY xid DESC LIMIT 3
"""
_MESSAGES = """
INSERT INTO messages (session_id, bot_id, user_id, role, content)
SELECT $1, $2, $3, 'user', json_build_object('mark', $4::text || '.' || n, 'saw', $5::bigint[])
  FROM generate_series(1, $6::int) AS n
"""
_EMIT = "SELECT relay.emit($1, 'marked', jsonb_build_object('mark', $2::text, 'saw', $3::bigint[]))"
_CONTEND = "UPDATE contended SET times = times + 1 WHERE id = $1"
_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_OUTAGE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # "shutting down", "starting up"
    asyncpg.InterfaceError,
    OSError,
)
TOPIC = "bot:00000000-0000-4000-8000-000000000000"
"""Of the cursors that a reader goes on from."""


class Mark(NamedTuple):
    """What an event of these writers says of itself."""

    mark: str
    saw: Sequence[int]


def mark_of(payload: str) -> Mark:
    """Read an event's mark out of a finished message, a row's or an emitted one."""
    data = json.loads(payload)["data"]
    said = json.loads(data["content"]) if "content" in data else data
    return Mark(said["mark"], said["saw"])


class Place(NamedTuple):
    """Where to write: a bot's topic, and what a message needs."""

    bot: str
    session: str
    user: str

    @property
    def topic(self) -> str:
        return f"bot:{self.bot}"


async def make_places(platform: Platform, number: int) -> list[Place]:
    """Bots to write to, and the table over which writers fall out with each other."""
    await platform.execute("CREATE TABLE contended (id int PRIMARY KEY, times int DEFAULT 0)")
    await platform.execute("INSERT INTO contended SELECT generate_series(1, 3)")
    user = await platform.user()
    bots = [await platform.bot(user) for _ in range(number)]
    return [Place(bot, await platform.session(bot, user), user) for bot in bots]


@dataclass
class Ledger:
    """What became of the events' marks."""

    committed: set[str] = field(default_factory=set)
    undone: set[str] = field(default_factory=set)
    in_doubt: set[str] = field(default_factory=set)
    endings: Counter[str] = field(default_factory=Counter)
    """How many transactions ended how; a test asks whether every kind occurred."""


class Writer:
    """One connection that writes, transaction after transaction, each of another kind.

    Args:
        number: sets its marks apart from other writers'.
        reads: how many times the log has been read.
    """

    def __init__(
        self,
        dsn: str,
        number: int,
        seed: str,
        *,
        places: Sequence[Place],
        ledger: Ledger,
        reads: Callable[[], int],
    ) -> None:
        self._dsn = dsn
        self._number = number
        self._random = random.Random(f"{seed}/writer {number}")
        self._places = places
        self._ledger = ledger
        self._reads = reads
        self._numbers = count(1)
        self._written: list[str] = []
        self._prepared: dict[str, list[str]] = {}
        self._connection: Connection

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Write until it is over, through every outage, and leave nothing open or prepared."""
        while not is_over() or self._prepared:
            try:
                self._connection = await asyncpg.connect(self._dsn, timeout=LIMIT)
                while not is_over():
                    await self._transact()
                while self._prepared:
                    await self._end_prepared()
                await self._connection.close(timeout=LIMIT)
            except _OUTAGE:
                # What had not been told to commit has not been committed.
                self._settle(self._ledger.undone, "lost")
                await asyncio.sleep(self._random.random() / 10)

    async def _transact(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [self._short, self._savepoints, self._contend]
        kinds += [self._long, self._bulk, self._copy, self._prepare, self._end_prepared]
        kind = self._random.choices(kinds, [30, 15, 15, 3, 2, 2, 5, 6])[0]
        await asyncio.sleep(self._random.random() / 100)  # nobody writes all the time
        try:
            await kind()
        except _CONFLICTS:
            await self._connection.execute("ROLLBACK")
            self._settle(self._ledger.undone, "conflict")

    # The kinds of transactions.

    async def _short(self) -> None:
        await self._begin()
        await self._write_some()
        await self._end("short")

    async def _savepoints(self) -> None:
        await self._begin()
        for level in range(self._random.randint(1, 4)):
            await self._write_some()
            await self._connection.execute(f"SAVEPOINT s{level}")
            before = len(self._written)
            await self._write_some()
            if self._random.random() < 0.5:
                await self._connection.execute(f"ROLLBACK TO s{level}")
                self._ledger.undone.update(self._written[before:])
                del self._written[before:]
        await self._end("savepoints")

    async def _contend(self) -> None:
        await self._begin(self._random.choice(ISOLATION[1:]))
        await self._write_some()
        await self._connection.execute(_CONTEND, self._random.randint(1, 3))
        await self._write_some()
        await self._end("contended")

    async def _long(self) -> None:
        await self._begin()
        await self._write_some()
        until = self._reads() + LONG_READS
        await eventually(lambda: self._reads() >= until, what="reads to go on")
        await self._write_some()
        await self._end("long")

    async def _bulk(self) -> None:
        await self._begin(ISOLATION[0])
        await self._write(self._random.randint(1500, 3000))
        await self._end("bulk")

    async def _copy(self) -> None:
        place = self._random.choice(self._places)
        await self._begin(ISOLATION[0])
        mark, saw = self._new_mark(), await self._look(place)
        marks = [f"{mark}.{n}" for n in range(1, self._random.randint(1000, 2000))]
        self._written += marks
        await self._connection.copy_records_to_table(
            "messages",
            columns=["session_id", "bot_id", "user_id", "role", "content"],
            records=[
                (place.session, place.bot, place.user, "user", json.dumps(Mark(one, saw)._asdict()))
                for one in marks
            ],
        )
        await self._end("copy")

    async def _prepare(self) -> None:
        if len(self._prepared) == 2:
            return await self._end_prepared()
        await self._begin()
        await self._connection.execute("SET LOCAL relay.two_phase = 'on'")
        await self._write_some()
        name = self._new_mark()
        # Remembered first: if the answer is lost, it is looked for.
        self._prepared[name], self._written = self._written, []
        try:
            await self._connection.execute(f"PREPARE TRANSACTION '{name}'")
        except _CONFLICTS:
            self._written = self._prepared.pop(name)
            raise
        return None

    async def _end_prepared(self) -> None:
        if not self._prepared:
            return
        name = next(iter(self._prepared))
        ending = self._random.choice(["COMMIT", "ROLLBACK"])
        try:
            await self._connection.execute(f"{ending} PREPARED '{name}'")
        except asyncpg.UndefinedObjectError:
            # A crash came between the order and its answer, here or at PREPARE.
            self._ledger.in_doubt.update(self._prepared.pop(name))
            return
        is_committed = ending == "COMMIT"
        fate = self._ledger.committed if is_committed else self._ledger.undone
        fate.update(self._prepared.pop(name))
        self._ledger.endings[f"{ending} PREPARED"] += 1

    # Their parts.

    async def _begin(self, isolation: str | None = None) -> None:
        isolation = isolation or self._random.choices(ISOLATION, [6, 3, 1])[0]
        await self._connection.execute(f"BEGIN ISOLATION LEVEL {isolation}")

    async def _end(self, kind: str) -> None:
        if self._random.random() < 0.2:
            await self._connection.execute("ROLLBACK")
            self._settle(self._ledger.undone, f"{kind}, rolled back")
            return
        try:
            await self._connection.execute("COMMIT")
        except _OUTAGE:
            self._settle(self._ledger.in_doubt, f"{kind}, in doubt")
            raise
        self._settle(self._ledger.committed, kind)

    def _settle(self, fate: set[str], ending: str) -> None:
        fate.update(self._written)
        self._written = []
        self._ledger.endings[ending] += 1

    async def _write_some(self) -> None:
        for _ in range(self._random.randint(1, 3)):
            await self._write(self._random.choice([1, 1, 1, 1, 5, 20]))

    async def _write(self, rows: int) -> None:
        place = self._random.choice(self._places)
        mark, saw = self._new_mark(), await self._look(place)
        if rows == 1 and self._random.random() < 0.5:
            self._written.append(mark)
            await self._connection.execute(_EMIT, place.topic, mark, saw)
            return
        self._written += [f"{mark}.{n}" for n in range(1, rows + 1)]
        await self._connection.execute(
            _MESSAGES, place.session, place.bot, place.user, mark, saw, rows
        )

    async def _look(self, place: Place) -> list[int]:
        return [row["id"] for row in await self._connection.fetch(_SAW, place.topic)]

    def _new_mark(self) -> str:
        return f"{self._number}.{next(self._numbers)}"


async def _with_payloads(log: EventLog, found: list[Event], cursor: Cursor) -> list[Event]:
    """As the relay does with what was too much for one answer: by portions, in the order of ids."""
    if all(event.payload is not None for event in found):
        return found
    keys = [event.key for event in sorted(found, key=lambda event: event.id)]
    portions = [keys[start : start + PORTION_ROWS] for start in range(0, len(keys), PORTION_ROWS)]
    return [event for portion in portions for event in await log.payloads(portion, cursor)]


class Reader:
    """Reads as the relay does, at moments of its own, and keeps all that it was given.

    Args:
        is_restless: it also breaks reads off and goes on elsewhere, with its cursor's text.
    """

    def __init__(self, dsn: str, name: str, seed: str, *, is_restless: bool) -> None:
        self._dsn = dsn
        self._random = random.Random(f"{seed}/reader {name}")
        self._is_restless = is_restless
        self._connection: Connection | None = None
        self._cursor: Cursor | None = None
        self.name = name
        self.events: list[Event] = []
        self.reads = 0
        self.paged_reads = 0
        self.moves = 0

    async def run(self) -> NoReturn:
        """Read for ever, through every outage; cancel to end, then call `finish`."""
        while True:
            try:
                await self.read()
            except _OUTAGE:
                self.close()
            await asyncio.sleep(self._random.random() / 50)  # at random moments

    async def finish(self) -> None:
        """Read what is left. Every writer must have ended."""
        self.close()
        self._is_restless = False
        await self.read()
        self.close()

    async def read(self) -> None:
        """Read once. What was read of one that breaks off does not count; it is read again."""
        log = EventLog(await self._connected())
        if self._cursor is None:
            self._cursor = await log.current_cursor()
        found: list[Event] = []
        newest: Anchor | None = None
        reading = cast("AsyncGenerator[Page, None]", log.read_all(self._cursor))
        async with aclosing(reading) as pages:
            async for page in pages:
                found += page.events
                newest = newer(newest, page.newest)
                if page.is_last:
                    break
                if self._is_restless and self._random.random() < 0.1:
                    return await self._move()
        found = await _with_payloads(log, found, self._cursor)
        self._cursor = self._cursor.after(page.snapshot, newest)
        self.events += found
        self.reads += 1
        self.paged_reads += len(found) > 1000
        if self._is_restless and self._random.random() < 0.1:
            return await self._move()
        return None

    async def _move(self) -> None:
        """Go on from the cursor's text alone, over another connection."""
        assert self._cursor is not None
        signer = await EventLog(await self._connected()).signer()
        self.close()
        text = signer.write(self._cursor, TOPIC)
        if text is not None:
            self._cursor = signer.read(text, TOPIC)
        self.moves += 1

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn, 30)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def check(dsn: str, ledger: Ledger, readers: Iterable[Reader], seed: str) -> None:
    """Hold what was read against what is in the log and what the writers know.

    The log's table is asked what of the doubtful was committed.
    """
    connection = await asyncpg.connect(dsn, timeout=LIMIT)
    try:
        rows = await connection.fetch("SELECT payload FROM relay.events WHERE payload ~ 'mark'")
    finally:
        await connection.close(timeout=LIMIT)
    there = {mark_of(row["payload"]).mark for row in rows}
    assert len(there) == len(rows), f"seed {seed}: marks are not unique"
    assert not ledger.committed - there, f"seed {seed}: committed, but not in the log"
    assert not ledger.undone & there, f"seed {seed}: undone, but in the log"
    assert there <= ledger.committed | ledger.in_doubt, f"seed {seed}: from nowhere"
    for reader in readers:
        _check_reader(reader, there, seed)


def _check_reader(reader: Reader, there: set[str], seed: str) -> None:
    where = f"seed {seed}, reader {reader.name}"
    marks = [mark_of(event.payload or "") for event in reader.events]
    times = Counter(mark.mark for mark in marks)
    assert not there - times.keys(), f"{where}: never read: {sorted(there - times.keys())[:10]}"
    assert not times.keys() - there, (
        f"{where}: never committed: {sorted(times.keys() - there)[:10]}"
    )
    again = [mark for mark, number in times.items() if number > 1]
    assert not again, f"{where}: read more than once: {again[:10]}"
    place = {event.id: number for number, event in enumerate(reader.events)}
    for number, mark in enumerate(marks):
        late = [saw for saw in mark.saw if place[saw] >= number]
        assert not late, f"{where}: {mark.mark} came before {late}, which its writer had seen"
