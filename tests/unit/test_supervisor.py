"""Tests of `realtime.runtime.supervisor`: what does not need real workers."""

from __future__ import annotations

import random
import socket

import pytest

from realtime.relay.backoff import Backoff
from realtime.runtime.control import Up
from realtime.runtime.service_manager import ServiceManager
from realtime.runtime.supervisor import Supervisor, Worker


@pytest.mark.parametrize("is_ending", [False, True])
def test_who_says_late_that_it_is_up_has_no_others_started(
    monkeypatch: pytest.MonkeyPatch, is_ending: bool
) -> None:
    """It said so as all were told to end: nothing listens any more where others would serve."""
    started: list[int] = []

    def start(_supervisor: Supervisor, number: int) -> Worker:
        started.append(number)
        return Worker(number, Backoff(random.random))

    monkeypatch.setattr(Supervisor, "_started", start)
    supervisor = Supervisor([], {}, ServiceManager(None, None))
    supervisor._is_ending = is_ending
    ours, theirs = socket.socketpair()
    with ours, theirs:
        first = Worker(1, Backoff(random.random), control_socket=ours)
        theirs.send(Up(3, 5.0).encoded())
        supervisor._hear(first)
    assert (first.is_up, started) == (True, [] if is_ending else [2, 3])
