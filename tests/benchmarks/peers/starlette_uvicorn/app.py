"""Peer: Starlette on uvicorn, with asyncpg's LISTEN.

A connection manager that sends to one socket after another, as in FastAPI's and Starlette's
documentation of WebSockets.
"""

import asyncio
import json
import os
from collections import defaultdict
from contextlib import asynccontextmanager

import asyncpg
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


class ConnectionManager:
    def __init__(self) -> None:
        self.active: defaultdict[str, list[WebSocket]] = defaultdict(list)

    async def connect(self, bot_id: str, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active[bot_id].append(websocket)

    def disconnect(self, bot_id: str, websocket: WebSocket) -> None:
        self.active[bot_id].remove(websocket)

    async def broadcast(self, bot_id: str, message: str) -> None:
        for connection in tuple(self.active[bot_id]):
            await connection.send_text(message)


manager = ConnectionManager()


async def chat(websocket: WebSocket) -> None:
    bot_id = websocket.path_params["bot_id"]
    await manager.connect(bot_id, websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        manager.disconnect(bot_id, websocket)


async def relay(messages: "asyncio.Queue[str]") -> None:
    while True:
        message = await messages.get()
        await manager.broadcast(json.loads(message)["bot_id"], message)


@asynccontextmanager
async def lifespan(_app: Starlette):
    messages: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.add_listener("messages", lambda *heard: messages.put_nowait(heard[3]))
    task = asyncio.create_task(relay(messages))
    yield
    task.cancel()
    await connection.close()


app = Starlette(routes=[WebSocketRoute("/ws/{bot_id}", chat)], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
