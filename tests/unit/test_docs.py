"""What the documents tell people to set and to run is there; links and names: see test_readme."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import realtime.relay
from realtime.cli.commands import NAMES, main
from realtime.config.settings import Settings
from tests.unit.test_readme import DOCUMENTS, README, ROOT, code_blocks

PAGES = [path for path in DOCUMENTS if path.parent.name == "docs"]
ELSEWHERE = {
    "REALTIME_VENV",  # of bin/_environment
    "TEST_POSTGRES_BIN",  # of the tests
    "SO_REUSEPORT",
    "EVENT_ID",
    "SSL_CERT_FILE",  # of OpenSSL
    "HTTPS_PROXY",
    "NO_COLOR",  # of terminals: https://no-color.org
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_that_are_named_are_there(document: Path) -> None:
    """Whatever stands as code and looks like one; SQL and signals have no such names."""
    text = re.sub(r"```.*?```", "", document.read_text("utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)\b[^`]*`", text))
    assert named - {name.upper() for name in Settings.model_fields} - ELSEWHERE == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_that_are_named_are_there(document: Path) -> None:
    """`bin/doctor --json` and the like, of the commands that are this program's."""
    text = document.read_text("utf-8")
    unknown = []
    for name in NAMES:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        known = {option for one in command.params for option in one.opts} | {"--help"}
        for use in re.findall(rf"bin/{name}\b([^`|&;\n]*)", text):
            unknown += [option for option in re.findall(r"--[a-z-]+", use) if option not in known]
    assert unknown == []


def test_the_readme_lists_every_page() -> None:
    """In its table of documents, once."""
    part = README.partition("\n## Documentation\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| \[[^]]+\]\((docs/[\w-]+\.md)\) \|", part, re.MULTILINE)
    assert sorted(listed) == sorted(f"docs/{path.name}" for path in PAGES)


def test_every_promise_names_its_test() -> None:
    """No row of the guarantees' first tables is without one."""
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    promised = text.partition("\n## Not promised\n")[0]
    rows = re.findall(r"^\| (.*) \|$", promised, re.MULTILINE)
    promises = [row for row in rows if "tested by" not in row and "---" not in row]
    assert len(promises) > 20
    assert [row for row in promises if not re.search(r"\| .*`(?:test_|tests/)", row)] == []


def test_the_settings_of_the_deploying_page_are_settings() -> None:
    """All of them, with values that a server takes."""
    page = (ROOT / "docs" / "deploying.md").read_text("utf-8")
    (block,) = [one for one in code_blocks(page, "sh") if one.startswith("DATABASE_URL=postgres:")]
    given = dict(line.split("=", 1) for line in block.splitlines())
    assert given.keys() <= {name.upper() for name in Settings.model_fields}
    Settings.from_environ(given)


def test_the_layout_lists_every_package_and_module() -> None:
    """All that the tree has, and nothing that it has not."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    layout = text.partition("\n## Layout\n")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| `((?:realtime|clients)[\w/]*)` \| .* \| ([\w, ]*) \|$", layout, re.MULTILINE
    )
    listed = {package: set(modules.split(", ")) for package, modules in rows}
    tree: dict[str, set[str]] = {}
    for root in ("realtime", "clients/python/src"):
        for path in (ROOT / root).rglob("*.py"):
            modules = tree.setdefault(str(path.parent.relative_to(ROOT)), set())
            modules |= {path.stem} - {"__init__"}
    assert listed == tree


def test_the_order_of_reading_has_every_file_of_the_relay() -> None:
    """Each once, the twelve that are the core first."""
    told = realtime.relay.__doc__ or ""
    named = re.findall(r"`(\w+)`", told)
    files = [path.stem for path in (ROOT / "realtime" / "relay").glob("[!_]*.py")]
    assert sorted(named) == sorted(files)
    core = told.partition("- From a read")[2].partition("\n- ")[0]
    assert re.findall(r"`(\w+)`", core) == named[:12]
