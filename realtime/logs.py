"""How log lines look: text or JSON, on standard error. Set up once by the command line."""

import json
import logging
import time
from typing import Literal

LogFormat = Literal["text", "json"]


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._fixed = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._fixed,
            "message": record.getMessage(),
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
    formatter = _JsonFormatter(worker) if log_format == "json" else logging.Formatter(text)
    formatter.datefmt = "%Y-%m-%dT%H:%M:%S"
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
