"""A TCP port in front of the server's Unix socket: the network between a relay and Postgres.

It can be
- cut: a reset on every connection;
- closed: the same, and nobody answers;
- stalled: bytes wait, and arrive later;
- slow: so many bytes a second come from Postgres, over all connections together;
- late: bytes arrive, but that Postgres has closed a connection is heard of only afterwards;
- half open: bytes vanish both ways while both ends think that the connection stands. That
  connection never comes back, a new one works once the fault is over.

It notices which connection called relay.listen, so that a fault can end just that one. One for each
relay, made by `arena`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

CHUNK = 65536


class Link:
    """One connection, both its halves, and what became known of it in passing."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.near = near
        self.far: asyncio.StreamWriter | None = None
        self.backend_pid: int | None = None
        self.listens = False
        self.is_black_hole = False

    def look_at_question(self, data: bytes) -> None:
        self.listens = self.listens or b"relay.listen()" in data

    def look_at_answer(self, data: bytes) -> None:
        """Find BackendKeyData: https://www.postgresql.org/docs/current/protocol-message-formats."""
        place = data.find(b"K\0\0\0\x0c") if self.backend_pid is None else -1
        if place >= 0:
            self.backend_pid = int.from_bytes(data[place + 5 : place + 9], "big")

    def abort(self) -> None:
        for writer in (self.near, self.far):
            if writer is not None:
                writer.transport.abort()


class Proxy:
    """Forwards from a port on loopback to a Unix socket, in whatever state the network is."""

    def __init__(self, unix_socket: str) -> None:
        self._unix_socket = unix_socket
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows, self._ends = asyncio.Event(), asyncio.Event()
        self._flows.set()
        self._ends.set()
        self._is_closed = False
        self._swallows = False
        self._speed: float | None = None
        self._free_at = 0.0
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def listener_pid(self) -> int | None:
        """The backend that listens for this relay."""
        alive = (link for link in self._links if link.listens and not link.is_black_hole)
        return next((link.backend_pid for link in alive if link.backend_pid), None)

    # The faults.

    def cut(self) -> None:
        """Reset every connection."""
        for link in tuple(self._links):
            link.abort()

    def close(self) -> None:
        """Reset every connection, and each new one until `heal`."""
        self._is_closed = True
        self.cut()

    def stall(self) -> None:
        """Keep all bytes back until `heal`."""
        self._flows.clear()

    def slow_down(self, speed: float | None) -> None:
        """Let so many bytes a second through, or (None) as many as come."""
        self._speed = speed

    def delay_ends(self) -> None:
        """Keep it back until `heal` that Postgres has closed a connection."""
        self._ends.clear()

    def half_open(self) -> None:
        """Swallow all bytes, those of new connections too, until `heal`."""
        self._swallows = True
        for link in self._links:
            link.is_black_hole = True

    def heal(self) -> None:
        """End all faults. What was half open is dead: closed at Postgres's end, silent at ours."""
        self._is_closed = self._swallows = False
        self._flows.set()
        self._ends.set()
        for link in self._links:
            if link.is_black_hole and link.far is not None:
                link.far.transport.abort()

    # The traffic.

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_closed:
            writer.transport.abort()
            return
        link = Link(writer)
        link.is_black_hole = self._swallows
        self._links.add(link)
        task = asyncio.ensure_future(self._carry(link, reader))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, link: Link, near: asyncio.StreamReader) -> None:
        back: asyncio.Task[None] | None = None
        try:
            if not link.is_black_hole:
                far, link.far = await asyncio.open_unix_connection(self._unix_socket)
                back = asyncio.ensure_future(self._carry_back(link, far))
            while data := await near.read(CHUNK):
                await self._flows.wait()
                link.look_at_question(data)
                if link.far is not None and not link.is_black_hole:
                    link.far.write(data)
                    await link.far.drain()
        except OSError:
            pass  # either side is gone, and so is then the other
        finally:
            link.abort()
            self._links.discard(link)
            if back is not None:
                back.cancel()

    @property
    def _chunk(self) -> int:
        # On a slow line bytes trickle.
        return CHUNK if self._speed is None else max(1, min(CHUNK, round(self._speed / 20)))

    async def _have_time_pass(self, size: int) -> None:
        """Wait as long as so many bytes take, behind all that came before them."""
        if self._speed is not None:
            now = asyncio.get_running_loop().time()
            self._free_at = max(now, self._free_at) + size / self._speed
            await asyncio.sleep(self._free_at - now)

    async def _carry_back(self, link: Link, far: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await far.read(self._chunk):
                await self._flows.wait()
                await self._have_time_pass(len(data))
                link.look_at_answer(data)
                if not link.is_black_hole:
                    link.near.write(data)
                    await link.near.drain()
        await self._ends.wait()
        if not link.is_black_hole:  # nothing comes out of one, its end neither
            link.abort()
