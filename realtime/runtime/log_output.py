"""Sends log lines to standard error, and lets nobody who does not read them hold up the process.

A pipe holds 64 kB. Who writes to a full one waits, and with it every socket of the process; not
even SIGTERM is answered. So a line that is not taken within a second is lost. So are those behind
it, at once, until somebody reads again; the next line says how many they were. So it is with a
file while its disk is full.
"""

import errno
import logging
import os
import select
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from typing import TextIO

from realtime.log_line import LogLine

log = logging.getLogger("realtime.log")

PATIENCE_SECONDS = 1.0

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a file that takes nothing more: of its disk, its user's quota, its own limit."""

Write = Callable[[bytes], int]
"""Writes what there is room for, and returns how much that was.

Raises BlockingIOError: there is no room."""


class Unread(Exception):
    """Nobody reads what is written."""


class Output:
    """A pipe or a socket, of which a full one is waited for only for a moment; or a file.

    Args:
        descriptor: its number, to wait for room.
        patience: seconds to wait for a reader who was there until now.
    """

    def __init__(
        self, descriptor: int, write: Write, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._write = write
        self._patience = patience
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._is_read = True
        self._rest = b""
        """The end of a line of which the beginning was written."""

    def write(self, line: bytes) -> None:
        """Write a line, whole or not at all.

        Raises:
            Unread: it was not written.
            OSError: the other end is gone.
        """
        self._rest = self._push(self._rest)
        rest = line if self._rest else self._push(line)
        if len(rest) == len(line):
            raise Unread
        self._rest = rest

    def _push(self, data: bytes) -> bytes:
        """Write; what is left, for which there was no room."""
        while data:
            try:
                data = data[self._write(data) :]
            except BlockingIOError:
                if not self._wait_for_room():
                    break
            except OSError as error:
                if error.errno in _FULL:
                    break
                raise
        return data

    def _wait_for_room(self) -> bool:
        """Wait until somebody reads, but not twice in vain; return whether there is room."""
        self._is_read = bool(self._room.poll(1000 * self._patience if self._is_read else 0))
        return self._is_read


class OutputHandler(logging.Handler):
    """Formats records, and writes them to an output; what is lost there is counted.

    Args:
        close: called at the end.
    """

    def __init__(self, output: Output, close: Callable[[], None]) -> None:
        super().__init__()
        self._output = output
        self._close = close
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            log.warning(LogLine("log_lines_lost", lines=lost))  # which comes here, too
            if self._lost:  # nobody reads yet
                self._lost = lost + 1
                return
        try:
            self._output.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:  # noqa: BLE001 - where it could be said is what failed; it is counted
            self._lost += 1

    def close(self) -> None:
        super().close()
        self._close()


def make_handler(stream: TextIO) -> logging.Handler:
    """Make what writes to the stream: without waiting where it is a pipe or a socket.

    A terminal that was stopped by its user may stop the process.
    """
    try:
        descriptor = stream.fileno()
        return _handler_of(descriptor) or logging.StreamHandler(stream)
    except (OSError, ValueError):  # it has no number: a test holds it
        return logging.StreamHandler(stream)


def _handler_of(descriptor: int) -> logging.Handler | None:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        other = socket.socket(fileno=os.dup(descriptor))
        write = partial(_send, other)
        return OutputHandler(Output(other.fileno(), write), other.close)
    if stat.S_ISFIFO(mode) and sys.platform == "linux":
        # Opened anew, for who else has this pipe must not find that it does not wait any more.
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
        return OutputHandler(Output(own, partial(os.write, own)), partial(os.close, own))
    if stat.S_ISREG(mode):
        return OutputHandler(Output(descriptor, partial(os.write, descriptor)), lambda: None)
    return None


def _send(to: socket.socket, data: bytes) -> int:
    return to.send(data, socket.MSG_DONTWAIT)
