"""Looks at the first request of each connection, and gives the connection to whom it is for.

An ordinary WebSocket handshake goes straight to the sockets: Tornado's HTTP server, its request and
its handler cost more than all the rest of letting a client in. Everything else goes to Tornado,
untouched: other requests, handshakes that are not plain or in error, and whatever comes slowly.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from tornado.iostream import IOStream

from realtime.web.sockets import Sockets
from realtime.web.stream import give_up_after
from realtime.web.upgrade import read_upgrade

LOOK_BYTES = 16_384
"""How long a handshake is that is read here."""
WAIT_SECONDS = 0.5
"""A connection that sends nothing is Tornado's after twice this, at most; its own limits follow."""


class Entrance:
    """Gives each new connection to the sockets or to Tornado.

    Args:
        serve_http: Tornado's; given a connection and the address of its other end.
        stalled_seconds: how long an HTTP client may take nothing of its answers. Tornado has no
            limit for that: whoever asks much and reads nothing would stay for ever.
    """

    def __init__(
        self,
        sockets: Sockets,
        serve_http: Callable[[IOStream, Any], None],
        stalled_seconds: float,
    ) -> None:
        self._sockets = sockets
        self._serve_http = serve_http
        self._stalled_seconds = stalled_seconds
        self._silent: dict[socket.socket, Any] = {}
        """Connections that have sent nothing yet, with their addresses."""

    def take(self, connection: socket.socket, address: Any) -> None:
        """Serve a connection that was accepted."""
        connection.setblocking(False)
        data = _look(connection)
        if data is None:
            self._silent[connection] = address
            loop = asyncio.get_running_loop()
            loop.add_reader(connection.fileno(), self._on_readable, connection)
        else:
            self._serve(connection, address, data)

    def _on_readable(self, connection: socket.socket) -> None:
        data = _look(connection)
        if data is not None:
            self._serve(connection, self._forget(connection), data)

    def _forget(self, connection: socket.socket) -> Any:
        asyncio.get_running_loop().remove_reader(connection.fileno())
        return self._silent.pop(connection)

    def _serve(self, connection: socket.socket, address: Any, data: bytes) -> None:
        if not data:
            connection.close()
        elif not self._open_socket(connection, data):
            self._give_to_http(connection, address)

    def _give_to_http(self, connection: socket.socket, address: Any) -> None:
        give_up_after(connection, self._stalled_seconds)
        self._serve_http(IOStream(connection), address)

    def _open_socket(self, connection: socket.socket, data: bytes) -> bool:
        """Open a WebSocket, if that is beyond doubt what is asked for."""
        found = read_upgrade(data)
        if found is None:
            return False
        upgrade, size = found
        at = self._sockets.find(upgrade.path)
        if at is None or self._sockets.check(upgrade) is not None:
            return False
        connection.recv(size)  # it was looked at, and is there
        self._sockets.open(connection, upgrade, *at)
        return True

    async def run(self) -> NoReturn:
        """Give connections that send nothing to Tornado, until cancelled."""
        older: list[socket.socket] = []
        while True:
            await asyncio.sleep(WAIT_SECONDS)
            for connection in older:
                if connection in self._silent:
                    self._give_to_http(connection, self._forget(connection))
            older = list(self._silent)

    def stop(self) -> None:
        """Close the connections that have sent nothing."""
        for connection in tuple(self._silent):
            self._forget(connection)
            connection.close()


def _look(connection: socket.socket) -> bytes | None:
    """What has arrived, which stays unread; empty: nothing will. None: nothing yet."""
    try:
        return connection.recv(LOOK_BYTES, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""
