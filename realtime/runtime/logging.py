"""Formats log lines as text or JSON, and sends them to standard error.

Everything that we log is a `Line`: the name of an event, and fields. docs/operations.md lists the
events. What libraries log has the same form: the event is `library_message`, its field `text`.
"""

import json
import logging
import re
import time
from typing import Literal

LogFormat = Literal["text", "json"]
_MALFORMED = "Malformed HTTP message from %s: %s"
_PLAIN = re.compile(r"[\w.:/+-]+")
Field = str | float | BaseException | None


class Line:
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


def _line_of(record: logging.LogRecord) -> Line:
    if isinstance(record.msg, Line):
        return record.msg
    return Line("library_message", text=_without_what_was_sent(record))


def _without_what_was_sent(record: logging.LogRecord) -> str:
    """The message. Tornado quotes a request that it cannot read, and a token may stand in that."""
    if record.msg != _MALFORMED or not isinstance(record.args, tuple):
        return record.getMessage()
    address, error = record.args
    kind = " ".join(str(error).split()[:2])  # the first words are Tornado's own
    return _MALFORMED % (address, kind)


def _written(value: str | float) -> str:
    """Write a value as it is, or in quotation marks where it could be read as several values."""
    if not isinstance(value, str):
        return json.dumps(value)
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._fixed = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line = _line_of(record)
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._fixed,
            "message": line.event,
            **line.fields,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class TextFormatter(logging.Formatter):
    """`time LEVEL logger event key=value …`, and below it the traceback where there is one."""

    def __init__(self, worker: int | None) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s %(message)s")
        self._fixed: dict[str, Field] = {} if worker is None else {"worker": worker}

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = _line_of(record)
        record.message = str(Line(line.event, **(self._fixed | line.fields)))
        return super().formatMessage(record)


def configure_logging(
    log_format: LogFormat, level: int = logging.INFO, *, worker: int | None = None
) -> None:
    """Send the log to standard error, in the format of the setting LOG_FORMAT.

    Args:
        worker: this process's number among those of one supervisor, for each line.
    """
    formatter = JsonFormatter(worker) if log_format == "json" else TextFormatter(worker)
    formatter.datefmt = "%Y-%m-%dT%H:%M:%S"
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
