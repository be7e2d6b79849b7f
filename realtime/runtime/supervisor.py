"""`WEB_CONCURRENCY` processes on one port: started, restarted when they die, and ended together.

`bin/serve` and `bin/dev` call `run`. One process is run as it is. Of several, this is the parent:
it listens, forks before there is any event loop, and serves nothing itself. The children accept
from the socket that they inherit, so a connection that waits when one of them dies is another's.

    starting ──"up"──▶ up ──its end──▶ dead ──after a pause──▶ starting
        └──its end (the very first: the supervisor gives up)──▶ dead

Each child has one end of a socket pair. It says on it that it is up; its end tells the parent that
the child is gone, and the parent's end the child that the parent is.
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
    """What a child does with its life; returns its exit code."""

    def say_up() -> None:
        with suppress(BrokenPipeError):  # without a parent it drains, see `process`
            inherited.tether.send(b"up")

    return process.run(settings, announce=say_up, inherited=inherited)


@dataclass
class Worker:
    """One of the children, through all its lives."""

    number: int
    backoff: Backoff
    tether: socket.socket | None = None
    """Our end of the pair, while it lives."""
    pid: int = 0
    is_up: bool = False
    started_at: float = 0.0
    due_at: float = 0.0
    """When to start it again."""
    code: int = 0
    """With which it ended last; below 0 by that signal."""


class Supervisor:
    """The children, and how often it has been told to stop.

    Args:
        work: what a child does; returns its exit code.
        sockets: what they listen on.
        patience: seconds that they may take to end.
        settled: seconds. Who dies sooner after it was started waits longer each time until it is
            started again.
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
        self._asked = 0
        self._deadline: float | None = None
        """When those still there are killed, once all have been told to end."""

    def run(self, count: int, announce: Callable[[], None]) -> int:
        """Keep so many children until told to stop; returns the exit code."""
        with self._wakeup() as wakeup:
            first = self._add(1)
            while first.tether and not first.is_up:
                self._step(wakeup)
            if not first.is_up:  # and it has said why: the others would, too
                return 0 if self._asked else max(first.code, 1)
            for number in range(2, count + 1):
                if not self._asked:
                    self._add(number)
            self._keep(wakeup, announce)
        is_clean = all(worker.code in (0, *(-one for one in _SIGNALS)) for worker in self._workers)
        return 0 if is_clean else 1

    def _keep(self, wakeup: socket.socket, announce: Callable[[], None]) -> None:
        is_announced = False
        while not self._asked or self._living():
            if not is_announced and all(worker.is_up for worker in self._workers):
                is_announced = True
                announce()
            self._step(wakeup)
            for worker in self._workers:
                if not self._asked and not worker.tether and worker.due_at <= time.monotonic():
                    self._start(worker)

    def _step(self, wakeup: socket.socket) -> None:
        """Wait until something happens or is due, and see to it."""
        living = {worker.tether: worker for worker in self._workers if worker.tether}
        readable, _, _ = select.select([wakeup, *living], [], [], self._seconds_to_wait())
        if wakeup in readable:
            wakeup.recv(64)
        for tether, worker in living.items():
            if tether in readable:
                self._hear(worker)
        if self._asked:
            self._end()

    def _seconds_to_wait(self) -> float | None:
        due = [worker.due_at for worker in self._workers if not worker.tether]
        times = [self._deadline] if self._deadline is not None else due if not self._asked else []
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _living(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.tether]

    # Beginnings.

    def _add(self, number: int) -> Worker:
        worker = Worker(number, Backoff(random.random))
        self._workers.append(worker)
        self._start(worker)
        return worker

    def _start(self, worker: Worker) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        # What comes before the child has handlers of its own must not be taken for ours.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        worker.pid = os.fork()
        if worker.pid == 0:
            ours.close()
            self._live(worker, theirs, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker.tether, worker.is_up, worker.started_at = ours, False, time.monotonic()

    def _live(self, worker: Worker, tether: socket.socket, mask: Iterable[int]) -> NoReturn:
        """Be the child, to its end: nothing that the parent was about to do is done here."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for other in self._living():
                assert other.tether is not None
                other.tether.close()  # or it would not notice the parent's end
            with say_and_exit():
                code = self._work(Inherited(worker.number, self._sockets, tether))
        except Exception:
            # The boundary of the process, where Python would print it.
            log.exception("worker=%d failed", worker.number)
        finally:
            sys.stdout.flush()
            os._exit(code)

    # Ends.

    def _hear(self, worker: Worker) -> None:
        """It is up, or gone."""
        assert worker.tether is not None
        if worker.tether.recv(64):
            worker.is_up = True
            log.info("worker=%d pid=%d is up", worker.number, worker.pid)
            return
        worker.tether.close()
        worker.tether = None
        _, status = os.waitpid(worker.pid, 0)
        worker.code = os.waitstatus_to_exitcode(status)
        if self._asked:
            log.info("worker=%d pid=%d ended code=%d", worker.number, worker.pid, worker.code)
        elif worker.is_up or len(self._workers) > 1:
            self._plan_restart(worker)
        elif worker.code < 0:
            log.error("worker=%d pid=%d was killed at its start", worker.number, worker.pid)

    def _plan_restart(self, worker: Worker) -> None:
        now = time.monotonic()
        if now - worker.started_at >= self._settled:
            worker.backoff.reset()
        pause = worker.backoff.next()
        worker.due_at = now + pause
        log.error(
            "worker=%d pid=%d died code=%d, started again in %.1f s",
            worker.number,
            worker.pid,
            worker.code,
            pause,
        )

    def _end(self) -> None:
        """Tell the children to end; then, if it takes too long or we are told again, kill them."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._patience
            self._signal(signal.SIGTERM)
            for one in self._sockets:
                one.close()
        elif self._asked > 1 or time.monotonic() >= self._deadline:
            log.error("killing those that have not ended")
            self._signal(signal.SIGKILL)
            self._asked, self._deadline = 1, time.monotonic() + 1

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._living():
            os.kill(worker.pid, number)  # whoever has ended is not collected yet, so it is theirs

    @contextmanager
    def _wakeup(self) -> Iterator[socket.socket]:
        """Count the signals that ask for the end; what can be read from wakes up with each."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            log.info("signal=%s ending all", signal.Signals(number).name)
            self._asked += 1

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
