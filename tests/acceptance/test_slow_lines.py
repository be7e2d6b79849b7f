"""More to read than a line to the database, or a client, takes in the time of one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from tornado.ioloop import IOLoop

from tests.acceptance.test_resume import contents, leave
from tests.benchmarks.backlogs import Client
from tests.chaos.proxy import Proxy
from tests.clients import Socket
from tests.platform import Platform
from tests.serving import StartServer, World
from tests.waiting import LIMIT, eventually

INSERT = (
    "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
    " SELECT $1, $2, $3, 'user', n || repeat('x', $5) FROM generate_series(1, $4::int) AS n"
)


class SlowLine:
    """The way to the database, through a proxy."""

    def __init__(self, proxy: Proxy, dsn: str) -> None:
        self.proxy = proxy
        self.dsn = dsn


@pytest.fixture
def line(io_loop: IOLoop, database: str) -> Iterator[SlowLine]:
    address = urlsplit(database)
    options = parse_qs(address.query)
    proxy = Proxy(f"{options['host'][0]}/.s.PGSQL.{options['port'][0]}")
    io_loop.run_sync(proxy.start)
    yield SlowLine(proxy, f"postgresql://{address.netloc}127.0.0.1:{proxy.port}{address.path}")
    io_loop.run_sync(proxy.stop, timeout=LIMIT)


async def write(platform: Platform, world: World, number: int, size: int) -> None:
    """Messages of one transaction."""
    await platform.execute(INSERT, world.session, world.bot, world.owner, number, size)


async def has_all(socket: Socket, number: int) -> None:
    """It was sent so many messages, each once, in order."""
    await socket.next("chat_message", number)
    assert [int(text.rstrip("x")) for text in contents(socket)] == list(range(1, number + 1))


@pytest.mark.gen_test
async def test_much_at_once_over_a_slow_line(
    start_server: StartServer, line: SlowLine, platform: Platform, world: World
) -> None:
    """It would take five times as long as an answer may. Another bot's message does not wait."""
    server = await start_server(DATABASE_URL=line.dsn, DATABASE_TIMEOUT_SECONDS="1")
    other = await platform.bot(world.owner)
    session = await platform.session(other, world.owner)
    guest = await server.chat(world.bot, world.guest)
    beside = await server.chat(other, world.owner)
    line.proxy.slow_down(1_000_000)
    await write(platform, world, 170, 30_000)
    await guest.next("chat_message", 1)
    await platform.execute(INSERT, session, other, world.owner, 1, 1)
    await has_all(beside, 1)
    assert len(guest.of_type("chat_message")) < 170
    await has_all(guest, 170)
    assert server.server.relaying.counters.losses == 0


@pytest.mark.gen_test
async def test_one_large_message_over_a_slow_line(
    start_server: StartServer, line: SlowLine, platform: Platform, world: World
) -> None:
    """It takes several times as long as a line may be silent, and comes."""
    server = await start_server(DATABASE_URL=line.dsn, DATABASE_TIMEOUT_SECONDS="1")
    guest = await server.chat(world.bot, world.guest)
    line.proxy.slow_down(1_000_000)
    await write(platform, world, 1, 4_000_000)
    await has_all(guest, 1)
    await write(platform, world, 1, 1)
    await guest.next("chat_message", 2)


@pytest.mark.gen_test
async def test_a_silent_line_is_given_up(
    start_server: StartServer, line: SlowLine, platform: Platform, world: World
) -> None:
    """In the middle of a portion; what it had not brought comes over the next connection."""
    server = await start_server(DATABASE_URL=line.dsn, DATABASE_TIMEOUT_SECONDS="1")
    guest = await server.chat(world.bot, world.guest)
    line.proxy.slow_down(1_000_000)
    await write(platform, world, 170, 30_000)
    await guest.next("chat_message", 1)
    line.proxy.half_open()
    await eventually(lambda: server.server.relaying.counters.losses)
    line.proxy.heal()
    await has_all(guest, 170)


@pytest.mark.gen_test
async def test_a_client_returns_over_a_slow_line(
    start_server: StartServer, line: SlowLine, platform: Platform, world: World
) -> None:
    """It is sent all that it missed over one connection, and another bot's client does not wait."""
    server = await start_server(DATABASE_URL=line.dsn, DATABASE_TIMEOUT_SECONDS="1")
    other = await platform.bot(world.owner)
    session = await platform.session(other, world.owner)
    cursors = [
        await leave(await server.chat(world.bot, world.guest)),
        await leave(await server.chat(other, world.owner)),
    ]
    await write(platform, world, 170, 30_000)
    await platform.execute(INSERT, session, other, world.owner, 1, 1)
    line.proxy.slow_down(1_000_000)
    guest, beside = await asyncio.gather(
        server.chat(world.bot, world.guest, cursor=cursors[0]),
        server.chat(other, world.owner, cursor=cursors[1]),
    )
    await has_all(beside, 1)
    assert len(guest.of_type("chat_message")) < 170
    await has_all(guest, 170)


EMPTY = """BEGIN;
    LOCK TABLE relay.events IN ACCESS EXCLUSIVE MODE;
    UPDATE relay.floor SET snapshot = pg_current_snapshot(),
           (last, last_id, last_written_at) = (SELECT xid, id, written_at FROM relay.events
                                                ORDER BY xid DESC, id DESC LIMIT 1);
    TRUNCATE relay.events;
    COMMIT"""


@pytest.mark.gen_test
@pytest.mark.parametrize("returns", [True, False])
async def test_what_is_removed_in_the_middle_is_not_passed_over_in_silence(
    returns: bool, start_server: StartServer, line: SlowLine, platform: Platform, world: World
) -> None:
    """A client that returns, or is there, is sent some of it, and then closed to come back."""
    server = await start_server(DATABASE_URL=line.dsn, DATABASE_TIMEOUT_SECONDS="5")
    guest = await server.chat(world.bot, world.guest)
    if returns:
        cursor = await leave(guest)
        await write(platform, world, 170, 30_000)
        line.proxy.slow_down(1_000_000)
        guest = await server.chat(world.bot, world.guest, cursor=cursor)
    else:
        line.proxy.slow_down(1_000_000)
        await write(platform, world, 170, 30_000)
    await guest.next("chat_message", 1)
    await platform.execute(EMPTY)
    assert await guest.closed() == 1013
    assert len(guest.of_type("chat_message")) < 170


@pytest.mark.gen_test
async def test_a_client_that_does_not_read_goes_on_alone(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """It holds up nobody on its bot, and is sent all when it reads, over the same connection."""
    server = await start_server(SEND_BUFFER_BYTES="65536")
    slow = await Client.open(server.server.port, world.bot, world.guest)
    quick = await server.chat(world.bot, world.owner)
    await write(platform, world, 1000, 30_000)
    await has_all(quick, 1000)
    await write(platform, world, 1, 30_000)
    await quick.next("chat_message", 1001)
    await slow.read(1001)
    assert (slow.messages, slow.ended) == (1001, "")
    await write(platform, world, 1, 1)
    await slow.read(1002)
    slow.close()


@pytest.mark.gen_test
async def test_a_live_message_that_is_too_large_to_be_held(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Each client reads it by itself, in parts; what follows comes after it."""
    server = await start_server(READ_BUFFER_BYTES="4194304")
    guests = [await server.chat(world.bot, user) for user in (world.guest, world.owner)]
    await platform.message(world.session, world.bot, world.owner, "é" * 2_000_000)
    await platform.message(world.session, world.bot, world.owner, "after")
    for guest in guests:
        await guest.next("chat_message", 2)
        assert [len(text) for text in contents(guest)] == [2_000_000, 5]
    await platform.message(world.session, world.bot, world.owner, "live")
    for guest in guests:
        await guest.next("chat_message", 3)
