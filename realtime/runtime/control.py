"""What a supervisor and its workers say over the control socket, and the signals they agree on.

This imports little, because the supervisor does.
"""

import signal
from typing import Final, NamedTuple

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Blocked while a program starts, so that none arrives before it knows what to do about them."""
BEAT: Final = b"\n"
"""A worker's sign of life."""
REPLACED: Final = b"replaced\n"
"""Tells a worker to end, because others serve in its place."""
MAX_BYTES: Final = 256
_UP: Final = b"up "


class Up(NamedTuple):
    """A worker serves."""

    workers: int
    """How many workers there should be, as the worker's settings say."""
    patience: float
    """Seconds that the worker's end may take."""

    def encoded(self) -> bytes:
        """The message of this."""
        return _UP + f"{self.workers} {self.patience}\n".encode()


def decode_up(said: bytes) -> Up | None:
    """What a worker says when it is up, maybe after signs of life; None: it says nothing else."""
    for line in said.splitlines():
        if line.startswith(_UP):
            workers, patience = line.split()[1:3]
            return Up(int(workers), float(patience))
    return None
