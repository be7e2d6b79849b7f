"""What every handler has in common: a query read without trust, and logs without secrets.

Tornado's own log of a failed request has the whole address in it, and with it the token.
"""

import logging
from types import TracebackType

from tornado.web import HTTPError, RequestHandler

from realtime.runtime.logging import Line

log = logging.getLogger("realtime.http")


class CarefulHandler(RequestHandler):
    """Base of all our handlers, beside Tornado's class for the kind."""

    def query(self, name: str) -> str | None:
        """The last value of a query parameter; bytes that are no text become U+FFFD."""
        values = self.request.query_arguments.get(name)
        return values[-1].decode("utf-8", "replace") if values else None

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what went wrong, without the query: there may be a token in it."""
        request = self.request
        if isinstance(value, HTTPError):
            return  # the line of the request has the status
        failed = (typ, value, tb) if typ is not None and value is not None else None
        line = Line("request failed", method=request.method, path=request.path)
        log.error(line, exc_info=failed)
