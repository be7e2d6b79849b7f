"""What several of the integration tests need."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tornado.ioloop import IOLoop

from realtime.postgres.listener import read_position
from realtime.postgres.pool import open_pool
from realtime.relay.position import Lineage

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool


@pytest.fixture
def pool(io_loop: IOLoop, database: str) -> Iterator[Pool]:
    """As the server's own."""
    context = open_pool(database, size=4, timeout=10, is_pooled=False)
    yield io_loop.run_sync(context.__aenter__)
    io_loop.run_sync(lambda: context.__aexit__(None, None, None))
    io_loop.run_sync(lambda: asyncio.sleep(0))  # the sockets close on the next turn


@pytest.fixture
def lineage(io_loop: IOLoop, database: str) -> Lineage:
    """Which log it is, as a process that starts now finds it."""
    return Lineage(io_loop.run_sync(lambda: read_position(database, 10)))
