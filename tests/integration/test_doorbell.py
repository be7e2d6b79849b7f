"""The doorbell on a real server: two processes that silence it, sleep, and wait for each other.

What its rules come to in every order of events is shown by `tests/unit/test_doorbell_model.py`;
here, that Postgres does what that model says. Whole relays are in `test_doorbell_randomized.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from tornado.ioloop import IOLoop

from realtime.config.intervals import Intervals
from realtime.postgres import doorbell as module
from realtime.postgres.doorbell import ALIVE_SECONDS, Doorbell
from realtime.postgres.event_log import EventLog
from realtime.postgres.pool import HearingConnection, connect
from tests.integration.sql_log import insert_messages
from tests.platform import Platform
from tests.serving import World
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from realtime.postgres.pool import HearingConnection as Connection

ROUNDS = 250
NEVER = 1000.0
_WAITS_FOR_LOCK = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
_IS_SILENT = "SELECT pg_sequence_last_value('relay.bell') IS NOT DISTINCT FROM 2"


class Node(Doorbell):
    """A process's doorbell, and the connection that it is on."""

    def __init__(self, connection: Connection) -> None:
        self.id = str(uuid4())
        self.connection = connection
        super().__init__(connection, self.id, lambda _: None)


class Doors:
    """Opens what a test needs on its database, and closes all of it, whatever comes of the test."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._opened: list[Connection] = []

    async def node(self) -> Node:
        """One that listens, and has said nothing yet."""
        node = Node(await connect(self._dsn, 20))
        self._opened.append(node.connection)
        await node.listen()
        return node

    async def writer(self) -> Platform:
        writer = await Platform.connect(self._dsn)
        self._opened.append(writer.connection)
        return writer

    async def close(self) -> None:
        for connection in self._opened:
            connection.terminate()
        await asyncio.sleep(0)  # their sockets close on the next turn


@pytest.fixture
def doors(io_loop: IOLoop, database: str) -> Iterator[Doors]:
    doors = Doors(database)
    yield doors
    io_loop.run_sync(doors.close)


@pytest.fixture
def nodes(io_loop: IOLoop, doors: Doors) -> tuple[Node, Node]:
    return io_loop.run_sync(doors.node), io_loop.run_sync(doors.node)


async def is_silent(platform: Platform) -> bool:
    answer: bool = await platform.connection.fetchval(_IS_SILENT)
    return answer


async def sleeping(platform: Platform) -> int:
    """How many processes are known to sleep."""
    number: int = await platform.connection.fetchval(
        "SELECT count(*) FROM relay.nodes WHERE NOT awake"
    )
    return number


async def write(platform: Platform, world: World) -> int:
    """A message, in the transaction that is open; return its id."""
    await insert_messages(platform, world, 1)
    xid: int = await platform.connection.fetchval("SELECT pg_current_xact_id()")
    return xid


async def has_rung(node: Node, platform: Platform) -> bool:
    """Whether the bell has rung since it was last asked: rings are heard in the commits' order."""
    marked, hear = asyncio.Event(), node.connection.hear
    assert hear is not None

    def hear_mark(channel: str, payload: str) -> None:
        if channel == "mark":
            marked.set()
        else:
            hear(channel, payload)

    node.connection.hear = hear_mark
    await node.connection.execute("LISTEN mark")
    await platform.execute("NOTIFY mark")
    async with asyncio.timeout(LIMIT):
        await marked.wait()
    node.connection.hear = hear
    rung = await node._rung.wait(0.0)
    node._rung.clear()
    return rung


# Silent only while all are awake.


@pytest.mark.gen_test
async def test_the_bell_is_silenced_by_the_last_who_wakes(
    nodes: tuple[Node, Node], platform: Platform
) -> None:
    """And rings again as soon as one goes to sleep."""
    one, other = nodes
    await one.ring_on()
    await other.ring_on()
    await one.silence()
    assert not await is_silent(platform)
    await other.silence()
    assert await is_silent(platform)
    await one.ring_on()
    assert not await is_silent(platform)
    await other.silence()
    assert not await is_silent(platform)


@pytest.mark.gen_test
async def test_a_process_that_is_alone_silences_the_bell(
    nodes: tuple[Node, Node], platform: Platform
) -> None:
    """Nobody else has said anything, as before the first heartbeat."""
    await nodes[0].silence()
    assert await is_silent(platform)


@pytest.mark.gen_test
@pytest.mark.parametrize(("age", "counts"), [(ALIVE_SECONDS - 5, True), (ALIVE_SECONDS + 1, False)])
async def test_who_does_not_beat_does_not_count(
    nodes: tuple[Node, Node], platform: Platform, age: float, counts: bool
) -> None:
    """A process that died in its sleep does not keep the bell ringing for ever."""
    await nodes[1].ring_on()
    await platform.execute(
        "UPDATE relay.nodes SET heartbeat_at = clock_timestamp() - make_interval(secs => $1)", age
    )
    await nodes[0].silence()
    assert await is_silent(platform) is not counts


@pytest.mark.gen_test
@pytest.mark.parametrize("deed", ["silence", "ring_on"])
async def test_saying_so_is_a_heartbeat(
    nodes: tuple[Node, Node], platform: Platform, deed: str
) -> None:
    """So who comes back from a long pause counts from there on, with one row."""
    await nodes[0].ring_on()
    await platform.execute("UPDATE relay.nodes SET heartbeat_at = 'epoch'")
    await getattr(nodes[0], deed)()
    age = "SELECT clock_timestamp() - heartbeat_at < '5 s' AND awake = $1 FROM relay.nodes"
    assert await platform.connection.fetchval(age, deed == "silence")


@pytest.mark.gen_test
async def test_racing_never_leaves_a_sleeper_without_a_bell(
    nodes: tuple[Node, Node], platform: Platform
) -> None:
    """Both at once, over and over: silent only if both are awake."""
    seed = random.randrange(2**32)
    chance, silent = random.Random(seed), 0
    for _ in range(ROUNDS):
        deeds: list[Awaitable[Any]] = [
            node.silence() if chance.random() < 0.5 else node.ring_on() for node in nodes
        ]
        await asyncio.gather(*deeds)
        if await is_silent(platform):
            silent += 1
            assert not await sleeping(platform), f"seed {seed}"
    assert 0 < silent < ROUNDS


@pytest.mark.gen_test
@pytest.mark.parametrize("default", ["read committed", "repeatable read", "serializable"])
async def test_who_waited_for_the_lock_sees_what_was_done_under_it(
    nodes: tuple[Node, Node], doors: Doors, platform: Platform, default: str
) -> None:
    """Whatever the database's default isolation: a snapshot from before would miss the sleeper."""
    name = await platform.connection.fetchval("SELECT current_database()")
    await platform.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{default}'")
    late = await doors.node()
    for node in nodes:
        await node.silence()

    async def waits_for_lock() -> Any:
        return await platform.connection.fetchval(_WAITS_FOR_LOCK)

    async with platform.connection.transaction(isolation="read_committed"):
        await platform.execute(module.TAKE_TURN)
        silencing = asyncio.create_task(late.silence())
        await eventually(waits_for_lock)
        await platform.execute("UPDATE relay.nodes SET awake = false WHERE id = $1", nodes[0].id)
        await platform.execute("SELECT setval('relay.bell', 1)")
    await silencing
    assert not await is_silent(platform)
    assert await late.ring_on()
    assert await late.check()


# Writers.


@pytest.mark.gen_test
@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_the_bell_rings_at_once_for_everyone(
    nodes: tuple[Node, Node], platform: Platform, world: World, isolation: Any
) -> None:
    """Also for a writer whose snapshot is from when it was silent, and the other way about."""
    one = nodes[0]
    await one.silence()
    await has_rung(one, platform)  # as the tables were filled
    async with platform.connection.transaction(isolation=isolation):
        await platform.execute("SELECT FROM relay.nodes")  # here the snapshot is taken
        await one.ring_on()
        await insert_messages(platform, world, 1)
    assert await has_rung(one, platform)
    async with platform.connection.transaction(isolation=isolation):
        await platform.execute("SELECT FROM relay.nodes")
        await one.silence()
        await insert_messages(platform, world, 1)
    assert not await has_rung(one, platform)


@pytest.mark.gen_test
async def test_the_fence_is_above_whoever_found_the_bell_silent(
    nodes: tuple[Node, Node], doors: Doors, platform: Platform, world: World
) -> None:
    """Where a snapshot's xmax is below them, and would be no fence."""
    one = nodes[0]
    await one.silence()
    await has_rung(one, platform)  # as the tables were filled
    writers = [await doors.writer() for _ in range(3)]
    for writer in writers:
        await writer.execute("BEGIN")
    xids = [await write(writer, world) for writer in writers]
    xmax = await platform.connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())")
    assert xmax <= min(xids)
    fence = await one.ring_on()
    assert fence > max(xids)
    for xid, writer in zip(xids, writers, strict=True):
        assert await xmin_of_a_read(one) == xid
        await writer.execute("COMMIT")
    assert not await has_rung(one, platform)
    assert await xmin_of_a_read(one) > fence


async def xmin_of_a_read(node: Node) -> int:
    log = EventLog(node.connection)
    (page,) = [page async for page in log.read_all(await log.current_cursor())]
    return page.snapshot.xmin


# The check.


@pytest.mark.gen_test
async def test_what_the_check_finds(nodes: tuple[Node, Node], platform: Platform) -> None:
    """All is in order only if the bell rings and this process is known to sleep."""
    one, other = nodes
    assert not await one.check(), "nobody knows of it"
    await one.ring_on()
    assert await one.check()
    await platform.execute("SELECT setval('relay.bell', 2)")
    assert not await one.check(), "the bell is silent"
    await other.ring_on()
    assert await one.check()
    await platform.execute("UPDATE relay.nodes SET awake = true WHERE id = $1", one.id)
    assert not await one.check(), "it is said to be awake"
    await one.ring_on()
    await platform.execute("DELETE FROM relay.nodes WHERE id = $1", one.id)
    assert not await one.check(), "its row was removed"


@pytest.mark.gen_test
async def test_a_silence_that_was_rolled_back(nodes: tuple[Node, Node], platform: Platform) -> None:
    """A sequence does not go back with its transaction: whoever begins must switch it on."""
    await nodes[0].ring_on()
    await platform.execute("BEGIN")
    await platform.execute("SELECT setval('relay.bell', 2)")
    await platform.execute("ROLLBACK")
    assert await is_silent(platform)
    assert not await nodes[0].check()
    await nodes[1].ring_on()
    assert not await is_silent(platform)


# A queue that fills.


@pytest.mark.gen_test
async def test_nobody_rings_while_the_queue_is_full(doors: Doors, platform: Platform) -> None:
    """The check finds that in order, and the wait is short; when there is room, they ring again."""
    one = await doors.node()
    full = Doorbell(one.connection, one.id, lambda _: None, full=-1.0)
    await one.ring_on()
    assert not await is_silent(platform)
    assert not await full.check(), "it rings, though the queue is full"
    await full.ring_on()
    assert await is_silent(platform)
    assert await full.check()
    await full.wait(NEVER)
    assert not await one.check(), "it is silent, though there is room"
    await one.ring_on()
    assert not await is_silent(platform)
    assert await one.check()


@pytest.mark.gen_test
@pytest.mark.parametrize(("used", "bell"), [(0.1, 1), (0.11, 3), (0.5, 3), (0.51, 2)])
async def test_rings_carry_nothing_before_nobody_rings(
    doors: Doors, platform: Platform, used: float, bell: int
) -> None:
    """What they carry fills the queue sooner; the check finds that in order, and nothing else."""
    one = await doors.node()
    await platform.execute(
        "CREATE SCHEMA fake; CREATE FUNCTION fake.pg_notification_queue_usage() RETURNS float8"
        f" LANGUAGE sql RETURN {used}"
    )
    await one.connection.execute("SET search_path = fake, pg_catalog")
    await one.ring_on()
    ask = "SELECT pg_sequence_last_value('relay.bell')"
    assert await platform.connection.fetchval(ask) == bell
    assert await one.check()
    for other in {1, 2, 3} - {bell}:
        await platform.execute("SELECT setval('relay.bell', $1)", other)
        assert not await one.check()


# Hearing.


@pytest.mark.gen_test
async def test_who_has_paused_does_not_answer_old_rings(nodes: tuple[Node, Node]) -> None:
    """The read after the pause has; the next wait ends with the next ring."""
    one = nodes[0]
    one.ring()
    await one.pause(0.0)
    assert not await one._rung.wait(0.0)
    one.ring()
    assert await one._rung.wait(0.0)


@pytest.mark.gen_test
async def test_one_that_hears(nodes: tuple[Node, Node], platform: Platform) -> None:
    """Another connection's ring arrives, and is taken for a ring."""

    async def ring() -> None:
        await platform.execute("SELECT relay.tell('ring', '')")

    await nodes[0].try_hearing(ring)
    assert nodes[0].can_hear


@pytest.mark.gen_test
async def test_one_that_does_not_hear(nodes: tuple[Node, Node], platform: Platform) -> None:
    """As behind a transaction-mode pooler; then no wait is long, whatever is asked."""
    connection = nodes[0].connection
    one = Doorbell(connection, nodes[0].id, lambda _: None, intervals=Intervals(hearing=0.05))
    await connection.execute("UNLISTEN *")

    async def ring() -> None:
        await platform.execute("SELECT relay.tell('ring', '')")

    await one.try_hearing(ring)
    assert not one.can_hear
    await one.wait(NEVER)


@pytest.mark.gen_test
async def test_one_whose_connection_is_gone(nodes: tuple[Node, Node], platform: Platform) -> None:
    """It says so, when trying as when waiting, and does not take it for silence."""
    one = nodes[0]
    pid = await one.connection.fetchval("SELECT pg_backend_pid()")

    async def kill() -> None:
        await platform.execute("SELECT pg_terminate_backend($1, 5000)", pid)

    with pytest.raises(ConnectionError):
        await one.try_hearing(kill)
    with pytest.raises(ConnectionError):
        await one.wait(NEVER)


FULL_DISK = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON relay.nodes
    FOR EACH ROW EXECUTE FUNCTION full_disk()
"""


@pytest.mark.gen_test
async def test_one_that_cannot_say_that_it_sleeps(
    nodes: tuple[Node, Node], platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the disk is full: the log can be read, so it polls, and says so once."""
    one = nodes[0]
    await platform.execute(FULL_DISK)
    for _ in range(2):
        assert await one.ring_on() > 0
        assert not await one.check()
        await one.wait(NEVER)
    assert [str(record.msg).split()[0] for record in caplog.records] == ["listen_failed"]
    await platform.execute("DROP TRIGGER full_disk ON relay.nodes")
    await one.ring_on()
    assert await one.check()


# Rings that carry their event.


async def bell_of(platform: Platform) -> int:
    bell: int = await platform.connection.fetchval("SELECT pg_sequence_last_value('relay.bell')")
    return bell


async def has_heard(node: Node, platform: Platform, world: World) -> int:
    """How many events a process would deliver ahead of a read, of one that is written now."""
    await has_rung(node, platform)  # what was written before is heard
    node.inbox.read_is_sent()
    await platform.message(world.session, world.bot, world.owner)
    await has_rung(node, platform)
    return len(node.inbox.take())


@pytest.mark.gen_test
async def test_what_a_ring_carries_is_heard_by_who_has_a_fence(
    nodes: tuple[Node, Node], platform: Platform, world: World
) -> None:
    """Nobody else; and no longer once somebody has written without a ring."""
    node, other = nodes
    await node.ring_on()
    assert await has_heard(node, platform, world) == 1
    assert not other.inbox.take()
    await platform.execute("SET relay.quiet = 'on'")
    await platform.message(world.session, world.bot, world.owner)
    await platform.execute("RESET relay.quiet")
    assert await has_heard(node, platform, world) == 0
    assert node.inbox.is_stale
    await node.fence()
    assert await has_heard(node, platform, world) == 1


@pytest.mark.gen_test
async def test_who_silences_the_bell_makes_earlier_fences_stale(
    nodes: tuple[Node, Node], platform: Platform, world: World
) -> None:
    """As where it counts a process as dead that is not."""
    node, other = nodes
    await node.ring_on()
    await platform.execute("UPDATE relay.nodes SET heartbeat_at = 'epoch'")
    await other.silence()
    assert await is_silent(platform)
    await other.ring_on()
    assert await has_heard(node, platform, world) == 0
    assert await node.check() is True
    assert node.inbox.is_stale


@pytest.mark.gen_test
async def test_beside_a_process_of_the_release_before_nothing_is_carried(
    nodes: tuple[Node, Node], platform: Platform, world: World
) -> None:
    """It silences the bell without a word. When it is gone, a fence is due."""
    node, _ = nodes
    await node.ring_on()
    await platform.execute("INSERT INTO relay.nodes (id, awake) VALUES (gen_random_uuid(), true)")
    assert await node.check()
    assert await has_heard(node, platform, world) == 0
    await node.ring_on()
    assert await has_heard(node, platform, world) == 0
    await platform.execute("DELETE FROM relay.nodes WHERE release = 1")
    assert not await node.check()
    await node.ring_on()
    assert await has_heard(node, platform, world) == 1


@pytest.mark.gen_test
async def test_a_fence_beside_a_process_of_the_release_before_ends_what_was_carried(
    nodes: tuple[Node, Node], platform: Platform, world: World
) -> None:
    """Also where no check has found that process yet."""
    node, _ = nodes
    await node.ring_on()
    assert await has_heard(node, platform, world) == 1
    await platform.execute("INSERT INTO relay.nodes (id, awake) VALUES (gen_random_uuid(), true)")
    await node.fence()
    assert await has_heard(node, platform, world) == 0


@pytest.mark.gen_test
async def test_carrying_is_turned_off_for_writers_too(
    doors: Doors, platform: Platform, world: World
) -> None:
    """By the setting: the bell says so, and it is in order."""
    node = await doors.node()
    node._carries = False
    await node.ring_on()
    assert await bell_of(platform) == 3
    assert await node.check()
    assert await has_heard(node, platform, world) == 0
    node._carries = True
    assert not await node.check()


@asynccontextmanager
async def a_rotation(doors: Doors) -> AsyncIterator[Platform]:
    """What `bin/rotate channels` does before it changes the names: it has its turn, and says so."""
    rotator, other = await doors.writer(), await doors.writer()
    async with rotator.connection.transaction():
        await rotator.execute(module.TAKE_ROTATION_TURN)
        await other.execute("SELECT relay.tell('ring', $1)", module.RENAMING)
        yield rotator


@pytest.mark.gen_test
async def test_nothing_is_carried_between_two_names_of_the_channel(
    nodes: tuple[Node, Node], doors: Doors, platform: Platform, world: World
) -> None:
    """From the announcement until it listens to the new name, and has a fence."""
    node, _ = nodes
    await node.ring_on()
    async with a_rotation(doors) as rotator:
        assert await has_rung(node, platform)
        assert await has_heard(node, platform, world) == 0, "it may not hear all"
        await node.ring_on()
        assert await has_heard(node, platform, world) == 0, "the names are still the old ones"
        assert await node.check(), "there is nothing to be done about it yet"
        await rotator.execute("SELECT relay.rotate_channels()")
    assert not await node.check()
    await node.ring_on()
    assert await has_heard(node, platform, world) == 1


@pytest.mark.gen_test
async def test_an_announcement_that_is_heard_while_it_looks_counts(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is of before it."""
    node = await doors.node()
    ask = type(node._connection).fetchval

    async def asking(self: HearingConnection, query: str, *arguments: Any) -> Any:
        answer = await ask(self, query, *arguments)
        if query == module._HEARS_ALL:
            node._hear(module.RING_CHANNEL, module.RENAMING)
        return answer

    monkeypatch.setattr(HearingConnection, "fetchval", asking)
    await node.ring_on()
    assert not node.inbox.is_open


@pytest.mark.gen_test
async def test_a_rotation_that_breaks_off_ends_nothing_for_good(
    nodes: tuple[Node, Node], doors: Doors, platform: Platform, world: World
) -> None:
    """Once who announced new names is gone, there will be none, and rings carry again."""
    node, _ = nodes
    await node.ring_on()
    async with a_rotation(doors):
        assert await has_rung(node, platform)
        assert await node.check()
        assert not node.inbox.is_open
    assert not await node.check()
    await node.ring_on()
    assert await has_heard(node, platform, world) == 1


@pytest.mark.gen_test
async def test_who_begins_to_listen_during_a_rotation_is_carried_nothing(
    doors: Doors, platform: Platform, world: World
) -> None:
    """Nobody has told it of the new names."""
    async with a_rotation(doors) as rotator:
        node = await doors.node()
        await node.ring_on()
        assert await has_heard(node, platform, world) == 0
        await rotator.execute("SELECT relay.rotate_channels()")
        await node.ring_on()
        assert not node.inbox.is_open, "the next one may begin at once"
    assert not await node.check()
    await node.ring_on()
    assert await has_heard(node, platform, world) == 1
