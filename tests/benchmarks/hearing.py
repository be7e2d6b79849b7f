"""The least that hearing costs: a process that hears with asyncpg, sends to a socket, and no more.

    python -m tests.benchmarks.hearing

No server that hears with asyncpg can need less CPU for an event, or have it earlier. It is fed by
the peers' trigger, and then by this server's.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any, Final

import asyncpg

from realtime.postgres.doorbell import RING_CHANNEL
from tests.benchmarks.__main__ import database
from tests.benchmarks.database import NOTIFY, OURS, Database
from tests.benchmarks.processes import cpu_seconds
from tests.benchmarks.tally import STAMP, now, percentile

RATES: Final = (20, 200, 1000)
SECONDS: Final = 5
RING: Final = f"SELECT '{RING_CHANNEL}' || pg_sequence_last_value('relay.ring_channel')"
SETTLE_SECONDS: Final = 0.5
"""What was written last is heard by then, and who begins does nothing more."""


async def hear(dsn: str, base: str) -> None:
    """Hear until standard input ends; then say how late everything came."""
    connection = await asyncpg.connect(dsn)
    delays: list[int] = []
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def heard(_connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        message = payload.encode()
        stamp = STAMP.search(message)
        if stamp is not None:
            delays.append(now() - int(stamp[1]))
        ours.send(message)
        theirs.recv(65_536)

    channel = "messages"
    if base == OURS:
        await connection.execute("SELECT relay.listen(), setval('relay.bell', 1)")
        channel = await connection.fetchval(RING)
    await connection.add_listener(channel, heard)
    print(os.getpid(), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    print(json.dumps(delays), flush=True)


def measure(made: Database, base: str, rate: int) -> str:
    """A line about one rate."""
    made.rest()
    command = [sys.executable, "-m", "tests.benchmarks.hearing", made.dsn(base), base]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as hearing:
        assert hearing.stdin is not None
        assert hearing.stdout is not None
        pid = int(hearing.stdout.readline())
        time.sleep(SETTLE_SECONDS)
        before = cpu_seconds(pid)
        number = rate * SECONDS
        with made.writing(base, "write_messages", clients=1, each=number, rate=rate) as writers:
            writers.finish()
        time.sleep(SETTLE_SECONDS)
        spent = (cpu_seconds(pid) - before) / number * 1e6
        hearing.stdin.close()
        delays = sorted(json.loads(hearing.stdout.readline()))
    late = f"heard after {percentile(delays, 0.5):.2f} ms, p99 {percentile(delays, 0.99):.2f}"
    return f"{rate:5} a second: {spent:4.0f} µs of CPU, {late}"


def main() -> None:
    """Print what each rate costs, by whose trigger the notifications are."""
    with database() as made:
        for base, trigger in ((NOTIFY, "the peers' trigger"), (OURS, "this server's trigger")):
            print(trigger)
            for rate in RATES:
                print(measure(made, base, rate), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(hear(*sys.argv[1:]))
    else:
        main()
