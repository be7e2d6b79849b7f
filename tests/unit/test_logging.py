"""Log lines: one line each, with fields that programs can read."""

from __future__ import annotations

import json
import logging

import pytest

from realtime.log_line import LogLine
from realtime.runtime.logging import JsonFormatter, LogLevel, TextFormatter, configure_logging


def record(message: object, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("realtime.test", logging.INFO, "", 0, message, arguments, None)


def test_fields_are_written_as_key_and_value() -> None:
    """Without quotation marks where there can be no doubt."""
    line = LogLine("close", connection="b0a0-1", topic="bot:b0a0", code=4003, is_late=True, ms=1.5)
    assert str(line) == "close connection=b0a0-1 topic=bot:b0a0 code=4003 is_late=true ms=1.5"


def test_nothing_in_a_value_can_pass_for_another_field_or_line() -> None:
    """Blanks, quotation marks and line breaks are escaped."""
    assert str(LogLine("close", reason="try again")) == 'close reason="try again"'
    assert str(LogLine("close", reason='x" code=1\nopen')) == 'close reason="x\\" code=1\\nopen"'
    assert str(LogLine("close", reason="")) == 'close reason=""'


def test_a_field_that_is_not_known_is_left_out() -> None:
    """As the user of a socket that was refused before its token was read."""
    assert str(LogLine("gone", user=None, code=1006)) == "gone code=1006"


def test_in_json_fields_are_members() -> None:
    """With their types, beside the time, the level and the logger."""
    line = record(LogLine("gone", code=1006, reason="a b"))
    line.created, line.msecs = 1_769_860_800.25, 250.0
    entry = json.loads(JsonFormatter(3).format(line))
    assert entry.pop("time") == "2026-01-31T12:00:00.250Z"
    assert entry == {
        "level": "info",
        "logger": "realtime.test",
        "worker": 3,
        "message": "gone",
        "code": 1006,
        "reason": "a b",
    }


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("debug", logging.DEBUG, logging.INFO),
        ("info", logging.INFO, logging.INFO),
        ("error", logging.ERROR, logging.ERROR),
    ],
)
def test_the_level_is_that_of_our_lines(
    level: LogLevel, ours: int, theirs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libraries say for debugging may hold anything, and stays out."""
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    root.handlers = []  # which it would close
    try:
        configure_logging("text", level)
        assert logging.getLogger("realtime.web").getEffectiveLevel() == ours
        assert logging.getLogger("tornado.general").getEffectiveLevel() == theirs
    finally:
        root.level, root.handlers = before
        logging.getLogger("realtime").setLevel(logging.NOTSET)


def test_the_text_of_a_line_is_its_message() -> None:
    """So that the plain format needs nothing of its own."""
    assert record(LogLine("gone", code=1006)).getMessage() == "gone code=1006"


def test_lines_of_libraries_have_the_same_form() -> None:
    """Event and fields, so that nobody needs a second parser."""
    library = record("read %d\nwhole", 5)
    text = TextFormatter(2).format(library)
    assert text.endswith(r' INFO realtime.test library_message worker=2 text="read 5\nwhole"')
    entry = json.loads(JsonFormatter(None).format(library))
    assert (entry["message"], entry["text"]) == ("library_message", "read 5\nwhole")


def test_what_cannot_be_read_is_not_written() -> None:
    """Tornado would quote the header or the address, and a token may stand in either."""
    quoted = ValueError("Invalid header value 'Bearer eyJhbGciOi\\x00J9.e30.x'")
    malformed = record("Malformed HTTP message from %s: %s", "10.0.0.1", quoted)
    text = "Malformed HTTP message from 10.0.0.1: Invalid header"
    assert TextFormatter(None).format(malformed).endswith(f'library_message text="{text}"')
    assert json.loads(JsonFormatter(None).format(malformed))["text"] == text


def test_an_exception_is_written_as_its_kind_and_its_text() -> None:
    """The kind alone says little of a time-out, and the text alone little of a KeyError."""
    assert str(LogLine("a_b", error=KeyError("x"))) == "a_b error=\"KeyError: 'x'\""
    assert str(LogLine("a_b", error=TimeoutError())) == "a_b error=TimeoutError"
