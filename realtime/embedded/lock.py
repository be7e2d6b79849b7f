"""Locks between processes, by `flock`: what `embedded.py` counts the users of one server with.

The kernel releases the lock of a process that dies, so there is never a stale one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from realtime.errors import CommandError

RETRY_SECONDS = 0.05


class LockTimeout(CommandError):
    """Another process kept the lock for too long."""


class FileLock:
    """One lock on one file, held by this object or not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    @contextmanager
    def exclusive(self, timeout: float) -> Iterator[None]:
        """Hold the lock alone.

        Raises:
            LockTimeout: Others held it for `timeout` seconds.
        """
        self._acquire(fcntl.LOCK_EX, timeout)
        try:
            yield
        finally:
            self.release()

    def acquire_shared(self, timeout: float) -> None:
        """Hold the lock together with others.

        Raises:
            LockTimeout: Someone held it alone for `timeout` seconds.
        """
        self._acquire(fcntl.LOCK_SH, timeout)

    def upgrade(self) -> bool:
        """Turn a shared hold into an exclusive one, if nobody else holds it."""
        assert self._descriptor is not None, "upgrade of a lock that is not held"
        return _try(self._descriptor, fcntl.LOCK_EX)

    def downgrade(self) -> None:
        """Turn an exclusive hold back into a shared one."""
        assert self._descriptor is not None, "downgrade of a lock that is not held"
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        if self._descriptor is None:
            return
        # Unlocked, not only closed: a forked worker may still have the file open.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._descriptor = None

    def _acquire(self, kind: int, timeout: float) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        while not _try(descriptor, kind):
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise LockTimeout(
                    f"another process has held {self._path} for {timeout:.0f} s: "
                    "wait until it is done, or stop it"
                )
            time.sleep(RETRY_SECONDS)
        self._descriptor = descriptor


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
