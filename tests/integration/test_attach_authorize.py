"""A `relay.authorize` that a platform wrote itself stays, and `bin/doctor` knows it."""

from __future__ import annotations

import asyncpg
import pytest

from realtime.attach.attach import apply, detach, plan, removal_script
from realtime.doctor.report import Level
from tests.adopted import Adopted
from tests.doctor import ask, deployment, finds
from tests.unit.test_mapping import mapping
from tests.waiting import LIMIT

TABLES = """
CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), username text UNIQUE);
CREATE TABLE bots (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, mood text);
INSERT INTO users (username) VALUES ('ada');
INSERT INTO bots (name) VALUES ('Everybody''s');
"""
MAPPING = """
permissions = false
messages = false
documents = false
[users]
is_active = false
[bots]
owner_id = false
updated_by = false
untold = [{untold}]
"""
OWN = """
CREATE OR REPLACE FUNCTION relay.authorize(user_id uuid, bot_id uuid)
RETURNS TABLE (bot_name text, role text, username text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp {body}
"""
AS_TEXT = OWN.format(body="AS $$ SELECT b.name, 'guest', '' FROM public.bots AS b $$")
# Of such a body PostgreSQL keeps no text, and knows what it refers to.
AS_A_STATEMENT = OWN.format(
    body="BEGIN ATOMIC SELECT b.name, 'guest'::text, ''::text FROM public.bots AS b; END"
)
ASKED = "SELECT a.role FROM users AS u, bots AS b, relay.authorize(u.id, b.id) AS a"
PLAIN, CHANGED = (mapping(MAPPING.format(untold=untold)) for untold in ("", '"mood"'))


async def attached(dsn: str) -> Adopted:
    platform = Adopted(await asyncpg.connect(dsn, timeout=LIMIT))
    await platform.execute(TABLES)
    done = await apply(platform.connection, PLAIN)
    assert not done.keeps_authorize
    assert any("nobody may watch a bot" in warning for warning in done.warnings)
    return platform


@pytest.mark.gen_test
@pytest.mark.parametrize("own", [AS_TEXT, AS_A_STATEMENT], ids=["text", "statement"])
async def test_an_authorize_of_ones_own_stays(core_database: str, own: str) -> None:
    """Whatever changes in the mapping: at no moment may nobody watch a bot."""
    platform = await attached(core_database)
    await platform.execute(own)
    for wanted, is_done in ((PLAIN, True), (CHANGED, False), (CHANGED, True), (PLAIN, False)):
        again = await apply(platform.connection, wanted)
        assert (again.is_done, again.keeps_authorize, again.warnings) == (is_done, True, [])
        assert await platform.connection.fetchval(ASKED) == "guest"
    script = (await plan(platform.connection, CHANGED)).script
    assert "FUNCTION relay.authorize(" not in script.replace("COMMENT ON ", "")
    await platform.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
@pytest.mark.parametrize("own", [AS_TEXT, AS_A_STATEMENT], ids=["text", "statement"])
@pytest.mark.parametrize("made", ["in its place", "anew"])
async def test_an_authorize_of_ones_own_outlives_a_detachment(
    core_database: str, own: str, made: str
) -> None:
    """What the next run would put there may let in whom the platform's own does not."""
    platform = await attached(core_database)
    if made == "anew":
        await platform.execute("DROP FUNCTION relay.authorize")
    await platform.execute(own)
    body = "SELECT pg_get_functiondef('relay.authorize'::regproc)"
    before = await platform.connection.fetchval(body)
    for _ in range(2):
        said: list[str] = []
        assert "stays as it is" in await removal_script(platform.connection)
        assert await detach(platform.connection, say=said.append) > 0
        assert said == ["relay.authorize is your own, and stays as it is"]
        assert await platform.connection.fetchval(body) == before
        assert (await apply(platform.connection, CHANGED)).keeps_authorize
        assert await platform.connection.fetchval(ASKED) == "guest"
    await platform.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_who_drops_it_gets_ours_again(core_database: str) -> None:
    """That is the way back."""
    platform = await attached(core_database)
    await platform.execute(AS_TEXT)
    await platform.execute("DROP FUNCTION relay.authorize")
    assert not (await apply(platform.connection, PLAIN)).is_done
    assert await platform.connection.fetchval(ASKED) is None
    await platform.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_one_that_was_made_anew_stays(core_database: str) -> None:
    """Its comment is gone, and with it what the last run wrote down: all else is made again."""
    platform = await attached(core_database)
    await platform.execute("DROP FUNCTION relay.authorize")
    await platform.execute(AS_TEXT)
    for is_done in (False, True):
        again = await apply(platform.connection, PLAIN)
        assert (again.is_done, again.keeps_authorize) == (is_done, True)
        assert await platform.connection.fetchval(ASKED) == "guest"
    await platform.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_the_doctor_says_that_nobody_is_let_in(core_database: str) -> None:
    """Until the platform has written its own."""
    platform = await attached(core_database)
    there = deployment(core_database)
    await finds(Level.PROBLEM, "access", there, "lets nobody watch a bot", "docs/adopting.md")
    await platform.execute(AS_TEXT)
    await finds(Level.FINE, "access", there, "answer")
    await platform.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
@pytest.mark.parametrize("made", ["in its place", "anew"])
async def test_the_doctor_promises_nothing_of_what_it_cannot_know(
    core_database: str, made: str
) -> None:
    """Which tables a function of the platform's own reads, and whether they hide rows from it."""
    platform = await attached(core_database)
    there, promise = deployment(core_database), "nothing from the functions that decide"
    await finds(Level.FINE, "row security", there, promise)
    if made == "anew":
        await platform.execute("DROP FUNCTION relay.authorize")
    await platform.execute(AS_TEXT)
    (finding,) = await ask("row security", there)
    assert finding.level is Level.FINE
    assert promise not in finding.said
    assert "relay.authorize is your own" in finding.said
    await platform.connection.close(timeout=LIMIT)
