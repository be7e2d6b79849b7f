"""A socket for many bots (`/api/ws`), as the client of one of its subscriptions has it.

It is subscribed to another bot and to the notifications, too. The client is told of its own topic
what a socket of its own would tell. What comes on the others is not looked at, but it comes: they
are revoked, missed and replayed on the same socket.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tornado.iostream import IOStream

from rowcast.rules import Closed
from rowcast.transport import TornadoSocket

OF_THE_SOCKET = frozenset({"authenticated", "token_expiring", "going_away", "pong", "error"})


class ManySocket:
    """In place of the client's own socket.

    Args:
        bot_id: the client's bot; None: the notifications.
        cursor: where it goes on; empty: nowhere.
        others: the bots that others watch on the same socket.
    """

    hears_only = False

    def __init__(
        self, inner: TornadoSocket, bot_id: str | None, cursor: str, others: Iterable[str | None]
    ) -> None:
        self._inner = inner
        self._bot_id = bot_id
        self._cursor = cursor
        self._others = [other for other in others if other != bot_id]
        self._greeting: Mapping[str, Any] = {}
        self._is_greeted = False

    @property
    def stream(self) -> IOStream | None:
        return self._inner.stream

    async def receive(self) -> str | bytes:
        while True:
            frame = await self._inner.receive()
            message = json.loads(frame)
            match message["type"]:
                case "connection_established":
                    self._subscribe(message["data"])
                case "subscribed" if self._is_own(message):
                    self._is_greeted = True
                    return json.dumps(self._greet(message["data"]))
                case "unsubscribed" if self._is_own(message):
                    self._inner.abort()
                    raise Closed(message["data"]["code"], message["data"]["reason"])
                case "subscribed" | "unsubscribed":
                    pass
                case _ if self._is_own(message):
                    assert self._is_greeted, f"before its subscription: {message}"
                    return frame

    def _is_own(self, message: Mapping[str, Any]) -> bool:
        if "bot_id" in message or message.get("notifications"):
            return message.get("bot_id") == self._bot_id
        # On the notifications, most messages do not say so.
        return self._bot_id is None or message["type"] in OF_THE_SOCKET

    def _subscribe(self, greeting: Mapping[str, Any]) -> None:
        self._greeting = {key: greeting[key] for key in greeting.keys() - {"connection_type"}}
        for bot_id in (*self._others, self._bot_id):
            cursor = self._cursor if bot_id == self._bot_id else ""
            self._say("subscribe", bot_id, {"cursor": cursor})

    def _greet(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {"bot_id": self._bot_id} if self._bot_id else {"connection_type": "notifications"}
        return {"type": "connection_established", "data": {**self._greeting, **own, **data}}

    def _say(self, kind: str, bot_id: str | None, data: Mapping[str, Any], **more: Any) -> bool:
        target = {"bot_id": bot_id} if bot_id else {"notifications": True}
        message = {**more, "type": kind, "data": {**data, **target}}
        return self._inner.send(json.dumps(message))

    def send(self, text: str) -> bool:
        message = json.loads(text)
        kind, data = message.pop("type"), message.pop("data", {})
        return self._say(kind, self._bot_id, data, **message)

    async def close(self, code: int) -> None:
        await self._inner.close(code)

    def abort(self, code: int = 1006, reason: str = "") -> None:
        self._inner.abort(code, reason)
