"""The commands as users and hosts run them: real scripts, real processes, a real database."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from realtime.auth.tokens import TokenVerifier
from realtime.config.settings import Settings
from tests.commands import (
    ROOT,
    SECRET,
    Running,
    assert_one_line,
    environment,
    execute,
    free_port,
    lives,
    processes_of,
    run_script,
    running,
    status_of,
)
from tests.unit.test_readme import code_blocks
from tests.waiting import LIMIT, wait_until

NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".data", "*cache*", ".hypothesis", ".coverage*"
)


def test_token_prints_what_the_server_accepts() -> None:
    """From any directory, on standard output, and nothing else."""
    done = run_script("token", "somebody", "--ttl", "60", "--admin", JWT_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    settings = Settings.from_environ({"DATABASE_URL": "postgresql://h/d", "JWT_SECRET": SECRET})
    token = done.stdout.removesuffix("\n")
    identity = asyncio.run(TokenVerifier(settings, time.time).verify(token))
    assert (identity.subject, identity.is_admin) == ("somebody", True)


# bin/serve and bin/migrate, wrongly set


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://localhost/x"),
        ("JWT_SECRET", ""),
        ("JWT_SECRET", "short"),
        ("PORT", "http"),
        ("PORT", "65536"),
        ("LISTEN_HOST", "example.org"),
        ("LISTEN_HOST", "127.0.0.1:8000"),
        ("MAX_CONNECTIONS", "-1"),
    ],
)
def test_serve_names_the_setting_that_is_wrong(setting: str, value: str) -> None:
    """Before anything starts."""
    right = {"DATABASE_URL": "postgresql://localhost:1/none", "JWT_SECRET": SECRET}
    assert_one_line(run_script("serve", **right | {setting: value}), setting)


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_an_unreachable_database_is_one_line(command: str) -> None:
    """What to check, and no password."""
    dsn = f"postgresql://someone:sesame@127.0.0.1:{free_port()}/none"
    done = run_script(command, DATABASE_URL=dsn, JWT_SECRET=SECRET, PORT="0")
    assert_one_line(done, "database cannot be reached", "correct host and port in DATABASE_URL")
    assert "sesame" not in done.stderr


def test_a_port_in_the_environment_that_is_none_is_one_line() -> None:
    """The driver takes it where the address has no port."""
    away = "postgresql://someone:sesame@127.0.0.1/none"
    done = run_script("serve", DATABASE_URL=away, JWT_SECRET=SECRET, PORT="0", PGPORT="abc")
    assert_one_line(done, "'abc'", "correct DATABASE_URL, or PGPORT")


@pytest.mark.parametrize(
    "words",
    [["serve"], ["migrate"], ["attach", "--detach"], ["rotate", "channels"]],
    ids=lambda words: str(words[0]),
)
def test_the_setting_that_has_the_wrong_address_is_named(words: list[str], database: str) -> None:
    """Commands take the address that leads past a pooler, where there is one."""
    away = f"postgresql://someone:sesame@127.0.0.1:{free_port()}/none"
    settings = {"DATABASE_URL": database, "DATABASE_DIRECT_URL": away, "JWT_SECRET": SECRET}
    done = run_script(*words, PORT="0", **settings)
    assert_one_line(done, "database cannot be reached", "host and port in DATABASE_DIRECT_URL")


def test_a_certificate_that_is_not_trusted_is_one_line(database: str, tmp_path: Path) -> None:
    """The library's text has a second one, for who writes programs with it."""
    away = f"postgresql://someone@127.0.0.1:{free_port()}/none?sslmode=verify-full"
    done = run_script("migrate", DATABASE_URL=away, HOME=str(tmp_path))
    assert_one_line(done, "the database cannot be reached", "root certificate")


def test_a_file_of_the_address_that_is_missing() -> None:
    """The system's own text does not say which; there are few."""
    files = "sslmode=verify-full&sslrootcert=/nowhere/ca.pem"
    done = run_script("migrate", DATABASE_URL=f"postgresql://someone@localhost:1/none?{files}")
    assert_one_line(done, "a certificate's file is missing; ", "sslrootcert", "in DATABASE_URL")


def test_a_socket_that_is_missing_is_named() -> None:
    """It follows from the host and the port."""
    done = run_script("migrate", DATABASE_URL="postgresql://someone@/none?host=/nowhere")
    assert_one_line(done, "no server's socket /nowhere/.s.PGSQL.5432;", "host in DATABASE_URL")


def test_serve_refuses_a_database_that_was_not_migrated(empty_database: str) -> None:
    """The line says what to run."""
    done = run_script("serve", DATABASE_URL=empty_database, JWT_SECRET=SECRET, PORT="0")
    assert_one_line(done, "bin/migrate")


def test_serve_refuses_a_half_migrated_database(database: str) -> None:
    """A function that it will call is missing."""
    execute(database, "DROP FUNCTION relay.authorize")
    done = run_script("serve", DATABASE_URL=database, JWT_SECRET=SECRET, PORT="0")
    assert_one_line(done, "bin/migrate")


def test_serve_names_a_port_that_is_in_use(database: str) -> None:
    """And the setting that changes it."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_script("serve", DATABASE_URL=database, JWT_SECRET=SECRET, PORT=port)
    assert_one_line(done, port, "PORT")


def test_serve_names_an_address_that_is_another_machines(database: str) -> None:
    """And the setting that changes it."""
    done = run_script("serve", DATABASE_URL=database, JWT_SECRET=SECRET, LISTEN_HOST="192.0.2.1")
    assert_one_line(done, "port 8000 of 192.0.2.1", "LISTEN_HOST")


# The Procfile


def procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text().splitlines()
    return {name: command.strip() for name, command in (line.split(":", 1) for line in lines)}


def test_the_procfile_migrates_then_serves(empty_database: str) -> None:
    """As on a host: the release line first, then the web line, ended by SIGTERM."""
    port = free_port()
    environ = environment(DATABASE_URL=empty_database, JWT_SECRET=SECRET, PORT=str(port))
    honcho = [sys.executable, "-m", "honcho"]
    # honcho is not told where the Python is that the host would have on PATH: REALTIME_VENV is.
    release = [*honcho, "run", *shlex.split(procfile()["release"])]
    for _twice in range(2):
        done = subprocess.run(
            release,
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "up to date" in done.stdout
    with running([*honcho, "start", "-p", str(port), "web"], cwd=ROOT, env=environ) as web:
        health = f"http://127.0.0.1:{port}/api/health"
        wait_until(lambda: status_of(health) == 200, what=health)
        assert web.stop(signal.SIGTERM) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        wait_until(web.is_gone)
    assert status_of(health) == 0


# bin/dev


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of the project at a path with spaces and a quote."""
    with tempfile.TemporaryDirectory(prefix="realtime-test-") as home:
        root = Path(home) / "a check out" / "it's here"
        shutil.copytree(ROOT, root, ignore=NOT_COPIED)
        yield root


def start_dev(checkout: Path, port: int) -> Any:
    return running(
        [str(checkout / "bin" / "dev")], cwd="/", env=environment(PORT=str(port), HOME="")
    )


def links(dev: Running) -> list[str]:
    return [line for line in dev.output.splitlines() if line.startswith("http://localhost:")]


def psql_line(dev: Running) -> str:
    return next(line for line in dev.output.splitlines() if "INSERT INTO messages" in line)


def postgres_pid(checkout: Path) -> int:
    return int((checkout / ".data/postgres/postmaster.pid").read_text().splitlines()[0])


def paste(line: str, shell: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shell, "-c", line], cwd="/", capture_output=True, text=True, timeout=LIMIT, check=False
    )


async def hear_pasted_line(link: str, line: str) -> dict[str, Any]:
    """Watch the link's bot as the link's person, run the line, return the message that arrives."""
    address = urlsplit(link)
    asked = parse_qs(address.query)
    chat = f"ws://{address.netloc}/api/ws/chat/{asked['bot'][0]}?token={asked['token'][0]}"
    connection = await websocket_connect(chat)
    try:
        async with asyncio.timeout(LIMIT):
            assert json.loads(await connection.read_message() or "")["type"] == (
                "connection_established"
            )
            done = await asyncio.to_thread(paste, line, "sh")
            assert (done.returncode, done.stdout) == (0, "INSERT 0 1\n"), done.stderr
            received: dict[str, Any] = json.loads(await connection.read_message() or "")
            return received
    finally:
        await leave(connection)


def curl_line_of_the_readme_hears(dev: Running, checkout: Path, port: int) -> None:
    """Each message that is inserted, as it is."""
    text = (checkout / "README.md").read_text("utf-8")
    (line,) = [block for block in code_blocks(text, "sh") if block.startswith("curl -N")]
    assert "localhost:8000" in line
    command = ["sh", "-c", line.replace("localhost:8000", f"localhost:{port}")]
    with running(command, cwd=checkout, env=environment(HOME="")) as curl:
        curl.wait_for("connection_established")
        assert paste(psql_line(dev), "sh").returncode == 0
        curl.wait_for('"chat_message"')


async def leave(connection: WebSocketClientConnection) -> None:
    """Close, and read until it is closed: a loop that ends before that leaves a socket open."""
    connection.close()
    while await connection.read_message() is not None:
        pass  # there may always be more


def test_dev_serves_a_demo_and_leaves_nothing_behind(checkout: Path) -> None:
    """The links work, the psql line runs as pasted and reaches a socket, Ctrl-C ends everything."""
    port = free_port()
    with start_dev(checkout, port) as dev:
        dev.wait_for("Ctrl-C")
        first, second = links(dev)
        assert status_of(first) == 200
        for link in (first, second):
            event = asyncio.run(hear_pasted_line(link, psql_line(dev)))
            assert (event["type"], event["data"]["username"]) == ("chat_message", "ada")
        if shutil.which("curl"):
            curl_line_of_the_readme_hears(dev, checkout, port)
        server = postgres_pid(checkout)
        assert lives(server)
        assert dev.stop(signal.SIGINT) == 0
        wait_until(dev.is_gone)
        wait_until(lambda: not processes_of(checkout))


async def hear_answers(link: str) -> None:
    """Watch the link's bot until somebody has asked there and an answer has grown."""
    address = urlsplit(link)
    asked = parse_qs(address.query)
    chat = f"ws://{address.netloc}/api/ws/chat/{asked['bot'][0]}?token={asked['token'][0]}"
    connection = await websocket_connect(chat)
    try:
        async with asyncio.timeout(LIMIT):
            heard: set[tuple[str, str]] = set()
            while not {("chat_message", "user"), ("chat_message_update", "assistant")} <= heard:
                message = json.loads(await connection.read_message() or "")
                heard.add((message["type"], message["data"].get("role", "")))
    finally:
        await leave(connection)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_simulated_dev_is_alive_at_once_and_leaves_nothing_behind(
    checkout: Path, empty_database: str, ending: int
) -> None:
    """People talk in the demo bot; they go with bin/dev, however that goes."""
    environ = environment(PORT=str(free_port()), DATABASE_URL=empty_database)
    command = [str(checkout / "bin" / "dev"), "--simulate"]
    with running(command, cwd="/", env=environ) as dev:
        dev.wait_for("in the demo bot, too")
        asyncio.run(hear_answers(links(dev)[0]))
        assert any("--beside" in line for line in processes_of(checkout))
        assert dev.stop(ending) == (0 if ending == signal.SIGINT else -ending)
        wait_until(lambda: not processes_of(checkout))
        assert "Traceback" not in dev.output
        assert "error" not in dev.output


def test_dev_interrupted_at_its_start_leaves_nothing_behind(checkout: Path) -> None:
    """Ctrl-C while PostgreSQL is being made; the next run makes it anew."""
    shutil.rmtree(checkout / ".data", ignore_errors=True)
    with start_dev(checkout, free_port()) as dev:
        dev.wait_for("Making an embedded PostgreSQL")
        assert dev.stop(signal.SIGINT) != 0
        assert "Traceback" not in dev.output
        wait_until(lambda: not processes_of(checkout))
    with start_dev(checkout, free_port()) as dev:
        dev.wait_for("Ctrl-C")


def test_a_closed_terminal_ends_dev(checkout: Path) -> None:
    """SIGHUP is treated like Ctrl-C."""
    with start_dev(checkout, free_port()) as dev:
        dev.wait_for("Ctrl-C")
        assert dev.stop(signal.SIGHUP) == 0
        wait_until(lambda: not processes_of(checkout))


def test_the_psql_line_runs_in_every_shell(checkout: Path) -> None:
    """Whatever the developer's terminal speaks; here in those that are installed."""
    shells = [shell for shell in ("bash", "dash", "ksh", "zsh", "fish") if shutil.which(shell)]
    with start_dev(checkout, free_port()) as dev:
        dev.wait_for("Ctrl-C")
        printed = [paste(psql_line(dev), shell).stdout for shell in shells]
    assert printed == ["INSERT 0 1\n"] * len(shells)


def test_dev_again_keeps_the_data_and_two_share_a_server(checkout: Path) -> None:
    """The second run makes nothing anew; of two copies the last one out stops PostgreSQL."""
    with start_dev(checkout, free_port()) as first:
        first.wait_for("Ctrl-C")
        bots = [parse_qs(urlsplit(link).query)["bot"] for link in links(first)]
        server = postgres_pid(checkout)
        with start_dev(checkout, free_port()) as second:
            second.wait_for("Ctrl-C")
            assert "Making an embedded PostgreSQL" not in second.output
            assert [parse_qs(urlsplit(link).query)["bot"] for link in links(second)] == bots
            assert postgres_pid(checkout) == server
            assert first.stop(signal.SIGTERM) == 0
            assert paste(psql_line(second), "sh").stdout == "INSERT 0 1\n"
            assert second.stop(signal.SIGTERM) == 0
    wait_until(lambda: not lives(server))


def test_dev_on_a_port_in_use_is_one_line(checkout: Path) -> None:
    """Found before PostgreSQL is started."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        done = run_script("dev", root=checkout, PORT=str(taken.getsockname()[1]))
    assert_one_line(done, "PORT", "choose another")


def test_dev_uses_the_database_that_is_named(checkout: Path, empty_database: str) -> None:
    """DATABASE_URL in place of the embedded server: migrated, filled, and never stopped."""
    environ = environment(PORT=str(free_port()), DATABASE_URL=empty_database)
    with running([str(checkout / "bin" / "dev")], cwd="/", env=environ) as dev:
        dev.wait_for("Ctrl-C")
        assert "embedded" not in dev.output
        assert status_of(links(dev)[0]) == 200
        assert dev.stop() == 0
    execute(empty_database, "SELECT 1 / count(*) FROM bots WHERE name = 'Demo bot'")


def test_dev_asks_before_it_seeds_where_users_are(database: str) -> None:
    """With nobody to ask it refuses, and changes nothing; a demo that is there is no question."""
    execute(database, "INSERT INTO users (username, email) VALUES ('u', 'u@example.com')")
    done = run_script("dev", DATABASE_URL=database, PORT=str(free_port()))
    assert_one_line(done, "has users already", "asks at a terminal")
    execute(database, "SELECT 1 / (count(*) = 0)::int FROM bots")


def test_dev_asks_before_it_makes_tables_where_others_are(empty_database: str) -> None:
    """A shell that still has DATABASE_URL of another platform: nothing is made there."""
    execute(empty_database, "CREATE TABLE orders (id integer)")
    done = run_script("dev", DATABASE_URL=empty_database, PORT=str(free_port()))
    assert_one_line(done, "has tables already", "Unset DATABASE_URL")
    execute(empty_database, "SELECT 1 / (to_regclass('users') IS NULL)::int")


def test_other_commands_know_what_dev_made(checkout: Path) -> None:
    """In the same checkout, without any setting: the secret, the people's names, the database."""
    with start_dev(checkout, free_port()) as dev:
        dev.wait_for("Ctrl-C")
        token = run_script("token", "ada", root=checkout)
        address = urlsplit(links(dev)[0])
        stats = f"http://{address.netloc}/api/ws/stats?token="
        assert status_of(stats + token.stdout.strip()) == 200
        assert status_of(stats + "none") == 401
        done = run_script("simulate", "--seconds", "0", root=checkout)
        assert done.returncode == 0, done.stderr
        assert "taking bin/dev's database in .data/postgres" in done.stderr
        exports = next(line for line in dev.output.splitlines() if line.startswith("export "))
        for command in ("migrate", "attach"):
            refused = run_script(command, root=checkout)
            assert_one_line(refused, "DATABASE_URL is not set", exports.split(" JWT_SECRET")[0])
