"""Runs `WEB_CONCURRENCY` processes on one port, restarts those that die, and ends them together.

A single process needs no supervisor. Of several processes, this is the parent: it listens, forks
before there is any event loop, and serves nothing itself. Its workers accept from the socket that
they inherit, so a connection that waits when one of them dies is accepted by another.

    starting ──"up"──▶ up ──its end──▶ dead ──after a pause──▶ starting
        └──its end (the very first: the supervisor gives up)──▶ dead

Each worker has one end of a socket pair, the control socket. The worker writes to it that it is up.
When a worker or the parent dies, the other one notices by the end of the control socket.
"""

import logging
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import NoReturn

from realtime.config.intervals import DEFAULTS
from realtime.config.settings import Settings
from realtime.errors import say_and_exit
from realtime.log_line import Field, LogLine
from realtime.relay.backoff import Backoff
from realtime.runtime import process
from realtime.runtime.logging import configure_logging
from realtime.runtime.process import Inherited
from realtime.runtime.server import bind

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(settings: Settings, *, announce: Callable[[], None] = lambda: None) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code.

    Args:
        announce: called once everything is up.

    Raises:
        CommandError: it could not start.
    """
    if settings.web_concurrency == 1:
        return process.run(settings, announce=announce)
    configure_logging(settings.log_format)
    sockets = bind(settings.port)
    supervisor = Supervisor(
        partial(_serve, settings),
        sockets,
        patience=settings.drain_seconds + DEFAULTS.worker_grace,
        settled=DEFAULTS.worker_settled,
    )
    return supervisor.run(settings.web_concurrency, announce)


def _serve(settings: Settings, inherited: Inherited) -> int:
    """Be a worker: serve, and return the exit code."""

    def say_up() -> None:
        with suppress(BrokenPipeError):  # without a parent it drains by itself
            inherited.control_socket.send(b"up")

    return process.run(settings, announce=say_up, inherited=inherited)


@dataclass
class Worker:
    """One worker, which may be restarted many times."""

    number: int
    """The number of this worker, from 1 on."""
    backoff: Backoff
    """How long to wait before the next restart."""
    control_socket: socket.socket | None = None
    """The parent's end of the control socket; None: the worker is dead."""
    pid: int = 0
    """The process id of the worker, as it was started last."""
    is_up: bool = False
    """Whether the worker has said that it serves."""
    started_at: float = 0.0
    """When the worker was started last, in monotonic seconds."""
    due_at: float = 0.0
    """When a dead worker is started again, in monotonic seconds."""
    exit_code: int = 0
    """The exit code of the worker's latest end; a signal's number, negative, if one killed it."""

    @property
    def is_alive(self) -> bool:
        """Whether the worker's process runs."""
        return self.control_socket is not None


class Supervisor:
    """Starts the workers, watches them and stops them.

    Args:
        work: what a worker does; returns its exit code.
        sockets: the listening sockets that the workers inherit.
        patience: seconds that the workers may take to end before they are killed.
        settled: seconds. A worker that dies sooner after its start waits longer for each restart.
    """

    def __init__(
        self,
        work: Callable[[Inherited], int],
        sockets: list[socket.socket],
        *,
        patience: float,
        settled: float,
    ) -> None:
        self._work = work
        self._sockets = sockets
        self._patience = patience
        self._settled = settled
        self._workers: list[Worker] = []
        self._stop_count = 0
        """How many signals have asked for the end."""
        self._deadline: float | None = None
        """When workers that still live are killed; None: nobody has told them to end."""

    def run(self, count: int, announce: Callable[[], None]) -> int:
        """Keep so many workers until told to stop; returns the exit code."""
        with self._wakeup() as wakeup:
            first = self._add(1)
            while first.is_alive and not first.is_up:
                self._step(wakeup)
            if not first.is_up:  # it has said why, and the others would fail as well
                return 0 if self._stop_count else max(first.exit_code, 1)
            for number in range(2, count + 1):
                if not self._stop_count:
                    self._add(number)
            self._keep(wakeup, announce)
        is_clean = all(
            worker.exit_code in (0, *(-one for one in _SIGNALS)) for worker in self._workers
        )
        return 0 if is_clean else 1

    def _keep(self, wakeup: socket.socket, announce: Callable[[], None]) -> None:
        is_announced = False
        while not self._stop_count or self._living():
            if not is_announced and all(worker.is_up for worker in self._workers):
                is_announced = True
                announce()
            self._step(wakeup)
            if not self._stop_count:
                self._restart_dead()

    def _restart_dead(self) -> None:
        """Start the dead workers that are due."""
        for worker in self._workers:
            if not worker.is_alive and worker.due_at <= time.monotonic():
                self._start(worker)

    def _step(self, wakeup: socket.socket) -> None:
        """Wait until something happens or is due, and see to it."""
        living = {
            worker.control_socket: worker for worker in self._workers if worker.control_socket
        }
        readable, _, _ = select.select([wakeup, *living], [], [], self._seconds_to_wait())
        if wakeup in readable:
            wakeup.recv(64)
        for control_socket, worker in living.items():
            if control_socket in readable:
                self._hear(worker)
        if self._stop_count:
            self._end()

    def _seconds_to_wait(self) -> float | None:
        if self._deadline is not None:
            times = [self._deadline]
        else:
            times = [worker.due_at for worker in self._workers if not worker.is_alive]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _living(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.is_alive]

    # Starts.

    def _add(self, number: int) -> Worker:
        worker = Worker(number, Backoff(random.random))
        self._workers.append(worker)
        self._start(worker)
        return worker

    def _start(self, worker: Worker) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        # A signal to the worker must not run this process's handlers in it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        worker.pid = os.fork()
        if worker.pid == 0:
            ours.close()
            self._live(worker, theirs, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker.control_socket, worker.is_up, worker.started_at = ours, False, time.monotonic()

    def _live(self, worker: Worker, control_socket: socket.socket, mask: Iterable[int]) -> NoReturn:
        """Be the worker, and exit: nothing that the parent was about to do is done here."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for other in self._living():
                assert other.control_socket is not None
                other.control_socket.close()  # or `other` would not notice the parent's end
            with say_and_exit():
                code = self._work(Inherited(worker.number, self._sockets, control_socket))
        except Exception:
            # The boundary of the process, where Python would print it.
            log.exception(LogLine("worker_failed", worker=worker.number))
        finally:
            sys.stdout.flush()
            os._exit(code)

    # Ends.

    def _hear(self, worker: Worker) -> None:
        """Read from a worker's control socket: the worker is up, or dead."""
        assert worker.control_socket is not None
        if worker.control_socket.recv(64):
            worker.is_up = True
            log.info(self._line("worker_started", worker))
            return
        worker.control_socket.close()
        worker.control_socket = None
        _, status = os.waitpid(worker.pid, 0)
        worker.exit_code = os.waitstatus_to_exitcode(status)
        if self._stop_count:
            log.info(self._line("worker_ended", worker, code=worker.exit_code))
        elif worker.is_up or len(self._workers) > 1:
            self._plan_restart(worker)
        elif worker.exit_code < 0:
            log.error(self._line("worker_start_failed", worker, code=worker.exit_code))

    def _plan_restart(self, worker: Worker) -> None:
        now = time.monotonic()
        if now - worker.started_at >= self._settled:
            worker.backoff.reset()
        pause = worker.backoff.next()
        worker.due_at = now + pause
        retry = round(pause, 1)
        log.error(self._line("worker_died", worker, code=worker.exit_code, retry_seconds=retry))

    def _end(self) -> None:
        """Tell the workers to end. Kill them if that takes too long, or at a second signal."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._patience
            self._signal(signal.SIGTERM)
            for one in self._sockets:
                one.close()
        elif self._stop_count > 1 or time.monotonic() >= self._deadline:
            log.error(LogLine("workers_killed", workers=len(self._living())))
            self._signal(signal.SIGKILL)
            self._stop_count, self._deadline = 1, time.monotonic() + 1

    @staticmethod
    def _line(event: str, worker: Worker, **more: Field) -> LogLine:
        return LogLine(event, worker=worker.number, pid=worker.pid, **more)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._living():
            os.kill(worker.pid, number)  # a dead worker keeps its pid until `waitpid`

    @contextmanager
    def _wakeup(self) -> Iterator[socket.socket]:
        """Count the signals that ask for the end. Each one makes the returned socket readable."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            log.info(LogLine("stop_requested", signal=signal.Signals(number).name))
            self._stop_count += 1

        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
            before_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            try:
                yield ours
            finally:
                signal.set_wakeup_fd(before_fd)
                for number, handler in before.items():
                    signal.signal(number, handler)
