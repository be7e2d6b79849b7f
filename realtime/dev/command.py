"""`bin/dev`: a database of its own, migrated and filled with a demo, and the server on top of it.

With DATABASE_URL set, that database is used in place of the embedded
one. Two copies, on two ports, share one embedded server; the last one out stops it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EADDRNOTAVAIL
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import quote, urlsplit

import asyncpg
import click

from realtime.auth.signing import read_secret, sign
from realtime.config.settings import Settings, SettingsError
from realtime.dev.database import shown, with_defaults
from realtime.dev.demo import BOT_ID, PEOPLE, SESSION_ID
from realtime.dev.platform import DemoTables
from realtime.embedded.lock import FileLock
from realtime.embedded.server import EmbeddedPostgres
from realtime.installation import DATA
from realtime.postgres.pool import DATABASE_ERRORS, connect
from realtime.postgres.reasons import why_unreachable
from realtime.postgres.release import CONNECT_SECONDS, ReleaseError, bring_up_to_date
from realtime.runtime import process
from realtime.runtime.launch import run_workers
from realtime.simulate.beside import beside

LINKED: Final = ("ada", "grace")
"""Whose links are printed."""
LINK_SECONDS: Final = 30 * 24 * 3600
SETUP_SECONDS: Final = 120
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEMO: Final = Path(__file__).with_name("demo.sql")
SERVICE_ROLE: Final = Path(__file__).with_name("service_role.sql")
# No character that a shell takes for its own between double quotes.
INSERT: Final = (
    "INSERT INTO messages (session_id, bot_id, user_id, role, content) "
    "SELECT id, bot_id, user_id, 'user', 'Hello from psql' "
    f"FROM sessions WHERE id = '{SESSION_ID}'"
)
OTHER_USERS: Final = (
    "SELECT EXISTS (SELECT FROM users) AND NOT EXISTS (SELECT FROM users WHERE id::text = $1)"
)
OTHER_TABLES: Final = (
    "SELECT EXISTS (SELECT FROM pg_tables"
    " WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'relay'))"
)


MANY_PROCESSES: Final = (
    "The console signs nobody in, sends nothing and runs no SQL: that needs a single process, so"
    " leave WEB_CONCURRENCY out. The psql line below works."
)


@dataclass(frozen=True)
class DemoDatabase:
    """Where the data is, and the start of a shell command that writes to it."""

    dsn: str
    psql: str
    is_ours: bool = False
    service_dsn: str | None = None
    """For a role that may do what a service may; the embedded PostgreSQL alone gets one."""


def run(environ: Mapping[str, str], *, is_simulated: bool = False) -> int:
    """Serve until a signal comes, with people who talk where simulated; the exit code.

    Raises:
        CommandError: It could not start.
    """
    with signals_end_the_start():
        lock = FileLock(DATA / "dev.lock")
        try:
            DATA.mkdir(parents=True, exist_ok=True)
            with lock.exclusive(SETUP_SECONDS):
                environ = with_defaults(environ)
        except PermissionError as error:
            raise SettingsError(
                f"{error.filename} is another user's: run bin/dev as them"
            ) from error
        # Everything that can be wrong is found before the first long step.
        settings = settings_for(environ, "postgresql://to-be-made/realtime")
        check_port(settings.listen_host, settings.port)
        with open_database(environ) as database:
            settings = settings_for(environ, database.dsn)
            direct = settings.database_direct_url.get_secret_value()
            with lock.exclusive(SETUP_SECONDS):
                ask_before_seeding(direct)
                say("Bringing the schema and the demo data up to date")
                bring_up_to_date(direct)
                asyncio.run(seed(direct, with_role=database.is_ours))
            with beside(direct, BOT_ID, SESSION_ID) as simulate:
                then = simulate if is_simulated else lambda: None
                say_all = partial(announce, settings, database, then)
                if settings.web_concurrency == 1:
                    demo = (
                        DemoTables(settings, database.service_dsn) if settings.jwt_secret else None
                    )
                    return process.run(settings, announce=say_all, demo=demo)
                say(MANY_PROCESSES)
                given = {**environ, "DATABASE_URL": database.dsn}
                return run_workers(settings, given, announce=say_all)


def settings_for(environ: Mapping[str, str], dsn: str) -> Settings:
    """The settings, on `dsn` where the environment names no database."""
    return Settings.from_environ({"DATABASE_URL": dsn, **environ})


def check_port(host: str | None, port: int) -> None:
    """Find out early whether something else listens there.

    Raises:
        SettingsError: It does, or this machine does not have the address.
    """
    family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
    try:
        socket.create_server((host or "", port), family=family).close()
    except OSError as error:
        if error.errno == EADDRNOTAVAIL:
            raise SettingsError("LISTEN_HOST must be an IP address of this machine") from error
        raise SettingsError(
            f"PORT {port} cannot be used ({os.strerror(error.errno or 0)}): choose another, "
            f"as in PORT={port + 1} bin/dev"
        ) from error


@contextmanager
def open_database(environ: Mapping[str, str]) -> Iterator[DemoDatabase]:
    """The database that the environment names, or else the embedded one while it is needed."""
    if given := environ.get("DATABASE_URL"):
        psql = shutil.which("psql") or "psql"
        # A password is not for the screen; who set the variable can say it again.
        address = '"$DATABASE_URL"' if urlsplit(given).password else shlex.quote(given)
        yield DemoDatabase(given, f"{shlex.quote(psql)} {address}")
        return
    data = DATA / "postgres"
    if data.exists():
        say("Starting the embedded PostgreSQL")
    else:
        say(f"Making an embedded PostgreSQL in {shown(data)}, once: a few seconds")
    postgres = EmbeddedPostgres(data, say=say)
    postgres.start()
    try:
        psql = f"{shlex.quote(str(postgres.psql))} {shlex.quote(postgres.dsn())}"
        dsn = postgres.dsn()
        service_dsn = dsn.replace("//postgres@", "//demo_service@", 1)
        yield DemoDatabase(dsn, psql, is_ours=True, service_dsn=service_dsn)
    finally:
        for number in SIGNALS:  # a second Ctrl-C must not leave the server behind
            signal.signal(number, signal.SIG_IGN)
        postgres.stop()


def ask_before_seeding(dsn: str) -> None:
    """Ask whether the demo may be added to a database that has something else in it.

    Raises:
        ReleaseError: it may not, there is nobody to ask, or the database cannot be reached.
    """
    try:
        has = asyncio.run(what_else_has(dsn))
    except DATABASE_ERRORS as error:
        raise ReleaseError(why_unreachable(error, dsn)) from error
    if has is None:
        return
    name = dsn.partition("?")[0].rpartition("/")[2]
    if not sys.stdin.isatty():
        raise ReleaseError(
            f"the database {name} of DATABASE_URL has {has} already: bin/dev asks at a terminal"
            " before it adds the demo. Unset DATABASE_URL for a database of bin/dev's own"
        )
    if not click.confirm(f"The database {name} has {has} already. Add the demo beside them?"):
        raise ReleaseError("nothing was changed")


async def what_else_has(dsn: str) -> str | None:
    """What a database has, to which the demo was never added; None: nothing."""
    connection = await connect(dsn, CONNECT_SECONDS, keeps_path=True)
    try:
        if await connection.fetchval("SELECT to_regclass('users')") is None:
            return "tables" if await connection.fetchval(OTHER_TABLES) else None
        return "users" if await connection.fetchval(OTHER_USERS, PEOPLE["ada"]) else None
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


async def seed(dsn: str, *, with_role: bool) -> None:
    """Insert what is missing of the demo, and make the role of a service.

    Raises:
        ReleaseError: Other data is in the way, or other tables are.
    """
    connection = await connect(dsn, CONNECT_SECONDS, keeps_path=True)
    try:
        async with connection.transaction():
            await connection.execute(DEMO.read_text(encoding="utf-8"))
            if with_role:
                await connection.execute(SERVICE_ROLE.read_text(encoding="utf-8"))
    except asyncpg.PostgresError as error:
        raise ReleaseError(
            f"the demo data does not fit into the database that DATABASE_URL names: {error}. Unset"
            " DATABASE_URL, and bin/dev makes a database of its own"
        ) from error
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


def announce(settings: Settings, database: DemoDatabase, then: Callable[[], None]) -> None:
    """Print the banner: everything is up."""
    click.echo(banner(settings, database))
    then()


def banner(settings: Settings, database: DemoDatabase) -> str:
    """What a developer needs next, in a few lines."""
    first, second = (link(settings, name) for name in LINKED)
    headings = {
        "Console, as Ada, who owns the demo bot:": first,
        "A second person, Grace, for another window (each sees the other type):": second,
        "A message by plain SQL, from another terminal:": f'{database.psql} -c "{INSERT}"',
    }
    if exports := exports_for(settings, database):
        headings["For bin/tail, bin/doctor and the others, in another terminal:"] = exports
    parts = [f"{click.style(text, bold=True)}\n{line}" for text, line in headings.items()]
    stop = "Ctrl-C stops it."
    if database.is_ours:
        stop += f" The data stays in {shown(DATA)}; delete that to start afresh."
    else:
        stop += " The data is in the database that DATABASE_URL names."
    return "\n" + "\n\n".join([*parts, click.style(stop, dim=True)]) + "\n"


def exports_for(settings: Settings, database: DemoDatabase) -> str:
    """The shell's line that tells other commands what this one made; what it was told is known."""
    made = {}
    if database.is_ours:
        made["DATABASE_URL"] = database.dsn
    if settings.jwt_secret and (secret := settings.jwt_secret.get_secret_value()) == read_secret():
        made["JWT_SECRET"] = secret
    if settings.port != Settings.model_fields["port"].default:
        made["PORT"] = str(settings.port)
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in made.items())
    return f"export {words}" if made else ""


def link(settings: Settings, name: str) -> str:
    """The console's address for one of the people; without a token where we cannot sign one."""
    address = f"http://{host_in_link(settings.listen_host)}:{settings.port}{settings.base_path}"
    address += f"/?bot={BOT_ID}"
    if settings.jwt_secret is None:
        return f"{address}&token=(from whoever holds the private key)"
    subject = name if settings.jwt_subject == "username" else PEOPLE[name]
    token = sign(settings, subject, ttl=LINK_SECONDS, is_admin=name == "ada", now=time.time())
    return f"{address}&token={quote(token)}"


def host_in_link(host: str | None) -> str:
    """What a browser on this machine calls a server that listens on an address."""
    if host is None or host == "localhost" or ip_address(host).is_unspecified:
        return "localhost"
    return f"[{host}]" if ":" in host else host


@contextmanager
def signals_end_the_start() -> Iterator[None]:
    """Let a signal unwind whatever is being set up; the server replaces these while it serves."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    # A shell starts background jobs with SIGINT ignored, and Python leaves that as it is.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    if before[signal.SIGHUP] is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(line: str) -> None:
    """Tell the developer what is happening."""
    click.echo(click.style("• ", fg="cyan") + line)
