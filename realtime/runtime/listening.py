"""The listening sockets: made here, or taken over from systemd, and handed on by their numbers."""

import os
import socket
from collections.abc import Iterable, Mapping
from errno import EADDRNOTAVAIL

from tornado.netutil import bind_sockets

from realtime.errors import CommandError

BACKLOG = 1024
"""How many connections may wait to be accepted."""
_FIRST_PASSED = 3
"""The number of the first socket that systemd passes: sd_listen_fds(3)."""


class StartError(CommandError):
    """The process cannot start; the text is one line that says what to do."""


def listen(host: str | None, port: int, environ: Mapping[str, str]) -> list[socket.socket]:
    """The sockets that systemd passed, or else new ones.

    Args:
        host: the address to listen on; None: all of this machine's.

    Raises:
        StartError: the port is taken, or not for us; or what was passed is no TCP socket.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return bind(host, port)
    count = int(environ.get("LISTEN_FDS", "0"))
    sockets = opened(range(_FIRST_PASSED, _FIRST_PASSED + count))
    if not sockets or any(not _is_listening_on_tcp(one) for one in sockets):
        raise StartError(
            "systemd must pass listening TCP sockets: set ListenStream to a port or to address:port"
        )
    return sockets


def _is_listening_on_tcp(one: socket.socket) -> bool:
    return (
        one.family in (socket.AF_INET, socket.AF_INET6)
        and one.type == socket.SOCK_STREAM
        and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    )


def bind(host: str | None, port: int) -> list[socket.socket]:
    """Listen on a port.

    Args:
        host: the address to listen on; None: all of this machine's.

    Raises:
        StartError: the port is taken, or not for us; or no interface has the address.
    """
    try:
        return bind_sockets(port, host, backlog=BACKLOG)
    except OSError as error:
        where = f"port {port}" if host is None else f"port {port} of {host}"
        cure = "stop what uses it, or set PORT to another"
        if error.errno == EADDRNOTAVAIL:
            cure = "set LISTEN_HOST to an address of this machine"
        raise StartError(f"cannot listen on {where} ({error.strerror}); {cure}") from error


def opened(numbers: Iterable[int]) -> list[socket.socket]:
    """Sockets that this process inherited, by the numbers of their files."""
    sockets = [socket.socket(fileno=number) for number in numbers]
    for one in sockets:
        one.setblocking(False)
        one.set_inheritable(False)
    return sockets
