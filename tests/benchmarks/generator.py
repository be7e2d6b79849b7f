"""The load generator as the scenarios see it: a process that takes orders and gives results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from tests.benchmarks.paths import ROOT
from tests.benchmarks.wire import handshake

IN_FLIGHT = 64
OPEN_LIMIT = 120.0
MEASURE_LIMIT = 90.0


class GeneratorError(Exception):
    """The generator broke, or the server did not let it in."""


class LoadGenerator:
    """Many sockets to one server."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self._port = port

    def open(
        self,
        paths: Sequence[str],
        *,
        sampled: int = 50,
        in_flight: int = IN_FLIGHT,
        bots: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Open a socket for each path and wait for all; how long it took, and their cursors.

        Args:
            bots: what each subscribes to, where a socket may have many.

        Raises:
            GeneratorError: some were not let in.
        """
        self.begin_to_open(paths, sampled=sampled, in_flight=in_flight, bots=bots)
        return self.opened(len(paths))

    def begin_to_open(
        self, paths: Sequence[str], *, sampled: int, in_flight: int, bots: Sequence[str] = ()
    ) -> None:
        requests = [handshake(path, self._port).decode() for path in paths]
        self._order(
            do="open",
            requests=requests,
            in_flight=in_flight,
            sample_every=max(1, len(paths) // sampled),
            bots=bots,
            limit=OPEN_LIMIT,
        )

    def opened(self, wanted: int) -> dict[str, Any]:
        """The answer to `begin_to_open`."""
        answer = self._answer()
        if answer["opened"] != wanted:
            raise GeneratorError(f"only {answer['opened']} of {wanted} sockets were opened")
        return answer

    def measure(
        self,
        expected: int | None,
        *,
        limit: float = MEASURE_LIMIT,
        window: float = 0,
        settle: float = 0,
    ) -> None:
        """Begin to count; it ends by itself when as many events as expected have come.

        `tally.Counters` says what the arguments are.
        """
        self._order(do="measure", expected=expected, limit=limit, window=window, settle=settle)
        self._answer()

    def expect(self, expected: int) -> None:
        """Say how many events there will be, once that is known."""
        self._order(do="expect", expected=expected)

    def result(self) -> dict[str, Any]:
        """What was measured."""
        return self._answer()

    def close_all(self) -> None:
        self._order(do="close")
        self._answer()

    def _order(self, **words: Any) -> None:
        _pipe(self._process.stdin).write(json.dumps(words) + "\n")
        _pipe(self._process.stdin).flush()

    def _answer(self) -> dict[str, Any]:
        # It keeps its own time limits, so it always answers.
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise GeneratorError("the load generator ended early")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@contextmanager
def load_generator(port: int, dialect: str) -> Iterator[LoadGenerator]:
    """A generator for the server on that port, for as long as a scenario needs it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.load", str(port), dialect],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield LoadGenerator(process, port)
        finally:
            process.kill()
