"""The exception tree is as its module says, and whoever runs a command reads one line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import realtime
from realtime import errors
from realtime.__main__ import main
from realtime.dev import command as dev
from realtime.embedded.lock import LockTimeout

ROOT = Path(realtime.__file__).parent


def exceptions() -> Iterator[tuple[str, str]]:
    """Each exception class in the package, and the name of its first base."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.bases:
                base = ast.unparse(node.bases[0])
                if re.fullmatch(r"\w*(Exception|Error)", base):
                    yield node.name, base


def test_the_tree_at_the_top_of_the_module_names_every_exception() -> None:
    """Whoever looks for an error finds it there, under the right base."""
    tree = errors.__doc__ or ""
    names = [*re.findall(r"(?m)^    (?:[├└]── )?(\w+)", tree), "TemplateError"]
    under = re.findall(r"(?m)^    [├└]── (\w+)", tree)
    found = dict(exceptions())
    assert sorted(names) == sorted(found)
    assert sorted(under) == sorted(name for name, base in found.items() if base == "CommandError")


def test_any_command_error_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also one that no command lists: another bin/dev holds the lock."""

    def refuse(_environ: object) -> None:
        raise LockTimeout("another process has held x for 120 s")

    monkeypatch.setattr(dev, "DATA", tmp_path)
    monkeypatch.setattr(dev, "with_defaults", refuse)
    result = CliRunner().invoke(main, ["dev"])
    assert result.exit_code == 1
    assert result.stderr == "error: another process has held x for 120 s\n"
