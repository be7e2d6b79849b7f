"""Tests of `realtime.web.status`: when new sockets should come, and how events arrive."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from realtime.relay.pace import PaceState
from realtime.relay.reader import Reader
from realtime.web.acceptor import OpenFiles
from realtime.web.status import Status


def status(
    *,
    mode: PaceState = PaceState.AWAKE,
    is_stuck: bool = False,
    is_pool_answering: bool = True,
    is_pool_elsewhere: bool = False,
    access_fault: str | None = None,
    **listener: Any,
) -> Status:
    given = {"is_connected": True, "can_hear": True, "round_trip": 0.01, **listener}
    reader = cast("Reader", SimpleNamespace(state=mode, is_stuck=is_stuck))
    files = OpenFiles(10, lambda: 100.0, limit=lambda: 1000)
    pool = SimpleNamespace(is_pool_answering=is_pool_answering, is_pool_elsewhere=is_pool_elsewhere)
    access = SimpleNamespace(fault=access_fault)
    return Status(8000, cast("Any", SimpleNamespace(**given)), pool, reader, files, access)


@pytest.mark.parametrize("mode", PaceState)
def test_the_doorbell_mode_is_the_readers_where_rings_arrive(mode: PaceState) -> None:
    """Where they do not arrive, the log is polled, whatever the reader thinks."""
    assert status(mode=mode).doorbell_mode == mode.value
    assert status(mode=mode, can_hear=False).doorbell_mode == "polling"


def test_new_sockets_should_come_while_nothing_stands_against_it() -> None:
    """Each reason is enough to send them elsewhere, and is named."""
    ready = status()
    assert ready.is_ready
    ready.files.ran_out()
    assert not ready.is_ready
    assert ready.not_ready == "no file descriptor is left for new connections"
    ready.is_draining = True
    assert ready.not_ready == "draining"
    assert status(is_connected=False).not_ready == "not connected to the database"
    assert status(is_stuck=True).not_ready == "the log cannot be read"
    elsewhere = status(is_pool_elsewhere=True)
    assert elsewhere.not_ready == "DATABASE_URL leads to another database than DATABASE_DIRECT_URL"
    silent = status(is_pool_answering=False)
    assert silent.not_ready == "the database does not answer over DATABASE_URL"
    assert status(access_fault="the functions fail").not_ready == "the functions fail"
