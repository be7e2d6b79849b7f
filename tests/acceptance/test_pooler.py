"""A transaction-mode pooler that nobody told the server of: it serves all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.pgbouncer import pgbouncer
from tests.platform import Platform
from tests.serving import StartServer, World

SOCKETS = 8


@pytest.fixture(params=[True, False], ids=["lets settings pass", "refuses settings"])
def pooled(request: pytest.FixtureRequest, database: str) -> Iterator[str]:
    """The database's address through a pooler, which ends after the servers."""
    with pgbouncer(database, passes=request.param) as dsn:
        yield dsn


@pytest.mark.gen_test
async def test_everybody_is_let_in_through_a_pooler(
    pooled: str,
    start_server: StartServer,
    platform: Platform,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Prepared statements of one session are missing in the next, or are another process's."""
    both = {"DATABASE_URL": pooled, "DATABASE_DIRECT_URL": pooled}
    servers = [await start_server(DATABASE_URL=pooled), await start_server(**both)]
    sockets = [
        socket
        for server in servers
        for socket in await asyncio.gather(
            *(server.chat(world.bot, world.owner) for _ in range(SOCKETS))
        )
    ]
    for number in (1, 2, 3):
        payload = json.dumps({"n": number})
        await platform.execute("SELECT relay.emit('bot:' || $1, 'n', $2)", world.bot, payload)
        for socket in sockets:
            assert (await socket.next("n", number))["data"] == {"n": number}
    assert "statements_not_prepared" in caplog.text
    assert "query_failed" not in caplog.text
    assert "database_lost" not in caplog.text
