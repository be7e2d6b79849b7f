"""Peer: Tornado as its chat demo shows it, `write_message` to one socket after another."""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from contextlib import suppress
from typing import ClassVar

import asyncpg
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler


class ChatSocketHandler(WebSocketHandler):
    waiters: ClassVar[defaultdict[str, set[ChatSocketHandler]]] = defaultdict(set)

    def open(self, bot_id: str) -> None:
        self.bot_id = bot_id
        self.waiters[bot_id].add(self)

    def on_close(self) -> None:
        self.waiters[self.bot_id].discard(self)

    def on_message(self, message: str | bytes) -> None:
        pass

    @classmethod
    def send_updates(cls, message: str) -> None:
        for waiter in cls.waiters[json.loads(message)["bot_id"]]:
            with suppress(WebSocketClosedError):  # on_close will follow
                waiter.write_message(message)


async def main() -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.add_listener(
        "messages", lambda *heard: ChatSocketHandler.send_updates(heard[3])
    )
    app = Application([(r"/ws/([0-9a-f-]+)", ChatSocketHandler)])
    app.listen(int(os.environ["PORT"]), "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
