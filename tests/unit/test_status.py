"""Tests of `realtime.web.status`: when new sockets should come, and how events arrive."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from realtime.relay.pace import PaceState
from realtime.relay.reader import Reader
from realtime.web.status import Status


def status(*, mode: PaceState = PaceState.AWAKE, **listener: Any) -> Status:
    given = {"is_connected": True, "can_hear": True, "round_trip": 0.01, **listener}
    reader = cast("Reader", SimpleNamespace(state=mode))
    return Status(8000, cast("Any", SimpleNamespace(**given)), reader)


@pytest.mark.parametrize("mode", PaceState)
def test_the_doorbell_mode_is_the_readers_where_rings_arrive(mode: PaceState) -> None:
    """Where they do not arrive, the log is polled, whatever the reader thinks."""
    assert status(mode=mode).doorbell_mode == mode.value
    assert status(mode=mode, can_hear=False).doorbell_mode == "polling"


def test_new_sockets_should_come_while_the_database_is_heard_and_nobody_drains() -> None:
    """Either of the two is enough to send them elsewhere."""
    ready = status()
    assert ready.is_ready
    ready.is_draining = True
    assert not ready.is_ready
    assert not status(is_connected=False).is_ready
