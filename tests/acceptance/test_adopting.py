"""A newcomer goes through docs/adopting.md: its own commands, in one shell, and a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from realtime.attach.mapping import COLUMNS
from realtime.embedded.server import EmbeddedPostgres
from tests.acceptance.test_commands import NOT_COPIED
from tests.commands import ROOT, environment, free_port, status_of
from tests.unit.test_readme import code_blocks, first_column
from tests.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

DOCUMENT = (ROOT / "docs" / "adopting.md").read_text("utf-8")
# What there is of Python in a test is all that there may be: nothing is downloaded.
STUB = """#!/bin/sh
[ "$1 $2 $3" = "-m venv .venv" ] && exec ln -s '{prefix}' .venv
exec '{prefix}/bin/python' "$@"
"""


class Terminal:
    """One shell for all of the document, as a reader would have it."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._count = 0
        self.printed = ""
        self.process = subprocess.Popen(
            ["bash", "-e"],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, block: str) -> str:
        """Paste a block and wait for its end; what it printed."""
        self._count += 1
        end = f"end of block {self._count}"
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{block}\necho '{end}'\n")
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line.rstrip("\n").endswith(end):
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"the shell ended in\n{block}\n{''.join(lines)}")

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        if self.process.poll() is None:
            try:
                self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, 9)
        self.process.stdout.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone, and a Python on the path that makes environments of this one."""
    shutil.copytree(ROOT, tmp_path / "clone", ignore=NOT_COPIED)
    (tmp_path / "path").mkdir()
    python = tmp_path / "path" / "python3"
    python.write_text(STUB.format(prefix=sys.prefix))
    python.chmod(0o755)
    return tmp_path / "clone"


@pytest.fixture
def terminal(checkout: Path, postgres: EmbeddedPostgres) -> Iterator[Terminal]:
    # "0" means that a package is built with what is installed; pip has it this way around.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    environ = environment(PORT=str(free_port()), **offline)
    del environ["REALTIME_VENV"]
    folders = (checkout.parent / "path", postgres.bin_dir, environ["PATH"])
    terminal = Terminal(checkout, environ | {"PATH": os.pathsep.join(map(str, folders))})
    yield terminal
    terminal.close()


@pytest.mark.browser
def test_the_steps_of_the_document(
    terminal: Terminal, empty_database: str, browser_context: BrowserContext
) -> None:
    """Block after block as it is written, but for the database's address; the row is shown."""
    own = f"export DATABASE_URL='{empty_database}'"
    text, count = re.subn(r"^export DATABASE_URL=.*$", own, DOCUMENT, flags=re.MULTILINE)
    assert count == 1
    page = browser_context.new_page()
    said = {}
    blocks = code_blocks(text, "sh")
    for block in blocks:
        said[block] = terminal.run(block)
        if block.startswith("echo "):
            link = said[block].splitlines()[-1]
            wait_until(lambda link=link: status_of(link) == 200, what=link)
            page.goto(link)
            page.get_by_text("My own bot").first.wait_for()
        if "A row of my own table" in block:
            page.locator(".bubble", has_text="A row of my own table").wait_for()
            assert page.locator(".message .by").inner_text().startswith("ada")
    assert "attached: public.users" in next(out for block, out in said.items() if "less" in block)
    assert "detached: 15 triggers" in said[blocks[-1]]


def test_every_key_is_described() -> None:
    """The document's table names those that a mapping may have."""
    described = set()
    for cell in first_column(DOCUMENT, "key"):
        table = ""
        for key in re.split(r"`?, `?", cell):
            table = key.rpartition(".")[0] or table
            described.add(f"{table}.{key.rpartition('.')[2]}".lstrip("."))
    keys = {f"{table}.{key}" for table, columns in COLUMNS.items() for key in columns}
    more = {"schema", "server_role", "bots.untold", "permissions.owner_role"}
    assert described == keys | more
