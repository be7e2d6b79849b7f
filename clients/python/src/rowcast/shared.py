"""One connection (`/api/ws`) for many clients, each of which behaves as if it were alone.

The connection has a keeper of its own, which knows the tokens and returns when it is lost. Each
client's keeper opens a `Subscription` where it would open a socket: that is told what concerns it,
and a greeting in place of `subscribed`. So all that a client promises is kept by the same code.
"""

from __future__ import annotations

import asyncio
import json
import random as chance
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from rowcast import transport
from rowcast.address import SHARED, Address
from rowcast.client import RealtimeClient
from rowcast.events import Event, parse
from rowcast.handover import Handover
from rowcast.keeper import Keeper, State, World
from rowcast.rules import CUT, NORMAL, TOKEN_REFUSED, Closed, Reconnecting, Timings
from rowcast.tokens import Clocks, GetToken, Tokens
from rowcast.transport import OpenSocket, Socket

Target = str | None
"""A bot's id in small letters, as the server writes it; None: the user's notifications."""
OF_THE_CONNECTION: Final = frozenset(
    {"connection_established", "authenticated", "token_expiring", "going_away"}
)
TRY_AGAIN_LATER: Final = 1013
ROOM_WITHIN: Final = 2.0
"""Seconds for which all wait for one client that takes too little; then it is left."""
NEWS: Final = '{"type": "news"}'
"""What the connection's own keeper hears of a message that is not for it: a sign of life, but no
answer to a ping."""


class SharedConnection:
    """One connection for any number of bots, up to the server's MAX_SUBSCRIPTIONS.

        async with SharedConnection(url, token=token, get_token=get_token) as shared:
            async with shared.chat(bot_id) as events:
                async for event in events: ...

    Args:
        url, token, get_token, parameters, ssl, timings: as of a `RealtimeClient`. There is one
            token for all: `get_token` is asked once for each.
        on_reconnecting: called when the connection was lost or could not be made.
        open_socket, sleep, clock, now, random: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        get_token: GetToken | None = None,
        parameters: Mapping[str, str] | None = None,
        ssl: SSLContext | None = None,
        on_reconnecting: Callable[[Reconnecting], None] | None = None,
        timings: Timings | None = None,
        open_socket: OpenSocket | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = chance.random,
    ) -> None:
        if token is None and get_token is None:
            raise TypeError("give a token, get_token, or both")
        self._url = url
        self._timings = timings or Timings()
        self._open_socket = open_socket or partial(transport.open_socket, ssl=ssl)
        self._world = World(self._open, sleep, clock, now, random)
        self._keeper = Keeper(
            Address(url, SHARED, parameters or {}),
            Tokens(token, get_token, self._timings, Clocks(clock, now)),
            Unheard(None, 1),
            timings=self._timings,
            world=self._world,
            on_reconnecting=on_reconnecting,
        )
        self._life: asyncio.Task[None] | None = None
        self._is_settled = asyncio.Event()  # the connection is open, or over for good
        self._socket: Socket | None = None  # while it is open
        self._greeting: Mapping[str, Any] = {}
        self._clients: dict[Target, RealtimeClient] = {}
        self._subscriptions: dict[Target, Subscription] = {}
        self._cut: list[RealtimeClient] = []
        """Those whose connection was lost, and that return with it."""
        self._leaving: Counter[Target] = Counter()
        """How many `unsubscribe`s the server has not answered."""
        self.crowded: set[Subscription] = set()
        """Those for which more waits than should."""

    def clock(self) -> float:
        """Monotonic seconds."""
        return self._world.clock()

    @property
    def state(self) -> State:
        """How the connection is: idle, connecting, open, reconnecting or closed."""
        return self._keeper.state

    @property
    def latency(self) -> float | None:
        """Seconds that the last ping took to come back."""
        return self._keeper.latency

    def chat(
        self,
        bot_id: str | UUID,
        *,
        cursor: str | None = None,
        presence: bool = False,
        on_reconnecting: Callable[[Reconnecting], None] | None = None,
    ) -> RealtimeClient:
        """A client for a bot's chat. Its arguments are those of a `RealtimeClient`.

        Raises:
            ValueError: the bot has a client here that is not closed.
        """
        return self._client(bot_id, cursor, presence, on_reconnecting)

    def notifications(
        self,
        *,
        cursor: str | None = None,
        on_reconnecting: Callable[[Reconnecting], None] | None = None,
    ) -> RealtimeClient:
        """A client for the user's notifications, otherwise as `chat`."""
        return self._client(None, cursor, False, on_reconnecting)

    def _client(
        self,
        bot_id: str | UUID | None,
        cursor: str | None,
        presence: bool,
        on_reconnecting: Callable[[Reconnecting], None] | None,
    ) -> RealtimeClient:
        target = str(bot_id).lower() if bot_id is not None else None
        self.check_free(target)
        return SharedClient(
            self,
            target,
            self._url,
            token="shared",  # not sent: the connection has its own
            bot_id=bot_id,
            notifications=bot_id is None,
            presence=presence,
            cursor=cursor,
            on_reconnecting=on_reconnecting,
            timings=self._timings,
            open_socket=partial(self._subscribe, target, presence),
            sleep=self._world.sleep,
            clock=self._world.clock,
            now=self._world.now,
            random=self._world.random,
        )

    def check_free(self, target: Target) -> None:
        """A bot has one client at a time.

        Raises:
            ValueError: there is another.
        """
        if target in self._clients and self._clients[target].is_running:
            name = target or "notifications"
            raise ValueError(f"{name} has a client here already: close it first")

    def check_begun(self) -> None:
        """Its clients begin after it.

        Raises:
            RuntimeError: it was not entered.
        """
        if self._life is None:
            raise RuntimeError("it has not begun: async with SharedConnection(…) as shared")

    def began(self, target: Target, client: RealtimeClient) -> None:
        """A client was started. Those that have ended are forgotten."""
        self._clients = {t: one for t, one in self._clients.items() if one.is_running}
        self._clients[target] = client

    async def __aenter__(self) -> Self:
        """Start; the connection is not waited for."""
        if self._life is not None and not self._life.done():
            raise RuntimeError("this connection is running already")
        if self._life is not None:
            self._on_end(self._life)  # where it has only just ended
        self._is_settled.clear()
        self._life = asyncio.create_task(self._keeper.live())
        self._life.add_done_callback(self._on_end)
        return self

    def _on_end(self, life: asyncio.Task[None]) -> None:
        """It is over for good, whatever ended it: nobody waits for it any more."""
        if life is not self._life:
            return
        self._end_all(_ending_of_life(life))
        self._is_settled.set()
        for client in self._clients.values():
            client.wake()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave with 1000. Whoever iterates one of its clients is told `Closed` with that code."""
        self._keeper.forget_token()
        if self._life is None:
            return
        self._life.cancel()
        await asyncio.wait([self._life])
        self._on_end(self._life)
        if self._life.cancelled():
            return
        error = self._life.exception()
        if error is not None and not isinstance(error, Closed):
            raise error

    def refresh(self, token: str) -> None:
        """Take a new token: into the open connection, and for every connection after it."""
        self._keeper.refresh(token)

    def wake(self) -> None:
        """The network is back: if it waits to connect again, do so now, and so do its clients."""
        self._keeper.wake()
        for client in self._clients.values():
            client.wake()

    # The connection's own keeper.

    async def _open(self, url: str, headers: Mapping[str, str], within: float) -> Socket:
        return MainSocket(await self._open_socket(url, headers, within), self)

    def heard(self, socket: Socket, frame: str | bytes) -> str | bytes:
        """Hand a frame to whom it concerns; returns what the connection's keeper hears of it."""
        event = parse(frame)
        if event is None:
            self._tell_all(frame)  # whose it was cannot be known
            return NEWS
        if event.type in OF_THE_CONNECTION:
            self._on_own(socket, event, frame)
            return frame
        is_named, target = target_of(event)
        if is_named:
            self._tell(target, event, frame)
            return NEWS
        if event.type == "pong":
            return frame
        if event.type == "error":
            self._tell_all(frame)
        else:  # of the notifications, most messages do not say so
            self._tell(None, event, frame)
        return NEWS

    def _on_own(self, socket: Socket, event: Event, frame: str | bytes) -> None:
        if event.type == "connection_established":
            self._socket = socket
            self._greeting = event.data if isinstance(event.data, dict) else {}
            self._is_settled.set()
            cut, self._cut = self._cut, []
            for client in cut:
                client.wake()  # it need not wait any longer: the connection has done so
        else:
            self._tell_all(frame)

    def _tell_all(self, frame: str | bytes) -> None:
        for subscription in tuple(self._subscriptions.values()):
            subscription.take(frame)

    def _tell(self, target: Target, event: Event, frame: str | bytes) -> None:
        error = event.raw.get("code") if event.type == "error" else None
        is_end = event.type == "unsubscribed"
        is_answer = is_end and event.field("code") == NORMAL  # to an `unsubscribe`
        if self._is_of_one_that_was_left(target, error, is_answer=is_answer):
            return
        subscription = self._subscriptions.get(target)
        if subscription is None:
            return
        if is_answer and not subscription.is_greeted:
            return  # that was asked for before this one was
        is_refused = event.type == "error" and not subscription.is_greeted
        if is_refused or is_end:
            del self._subscriptions[target]
            if is_refused and error == "already_subscribed":
                self._unsubscribe(target)  # the server has one of which nobody here knows
            subscription.end(ending_of(event))
        elif event.type == "subscribed":
            # What json cannot write is a number that is longer than Python's.
            subscription.greet(json.dumps(self._greeting_of(target, event), default=str))
        else:
            subscription.take(frame)

    def _is_of_one_that_was_left(self, target: Target, error: object, *, is_answer: bool) -> bool:
        """Counts the answers to `unsubscribe`, too.

        With another code, `unsubscribed` is the server's own: what was said of it meanwhile is
        answered with the error `not_subscribed`.
        """
        leaving = self._leaving[target]
        if leaving > 0 and (is_answer or error in ("not_subscribed", "rate_limited")):
            self._leaving[target] -= 1
            if leaving == 1:
                del self._leaving[target]
        return leaving > 0 or error == "not_subscribed"

    def _greeting_of(self, target: Target, event: Event) -> Mapping[str, Any]:
        """As the server of a socket of its own would greet."""
        own = {"connection_type": "notifications"} if target is None else {"bot_id": target}
        data = event.data if isinstance(event.data, dict) else {}
        common = {k: v for k, v in self._greeting.items() if k != "connection_type"}
        return {"type": "connection_established", "data": {**common, **own, **data}}

    async def make_room(self) -> None:
        """Wait for those who take too little, all together, but not for long."""
        if not self.crowded:
            return
        crowded, self.crowded = self.crowded, set()
        async with asyncio.TaskGroup() as group:
            for subscription in crowded:
                group.create_task(subscription.make_room())

    def lost(self, closed: Closed) -> None:
        """The connection is gone. Whether another token helps is decided by its own keeper."""
        self._cut += [self._clients[t] for t in self._subscriptions if t in self._clients]
        is_open = closed.code == TOKEN_REFUSED
        self._end_all(Closed(CUT, closed.reason) if is_open else closed)

    def _end_all(self, closed: Closed) -> None:
        self._socket = None
        if self._life is not None and not self._life.done():
            self._is_settled.clear()
        self._leaving.clear()
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.end(closed)

    # The clients' keepers.

    async def _subscribe(
        self, target: Target, presence: bool, url: str, _headers: object, _within: float
    ) -> Socket:
        """Open what a client takes for a socket. A connection that is being made is waited for.

        Raises:
            Closed: there will be none, for this reason.
        """
        socket = await self._until_open()
        (cursor,) = parse_qs(urlsplit(url).query, keep_blank_values=True)["cursor"]
        data = {**named(target), "cursor": cursor, **({"presence": True} if presence else {})}
        subscription = Subscription(target, self, self._timings.queue_events)
        if not socket.send(json.dumps({"type": "subscribe", "data": data})):
            raise Closed(CUT, "the shared connection takes nothing")
        self._subscriptions[target] = subscription
        return subscription

    async def _until_open(self) -> Socket:
        assert self._life is not None  # see `check_begun`
        while self._socket is None:
            if self._life.done():
                raise _ending_of_life(self._life)
            await self._is_settled.wait()
        return self._socket

    def say(self, target: Target, message: dict[str, Any]) -> bool:
        """Send what a client says, with the name of what it is about."""
        data = {**message.get("data", {}), **named(target)}
        return self._socket is not None and self._socket.send(json.dumps({**message, "data": data}))

    def leave(self, subscription: Subscription) -> None:
        """A client has left, and may come again."""
        target = subscription.target
        if self._subscriptions.get(target) is subscription:
            del self._subscriptions[target]
            self._unsubscribe(target)

    def _unsubscribe(self, target: Target) -> None:
        if self.say(target, {"type": "unsubscribe"}):
            self._leaving[target] += 1


class SharedClient(RealtimeClient):
    """A client of a shared connection, which has the token."""

    def __init__(self, shared: SharedConnection, target: Target, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._shared = shared
        self._target = target

    async def __aenter__(self) -> Self:
        """As of any client.

        Raises:
            ValueError: the bot has another client here by now.
            RuntimeError: the connection was not entered.
        """
        self._shared.check_begun()
        if not self.is_running:
            self._shared.check_free(self._target)
        await super().__aenter__()
        self._shared.began(self._target, self)
        return self

    def refresh(self, token: str) -> None:
        """Take a new token, for all clients of the connection."""
        self._shared.refresh(token)


class Unheard(Handover):
    """Where the connection's own keeper hands over: everything was told to clients before."""

    async def put(self, event: Event | None, cursor: str | None) -> None:
        pass


class MainSocket:
    """The connection, as its own keeper has it."""

    hears_only = False

    def __init__(self, socket: Socket, shared: SharedConnection) -> None:
        self._socket = socket
        self._shared = shared
        self.send = socket.send
        self.close = socket.close
        self.abort = socket.abort

    async def receive(self) -> str | bytes:
        try:
            frame = await self._socket.receive()
        except Closed as closed:
            self._shared.lost(closed)
            raise
        heard = self._shared.heard(self._socket, frame)
        await self._shared.make_room()
        return heard


class Subscription:
    """What a client's keeper takes for its socket; see `Socket`.

    Args:
        most: frames that may wait. A client that takes too little is closed, as by the server of a
            socket of its own, and comes back with its cursor: the others do not wait for it long.
    """

    hears_only = False

    def __init__(self, target: Target, shared: SharedConnection, most: int) -> None:
        self.target = target
        self._shared = shared
        self._most = most
        self._frames: deque[str | bytes] = deque()
        self._ending: Closed | None = None
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._crowded_at: float | None = None
        """Since when more than half of what may wait does so."""
        self.is_greeted = False
        """Whether the server has accepted it. What comes before is for the one before it."""

    def greet(self, frame: str) -> None:
        """The server has accepted it."""
        self.is_greeted = True
        self.take(frame)

    def take(self, frame: str | bytes) -> None:
        """The server said this."""
        if not self.is_greeted or self._ending is not None:
            return
        self._frames.append(frame)
        self._has_news.set()
        if len(self._frames) > self._most // 2 and self._crowded_at is None:
            self._crowded_at = self._shared.clock()
        if len(self._frames) > self._most:
            self._has_room.clear()
            self._shared.crowded.add(self)

    async def make_room(self) -> None:
        """Wait until it has taken half of what may wait. It is left if that takes long, or has."""
        since = self._crowded_at
        waited = 0.0 if since is None else self._shared.clock() - since
        try:
            async with asyncio.timeout(ROOM_WITHIN - waited):
                await self._has_room.wait()
        except TimeoutError:
            self.abort(TRY_AGAIN_LATER, "the application takes too little")

    def end(self, closed: Closed) -> None:
        """The last: there will be no more."""
        self._ending = self._ending or closed
        self._has_news.set()
        self._has_room.set()

    async def receive(self) -> str | bytes:
        while not self._frames:
            if self._ending is not None:
                raise self._ending
            self._has_news.clear()
            await self._has_news.wait()
        frame = self._frames.popleft()
        if len(self._frames) <= self._most // 2:
            self._crowded_at = None
            self._has_room.set()
        return frame

    def send(self, text: str) -> bool:
        return self._ending is None and self._shared.say(self.target, json.loads(text))

    async def close(self, code: int) -> None:
        self.abort(code)

    def abort(self, code: int = CUT, reason: str = "") -> None:
        self._shared.leave(self)
        self.end(Closed(code, reason))


def _ending_of_life(life: asyncio.Task[None]) -> Closed:
    """How the connection has ended for good."""
    error = None if life.cancelled() else life.exception()
    if error is None:
        return Closed(NORMAL, "the shared connection was closed")
    if isinstance(error, Closed):
        return error
    return Closed(NORMAL, f"the shared connection failed: {error!r}")


def named(target: Target) -> dict[str, Any]:
    """How a message says what it is about."""
    return {"notifications": True} if target is None else {"bot_id": target}


def target_of(event: Event) -> tuple[bool, Target]:
    """Whether a message says what it is about, and what that is."""
    bot_id = event.raw.get("bot_id")
    if isinstance(bot_id, str):
        return True, bot_id
    return event.raw.get("notifications") is True, None


def ending_of(event: Event) -> Closed:
    """What `unsubscribed` says, or an error in answer to `subscribe`: that is tried again."""
    code, reason = event.field("code"), event.field("reason")
    if event.type == "error":
        code, reason = TRY_AGAIN_LATER, event.raw.get("message")
    is_code = isinstance(code, int) and not isinstance(code, bool)
    return Closed(code if is_code else CUT, reason if isinstance(reason, str) else "")
