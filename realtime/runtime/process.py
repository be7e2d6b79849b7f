"""Runs one serving process: sets up its log, and drains it on a signal."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, NoReturn

from realtime.config.settings import Settings
from realtime.log_line import LogLine
from realtime.runtime.control import BEAT, REPLACED
from realtime.runtime.logging import configure_logging
from realtime.runtime.server import Stop, serve
from realtime.web.demo_platform import DemoPlatform

log = logging.getLogger(__name__)

NEW_OBJECTS = 10_000
"""After so many the garbage collector looks: most that a handshake makes stay, so by default it
would look 14 times as often and find nothing."""


class Inherited(NamedTuple):
    """The things that a process has from its supervisor."""

    number: int
    """The number of this process among those of the supervisor, from 1 on."""
    sockets: list[socket.socket]
    """The listening sockets to serve on."""
    control_socket: socket.socket
    """The connection to the supervisor. It ends when the supervisor is gone."""
    beat: float
    """Seconds between two signs of life; 0: nobody waits for them."""
    waits: bool
    """Whether others serve, so that this one need accept nobody until it is ready."""


def run(
    settings: Settings,
    *,
    announce: Callable[[], None],
    inherited: Inherited | None = None,
    demo: DemoPlatform | None = None,
) -> int:
    """Serve until told to end, and return the exit code.

    Args:
        announce: called once everything is up.
        demo: what the console of `bin/dev` may ask.

    Raises:
        CommandError: it could not start.
    """
    number = inherited.number if inherited else None
    configure_logging(settings.log_format, settings.log_level, worker=number)
    if settings.env_file is not None:
        log.info(LogLine("env_file_read", file=settings.env_file))
    # The modules stay, so the garbage collector need not look through them again.
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 20)
    asyncio.run(_run(settings, announce, inherited, demo))
    return 0


async def _run(
    settings: Settings,
    announce: Callable[[], None],
    inherited: Inherited | None,
    demo: DemoPlatform | None,
) -> None:
    stop = Stop()
    _stop_on_signal(stop, is_alone=inherited is None)
    if inherited is None:
        await serve(settings, stop, lambda _server: announce(), demo=demo)
        return
    _obey_supervisor(stop, inherited.control_socket)
    beats = [partial(_beat, inherited.control_socket, inherited.beat)] if inherited.beat else []
    await serve(
        settings,
        stop,
        lambda _server: announce(),
        inherited.sockets,
        beside=beats,
        waits=inherited.waits,
    )


async def _beat(control_socket: socket.socket, seconds: float) -> NoReturn:
    """Tell the supervisor that the event loop runs, as long as it does."""
    while True:
        with suppress(BlockingIOError, BrokenPipeError):
            control_socket.send(BEAT)
        await asyncio.sleep(seconds)


def _stop_on_signal(stop: Stop, *, is_alone: bool) -> None:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_signal(number: int) -> None:
        log.info(LogLine("stop_requested", signal=signal.Signals(number).name))
        stop.set()
        if not is_alone:
            return  # a terminal or a host signals all processes, and so does the supervisor
        for each, handler in before.items():
            # A second signal ends the process at once, as if there were no handler.
            loop.remove_signal_handler(each)
            signal.signal(each, handler)

    for number in before:
        loop.add_signal_handler(number, on_signal, number)


def _obey_supervisor(stop: Stop, control_socket: socket.socket) -> None:
    """End when the supervisor says that others serve, and when it is gone."""
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        said = b""
        with suppress(ConnectionResetError):  # it was killed, and had not read the last beat
            said = control_socket.recv(64)
        if said == REPLACED:
            stop.is_replaced = True
            log.info(LogLine("worker_replaced"))
        else:
            log.warning(LogLine("supervisor_lost"))
            loop.remove_reader(control_socket)
        stop.set()

    loop.add_reader(control_socket, on_readable)
