"""What `bin/serve` does: it listens, and becomes the supervisor.

The settings are checked here, so that a wrong one is one line before anything starts. But they and
all that they import would stay in the supervisor's memory: as a new program it takes 13 MB, not 45.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping

from realtime.config.settings import Settings
from realtime.installation import python_of
from realtime.runtime.control import SIGNALS
from realtime.runtime.listening import bind, listen
from realtime.runtime.logging import configure_logging
from realtime.runtime.service_manager import ServiceManager
from realtime.runtime.supervisor import Supervisor


def become_supervisor(settings: Settings, environ: Mapping[str, str]) -> None:
    """Listen, and go on as the supervisor; does not return.

    Raises:
        StartError: the port cannot be used.
    """
    sockets = listen(settings.listen_host, settings.port, environ)
    for one in sockets:
        one.set_inheritable(True)
    numbers = ",".join(str(one.fileno()) for one in sockets)
    if sys.stdout is not None:  # it may be closed
        sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    command = [
        *python_of("realtime.runtime.supervisor"),
        numbers,
        settings.log_format,
        settings.log_level,
    ]
    os.execve(command[0], command, {**environ})


def run_workers(
    settings: Settings, environ: Mapping[str, str], *, announce: Callable[[], None]
) -> int:
    """Be the supervisor in this program, which has other things to do at the end.

    Args:
        announce: called once everything is up.

    Raises:
        StartError: the port cannot be used.
    """
    configure_logging(settings.log_format, settings.log_level)
    manager = ServiceManager(None, None)
    sockets = bind(settings.listen_host, settings.port)
    supervisor = Supervisor(
        sockets, environ, manager, announce=announce, log_format=settings.log_format
    )
    return supervisor.run(can_reload=False)
