"""`relay.connections`: what a process writes of its sockets, and what it makes of the others'."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from realtime.postgres import socket_table as module
from realtime.postgres.doorbell import ALIVE_SECONDS
from realtime.postgres.socket_table import SocketTable
from realtime.relay.errors import Refused
from realtime.relay.presence import Person
from realtime.relay.protocol import bot_topic, user_topic
from realtime.relay.subscriber import HoldLimit, Subscriber
from tests.integration.nodes import FREQUENT
from tests.platform import Platform
from tests.unit.relay_fakes import START, make_hub
from tests.waiting import eventually

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool


class Nowhere:
    """A way to no socket."""

    def send(self, frames: bytes) -> None: ...

    def send_rest(self, frames: bytes, sent: int) -> None: ...

    def lend(self, withdraw: object) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    @staticmethod
    def frame(_messages: object) -> bytes:
        return b""

    is_idle = True
    waiting_bytes = 0


class Process:
    """The sockets of one process, and what it writes of them."""

    def __init__(self, pool: Pool, max_people: int = 1000) -> None:
        self.node_id = str(uuid4())
        self.hub = make_hub()
        self.connections = SocketTable(
            pool, self.node_id, self.hub, timeout=5, intervals=FREQUENT, max_people=max_people
        )

    @property
    def sockets(self) -> set[str]:
        """The ids of those that it has."""
        return {one.connection_id for one in self.hub.subscribers.joined()}

    async def beat(self, platform: Platform, *, age: float = 0.0) -> None:
        await platform.execute(
            "INSERT INTO relay.nodes (id, heartbeat_at)"
            " VALUES ($1, now() - make_interval(secs => $2))"
            " ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at",
            self.node_id,
            age,
        )

    def come(self, topic: str, user_id: str, username: str = "gus") -> Subscriber:
        socket = Subscriber(topic, str(uuid4()), Nowhere(), opened_at=1000.5, hold=HoldLimit(0))
        self.hub.subscribe(socket)
        self.hub.identify(socket, user_id, username)
        self.hub.go_live(socket, START)
        return socket

    def go(self, socket: Subscriber) -> None:
        self.hub.unsubscribe(socket)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.connections.keep_writing())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def written(platform: Platform) -> set[str]:
    rows = await platform.connection.fetch("SELECT id::text FROM relay.connections")
    return {row["id"] for row in rows}


async def becomes_true(platform: Platform, process: Process) -> None:
    async def is_true() -> bool:
        return await written(platform) == process.sockets

    await eventually(is_true)


@pytest.mark.gen_test
async def test_comings_and_goings_are_written(pool: Pool, platform: Platform) -> None:
    """With who it is and since when; who came and went in between never was."""
    process = Process(pool)
    await process.beat(platform)
    bot, user = str(uuid4()), str(uuid4())
    async with process.writing():
        stays = process.come(bot_topic(bot), user, "Zoë 🦉")
        goes, passes = (process.come(user_topic(user), user) for _ in range(2))
        process.go(passes)
        await becomes_true(platform, process)
        process.go(goes)
        await becomes_true(platform, process)
    row = await platform.connection.fetchrow(
        "SELECT node_id::text, topic, user_id::text, username,"
        " extract(epoch FROM opened_at)::float8 FROM relay.connections WHERE id = $1",
        stays.connection_id,
    )
    assert row is not None
    assert tuple(row) == (process.node_id, bot_topic(bot), user, "Zoë 🦉", 1000.5)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "harm",
    [
        "TRUNCATE relay.connections",
        "DELETE FROM relay.connections WHERE username = 'is lost'",
        "INSERT INTO relay.connections SELECT gen_random_uuid(), node_id, topic, user_id,"
        " username, now() FROM relay.connections LIMIT 1",
    ],
    ids=["a crash", "a loss", "a ghost"],
)
async def test_what_is_not_true_is_mended(
    pool: Pool,
    platform: Platform,
    harm: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever happened to the table; also while sockets come and go."""
    caplog.set_level(logging.INFO)
    process = Process(pool)
    await process.beat(platform)
    async with process.writing():
        names = ["goes", "is lost", *(["stays"] * 8)]
        sockets = [process.come(bot_topic(str(uuid4())), str(uuid4()), name) for name in names]
        await becomes_true(platform, process)
        await platform.execute(harm)
        process.go(sockets[0])
        process.come(bot_topic(str(uuid4())), str(uuid4()))
        await becomes_true(platform, process)
    assert "socket_table_repaired" in caplog.text


@pytest.mark.gen_test
async def test_writes_that_failed_are_made_up_for(
    pool: Pool, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """During an outage nothing is collected; after it, only the difference is written."""
    process = Process(pool)
    await process.beat(platform)
    async with process.writing():
        kept = [process.come(bot_topic(str(uuid4())), str(uuid4())) for _ in range(5)]
        await becomes_true(platform, process)
        await platform.execute("ALTER TABLE relay.connections RENAME TO away")
        process.go(kept[0])
        await eventually(lambda: "socket_table_write_failed" in caplog.text)
        for _ in range(20):
            process.go(process.come(bot_topic(str(uuid4())), str(uuid4())))
        process.come(bot_topic(str(uuid4())), str(uuid4()))
        assert not process.connections._came
        assert not process.connections._gone
        await platform.execute("ALTER TABLE relay.away RENAME TO connections")
        await becomes_true(platform, process)


@pytest.mark.gen_test
async def test_a_process_that_others_took_for_dead_comes_back(
    pool: Pool, platform: Platform
) -> None:
    """Its rows went with its node's, and cannot be written before its next heartbeat."""
    process = Process(pool)
    await process.beat(platform)
    async with process.writing():
        process.come(bot_topic(str(uuid4())), str(uuid4()))
        await becomes_true(platform, process)
        await platform.execute("DELETE FROM relay.nodes")
        process.come(bot_topic(str(uuid4())), str(uuid4()))
        await process.beat(platform)
        await becomes_true(platform, process)


@pytest.mark.gen_test
async def test_the_living_elsewhere_are_counted_and_listed(pool: Pool, platform: Platform) -> None:
    """Without what is here already; not those of the dead, and never one's own."""
    here, there, dead = Process(pool), Process(pool), Process(pool)
    for process, age in ((here, 0.0), (there, 0.0), (dead, ALIVE_SECONDS + 5)):
        await process.beat(platform, age=age)
    shared, other = str(uuid4()), str(uuid4())
    bot, their_bot = bot_topic(str(uuid4())), bot_topic(str(uuid4()))
    async with here.writing(), there.writing(), dead.writing():
        here.come(bot, shared)
        dead.come(bot_topic(str(uuid4())), str(uuid4()))
        for topic, user in (
            (bot, shared),
            (bot, other),
            (their_bot, other),
            (user_topic(other), other),
        ):
            there.come(topic, user, f"name of {user}")
        total = 6

        async def are_written() -> bool:
            return len(await written(platform)) == total

        await eventually(are_written)
    assert tuple(await here.connections.count([shared], [bot])) == (1, 4, 1, 1)
    assert tuple(await here.connections.count([], [])) == (1, 4, 2, 2)
    everyone = await here.connections.page(None, 10)
    ids = [one.connection_id for one in everyone]
    assert ids == sorted(there.sockets)
    assert await here.connections.page(None, 3) == everyone[:3]
    assert await here.connections.page(ids[1], 10) == everyone[2:]
    assert {one.node_id for one in everyone} == {there.node_id}
    assert {one.opened_at for one in everyone} == {1000.5}


@pytest.mark.gen_test
async def test_people_elsewhere_are_listed_by_topic_and_user(
    pool: Pool, platform: Platform
) -> None:
    """Each once, since the oldest of their sockets; not the dead, nor what is only here."""
    here, there, third, dead = (Process(pool) for _ in range(4))
    for process, age in ((here, 0.0), (there, 0.0), (third, 0.0), (dead, ALIVE_SECONDS + 5)):
        await process.beat(platform, age=age)
    shared, other = sorted(str(uuid4()) for _ in range(2))
    bot, quiet, unasked = (bot_topic(str(uuid4())) for _ in range(3))
    async with here.writing(), there.writing(), third.writing(), dead.writing():
        here.come(bot, str(uuid4()))
        dead.come(bot, str(uuid4()))
        third.come(bot, shared, "later").opened_at = 2000.0
        for topic, user in ((bot, shared), (bot, shared), (bot, other), (unasked, other)):
            there.come(topic, user)
        for process in (here, there, third, dead):
            await eventually(lambda process=process: not process.connections._came)
        total = 7

        async def are_written() -> bool:
            return len(await written(platform)) == total

        await eventually(are_written)
        people = {user: Person(user, "gus", 1000.5) for user in (shared, other)}
        assert await here.connections.people_on([bot, quiet]) == {bot: people, quiet: {}}
        assert await here.connections.people_on([]) == {}
        few = SocketTable(pool, here.node_id, here.hub, timeout=5, intervals=FREQUENT, max_people=0)
        assert await few.people_on([bot]) == {bot: {shared: people[shared]}}


@pytest.mark.gen_test
async def test_no_answer_is_said_to_be_none(
    pool: Pool, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """And never taken for nobody."""
    await platform.execute("ALTER TABLE relay.connections RENAME TO away")
    connections = Process(pool).connections
    for question in (
        connections.count([], []),
        connections.page(None, 1),
        connections.people_on(["bot:x"]),
    ):
        with pytest.raises(Refused, match="cannot be asked"):
            await question
    assert "query_failed" in caplog.text


class Watched(SocketTable):
    """Says what it does."""

    def __init__(self, pool: Pool, process: Process, **how: int) -> None:
        super().__init__(pool, process.node_id, process.hub, timeout=5, intervals=FREQUENT, **how)
        self.steps = self.writes = self.rows = 0

    async def _step(self, *, is_checked: bool) -> None:
        await super()._step(is_checked=is_checked)
        self.steps += 1

    async def _write_portion(self, connection: Any, came: Any, gone: Any) -> None:
        await super()._write_portion(connection, came, gone)
        self.writes += 1
        self.rows = max(self.rows, len(came), len(gone))


@pytest.mark.gen_test
async def test_nothing_is_written_where_nothing_changed(pool: Pool, platform: Platform) -> None:
    """One statement for a whole batch, and then the rows are only counted."""
    process = Process(pool)
    process.connections = watched = Watched(pool, process)
    await process.beat(platform)
    async with process.writing():
        for _ in range(50):
            process.come(bot_topic(str(uuid4())), str(uuid4()))
        await becomes_true(platform, process)
        await eventually(lambda: watched.steps > 3 * module.COUNT_EVERY)
    assert watched.writes == 1


@pytest.mark.gen_test
async def test_much_is_written_in_portions(pool: Pool, platform: Platform) -> None:
    """Coming, going, and mending: a statement has few rows, however many there are."""
    process = Process(pool)
    process.connections = watched = Watched(pool, process, portion_rows=4)
    await process.beat(platform)
    async with process.writing():
        sockets = [process.come(bot_topic(str(uuid4())), str(uuid4())) for _ in range(30)]
        await becomes_true(platform, process)
        assert (watched.writes, watched.rows) == (8, 4)
        for socket in sockets[:17]:
            process.go(socket)
        process.come(bot_topic(str(uuid4())), str(uuid4()))
        await becomes_true(platform, process)
        assert (watched.writes, watched.rows) == (13, 4)
        await platform.execute("DELETE FROM relay.connections")
        await becomes_true(platform, process)
    assert (watched.writes, watched.rows) == (17, 4)


@pytest.mark.gen_test
async def test_what_was_written_before_a_failure_stays(
    pool: Pool, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """So a table of which a part can be written at a time is whole at last."""
    process = Process(pool)
    process.connections = Watched(pool, process, portion_rows=2)
    await process.beat(platform)
    await platform.execute(
        "ALTER TABLE relay.connections ADD CONSTRAINT a_few CHECK (username <> 'not this one')"
    )
    names = [*(["first"] * 4), "not this one", *(["later"] * 3)]
    sockets = [process.come(bot_topic(str(uuid4())), str(uuid4()), name) for name in names]
    async with process.writing():
        await eventually(lambda: "socket_table_write_failed" in caplog.text)
        assert await written(platform) >= {one.connection_id for one in sockets[:4]}
        await platform.execute("ALTER TABLE relay.connections DROP CONSTRAINT a_few")
        await becomes_true(platform, process)
