"""`WEB_CONCURRENCY` as hosts run it: several real processes on one port, killed and told to end."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import termios
from functools import partial

from tornado.ioloop import IOLoop

from tests.clients import Socket
from tests.commands import (
    SECRET,
    assert_one_line,
    execute,
    free_port,
    lives,
    run_script,
    status_of,
)
from tests.serving import World
from tests.supervised import Served, served
from tests.waiting import LIMIT, eventually, wait_until


def test_a_killed_worker_comes_back(database: str) -> None:
    """Both were there and both are again; meanwhile the port answered all who asked."""
    with served(database) as server:
        before = server.pids()
        for number, pid in before.items():
            os.kill(pid, signal.SIGKILL)
            wait_until(partial(server.is_replaced, number, pid))
            assert status_of(server.url("/api/health")) == 200
        assert server.all_up()
        assert re.search(r"runtime.supervisor worker_died .*code=-9", server.running.output)
        assert server.running.stop(signal.SIGTERM) == 0


def test_sigterm_drains_every_worker(io_loop: IOLoop, database: str, world: World) -> None:
    """Clients are told 1001, the log says which process wrote each line, and the exit code is 0.

    The signal goes to all processes, as hosts and terminals send it, and the supervisor passes it
    on: that is not a second one.
    """

    async def connect(server: Served) -> list[Socket]:
        chats = [await server.chat(world) for _ in range(20)]
        os.killpg(server.running.process.pid, signal.SIGTERM)
        await eventually(lambda: all(chat.is_closed for chat in chats))
        return chats

    with served(database, LOG_FORMAT="json") as server:
        chats = io_loop.run_sync(lambda: connect(server), timeout=LIMIT)
        assert server.running.process.wait(LIMIT) == 0
        assert status_of(server.url("/api/health")) == 0
        lines = [json.loads(line) for line in server.running.output.splitlines()]
    assert {chat.code for chat in chats} == {1001}
    assert {line.get("worker") for line in lines} == {None, 1, 2}


def test_sigterm_to_the_supervisor_alone_reaches_the_workers(database: str) -> None:
    """As `kill` does, or a host that signals one process."""
    with served(database) as server:
        os.kill(server.running.process.pid, signal.SIGTERM)
        assert server.running.process.wait(LIMIT) == 0
        assert not any(lives(pid) for pid in server.pids().values())


def test_a_second_signal_ends_at_once(io_loop: IOLoop, database: str, world: World) -> None:
    """However long the drain was to take."""

    async def signal_twice(server: Served) -> None:
        chats = [await server.chat(world) for _ in range(50)]
        supervisor = server.running.process

        def again() -> bool:
            if "workers_killed" not in server.running.output:
                supervisor.send_signal(signal.SIGTERM)  # those of one moment are one
            return supervisor.poll() is not None

        supervisor.send_signal(signal.SIGTERM)
        await eventually(lambda: any(chat.is_closed for chat in chats))
        await eventually(again)
        await eventually(lambda: all(chat.is_closed for chat in chats))

    with served(database, DRAIN_SECONDS="600") as server:
        io_loop.run_sync(lambda: signal_twice(server), timeout=LIMIT)
        assert server.running.process.returncode == 1


def test_signals_that_come_together_are_one(io_loop: IOLoop, database: str, world: World) -> None:
    """A host and its tools may each send one: clients are still told 1001, and the code is 0."""

    async def signal_at_once(server: Served) -> list[Socket]:
        chats = [await server.chat(world) for _ in range(20)]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(server.running.process.pid, number)
        await eventually(lambda: all(chat.is_closed for chat in chats))
        return chats

    with served(database) as server:
        chats = io_loop.run_sync(lambda: signal_at_once(server), timeout=LIMIT)
        assert server.running.process.wait(LIMIT) == 0
    assert {chat.code for chat in chats} == {1001}


def test_workers_do_not_outlive_their_supervisor(database: str) -> None:
    """Killed without a word, it leaves nobody on the port."""
    with served(database) as server:
        os.kill(server.running.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(lives(pid) for pid in server.pids().values()))
        assert status_of(server.url("/api/health")) == 0
        server.running.process.wait(LIMIT)


def test_a_worker_that_cannot_start_again_is_tried_again(
    database: str,
) -> None:
    """With growing pauses, while the other serves; once its trouble is over it comes back."""
    with served(database) as server:
        execute(database, "ALTER FUNCTION relay.authorize RENAME TO authorize_away")
        os.kill(server.pids()[1], signal.SIGKILL)
        wait_until(lambda: server.running.output.count("worker=1 pid=") >= 4)
        assert "half restored" in server.running.output
        assert status_of(server.url("/api/health")) == 200
        execute(database, "ALTER FUNCTION relay.authorize_away RENAME TO authorize")
        wait_until(server.all_up)
        assert server.running.stop(signal.SIGTERM) == 0


def serve_both(dsn: str, port: int) -> subprocess.CompletedProcess[str]:
    """Two processes that end by themselves."""
    return run_script(
        "serve", DATABASE_URL=dsn, PORT=str(port), JWT_SECRET=SECRET, WEB_CONCURRENCY="2"
    )


def test_a_first_start_that_fails_is_said_once(empty_database: str) -> None:
    """Not by each process, and not again and again."""
    nowhere = f"postgresql://someone@127.0.0.1:{free_port()}/none"
    for dsn, part in ((nowhere, "database cannot be reached"), (empty_database, "bin/migrate")):
        assert_one_line(serve_both(dsn, free_port()), part)


def test_why_a_worker_cannot_start_is_a_line_of_the_log() -> None:
    """In JSON, if the others are."""
    nowhere = f"postgresql://someone@127.0.0.1:{free_port()}/none"
    given = {"DATABASE_URL": nowhere, "JWT_SECRET": SECRET, "LOG_FORMAT": "json"}
    line = json.loads(run_script("serve", PORT=str(free_port()), **given).stderr)
    assert (line["message"], line["worker"]) == ("worker_start_refused", 1)
    assert line["reason"].startswith("the database cannot be reached")


def test_a_port_in_use_is_said_once(database: str) -> None:
    """And the setting that changes it."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve_both(database, port)
    assert_one_line(done, str(port), "PORT")


def test_a_closed_terminal_ends_everything(database: str) -> None:
    """The SIGHUP of a terminal that is gone asks for no reload."""
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with served(database, preexec_fn=take_terminal) as server:
        os.close(theirs)
        os.close(ours)
        wait_until(lambda: server.running.process.poll() is not None)
        assert server.running.process.returncode == 0
        assert "reload_requested" not in server.running.output
