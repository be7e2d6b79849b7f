"""What holds for every test. The fixtures are in `postgres.py` and `serving.py`: see README.md."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from pathlib import Path

import hypothesis
import pytest

UNIT = Path(__file__).parent / "unit"
FIXTURES = ("tests.postgres", "tests.serving")
CHROMIUM = Path("/usr/bin/chromium")
pytest.register_assert_rewrite(*FIXTURES)
# How long an example takes depends on what else the machine does: no test is about that.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives a real Chromium")
    # Or pytest-tornado's first loop makes asyncio make another, which nobody closes.
    asyncio.set_event_loop(None)
    _let_children_hear_signals()


def _let_children_hear_signals() -> None:
    """A program that starts with an ignored signal goes on ignoring it, as do all that it starts.

    That is so in the background and under nohup, and some tests send these to what they start.
    What is handled, if only by doing nothing, is not handed on.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Import the fixtures, and with them the relay, once its coverage is measured.

    In a worker of pytest-xdist that begins here, after this file was imported.
    """
    for name in FIXTURES:
        session.config.pluginmanager.register(importlib.import_module(name), name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The unit tests alone must reach every branch of the relay; all else runs unmeasured."""
    for item in items:
        if UNIT not in item.path.parents:
            item.add_marker("no_cover")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs a browser is skipped without one, but never silently in CI."""
    if item.get_closest_marker("browser") is None or CHROMIUM.exists():
        return
    reason = f"{CHROMIUM} is missing: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
