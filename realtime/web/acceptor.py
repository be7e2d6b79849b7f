"""Accepts connections, and goes on when the process may open no more files.

A new file descriptor gets the lowest free number. So one that is close to the limit says that those
below it are in use. Such a connection is answered with HTTP 503 and closed: the numbers above stay
free for what the process itself needs, for instance to connect to the database again. Tornado's
own acceptor writes a traceback for each attempt, as fast as it can.
"""

import asyncio
import errno
import json
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from realtime.log_line import LogLine

log = logging.getLogger("realtime.http")

AT_ONCE = 128
"""How many connections are accepted before other tasks get a turn."""
PAUSE_SECONDS = 1.0
"""How long nothing is accepted after there was no room. Meanwhile other processes that share the
port take what waits; what nobody takes is answered then."""
FULL_SECONDS = 10.0
"""How long the process counts as full after there was no room."""
LOG_SECONDS = 60.0
NO_FILES = "no file descriptor is left for new connections"
_BODY = json.dumps({"status": "not ready", "reason": NO_FILES, "error": NO_FILES}) + "\n"
_ANSWER = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
    f"Content-Length: {len(_BODY)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{_BODY}"
).encode()


def allowed_files() -> int:
    """How many files the process may have open; an operator may change it while it runs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**31


class OpenFiles:
    """Whether the process may open as many files as it needs.

    Args:
        spare: how many are kept for the process itself; at most a quarter of what it may open.
        monotonic: seconds.
    """

    def __init__(
        self,
        spare: int,
        monotonic: Callable[[], float],
        *,
        limit: Callable[[], int] = allowed_files,
    ) -> None:
        self._spare = spare
        self._monotonic = monotonic
        self._limit = limit
        self._ran_out_at = -FULL_SECONDS
        self._logged_at = -LOG_SECONDS
        self._refused = 0

    @property
    def is_full(self) -> bool:
        """Whether there was no room lately."""
        return self._monotonic() - self._ran_out_at < FULL_SECONDS

    @property
    def first_spare(self) -> int:
        """The lowest descriptor of those that are kept."""
        limit = self._limit()
        return limit - min(self._spare, limit // 4)

    def ran_out(self, error: OSError | None = None) -> None:
        """There was no room for a connection; logged once a minute."""
        self._ran_out_at = now = self._monotonic()
        self._refused += 1
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log.warning(
                LogLine(
                    "connections_refused",
                    reason=NO_FILES,
                    refused=self._refused,
                    limit=self._limit(),
                    error=error,
                )
            )
            self._refused = 0


class Acceptor:
    """Accepts connections on listening sockets.

    Args:
        sockets: non-blocking, and closed by `stop`.
        serve: given each connection and the address of its other end.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        serve: Callable[[socket.socket, Any], None],
        files: OpenFiles,
    ) -> None:
        self._sockets = sockets
        self._serve = serve
        self._files = files
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Start to accept connections."""
        for listening in self._sockets:
            self._watch(listening)

    def stop(self) -> None:
        """Stop accepting connections."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
            if listening in self._paused:
                self._paused.pop(listening).cancel()
            listening.close()

    def _watch(self, listening: socket.socket) -> None:
        self._paused.pop(listening, None)
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _pause(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        self._paused[listening] = loop.call_later(PAUSE_SECONDS, self._watch, listening)

    def _accept(self, listening: socket.socket) -> None:
        has_room, first_spare = True, self._files.first_spare
        for _ in range(AT_ONCE):
            try:
                connection, address = listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue  # it is gone already
                self._files.ran_out(error)
                has_room = False
                break
            if connection.fileno() >= first_spare:
                self._files.ran_out()
                has_room = False
                refuse(connection)
            else:
                self._serve(connection, address)
        if not has_room:
            self._pause(listening)


def refuse(connection: socket.socket) -> None:
    """Answer 503, whatever is asked, and close."""
    with connection, suppress(OSError):
        connection.setblocking(False)
        with suppress(BlockingIOError):
            # To close with input unread would reset the connection, and destroy the answer.
            connection.recv(65536)
        connection.send(_ANSWER)
        connection.shutdown(socket.SHUT_WR)
