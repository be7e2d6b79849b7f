"""A server that may be stopped at any time, and started as something else, for tests of outages."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import migrate
from tests.conftest import TEST_SETTINGS


@pytest.fixture(scope="module")
def mortal(postgres_bin: Path | None) -> Iterator[EmbeddedPostgres]:
    """A migrated server of the module's own."""
    with tempfile.TemporaryDirectory(prefix="realtime-test-") as home:
        Path(home).chmod(0o711)  # as root, the server's own account must get in
        data = Path(home) / "postgres"
        server = EmbeddedPostgres(data, bin_dir=postgres_bin, settings=TEST_SETTINGS)
        server.start()
        try:
            migrate(server.dsn())
            yield server
        finally:
            server.stop("immediate")


async def stopped(server: EmbeddedPostgres, then: Callable[[], object] = lambda: None) -> None:
    """The server is stopped as if the power had failed, and started again after `then`."""
    await asyncio.to_thread(server.stop, "immediate")
    then()
    await asyncio.to_thread(server.start)
