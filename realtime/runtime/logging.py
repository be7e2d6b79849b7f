"""Formats log lines as text or JSON, and sends them to standard error.

Everything that we log is a `LogLine`. What libraries log has the same form: the event is
`library_message`, its field `text`.
"""

import json
import logging
import sys
import time
from typing import Literal

from realtime.log_line import Field, LogLine
from realtime.runtime.log_output import make_handler

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
_MALFORMED = "Malformed HTTP message from %s: %s"


def _line_of(record: logging.LogRecord) -> LogLine:
    if isinstance(record.msg, LogLine):
        return record.msg
    return LogLine("library_message", text=_without_what_was_sent(record))


def _without_what_was_sent(record: logging.LogRecord) -> str:
    """The message. Tornado quotes a request that it cannot read, and a token may stand in that."""
    if record.msg != _MALFORMED or not isinstance(record.args, tuple):
        return record.getMessage()
    address, error = record.args
    kind = " ".join(str(error).split()[:2])  # the first words are Tornado's own
    return _MALFORMED % (address, kind)


class _Formatter(logging.Formatter):
    """Times are in UTC, and each line has the worker's number, where there is one."""

    def __init__(self, worker: int | None) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self._fixed: dict[str, Field] = {} if worker is None else {"worker": worker}


class JsonFormatter(_Formatter):
    """Formats each line as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = _line_of(record)
        entry = {
            "time": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._fixed,
            "message": line.event,
            **line.fields,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class TextFormatter(_Formatter):
    """`time LEVEL logger event key=value …`, and below it the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = _line_of(record)
        if self._fixed:
            line = LogLine(line.event, **(self._fixed | line.fields))
        text = f"{self.formatTime(record, self.datefmt)}Z {record.levelname} {record.name} {line}"
        failed = record.exc_info
        return f"{text}\n{self.formatException(failed)}" if failed else text


def configure_logging(
    log_format: LogFormat, log_level: LogLevel = "info", *, worker: int | None = None
) -> None:
    """Send the log to standard error, as the settings LOG_FORMAT and LOG_LEVEL say.

    Args:
        worker: this process's number among those of one supervisor, for each line.
    """
    formatter = JsonFormatter(worker) if log_format == "json" else TextFormatter(worker)
    handler = make_handler(sys.stderr)
    handler.setFormatter(formatter)
    level = logging.getLevelNamesMapping()[log_level.upper()]
    # What libraries say for debugging is theirs, and may hold anything.
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    logging.getLogger("realtime").setLevel(level)
    # No line has these, and to find them out is a third of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # nor the place in the code
