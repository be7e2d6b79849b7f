"""Access that follows from tables which the mapping does not know: the page's SQL, and sockets."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from realtime.attach.attach import apply
from tests.adopted import Adopted
from tests.serving import RunningServer, make_settings
from tests.unit.test_mapping import mapping
from tests.unit.test_readme import code_blocks
from tests.waiting import LIMIT

PAGE = Path(__file__).parents[2].joinpath("docs", "adopting.md").read_text("utf-8")
(AUTHORIZE,) = [one for one in code_blocks(PAGE, "sql") if "team_members" in one]
TABLES = """
CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), username text UNIQUE);
CREATE TABLE bots (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, team_id integer
);
CREATE TABLE team_members (team_id integer, user_id uuid, role text);
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
untold = []
"""


@pytest.mark.gen_test
async def test_a_team_decides_who_watches_a_bot(core_database: str) -> None:
    """Who is put into it is let in at once, though refused before; who is taken out leaves."""
    platform = Adopted(await asyncpg.connect(core_database, timeout=LIMIT))
    await platform.execute(TABLES)
    attached = await apply(platform.connection, mapping(MAPPING))
    assert any("nobody may watch a bot" in warning for warning in attached.warnings)
    await platform.execute(AUTHORIZE)
    ada = await platform.insert("users", username="ada")
    bot = await platform.insert("bots", name="Team's", team_id=1)
    server = RunningServer(make_settings(core_database))
    await server.start()
    try:
        refused = await server.open(f"/api/ws/chat/{bot}", ada)
        assert await refused.closed() == 4003
        await platform.execute("INSERT INTO team_members VALUES (1, $1, 'editor')", ada)
        socket = await server.chat(bot, ada)
        assert (await socket.established())["data"]["role"] == "editor"
        await platform.execute("SELECT relay.emit($1, 'poll_opened', '{}')", f"bot:{bot}")
        await socket.next("poll_opened")
        await platform.execute("DELETE FROM team_members")
        assert await socket.closed() == 4003
        await platform.execute("INSERT INTO team_members VALUES (1, $1, 'editor')", ada)
        leaving = await asyncpg.connect(core_database, timeout=LIMIT)
        await leaving.execute("BEGIN; DELETE FROM team_members")
        # A bot that the one who takes her out does not see; nobody can know yet that she leaves.
        other = await platform.insert("bots", name="New", team_id=1)
        socket = await server.chat(other, ada)
        await socket.established()
        await leaving.execute("COMMIT")
        await leaving.close(timeout=LIMIT)
        assert await socket.closed() == 4003
    finally:
        await server.stop()
        await platform.connection.close(timeout=LIMIT)
