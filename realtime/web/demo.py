"""The demo's API: what a platform's own API would do, so that the console can write, too.

Only `bin/dev` gives a process what answers here, and only pages of this very server that a browser
on this machine shows may ask: see `_is_neighbour`. Elsewhere `GET /demo` says that there is
none.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from realtime.relay import closing
from realtime.relay.protocol import canonical_uuid
from realtime.web.demo_platform import ACTIONS, DemoPlatform, DemoRefused
from realtime.web.handlers import JsonHandler

MAX_CONTENT = 4000
MAX_STATEMENTS = 20


class DemoHandler(JsonHandler):
    """The base of the demo's handlers; by itself `GET /demo`: what there is."""

    def get(self) -> None:
        demo = self._services.demo
        if demo is None or not self._is_neighbour():
            self.answer({"sends": False, "runs": False, "people": []})
            return
        self.answer(
            {
                "sends": True,
                "runs": demo.can_run,
                "people": list(demo.people),
                "bot_id": demo.bot_id,
            }
        )

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.clear_header("Access-Control-Allow-Origin")

    def demo(self) -> DemoPlatform:
        """The platform, for whoever may ask it; else the answer is 404 or 403."""
        if (demo := self._services.demo) is None:
            self.refuse("there is nothing at this address", 404)
        if not self._is_neighbour():
            self.refuse(
                "the demo is for pages of this server, in a browser on this machine: a development"
                " server has to pass requests on with this server's Origin (docs/protocol.md)",
                403,
            )
        return demo

    def _is_neighbour(self) -> bool:
        """Whether a page of this server asks, which a browser on this machine shows.

        A site that has its name lead to 127.0.0.1 is told by its Host, other pages by their Origin,
        and other machines by their address.
        """
        headers, host = self.request.headers, self.request.host
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site", "same-origin")
        is_writing = self.request.method not in ("GET", "HEAD")
        return (
            _is_loopback(_name_in(host))
            and _is_loopback(self.request.remote_ip)
            and site == "same-origin"
            and (origin == f"http://{host}" or (origin is None and not is_writing))
        )

    def body(self) -> dict[str, Any]:
        """The request's JSON object; else the answer is 400."""
        try:
            found = json.loads(self.request.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.refuse("the body must be a JSON object", 400)
        return found

    def text(self, body: dict[str, Any], name: str, most: int) -> str:
        """A text of the body; else the answer is 400."""
        found = body.get(name)
        if not isinstance(found, str) or not found.strip() or len(found) > most:
            self.refuse(f"{name} must be a text of 1 to {most} characters", 400)
        return found

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Answer with what the platform refuses."""
        try:
            yield
        except DemoRefused as refused:
            self.refuse(str(refused), refused.status, **refused.more)

    def bot_id(self, given: object) -> str:
        found = canonical_uuid(given) if isinstance(given, str) else None
        if found is None:
            self.refuse(closing.ACCESS_DENIED.reason, 403)
        return found


class DemoSignIn(DemoHandler):
    """POST /demo/sign-in: {"name"}; a token of one of the people."""

    async def post(self) -> None:
        demo = self.demo()
        name = self.text(self.body(), "name", 64)
        if name not in demo.people:
            self.refuse(f"name must be one of {', '.join(demo.people)}", 400)
        self.answer({"token": demo.sign_in(name), "bot_id": demo.bot_id})


class DemoMessages(DemoHandler):
    """/demo/bots/{bot_id}/messages: GET the newest, POST {"content", "message_id"} for one more."""

    async def get(self, given: str) -> None:  # type: ignore[override]
        demo = self.demo()
        subject = (await self.identity()).subject
        with self.telling():
            found = await demo.history(subject, self.bot_id(given))
        self.answer(found)

    async def post(self, given: str) -> None:
        demo = self.demo()
        subject = (await self.identity()).subject
        body = self.body()
        content, message_id = self.text(body, "content", MAX_CONTENT), self._message_id(body)
        with self.telling():
            await demo.post(subject, self.bot_id(given), message_id, content)
        self.answer({"message_id": message_id}, 201)

    def _message_id(self, body: dict[str, Any]) -> str:
        """The id that whoever sends chose, so that they can send again; else a new one."""
        if body.get("message_id") is None:
            return str(uuid4())
        if (found := canonical_uuid(str(body["message_id"]))) is None:
            self.refuse("message_id must be a UUID", 400)
        return found


class DemoSql(DemoHandler):
    """POST /demo/sql: {"statements"}, of anybody with a token; what PostgreSQL says to each."""

    async def post(self) -> None:
        demo = self.demo()
        await self.identity()
        if not demo.can_run:
            self.refuse("SQL runs only in bin/dev's own database", 403)
        statements = self._statements()
        with self.telling():
            results = await demo.run(statements)
        self.answer({"results": results})

    def _statements(self) -> list[str]:
        given = self.body().get("statements")
        texts = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
        if texts != given or not 0 < len(texts) <= MAX_STATEMENTS:
            self.refuse(f"statements must be a list of 1 to {MAX_STATEMENTS} texts", 400)
        return texts


class DemoAction(DemoHandler):
    """POST /demo/actions: {"action", "user_id", "bot_id"}, for administrators."""

    async def post(self) -> None:
        demo = self.demo()
        self.require_admin(await self.identity())
        body = self.body()
        action, user_id = body.get("action"), canonical_uuid(str(body.get("user_id")))
        if action not in ACTIONS or user_id is None:
            self.refuse(f"action must be one of {', '.join(ACTIONS)}, user_id a UUID", 400)
        bot_id = None if body.get("bot_id") is None else self.bot_id(body["bot_id"])
        with self.telling():
            await demo.act(action, user_id, bot_id)
        self.answer({})


def _name_in(host: str) -> str | None:
    """The header Host without its port; None: it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False
