"""The application's end: `connect`, an asynchronous context that is iterated, or calls handlers.

idle → connecting → open → reconnecting → connecting → …      closed: by close(), by a final code
"""

from __future__ import annotations

import asyncio
import random as chance
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from inspect import isawaitable
from ssl import SSLContext
from types import TracebackType
from typing import Final, Self, TypeVar
from uuid import UUID

from rowcast import transport
from rowcast.address import Address, of
from rowcast.events import Event
from rowcast.handover import Handover
from rowcast.keeper import Keeper, State, World
from rowcast.rules import Closed, Reconnecting, Timings
from rowcast.sse import open_events
from rowcast.tokens import Clocks, GetToken, Tokens
from rowcast.transport import OpenSocket

Handler = Callable[[Event], object]
"""A function for an event, plain or async."""
AnyHandler = TypeVar("AnyHandler", bound=Handler)
EVERY: Final = "*"
"""The type under which a handler gets all events."""


class RealtimeClient:
    """One connection, to a bot's chat or to the user's notifications, kept up over any number of
    sockets. For one event loop, and one task that iterates or runs it.

    Args:
        url: the server's: `https://realtime.example.org`.
        token: a JSON Web Token; sent as a header, never in the address.
        bot_id: whose chat; or `notifications=True`.
        presence: whether to be told who else is there, as `presence_state` and `presence_diff`.
        get_token: a function for a new token, plain or async, asked when the server warns that the
            old one expires, and after a 4001. None: the user is signed out. Where it raises, or
            gives what is no new token, it is asked again later. A plain one must not wait.
        cursor: where to begin: what `relay.cursor` gave together with the state, or an earlier
            client's `cursor`, kept beside the state that it belongs to. The first event is `resync`
            where the server can not continue there. None: with what is live.
        parameters: more for the query of the address.
        sse: take the events over HTTP, where no WebSocket comes through. Then nothing can be said:
            `typing`, `session_sync` and `ping` do nothing, and a new token opens a new connection.
        ssl: what certificates are believed, in place of the system's.
        on_reconnecting: called when a connection was lost or could not be made.
        timings: waits and limits.
        open_socket, sleep, clock, now, random: for tests.

    Raises:
        ValueError: `url` is no address of a server.
        TypeError: neither or both of `bot_id` and `notifications`; no token and no `get_token`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        bot_id: str | UUID | None = None,
        notifications: bool = False,
        presence: bool = False,
        get_token: GetToken | None = None,
        cursor: str | None = None,
        parameters: Mapping[str, str] | None = None,
        sse: bool = False,
        ssl: SSLContext | None = None,
        on_reconnecting: Callable[[Reconnecting], None] | None = None,
        timings: Timings | None = None,
        open_socket: OpenSocket | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = chance.random,
    ) -> None:
        if bool(bot_id) == notifications:
            raise TypeError("give either bot_id or notifications=True")
        if token is None and get_token is None:
            raise TypeError("give a token, get_token, or both")
        timings = timings or Timings()
        asked = {"presence": "true"} if presence else {}
        open_socket = open_socket or partial(open_events if sse else transport.open_socket, ssl=ssl)
        self._handover = Handover(cursor, timings.queue_events)
        self._keeper = Keeper(
            Address(url, of(bot_id or None), {**(parameters or {}), **asked}, sse=sse),
            Tokens(token, get_token, timings, Clocks(clock, now)),
            self._handover,
            timings=timings,
            world=World(open_socket, sleep, clock, now, random),
            on_reconnecting=on_reconnecting,
        )
        self._life: asyncio.Task[None] | None = None
        self._handlers: dict[str, list[Handler]] = {}

    @property
    def state(self) -> State:
        """How the socket is: idle, connecting, open, reconnecting or closed.

        The application may be behind it by what waits in the queue.
        """
        return self._keeper.state

    @property
    def is_running(self) -> bool:
        """Whether it was started, and has not ended."""
        return self._life is not None and not self._life.done()

    @property
    def cursor(self) -> str | None:
        """The newest cursor up to which everything was handed over. Keep it to resume later."""
        return self._handover.cursor

    @property
    def latency(self) -> float | None:
        """Seconds that the last ping took to come back."""
        return self._keeper.latency

    async def __aenter__(self) -> Self:
        """Start; the connection is not waited for. After an end it goes on where it was."""
        if self.is_running:
            raise RuntimeError("this client is running already")
        self._life = asyncio.create_task(self._keeper.live())
        self._life.add_done_callback(self._handover.wake)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event. Cancelled (by a time-out, say), it has taken none.

        Raises:
            StopAsyncIteration: `close` was called.
            Closed: the connection ended, and must or can not be made again. What had arrived before
                was handed over.
        """
        if self._life is None:
            raise RuntimeError("it has not begun: async with connect(…) as events")
        return await self._handover.take(self._life)

    def on(self, kind: str = EVERY) -> Callable[[AnyHandler], AnyHandler]:
        """Have a function called for each event of a type, in place of iterating: see `run`.

            @client.on("chat_message")
            async def store(event): ...

        Args:
            kind: the type; `*`, or nothing: all types.
        """

        def add(handler: AnyHandler) -> AnyHandler:
            self._handlers.setdefault(kind, []).append(handler)
            return handler

        return add

    async def run(self) -> None:
        """Connect, and call the handlers of each event, one after another, until `close`.

        A handler may be a plain or an async function. While one runs, no other event is taken.

        Raises:
            Closed: as iterating does.
            Exception: what a handler raised; the client is closed.
        """
        async with self:
            async for event in self:
                for kind in dict.fromkeys((event.type, EVERY)):
                    for handler in tuple(self._handlers.get(kind, ())):
                        answer = handler(event)
                        if isawaitable(answer):
                            await answer

    async def close(self) -> None:
        """Leave with 1000; iterating ends. What waited to be handed over stays for another start.

        Where there is a `get_token`, the token is forgotten: another person may be next.
        It takes up to two seconds where the server does not answer. Cancelled, it leaves all the
        same, in the background.
        """
        self._keeper.forget_token()
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        self._keeper.state = "closed"  # also where it had not begun
        if self._life is None or self._life.cancelled():
            return
        error = self._life.exception()
        if error is not None and not isinstance(error, Closed):
            raise error

    def typing(self, is_typing: bool) -> None:
        """Call with true at every keystroke, and with false when the text was sent or cleared.

        It is said at most every 2 s, and taken back after 4 s without another.
        """
        self._keeper.typing(is_typing)

    def session_sync(self, session_id: str | UUID) -> bool:
        """Tell the server which session is on screen. False: there is no connection."""
        return self._keeper.send({"type": "session_sync", "data": {"session_id": str(session_id)}})

    def ping(self) -> bool:
        """Ask for a sign of life now, besides the regular ones; `latency` will tell."""
        return self._keeper.ping()

    def wake(self) -> None:
        """The network is back: if it waits to connect again, do so now."""
        self._keeper.wake()

    def refresh(self, token: str) -> None:
        """Take a new token: into the open connection, and for every connection after it.

        Raises:
            ValueError: it is no bearer token.
        """
        self._keeper.refresh(token)


connect = RealtimeClient
"""`async with connect(url, token=…, bot_id=…) as events: async for event in events: …`"""
