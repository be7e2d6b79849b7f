"""Formats log lines as text or JSON, and sends them to standard error.

What programs look for in the log is written as a `Line`: a word for what happened, and fields.
"""

import json
import logging
import re
import time
from typing import Literal

LogFormat = Literal["text", "json"]
_PLAIN = re.compile(r"[\w.:/+-]+")


class Line:
    """What happened, with fields: `close connection=… code=4003`, or each a member in JSON.

    Given to a logger in place of a message. A field that is None is left out.
    """

    __slots__ = ("fields", "what")

    def __init__(self, what: str, **fields: str | float | None) -> None:
        self.what = what
        self.fields = {name: value for name, value in fields.items() if value is not None}

    def __str__(self) -> str:
        return " ".join([self.what, *(f"{k}={_written(v)}" for k, v in self.fields.items())])


def _written(value: str | float) -> str:
    """As it is, or in quotation marks where it could be taken for more than one value."""
    if not isinstance(value, str):
        return json.dumps(value)
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._fixed = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line = record.msg if isinstance(record.msg, Line) else None
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._fixed,
            "message": line.what if line else record.getMessage(),
            **(line.fields if line else {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure_logging(
    log_format: LogFormat, level: int = logging.INFO, *, worker: int | None = None
) -> None:
    """Send the log to standard error, in the format of the setting LOG_FORMAT.

    Args:
        worker: this process's number among those of one supervisor, for each line.
    """
    mark = "" if worker is None else f"worker={worker} "
    text = f"%(asctime)sZ %(levelname)s %(name)s {mark}%(message)s"
    formatter = JsonFormatter(worker) if log_format == "json" else logging.Formatter(text)
    formatter.datefmt = "%Y-%m-%dT%H:%M:%S"
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
