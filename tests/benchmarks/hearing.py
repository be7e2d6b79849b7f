"""The least that hearing costs: a process that hears with asyncpg, sends to a socket, and no more.

    python -m tests.benchmarks.hearing

No server that hears with asyncpg can need less CPU for an event, or have it earlier. It is fed by
the peers' trigger, by this server's, and by one that writes a fixed text into the log and rings
with it: the least that a trigger with a log can do.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import defaultdict
from statistics import median
from typing import Any, Final, NamedTuple

import asyncpg

from realtime.postgres.doorbell import RING_CHANNEL
from tests.benchmarks.__main__ import database
from tests.benchmarks.database import NOTIFY, OURS, Database
from tests.benchmarks.processes import cpu_seconds
from tests.benchmarks.scenarios.delivery import Load
from tests.benchmarks.tally import STAMP, now, percentile
from tests.benchmarks.triggers import trigger_of

SECONDS: Final = 5
ROUNDS: Final = 5
RING: Final = f"SELECT '{RING_CHANNEL}' || pg_sequence_last_value('relay.ring_channel')"
SETTLE_SECONDS: Final = 0.5
"""What was written last is heard by then, and who begins does nothing more."""
STAMPED: Final = "substring(content FROM '\\^at=[0-9]+ ')"
LEAST: Final = f"""
CREATE OR REPLACE FUNCTION relay.messages_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told text;
BEGIN
    INSERT INTO relay.events (topic, type, payload)
    SELECT concat('bot:', bot_id), 'chat_message', repeat('x', 420) FROM new_rows;
    told := relay.ring_event(
        TG_TABLE_NAME, (SELECT concat({STAMPED}, repeat('x', 420)) FROM new_rows));
    RETURN NULL;
END
$$
"""


LOADS: Final = tuple(
    Load(sockets=1, writers=writers, inserts=rate * SECONDS, bots=bots, rate=rate)
    for writers, rate, bots in ((1, 20, 1), (1, 200, 1), (1, 1000, 1), (8, 1000, 500))
)


class Fed(NamedTuple):
    """By whose trigger the notifications are."""

    name: str
    base: str
    trigger: str | None = None


FED: Final = (
    Fed("the peers' trigger", NOTIFY),
    Fed("this server's trigger", OURS, trigger_of("0002")),
    Fed("the least with a log", OURS, LEAST),
)


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


def measure(made: Database, fed: Fed, load: Load) -> tuple[float, float, float]:
    """Microseconds of CPU for each, and after how many milliseconds it was heard: p50, p99."""
    if fed.trigger is not None:
        made.sql(fed.trigger, fed.base)
    made.rest()
    command = [sys.executable, "-m", "tests.benchmarks.hearing", made.dsn(fed.base), fed.base]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as hearing:
        assert hearing.stdin is not None
        assert hearing.stdout is not None
        pid = int(hearing.stdout.readline())
        time.sleep(SETTLE_SECONDS)
        before = cpu_seconds(pid)
        with made.writing(
            fed.base,
            "write_many",
            clients=load.writers,
            each=load.inserts_each,
            rate=load.rate,
            bots=load.bots,
        ) as writers:
            writers.finish()
        time.sleep(SETTLE_SECONDS)
        spent = (cpu_seconds(pid) - before) / load.inserts * 1e6
        hearing.stdin.close()
        delays = sorted(json.loads(hearing.stdout.readline()))
    return spent, percentile(delays, 0.5), percentile(delays, 0.99)


def main() -> None:
    """Print what each load costs by whose trigger, as medians of rounds that take turns."""
    with database() as made:
        for load in LOADS:
            found: dict[Fed, list[tuple[float, float, float]]] = defaultdict(list)
            for _ in range(ROUNDS):
                for fed in FED:
                    found[fed].append(measure(made, fed, load))
            print(load.describe())
            for fed, figures in found.items():
                spent, half, most = (median(column) for column in zip(*figures, strict=True))
                late = f"heard after {half:.2f} ms, p99 {most:.2f}"
                print(f"    {fed.name:22} {spent:4.0f} µs of CPU, {late}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(hear(*sys.argv[1:]))
    else:
        main()
