"""Starts the workers that serve, restarts those that die, replaces and ends all of them.

`bin/serve` checks the settings, listens, and becomes this program (`launch.py`). It holds the
listening sockets and serves nothing, so it imports neither the settings nor the server. Each worker
is a new Python, which reads the code and the settings itself and accepts from the sockets that it
inherits. So a connection that waits when a worker dies is accepted by another, and after SIGHUP new
code serves on a port that was never closed:

    starting ──"up"──▶ up ──its end──▶ dead ──after a pause──▶ starting
        └──its end (the very first: the supervisor gives up)──▶ dead

    SIGHUP: new workers are started ──all are up──▶ the old ones are replaced, and drain
                                    └──one fails──▶ the old ones stay

Each worker has one end of a socket pair, the control socket. The worker writes to it that it is up.
When a worker or the supervisor dies, the other one notices by the end of the control socket.
"""

import logging
import math
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import cast

from realtime.config.intervals import DEFAULTS, Intervals
from realtime.installation import python_of
from realtime.log_line import Field, LogLine
from realtime.relay.backoff import Backoff
from realtime.runtime.control import MAX_BYTES, REPLACED, SIGNALS, Up, decode_up
from realtime.runtime.logging import LogFormat, LogLevel, configure_logging
from realtime.runtime.service_manager import ServiceManager

log = logging.getLogger("realtime.runtime.supervisor")  # run as a program, its name is another

_STOPPING = (signal.SIGTERM, signal.SIGINT)
# What is told to this program is not for its workers: they would tell systemd a second time.
_NOT_HANDED_ON = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
_BEATS = 4
"""How many signs of life a worker gives within the time after which it counts as hung."""
_HUNG_SECONDS = 60.0
"""That time, where no watchdog says another. Other workers on the port would answer every probe."""
_SAME_STOP_SECONDS = 1.0
"""A signal to stop that comes so soon after another one says nothing new."""
_FROZEN_SECONDS = 1.0
"""So much later than it asked for is nobody woken who was not frozen."""


@dataclass(eq=False)
class Worker:
    """One worker, which may be restarted many times."""

    number: int
    """The number of this worker, from 1 on."""
    backoff: Backoff
    """How long to wait before the next restart."""
    control_socket: socket.socket | None = None
    """The supervisor's end of the control socket; None: the worker is dead."""
    pid: int = 0
    """The process id of the worker, as it was started last."""
    patience: float = DEFAULTS.worker_grace
    """Seconds that its end may take. It says so itself."""
    started_at: float = 0.0
    """When the worker was started last, in monotonic seconds."""
    heard_at: float | None = None
    """When it was heard last; None: it does not serve yet."""
    due_at: float = 0.0
    """When a dead worker is started again, in monotonic seconds."""
    ends_by: float | None = None
    """When it is killed if it still lives; None: nobody has told it to end."""
    exit_code: int = 0
    """The exit code of the worker's latest end; a signal's number, negative, if one killed it."""

    @property
    def is_alive(self) -> bool:
        """Whether the worker's process runs."""
        return self.control_socket is not None

    @property
    def is_up(self) -> bool:
        """Whether the worker has said that it serves."""
        return self.heard_at is not None


class Supervisor:
    """Starts the workers, watches them, replaces them and stops them.

    Args:
        sockets: the listening sockets that the workers inherit.
        environ: the workers' environment.
        manager: is told how the service is.
        announce: called once everything is up.
        log_format: of what a worker logs before it has read the settings.
        hung_after: seconds without a sign of life after which a worker is killed; None: it may be
            stopped for as long as one likes, as in a debugger.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        environ: Mapping[str, str],
        manager: ServiceManager,
        *,
        announce: Callable[[], None] = lambda: None,
        log_format: str = "text",
        hung_after: float | None = None,
        intervals: Intervals = DEFAULTS,
    ) -> None:
        self._hung_after = hung_after
        self._log_format = log_format
        self._sockets = sockets
        for one in sockets:
            one.set_inheritable(True)
        self._environ = {k: v for k, v in environ.items() if k not in _NOT_HANDED_ON}
        self._manager = manager
        self._announce = announce
        self._intervals = intervals
        self._directory = _directory(environ)
        self._workers: list[Worker] = []
        """Those that serve. None, before the very first is up."""
        self._new: list[Worker] = []
        """Those that are being started to replace the others."""
        self._leaving: list[Worker] = []
        """Those that have been replaced, or are not needed, and still live."""
        self._is_announced = False
        self._is_reload_requested = False
        self._reload_by = 0.0
        """When a reload that is going on has taken too long."""
        self._stop_count = 0
        """How many signals have asked for the end."""
        self._stopped_at = -math.inf
        """When the last one that counted came."""
        self._is_ending = False
        self._alive_at = 0.0
        """When the service manager is told next that this program goes on."""

    def run(self, *, can_reload: bool = True) -> int:
        """Keep the workers until told to stop; returns the exit code.

        Args:
            can_reload: SIGHUP means to replace the workers; else it is left as it is.
        """
        with self._wakeup(can_reload) as wakeup:
            self._new = [self._started(1)]
            while self._living() or (self._workers and not self._stop_count):
                self._step(wakeup)
        if not self._workers:  # the first has said why, and the others would fail as well
            return 0 if self._stop_count else max(self._new[0].exit_code, 1)
        is_clean = all(
            worker.exit_code in (0, *(-one for one in _STOPPING)) for worker in self._workers
        )
        return 0 if is_clean else 1

    def _step(self, wakeup: socket.socket) -> None:
        """Wait until something happens or is due, and see to it."""
        living = {one.control_socket: one for one in self._living() if one.control_socket}
        seconds, began = self._seconds_to_wait(), time.monotonic()
        readable, _, _ = select.select([wakeup, *living], [], [], seconds)
        if seconds is not None and time.monotonic() - began > seconds + _FROZEN_SECONDS:
            self._forgive_silence()
        if wakeup in readable:
            wakeup.recv(64)
        for control_socket, worker in living.items():
            if control_socket in readable:
                self._hear(worker)
        self._leaving = [one for one in self._leaving if one.is_alive]
        if self._stop_count:
            self._end()
        elif self._workers:
            self._tend_reload()
            self._restart_dead()
        self._kill_late()
        self._say_alive()

    def _seconds_to_wait(self) -> float | None:
        times = [one.ends_by for one in self._living() if one.ends_by is not None]
        if self._hung_after is not None and not self._stop_count:
            heard = [one.heard_at for one in self._workers if one.is_alive]
            times += [each + self._hung_after for each in heard if each is not None]
        if self._manager.watchdog is not None:
            times.append(self._alive_at)
        if self._stop_count:
            pass
        elif self._new and self._workers:
            times.append(self._reload_by)
        else:
            times += [one.due_at for one in self._workers if not one.is_alive]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _living(self) -> list[Worker]:
        return [one for one in (*self._workers, *self._new, *self._leaving) if one.is_alive]

    # Starts.

    def _started(self, number: int) -> Worker:
        worker = Worker(number, Backoff(random.random))
        self._start(worker)
        return worker

    def _start(self, worker: Worker) -> None:
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        worker.started_at, worker.heard_at = time.monotonic(), None
        try:
            worker.pid = self._spawn(worker.number, theirs, waits=self._is_served)
        except OSError as error:  # no memory, no room for processes, no Python any more
            ours.close()
            worker.exit_code = 1
            log.error(LogLine("worker_start_failed", worker=worker.number, error=error))
        else:
            worker.control_socket = ours
        finally:
            theirs.close()

    @property
    def _is_served(self) -> bool:
        """Whether clients are accepted, so that one who starts can wait until it is ready."""
        return any(one.is_alive and one.is_up for one in self._workers)

    def _spawn(self, number: int, control_socket: socket.socket, *, waits: bool) -> int:
        with suppress(OSError):
            # By its name, which may lead to another release than at the start.
            os.chdir(self._directory)
        hung_after = self._hung_after
        command = [
            *python_of("realtime.runtime.worker"),
            str(number),
            ",".join(str(one.fileno()) for one in self._sockets),
            str(control_socket.fileno()),
            str(hung_after / _BEATS if hung_after else 0),
            "waits" if waits else "",
            self._log_format,
        ]
        return os.posix_spawn(
            command[0], command, self._environ, setsigmask=SIGNALS, setsigdef=SIGNALS
        )

    def _restart_dead(self) -> None:
        """Start the dead workers that are due; not while others are about to replace them."""
        for worker in self._workers:
            if not self._new and not worker.is_alive and worker.due_at <= time.monotonic():
                self._start(worker)
                if not worker.is_alive:
                    self._plan_restart(worker)

    # What workers say.

    def _hear(self, worker: Worker) -> None:
        """Read from a worker's control socket: the worker is up, or lives, or is dead."""
        assert worker.control_socket is not None
        said = b""
        with suppress(ConnectionResetError):
            said = worker.control_socket.recv(MAX_BYTES)
        if not said:
            self._bury(worker)
        elif not worker.is_up and (up := decode_up(said)):
            worker.heard_at = time.monotonic()
            worker.patience = up.patience
            log.info(self._line("worker_started", worker))
            if not self._is_ending:
                self._on_up(worker, up)
        elif worker.is_up:
            worker.heard_at = time.monotonic()

    def _on_up(self, worker: Worker, up: Up) -> None:
        """The first of several has shown that a start is possible; start the others."""
        others = range(2, up.workers + 1)
        if not self._workers:
            self._workers, self._new = self._new, []
            self._workers += [self._started(number) for number in others]
        elif self._new and worker is self._new[0]:
            self._new += [self._started(number) for number in others]
        if not self._is_announced and all(one.is_up for one in self._workers):
            self._is_announced = True
            self._announce()
            self._manager.ready()

    def _bury(self, worker: Worker) -> None:
        assert worker.control_socket is not None
        worker.control_socket.close()
        worker.control_socket = None
        _, status = os.waitpid(worker.pid, 0)
        worker.exit_code = os.waitstatus_to_exitcode(status)
        if self._stop_count or worker in self._leaving:
            log.info(self._line("worker_ended", worker, code=worker.exit_code))
        elif worker in self._workers:
            self._plan_restart(worker)
        elif worker.exit_code < 0:
            log.error(self._line("worker_start_failed", worker, code=worker.exit_code))

    def _plan_restart(self, worker: Worker) -> None:
        now = time.monotonic()
        if now - worker.started_at >= self._intervals.worker_settled:
            worker.backoff.reset()
        pause = worker.backoff.next()
        worker.due_at = now + pause
        retry = round(pause, 1)
        log.error(self._line("worker_died", worker, code=worker.exit_code, retry_seconds=retry))

    # A reload.

    def _tend_reload(self) -> None:
        """Begin a reload, or go on with the one that has begun."""
        now = time.monotonic()
        if not self._new:
            if self._is_reload_requested:
                self._is_reload_requested = False
                self._manager.reloading()
                self._reload_by = now + self._intervals.worker_start
                self._new = [self._started(1)]
            return
        if failed := [one for one in self._new if not one.is_alive]:
            self._give_up_reload(f"worker {failed[0].number} ended with {failed[0].exit_code}")
        elif all(one.is_up for one in self._new):
            self._replace()
        elif now >= self._reload_by:
            self._give_up_reload(f"not ready within {self._intervals.worker_start:.0f} s")

    def _replace(self) -> None:
        """Send away the clients of the old workers: the new ones serve."""
        for worker in self._workers:
            if worker.control_socket is not None:
                with suppress(OSError):
                    worker.control_socket.send(REPLACED)
                self._let_end(worker)
        self._workers, self._new = self._new, []
        log.info(LogLine("reload_finished", workers=len(self._workers)))
        self._manager.ready()

    def _give_up_reload(self, reason: str) -> None:
        log.error(LogLine("reload_failed", reason=reason))
        for worker in self._new:
            if worker.is_alive:
                os.kill(worker.pid, signal.SIGTERM)
                self._let_end(worker)
        self._new = []
        self._manager.ready()

    def _let_end(self, worker: Worker) -> None:
        worker.ends_by = time.monotonic() + worker.patience
        self._leaving.append(worker)

    # Ends.

    def _count_stop(self) -> None:
        """A host and its tools may each send one for the same stop; a later one is another."""
        now = time.monotonic()
        if now - self._stopped_at >= _SAME_STOP_SECONDS:
            self._stop_count += 1
            self._stopped_at = now

    def _end(self) -> None:
        """Tell the workers to end; at a second signal, kill them."""
        if not self._is_ending:
            self._is_ending = True
            self._manager.stopping()
            for worker in self._living():
                os.kill(worker.pid, signal.SIGTERM)
                worker.ends_by = time.monotonic() + worker.patience
            for one in self._sockets:
                one.close()
        elif self._stop_count > 1:
            self._stop_count = 1
            for worker in self._living():
                worker.ends_by = 0.0

    def _kill_late(self) -> None:
        """Kill the workers that have not ended in time, and those that are stuck."""
        now = time.monotonic()
        late = [one for one in self._living() if one.ends_by is not None and one.ends_by <= now]
        if late:
            log.error(LogLine("workers_killed", workers=len(late)))
        for worker in late:
            os.kill(worker.pid, signal.SIGKILL)  # a dead worker keeps its pid until `waitpid`
            worker.ends_by = now + 1
        for worker in self._stuck(now):
            log.error(self._line("worker_stuck", worker))
            os.kill(worker.pid, signal.SIGKILL)
            worker.heard_at = now

    def _forgive_silence(self) -> None:
        """This program stood still itself, as in a container that was paused: so did the others."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.is_up:
                worker.heard_at = now

    def _stuck(self, now: float) -> list[Worker]:
        """Those whose event loop has given no sign of life for too long."""
        limit = self._hung_after
        if limit is None or self._stop_count:
            return []
        return [
            one
            for one in self._workers
            if one.is_alive and one.heard_at is not None and now - one.heard_at >= limit
        ]

    def _say_alive(self) -> None:
        watchdog, now = self._manager.watchdog, time.monotonic()
        if watchdog is not None and now >= self._alive_at:
            self._manager.alive()
            self._alive_at = now + watchdog / _BEATS

    @staticmethod
    def _line(event: str, worker: Worker, **more: Field) -> LogLine:
        return LogLine(event, worker=worker.number, pid=worker.pid, **more)

    @contextmanager
    def _wakeup(self, can_reload: bool) -> Iterator[socket.socket]:
        """Note the signals. Each one makes the returned socket readable."""
        had_terminal = _has_terminal()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP and (_has_terminal() or not had_terminal):
                log.info(LogLine("reload_requested"))
                self._is_reload_requested = True
            else:
                log.info(LogLine("stop_requested", signal=signal.Signals(number).name))
                self._count_stop()

        numbers = SIGNALS if can_reload else _STOPPING
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            # nohup has SIGHUP ignored, and so it stays.
            heard = [one for one in numbers if signal.getsignal(one) is not signal.SIG_IGN]
            before = {number: signal.signal(number, on_signal) for number in heard}
            before_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            try:
                yield ours
            finally:
                signal.set_wakeup_fd(before_fd)
                for number, handler in before.items():
                    signal.signal(number, handler)


def _has_terminal() -> bool:
    """Whether there is a controlling terminal. When it is closed, SIGHUP does not mean a reload."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _directory(environ: Mapping[str, str]) -> str:
    """The current directory as the shell calls it: a name that may be led to another release."""
    here, called = os.getcwd(), environ.get("PWD", "")  # noqa: PTH109 - a path as text
    with suppress(OSError):
        if os.path.samefile(here, called):  # noqa: PTH121
            return called
    return here


def main(listening: str, log_format: str, log_level: str) -> int:
    """Be the supervisor; returns the exit code.

    Args:
        listening: the numbers of the sockets' files, with commas.
        log_format, log_level: as in the settings.
    """
    configure_logging(cast("LogFormat", log_format), cast("LogLevel", log_level))
    sockets = [socket.socket(fileno=int(number)) for number in listening.split(",")]
    manager = ServiceManager.from_environ(os.environ)
    hung_after = manager.watchdog or _HUNG_SECONDS
    return Supervisor(
        sockets, os.environ, manager, log_format=log_format, hung_after=hung_after
    ).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
