"""The Dockerfile, as far as it can be tried without a container engine."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

from tests.commands import ROOT, environment
from tests.supervised import Served, served
from tests.waiting import LIMIT

TEXT = (ROOT / "Dockerfile").read_text("utf-8")


def check_health(server: Served) -> int:
    """What HEALTHCHECK runs; its exit code."""
    found = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", TEXT, re.MULTILINE)
    assert found
    program, *arguments = json.loads(found[1])
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(PORT=str(server.port)),
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode


def test_the_health_check_tells_whether_the_server_answers(database: str) -> None:
    """Also under a base path, of which it knows nothing."""
    with served(database, WEB_CONCURRENCY="1", BASE_PATH="/realtime") as server:
        assert check_health(server) == 0
        assert server.running.stop(signal.SIGTERM) == 0
        assert check_health(server) != 0


def test_the_image_has_only_what_is_in_the_checkout() -> None:
    """What is copied, and what is run, is there; nobody is root."""
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    for path in ("requirements.lock", "pyproject.toml", "clients/python/pyproject.toml"):
        assert (ROOT / path).exists()
        assert path.partition("/")[0] not in ignored
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", TEXT, re.MULTILINE)
    assert re.search(r'^CMD \["realtime", "serve"\]$', TEXT, re.MULTILINE)
