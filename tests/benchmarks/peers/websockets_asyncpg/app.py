"""Peer: the websockets library, with asyncpg's LISTEN.

Sends with `broadcast`, as the library's documentation of broadcasting recommends.
"""

import asyncio
import json
import os
from collections import defaultdict

import asyncpg
from websockets.asyncio.server import ServerConnection, broadcast, serve

CONNECTIONS: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def register(websocket: ServerConnection) -> None:
    connections = CONNECTIONS[websocket.request.path.rpartition("/")[2]]
    connections.add(websocket)
    try:
        await websocket.wait_closed()
    finally:
        connections.remove(websocket)


def heard(_connection: object, _pid: int, _channel: str, message: str) -> None:
    broadcast(CONNECTIONS[json.loads(message)["bot_id"]], message)


async def main() -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.add_listener("messages", heard)
    async with serve(register, "127.0.0.1", int(os.environ["PORT"])) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
