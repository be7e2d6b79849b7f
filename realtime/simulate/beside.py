"""The simulation beside another program: a process that ends when that program does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE_SECONDS: Final = 10.0


@contextmanager
def beside(dsn: str, bot_id: str, session_id: str) -> Iterator[Callable[[], None]]:
    """Gives what starts it; at the end it is gone.

    It lives as long as it can read from us, so that it ends however we do. A terminal's Ctrl-C is
    for us alone: it would reach a Python that is still starting.

    Args:
        session_id: one of the bot's, in which its people talk as well.
    """
    children: list[subprocess.Popen[bytes]] = []
    command = [sys.executable, "-m", "realtime", "simulate", "--beside", bot_id, session_id]
    environ = os.environ | {"DATABASE_URL": dsn, "DATABASE_DIRECT_URL": dsn}

    def start() -> None:
        children.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, env=environ, start_new_session=True)
        )

    try:
        yield start
    finally:
        for child in children:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
