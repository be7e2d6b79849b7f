"""Every log line names its event, and docs/operations.md says what each means."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import realtime

SERVER = Path(realtime.__file__).parent
ROOT = SERVER.parent
CLIENT = ROOT / "clients" / "python" / "src" / "rowcast"
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
LOGS = PAGE.partition("\n## Logs\n")[2].partition("\n## ")[0]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
MAKERS = {"LogLine", "socket_line", "_line"}
"""What makes a line of an event's name and fields."""


def logging_calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call of a logger in the server or the Python client, and where it is."""
    for path in (*sorted(SERVER.rglob("*.py")), *sorted(CLIENT.glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and ast.unparse(node.func.value) in ("log", "_log", "logger", "logging")
            ):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def event_of(where: str, call: ast.Call) -> str:
    """The name that a call logs, which must be written there.

    The client takes nothing of ours, so it writes the name at the beginning of its text.
    """
    assert isinstance(call.func, ast.Attribute)
    first = call.args[1 if call.func.attr == "log" else 0]
    if where.startswith("clients/"):
        assert isinstance(first, ast.Constant), where
        return str(first.value).partition(" ")[0]
    assert isinstance(first, ast.Call), where
    assert ast.unparse(first.func).rpartition(".")[2] in MAKERS, where
    assert isinstance(first.args[0], ast.Constant), where
    return str(first.args[0].value)


def events() -> set[tuple[str, str]]:
    """Each event with its level; all of those that are no trouble are `info`."""
    levels = {"warning": "warning", "error": "error", "exception": "error", "critical": "error"}
    return {
        (event_of(where, call), levels.get(call.func.attr, "info"))
        for where, call in logging_calls()
        if isinstance(call.func, ast.Attribute)
    }


def test_every_logger_is_found_by_this_test() -> None:
    """A logger has the name `log` in every module, and nobody logs past it."""
    for path in (*SERVER.rglob("*.py"), *CLIENT.glob("*.py")):
        made = re.findall(r"(?m)^(\w+)\s*=.*getLogger", path.read_text())
        assert set(made) <= {"log"}, path
    assert len(list(logging_calls())) > 20


def test_an_event_is_named_by_words_and_underscores() -> None:
    """At least two words: what, and what happened to it."""
    assert [name for name, _ in events() if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []


def test_the_operations_page_lists_every_event() -> None:
    """With what to do for warnings and errors; and it lists none that is not logged."""
    troubles = re.findall(r"(?m)^\| `(\w+)` \| (warning|error) \|", LOGS)
    listed = re.findall(r"(?m)^\| `(\w+)` \|", LOGS)
    others = [(name, "info") for name in listed if name not in dict(troubles)]
    assert sorted([*troubles, *others]) == sorted(events())
