"""What systemd is told of the service: sd_notify(3), where it named a socket for that.

The protocol is a datagram of lines `NAME=value`. Without the socket, nothing is told.
"""

import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class ServiceManager:
    """Tells systemd (or whatever else named a socket) how the service is.

    Args:
        address: the socket's; None: nobody wants to be told.
        watchdog: seconds within which the service has to say that it lives; None: it need not.
    """

    def __init__(self, address: str | None, watchdog: float | None) -> None:
        self._address = address
        self.watchdog = watchdog

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "ServiceManager":
        """The one that started this process."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        watchdog = int(microseconds) / 1e6 if microseconds.isdigit() else None
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog or None)

    def ready(self) -> None:
        """All is up; also after a reload, whatever came of it."""
        self._tell("READY=1\nSTATUS=serving")

    def reloading(self) -> None:
        """New workers are being started."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=starting new workers")

    def stopping(self) -> None:
        """The clients are being sent away."""
        self._tell("STOPPING=1\nSTATUS=sending clients away")

    def alive(self) -> None:
        """The supervisor goes on."""
        self._tell("WATCHDOG=1")

    def _tell(self, lines: str) -> None:
        if self._address is None:
            return
        # A name that begins with @ is of the abstract namespace.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.connect(address)
            one.send(lines.encode())
