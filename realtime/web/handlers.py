"""The base classes of the HTTP handlers: they read a query without trust and log no secrets.

Tornado's own log of a failed request has the whole address in it, and with it the token.
"""

import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, NoReturn

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, Finish, HTTPError, RequestHandler

from realtime.auth.keys import KeysUnavailable
from realtime.auth.tokens import Identity, TokenError, token_from_request
from realtime.log_line import LogLine
from realtime.relay import closing
from realtime.relay.closing import CloseCode
from realtime.relay.errors import Refused
from realtime.web.services import Services
from realtime.web.upgrade import FOREIGN_ORIGIN, is_welcome

log = logging.getLogger("realtime.http")


ALLOWED_HEADERS = "Authorization, Content-Type, Last-Event-ID"
"""The headers that a page's script may send."""
RETRY_AFTER_SECONDS = "2"
_TOKEN = re.compile(r"ey[\w-]{6,}[^/]*", re.ASCII)  # how the head of a JSON Web Token begins
LOGGED_CHARACTERS = 200
"""So much is logged of what a client has sent."""
_STATUSES: Mapping[int, HTTPStatus] = {
    CloseCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    CloseCode.ACCESS_DENIED: HTTPStatus.FORBIDDEN,
    CloseCode.TOO_MANY_CONNECTIONS: HTTPStatus.TOO_MANY_REQUESTS,
    CloseCode.INTERNAL_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def http_status(code: int) -> HTTPStatus:
    """The HTTP status for a close code. All other refusals are temporary: 503."""
    return _STATUSES.get(code, HTTPStatus.SERVICE_UNAVAILABLE)


def refusal_headers(status: int) -> dict[str, str]:
    """What a refusal with this status says beside its body."""
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return {"WWW-Authenticate": "Bearer"}
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return {"Retry-After": RETRY_AFTER_SECONDS}
        case _:
            return {}


def logged_path(path: str) -> str:
    """The path of a request for the log; who leaves out the question mark has a token in it."""
    return _TOKEN.sub("...", path)[:LOGGED_CHARACTERS]


def log_foreign_origin(origin: str | None) -> None:
    """Say whose page may not connect: a browser shows its script no more than that it failed."""
    said = (origin or "")[:LOGGED_CHARACTERS]
    log.warning(LogLine("origin_refused", origin=said, setting="ALLOWED_ORIGINS"))


class CarefulHandler(RequestHandler):
    """The base of all handlers here, beside Tornado's class for the kind."""

    def query(self, name: str) -> str | None:
        """The last value of a query parameter; bytes that are no text become U+FFFD."""
        values = self.request.query_arguments.get(name)
        return values[-1].decode("utf-8", "replace") if values else None

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """A part of the address; bytes that are no text become U+FFFD."""
        return value.decode("utf-8", "replace")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer in JSON, as all refusals are."""
        error = self._reason
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            methods = ", ".join(self._methods())
            self.set_header("Allow", methods)
            error = f"this address takes no such method, only {methods}"
        self.finish({"error": error})

    def _methods(self) -> list[str]:
        missing = RequestHandler._unimplemented_method
        return [
            one for one in self.SUPPORTED_METHODS if getattr(type(self), one.lower()) is not missing
        ]

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what went wrong, without the query: there may be a token in it."""
        request = self.request
        if isinstance(value, HTTPError):
            return  # the request's own line in the log has the status
        failed = (typ, value, tb) if typ is not None and value is not None else None
        log.error(
            LogLine("request_failed", method=request.method, path=logged_path(request.path)),
            exc_info=failed,
        )


class JsonHandler(CarefulHandler):
    """Answers in JSON, errors included, to any page that may connect here."""

    def __init__(
        self, application: Application, request: HTTPServerRequest, *, services: Services
    ) -> None:
        self._services = services
        super().__init__(application, request)

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        origin = self.request.headers.get("Origin")
        if origin is not None and self._is_welcome():
            # No cookies are involved: what a page may read depends on the token that it sends.
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Allow-Headers", ALLOWED_HEADERS)
            self.set_header("Access-Control-Expose-Headers", "Retry-After")
            self.set_header("Vary", "Origin")

    def _is_welcome(self) -> bool:
        allowed = self._services.settings.allowed_origins
        return is_welcome(self.request.headers.get("Origin"), allowed)

    def require_origin(self) -> None:
        """Answer 403 to pages that may not connect here."""
        if not self._is_welcome():
            log_foreign_origin(self.request.headers.get("Origin"))
            self.refuse(FOREIGN_ORIGIN, 403)

    def head(self, *path: str) -> Awaitable[None] | None:
        """What GET answers, without the body."""
        answered: Awaitable[None] | None = self.get(*path)
        return answered

    def options(self, *path: str) -> None:
        self.set_status(204)
        self.finish()

    def answer(self, body: Mapping[str, Any], status: int = 200) -> None:
        self.set_status(status)
        self.finish(json.dumps(body) + "\n")

    def refuse(self, error: str, status: int, /, **more: Any) -> NoReturn:
        """Answer with an error (and more fields), and end the request."""
        for name, value in refusal_headers(status).items():
            self.set_header(name, value)
        self.answer({**more, "error": error}, status)
        raise Finish

    async def identity(self) -> Identity:
        """Who asks: an active user with a good token. Else the answer is 401, or 503 where that
        cannot be found out."""
        identity = await self.token_identity()
        async with self.refusing():
            await self._services.access.authorize(identity.subject, None)
        return identity

    async def token_identity(self) -> Identity:
        """Verify the request's token, for a handler that asks the database about its user itself.

        Without a good one the answer is 401, or 503 where the keys that verify tokens cannot be
        fetched.
        """
        token = token_from_request(
            self.query("token"), self.request.headers.get("Authorization"), []
        )
        try:
            return await self._services.verifier.verify(token or "")
        except TokenError as error:
            self.refuse(error.reason, 401)
        except KeysUnavailable:
            self.refuse(closing.KEYS_AWAY.reason, 503)

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Answer a refusal, at a time that tells nothing."""
        began = self._services.monotonic()
        try:
            yield
        except Refused as refused:
            await self._services.refuse_evenly(began)
            self.refuse(refused.reason, http_status(refused.code))

    def require_admin(self, identity: Identity) -> None:
        """Answer 403 if the token has no admin claim."""
        if not identity.is_admin:
            claim = self._services.settings.jwt_admin_claim
            self.refuse(f"only for administrators: the token needs {claim!r}: true", 403)


class NotFoundHandler(JsonHandler):
    """Answers 404 at every address that has no handler."""

    def prepare(self) -> None:
        self.refuse("there is nothing at this address", 404)
