"""A process's life around `server`: its log, its signals, its exit code.

`supervisor` calls `run`: once, or in each of the processes that it starts.
"""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from typing import NamedTuple

from realtime.config.settings import Settings
from realtime.runtime.logging import configure_logging
from realtime.runtime.server import serve

log = logging.getLogger(__name__)


class Inherited(NamedTuple):
    """What each process of a supervisor has from it."""

    number: int
    sockets: list[socket.socket]
    """They listen already."""
    tether: socket.socket
    """Can be read from, at its end, once the supervisor is gone."""


def run(
    settings: Settings,
    *,
    announce: Callable[[], None],
    inherited: Inherited | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code.

    Args:
        announce: called once everything is up.

    Raises:
        CommandError: it could not start.
    """
    configure_logging(settings.log_format, worker=inherited.number if inherited else None)
    # The modules stay: the collector need not look through them again with every few sockets.
    gc.freeze()
    asyncio.run(_run(settings, announce, inherited))
    return 0


async def _run(
    settings: Settings, announce: Callable[[], None], inherited: Inherited | None
) -> None:
    stop = asyncio.Event()
    sockets = None
    if inherited is None:
        _stop_on_signal(stop, is_alone=True)
    else:
        _stop_on_signal(stop, is_alone=False)
        _stop_without_supervisor(stop, inherited.tether)
        sockets = inherited.sockets
    await serve(settings, stop, lambda _server: announce(), sockets)


def _stop_on_signal(stop: asyncio.Event, *, is_alone: bool) -> None:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_signal(number: int) -> None:
        log.info("signal=%s draining", signal.Signals(number).name)
        stop.set()
        if not is_alone:
            return  # terminals and hosts signal all, and the supervisor does: one comes twice
        for each, handler in before.items():
            # A second signal ends at once, in the way in which it did before.
            loop.remove_signal_handler(each)
            signal.signal(each, handler)

    for number in before:
        loop.add_signal_handler(number, on_signal, number)


def _stop_without_supervisor(stop: asyncio.Event, tether: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        log.warning("the supervisor is gone: draining")
        loop.remove_reader(tether)
        stop.set()

    loop.add_reader(tether, on_end)
