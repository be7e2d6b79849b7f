"""What is logged: the name of an event, and fields. docs/operations.md lists the events."""

import json
import re

_PLAIN = re.compile(r"[\w.:/+-]+")
Field = str | float | BaseException | None
"""The value of a field; a field that is None is left out."""


class LogLine:
    """An event with fields: `socket_ended connection=… code=1006`, or each a member in JSON.

    Given to a logger in place of a message. A field that is None is left out, an exception is
    written as its kind and its text.
    """

    __slots__ = ("event", "fields")

    def __init__(self, event: str, **fields: Field) -> None:
        self.event = event
        self.fields = {k: _plain(v) for k, v in fields.items() if v is not None}

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{k}={_written(v)}" for k, v in self.fields.items())])


def _plain(value: str | float | BaseException) -> str | float:
    if not isinstance(value, BaseException):
        return value
    return f"{type(value).__name__}: {value}" if str(value) else type(value).__name__


def _written(value: str | float) -> str:
    """Write a value as it is, or in quotation marks where it could be read as several values."""
    if not isinstance(value, str):
        return json.dumps(value)
    return value if _PLAIN.fullmatch(value) else json.dumps(value)
