"""docs/deploying.md, executed: the Procfile with exactly the settings of the page, as on a host."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest
from tornado.httpclient import HTTPClientError

from realtime.auth.tokens import mint_token
from tests.acceptance.test_own_role import GRANTS
from tests.clients import Socket
from tests.commands import (
    ROOT,
    environment,
    free_port,
    run_script,
    running,
    status_of,
)
from tests.platform import Platform
from tests.waiting import LIMIT, wait_until

PAGE = (ROOT / "docs" / "deploying.md").read_text("utf-8")
HONCHO = [sys.executable, "-m", "honcho"]


def settings_of_the_page(dsn: str) -> dict[str, str]:
    """Its block of settings, but for where the database is."""
    block = re.search(r"^## Settings for production.*?^```sh\n(.*?)^```", PAGE, re.M | re.S)
    assert block
    given = dict(line.split("=", 1) for line in block[1].splitlines())
    assert {"DATABASE_URL", "DATABASE_DIRECT_URL", "WEB_CONCURRENCY"} <= given.keys()
    return given | {"DATABASE_URL": dsn, "DATABASE_DIRECT_URL": dsn}


def procfile_of_the_page(directory: Path) -> Path:
    """The two lines, in a file, as absolute commands."""
    lines = re.search(r"^## The two lines\n+```text\n(.*?)^```", PAGE, re.M | re.S)
    assert lines
    assert lines[1] == (ROOT / "Procfile").read_text()
    written = directory / "Procfile"
    written.write_text(lines[1].replace("bin/", f"{ROOT}/bin/"))
    return written


def release(procfile: Path, environ: dict[str, str]) -> None:
    command = dict(line.split(": ") for line in procfile.read_text().splitlines())["release"]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gen_test
async def test_the_settings_of_the_page_serve(empty_database: str, tmp_path: Path) -> None:
    """Released, served and checked by `bin/doctor`; tokens and origins are those of the page."""
    port, given = free_port(), settings_of_the_page(empty_database)
    environ = environment(PORT=str(port), **given)
    procfile = procfile_of_the_page(tmp_path)
    await asyncio.to_thread(release, procfile, environ)
    platform = await Platform.connect(empty_database)
    owner = await platform.user("olga")
    bot = await platform.bot(owner)
    start = [*HONCHO, "-f", str(procfile), "start", "-p", str(port), "web"]
    with running(start, cwd="/", env=environ) as web:
        base = f"127.0.0.1:{port}"
        ready = f"http://{base}/api/ready"
        await asyncio.to_thread(wait_until, lambda: status_of(ready) == 200)
        token = mint_token(
            given["JWT_SECRET"],
            owner,
            ttl=600,
            now=time.time(),
            audience=given["JWT_AUDIENCE"],
            issuer=given["JWT_ISSUER"],
        )
        chat = f"ws://{base}/api/ws/chat/{bot}?token={token}"
        with pytest.raises(HTTPClientError, match="403"):
            await Socket.open(chat, headers={"Origin": "https://elsewhere.example"})
        socket = await Socket.open(chat, headers={"Origin": given["ALLOWED_ORIGINS"]})
        await socket.established()
        await platform.execute(f"SELECT relay.emit('bot:{bot}', 'deployed', '{{}}')")
        await socket.next("deployed")
        # In threads: the socket must answer pings, and the close frame.
        checked = await asyncio.to_thread(run_script, "doctor", **given)
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
        status = await asyncio.to_thread(web.stop, signal.SIGTERM)
        assert status in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        assert await socket.closed() == 1001
        wait_until(web.is_gone)
    await platform.connection.close(timeout=LIMIT)


@pytest.mark.gen_test
async def test_release_and_web_have_different_roles(empty_database: str, tmp_path: Path) -> None:
    """With the lines of the page, from one environment that has the owner's addresses."""
    lines = re.search(r"^### Two roles.*?^```text\n(.*?)^```", PAGE, re.M | re.S)
    assert lines
    procfile = tmp_path / "Procfile"
    procfile.write_text(lines[1].replace("bin/", f"{ROOT}/bin/"))
    role, port = f"server_{uuid4().hex[:8]}", free_port()
    environ = environment(
        **settings_of_the_page(empty_database),
        SERVER_DATABASE_URL=re.sub(r"//[^@/]*@", f"//{role}@", empty_database),
    )
    await asyncio.to_thread(release, procfile, environ)
    platform = await Platform.connect(empty_database)
    try:
        await platform.execute(f"CREATE ROLE {role} LOGIN")
        await platform.execute(GRANTS.replace("relay_server", role))
        start = [*HONCHO, "-f", str(procfile), "start", "-p", str(port), "web"]
        with running(start, cwd="/", env=environ) as web:
            ready = f"http://127.0.0.1:{port}/api/ready"
            await asyncio.to_thread(wait_until, lambda: status_of(ready) == 200)
            rows = await platform.connection.fetch(
                "SELECT DISTINCT usename::text FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            )
            assert [row["usename"] for row in rows] == [role]
            await asyncio.to_thread(web.stop, signal.SIGTERM)
            wait_until(web.is_gone)
        await platform.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    finally:
        await platform.connection.close(timeout=LIMIT)
