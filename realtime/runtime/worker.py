"""A worker of the supervisor: `python -m realtime.runtime.worker`, which only the supervisor calls.

It reads the settings itself, so those of a reload are new, as the code is. It says over its control
socket that it serves, how many workers there should be, and how long its end may take. After that
it says from time to time that it lives, where somebody waits for that.
"""

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from typing import cast

from realtime.errors import CommandError
from realtime.installation import as_called
from realtime.log_line import LogLine
from realtime.runtime.control import SIGNALS, Up
from realtime.runtime.logging import LogFormat, configure_logging

log = logging.getLogger("realtime.runtime.worker")  # run as a program, its name is another


def main(number: str, listening: str, control: str, beat: str, waits: str, log_format: str) -> int:
    """Serve until told to end, and return the exit code.

    Args:
        number: the worker's, from 1 on.
        listening: the numbers of the sockets' files, with commas.
        control: that of the control socket.
        beat: seconds between two signs of life; 0: nobody waits for them.
        waits: not empty: others serve, and this one accepts nobody until it is ready.
        log_format: that of the supervisor, until the settings are read.
    """
    # Without what libraries say while they are imported.
    configure_logging(cast("LogFormat", log_format), "warning", worker=int(number))
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    # A terminal or a host may send it to all processes; it is for the supervisor.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    from realtime.config.env_file import with_env_file
    from realtime.config.intervals import DEFAULTS
    from realtime.config.settings import Settings
    from realtime.runtime import process
    from realtime.runtime.listening import opened

    settings = Settings.from_environ(with_env_file(os.environ))
    (control_socket,) = opened([int(control)])
    up = Up(settings.web_concurrency, settings.drain_seconds + DEFAULTS.worker_grace)
    return process.run(
        settings,
        announce=partial(_say, control_socket, up.encoded()),
        inherited=process.Inherited(
            int(number),
            opened(map(int, listening.split(","))),
            control_socket,
            float(beat),
            bool(waits),
        ),
    )


def _say(control_socket: socket.socket, words: bytes) -> None:
    with suppress(BrokenPipeError, BlockingIOError):  # without a supervisor it drains by itself
        control_socket.send(words)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except CommandError as error:
        log.error(LogLine("worker_start_refused", reason=as_called(str(error))))
        sys.exit(1)
    except Exception:
        # The boundary of the process, where Python would print it.
        log.exception(LogLine("worker_failed"))
        sys.exit(1)
