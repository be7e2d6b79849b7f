"""A process knows when nobody can be let in, and only then."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from tornado.httpclient import AsyncHTTPClient

from realtime.config.intervals import Intervals
from realtime.doctor.report import Level
from realtime.postgres.access_check import BROKEN, NOT_ASKED, AccessCheck
from tests.doctor import deployment, finds
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, make_settings
from tests.waiting import eventually

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

OWN = """
DROP FUNCTION relay.authorize(uuid, uuid);
CREATE FUNCTION relay.authorize(user_id uuid, bot_id uuid)
RETURNS TABLE ({name} text, role text, username text) STABLE LANGUAGE plpgsql AS $$
BEGIN {body} END $$
"""
NOTHING = "RETURN;"
BREAKS = [
    "ALTER FUNCTION relay.readable(text) RENAME TO gone",
    "ALTER TABLE permissions RENAME COLUMN user_id TO member",
    "ALTER FUNCTION relay.authenticate(text, text) RENAME TO gone",
    OWN.format(name="title", body=NOTHING),
    OWN.format(name="bot_name", body="RETURN QUERY SELECT a, b, c FROM no_such_table;"),
]


def check_of(pool: Pool, *, timeout: float = 10) -> AccessCheck:
    return AccessCheck(pool, subject_kind="id", timeout=timeout, seconds=60)


@pytest.mark.gen_test
@pytest.mark.parametrize("damage", BREAKS)
async def test_a_broken_function_is_a_fault(
    pool: Pool, platform: Platform, database: str, damage: str
) -> None:
    """Every handshake would fail, so new sockets should not come here; the doctor says why."""
    check = check_of(pool)
    faults = [check.fault]
    await check.look()
    faults.append(check.fault)
    await finds(Level.FINE, "access", deployment(database))
    await platform.execute(damage)
    await check.look()
    assert [*faults, check.fault] == [NOT_ASKED, None, BROKEN]
    await finds(Level.PROBLEM, "access", deployment(database), "every handshake would be refused")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "body",
    [
        "RAISE 'not this one';",
        "RAISE insufficient_privilege;",
        "RAISE undefined_function;",
        "PERFORM 'x'::int;",
        "PERFORM 1 / 0;",
    ],
)
async def test_a_function_that_raises_is_no_fault(
    pool: Pool, platform: Platform, body: str
) -> None:
    """It may raise for those alone whom it does not know: others can be let in."""
    await platform.execute(OWN.format(name="bot_name", body=body))
    check = check_of(pool)
    await check.look()
    assert check.fault is None


@pytest.mark.gen_test
async def test_what_was_gone_and_raises_again_is_mended(pool: Pool, platform: Platform) -> None:
    """It never succeeds for who does not exist, and works for all others."""
    await platform.execute(OWN.format(name="bot_name", body="RAISE 'not this one';"))
    check = check_of(pool)
    await platform.execute("ALTER FUNCTION relay.authorize RENAME TO gone")
    await check.look()
    fault = check.fault
    await platform.execute("ALTER FUNCTION relay.gone RENAME TO authorize")
    await check.look()
    assert (fault, check.fault) == (BROKEN, None)


@pytest.mark.gen_test
async def test_no_answer_says_nothing(pool: Pool, platform: Platform) -> None:
    """A table that is locked for a time was there before, and what is broken stays broken."""
    check = check_of(pool, timeout=0.05)
    async with platform.connection.transaction():
        await platform.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        await check.look()
        fault, check.fault = check.fault, BROKEN
        await check.look()
    assert (fault, check.fault) == (None, BROKEN)


BREAK, MEND = (
    "ALTER FUNCTION relay.readable(text) RENAME TO gone",
    "ALTER FUNCTION relay.gone(text) RENAME TO readable",
)
OFTEN = Intervals(access_check=0.05)


async def ready_code(server: RunningServer) -> int:
    answer = await AsyncHTTPClient().fetch(server.url("/api/ready"), raise_error=False)
    return answer.code


@pytest.mark.gen_test
async def test_a_running_process_says_so_until_it_is_over(
    start_server: StartServer, platform: Platform, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The load balancer takes it out meanwhile, and the log has it once."""
    caplog.set_level(logging.INFO)
    server = await start_server(intervals=OFTEN)
    await platform.execute(BREAK)
    status = server.server.web.status
    await eventually(lambda: status.not_ready == BROKEN)
    assert await ready_code(server) == 503
    await platform.execute(MEND)
    await eventually(lambda: status.is_ready)
    assert await ready_code(server) == 200
    assert caplog.text.count("access_broken") == 1
    assert caplog.text.count("access_works_again") == 1
    await server.chat(world.bot, world.owner)


@pytest.mark.gen_test
async def test_a_process_that_starts_is_not_ready_before(
    database: str, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """So a reload fails, and the old processes stay."""
    await platform.execute(OWN.format(name="title", body=NOTHING))
    server = RunningServer(make_settings(database), OFTEN)
    starting = asyncio.create_task(server.start())
    await eventually(lambda: "access_broken" in caplog.text)
    assert not starting.done()
    await platform.execute(OWN.format(name="bot_name", body=NOTHING))
    await starting
    await server.stop()
