"""A server whose role has the rights of the security page, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from realtime.doctor.explain import explain
from realtime.embedded.server import EmbeddedPostgres
from tests.doctor import deployment
from tests.platform import Platform
from tests.serving import StartServer, World
from tests.waiting import eventually

SECURITY = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")
GRANTS = "\n".join(re.findall(r"^```sql\n(.*?)^```", SECURITY, re.MULTILINE | re.DOTALL))


@pytest.fixture
def own_role(postgres: EmbeddedPostgres, database: str) -> Iterator[str]:
    """The database's address for such a role."""
    name, role = urlsplit(database).path[1:], f"relay_{uuid4().hex[:8]}"
    postgres.sql(f"CREATE ROLE {role} LOGIN")
    postgres.sql(GRANTS.replace("relay_server", role), name)
    yield re.sub(r"//[^@/]*@", f"//{role}@", database)
    postgres.sql(f"DROP OWNED BY {role}", name)
    postgres.sql(f"DROP ROLE {role}")


@pytest.mark.gen_test
async def test_it_does_all_that_a_server_does(
    own_role: str, start_server: StartServer, platform: Platform, world: World
) -> None:
    """Two of them: events, typing, the doorbell, names that change, and the log is emptied."""
    settings = {"DATABASE_URL": own_role}
    one, other = await start_server(**settings), await start_server(**settings)
    typist = await one.chat(world.bot, world.guest)
    watcher = await other.chat(world.bot, world.owner)
    servers = [one.server, other.server]
    for count in (1, 2):
        await platform.message(world.session, world.bot, world.owner)
        await watcher.next("chat_message", count)

        async def is_shown(before: int = len(watcher.of_type("typing_indicator"))) -> Any:
            for is_typing in (True, False):
                await typist.send({"type": "typing", "data": {"is_typing": is_typing}})
            return len(watcher.of_type("typing_indicator")) > before

        await eventually(is_shown)
        await eventually(
            lambda: {server.relaying.reader.state.value for server in servers} == {"asleep"}
        )
        await platform.execute("SELECT relay.rotate_channels()")
    await one.server.database.retention.step()
    assert await platform.connection.fetchval("SELECT count(*) FROM relay.snapshots") > 0
    assert not [server for server in servers if server.relaying.counters.losses]


@pytest.mark.gen_test
async def test_it_may_ask_of_any_event(own_role: str, world: World) -> None:
    """Of one that is not in the log, too."""
    found = await explain(deployment(own_role), 4711, world.guest)
    assert "No event 4711 was ever written" in found.text()
