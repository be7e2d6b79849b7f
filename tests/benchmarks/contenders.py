"""Who is measured: this server, the peers, and the yardstick; how each is started and addressed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from realtime.auth.tokens import mint_token
from tests.benchmarks.database import NOTIFY, OURS, Database
from tests.benchmarks.packages import Packages
from tests.benchmarks.paths import LOGS, PEERS, ROOT
from tests.benchmarks.processes import ServerProcess, server_process

SECRET: Final = "a secret for benchmarks only, of at least 32 bytes"
TOKEN_SECONDS: Final = 6 * 3600
OUR_SETTINGS: Final = {
    "JWT_SECRET": SECRET,
    "MAX_CONNECTIONS_PER_USER": "10000",
    "DRAIN_SECONDS": "0",
}
"""Everything else is as in production."""


@dataclass(frozen=True)
class Contender:
    """One row of the tables.

    Attributes:
        kind: `python` and `node` are peers; `bare` is the yardstick.
        dialect: how the load generator has to greet it.
        directory: of `peers/`.
    """

    name: str
    label: str
    kind: Literal["ours", "python", "node", "bare"]
    dialect: Literal["welcome", "plain", "socketio", "multi", "sse"] = "plain"
    directory: str = ""

    @property
    def is_peer(self) -> bool:
        return self.kind in ("python", "node")

    @property
    def database(self) -> str:
        return OURS if self.kind == "ours" else NOTIFY

    def path(self, user: int, bot: int, cursor: str | None = None) -> str:
        """The address of that user's socket on that bot."""
        if self.kind == "ours":
            token = mint_token(SECRET, user_id(user), ttl=TOKEN_SECONDS, now=time.time())
            resume = f"&cursor={cursor}" if cursor else ""
            return f"/api/ws/chat/{bot_id(bot)}?token={token}{resume}"
        if self.dialect == "socketio":
            return f"/socket.io/?EIO=4&transport=websocket&bot={bot_id(bot)}"
        return f"/ws/{bot_id(bot)}"


THIS: Final = Contender("realtime", "this server", "ours", "welcome")
BARE: Final = Contender("bare", "bare `send` loop", "bare", directory="bare_send")
PEERS_MEASURED: Final = (
    Contender("starlette", "Starlette, uvicorn, asyncpg", "python", directory="starlette_uvicorn"),
    Contender("websockets", "websockets, asyncpg", "python", directory="websockets_asyncpg"),
    Contender("tornado", "plain Tornado, asyncpg", "python", directory="tornado_plain"),
    Contender("ws", "Node ws, pg", "node", directory="node_ws"),
    Contender("socketio", "Socket.IO, pg", "node", "socketio", directory="node_socketio"),
)


def user_id(number: int) -> str:
    return f"00000000-0000-4000-a000-{number:012x}"


def bot_id(number: int) -> str:
    return f"00000000-0000-4000-b000-{number:012x}"


@contextmanager
def running(
    contender: Contender,
    database: Database,
    packages: Packages,
    *,
    arguments: tuple[str, ...] = (),
    settings: dict[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """The contender, serving.

    Args:
        arguments: for the yardstick.
        settings: of this server, beside the ordinary ones.

    Raises:
        Unavailable: it cannot run on this machine.
    """
    command, environment = _command(contender, packages)
    if contender.kind == "ours":
        environment |= OUR_SETTINGS | (settings or {})
    with server_process(
        [*command, *arguments],
        environment | database.environment(contender.database),
        directory=ROOT if contender.kind == "ours" else PEERS / contender.directory,
        log=LOGS / f"{contender.name}.log",
        ready_path="/api/ready" if contender.kind == "ours" else None,
    ) as server:
        yield server


def _command(contender: Contender, packages: Packages) -> tuple[list[str], dict[str, str]]:
    match contender.kind:
        case "ours":
            return [sys.executable, "-m", "tests.alone"], {}
        case "bare":
            return [sys.executable, "app.py"], {}
        case "python":
            return [packages.python(), "app.py"], {}
        case "node":
            node, environment = packages.node()
            return [node, "server.js"], environment
