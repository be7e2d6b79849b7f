"""The wheel, as whoever runs `pip install` has it: a command, away from any checkout."""

from __future__ import annotations

import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from realtime import __version__
from tests.adopted import MAPPING, SCHEMA
from tests.commands import (
    ROOT,
    SECRET,
    assert_one_line,
    environment,
    execute,
    free_port,
    running,
    status_of,
)
from tests.installed import Installed
from tests.waiting import wait_until

AS_CALLED = """
from realtime.installation import as_called
print(as_called("run bin/dev once, or /usr/bin/psql"))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), ROOT)


def test_nothing_of_the_checkout_is_used(installed: Installed) -> None:
    """Or the other tests here would test nothing. No package at the top is called `migrations`."""
    found = installed.run("python", "-c", "import realtime; print(realtime.__file__)")
    assert Path(found).is_relative_to(installed.venv)
    assert [*installed.venv.glob("lib/python*/site-packages/migrations")] == []


def test_the_version_is_the_packages(installed: Installed) -> None:
    """One place says it, and the distribution's is made from it."""
    code = "from importlib.metadata import version; print(version('rowcast-server'))"
    assert installed.run("python", "-c", code) == f"{__version__}\n"


def test_it_migrates_and_serves_from_any_directory(
    installed: Installed, empty_database: str
) -> None:
    """The migrations and the pages come out of the wheel."""
    ours = {"DATABASE_URL": empty_database, "JWT_SECRET": SECRET, "PORT": str(free_port())}
    assert "up to date" in installed.run("realtime", "migrate", **ours)
    assert "up to date" in installed.run("python", "-m", "realtime", "migrate", **ours)
    environ = environment(**ours, CONSOLE="true")
    command = installed.command("realtime", "serve")
    with running(command, cwd=installed.elsewhere, env=environ) as server:
        address = f"http://127.0.0.1:{ours['PORT']}"
        wait_until(lambda: status_of(f"{address}/api/health") == 200, limit=30, what=address)
        for name in ("realtime.js", "client/client.js"):
            with urllib.request.urlopen(f"{address}/static/{name}") as answer:
                assert answer.read() == (ROOT / "clients/javascript/src" / name).read_bytes()
        assert status_of(f"{address}/") == 200
        assert server.stop(signal.SIGTERM) == 0


def test_its_errors_name_its_own_commands(installed: Installed, empty_database: str) -> None:
    """There is no bin/migrate here."""
    done = subprocess.run(
        installed.command("realtime", "serve"),
        env=environment(DATABASE_URL=empty_database, JWT_SECRET=SECRET, PORT="0"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert_one_line(done, "the database is not migrated: run realtime migrate")
    text = installed.run("python", "-c", AS_CALLED)
    assert text == "run realtime dev once, or /usr/bin/psql\n"


def test_it_attaches(installed: Installed, core_database: str) -> None:
    """The templates are in the wheel, too, and a mapping is named from where one is."""
    execute(core_database, SCHEMA)
    shutil.copy(MAPPING, installed.elsewhere / "mine.toml")
    printed = installed.run("realtime", "attach", "mine.toml", DATABASE_URL=core_database)
    assert 'ON public."bot_permissions"' in printed


def test_it_signs_a_token(installed: Installed) -> None:
    """A small command, which needs no database."""
    assert installed.run("realtime", "token", "ada", JWT_SECRET=SECRET).count(".") == 2
