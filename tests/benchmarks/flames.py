"""Flame graphs of this server under load, by py-spy, which must be installed: `pip install py-spy`.

    python -m tests.benchmarks.flames FOLDER

One SVG each: how wide a function is says how much of the server's time it takes, with all that it
calls. To look into another process, py-spy has to be root or may need `kernel.yama.ptrace_scope=0`.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.benchmarks.__main__ import database
from tests.benchmarks.bench import say
from tests.benchmarks.contenders import THIS
from tests.benchmarks.packages import Packages
from tests.benchmarks.scenarios import SCENARIOS, Bench
from tests.benchmarks.scenarios.delivery import DeliveryScenario, Load, deliver
from tests.benchmarks.scenarios.sockets import BOTS

LOADS: Final = ("wide", "many")
HANDSHAKES: Final = 4000
RATE: Final = 100
"""Samples a second."""
STOP_SECONDS: Final = 60


@contextmanager
def watched(pid: int, title: str, file: Path) -> Iterator[None]:
    """Sample a process meanwhile, and draw what was found."""
    # To stop the server for each sample would let the writers wait, which it takes for a burst.
    command = ["py-spy", "record", "--function", "--rate", str(RATE)]
    with subprocess.Popen(
        [*command, "--pid", str(pid), "--output", str(file)], stdout=subprocess.DEVNULL
    ) as spy:
        try:
            yield
        finally:
            spy.send_signal(signal.SIGINT)
            spy.wait(STOP_SECONDS)
    drawn = file.read_text()
    file.write_text(re.sub(r">py-spy record [^<]*<", f">{title}, {RATE} samples a second<", drawn))


def watch_load(bench: Bench, load: Load, title: str, file: Path) -> None:
    """While messages are delivered."""
    paths = [THIS.path(number, number % load.bots) for number in range(load.sockets)]
    with bench.contest(THIS) as (server, generator):
        generator.open(paths)
        with watched(server.pid, title, file):
            deliver(bench, THIS, load, server, generator)


def watch_handshakes(bench: Bench, title: str, file: Path) -> None:
    """While sockets are let in."""
    paths = [THIS.path(number, number % BOTS) for number in range(HANDSHAKES)]
    with bench.contest(THIS) as (server, generator), watched(server.pid, title, file):
        generator.open(paths)


def main() -> None:
    """Draw all into the folder."""
    folder = Path(sys.argv[1])
    with database() as made:
        bench = Bench(made, Packages(say), is_quick=False, soak_seconds=0, say=say)
        for name in LOADS:
            scenario = SCENARIOS[name]
            assert isinstance(scenario, DeliveryScenario)
            watch_load(bench, scenario.load, scenario.title, folder / f"flames-{name}.svg")
        watch_handshakes(bench, "Connect", folder / "flames-connect.svg")


if __name__ == "__main__":
    main()
