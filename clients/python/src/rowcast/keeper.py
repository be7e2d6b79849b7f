"""Keeps the connection up: dials, reads, hands over, and comes back. Run as one task by `client`.

    connecting → open → reconnecting → connecting → …

Everything that outlives a socket is here; the rules for it are in `progress` (where to resume),
`tokens`, and `rules` (when to return, and after how long).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rowcast.address import Address
from rowcast.events import Event, parse, unreadable
from rowcast.handover import Handover
from rowcast.heartbeat import Heartbeat
from rowcast.progress import Progress
from rowcast.rules import (
    CUT,
    FINAL_CODES,
    HEARD_NOTHING,
    NORMAL,
    TOKEN_REFUSED,
    Backoff,
    Closed,
    Patience,
    Reconnecting,
    Timings,
    retry_after,
)
from rowcast.tokens import Superseded, Tokens, TokenUnavailable
from rowcast.transport import OpenSocket, Socket
from rowcast.typing_signal import TypingSignal

log = logging.getLogger(__name__)

State = Literal["idle", "connecting", "open", "reconnecting", "closed"]


@dataclass(frozen=True, slots=True)
class World:
    """What the client has to do with; given by tests in other forms."""

    open_socket: OpenSocket
    sleep: Callable[[float], Awaitable[None]]
    clock: Callable[[], float]
    """Tells the time in monotonic seconds."""
    now: Callable[[], float]
    """Tells the time in epoch seconds."""
    random: Callable[[], float]
    """Makes a random number from 0 to 1."""


class Keeper:
    """Keeps one stream of events going over many connections.

    Args:
        on_reconnecting: called when another attempt will be made; what it raises ends the stream.
    """

    def __init__(
        self,
        address: Address,
        tokens: Tokens,
        handover: Handover,
        *,
        timings: Timings,
        world: World,
        on_reconnecting: Callable[[Reconnecting], None] | None,
    ) -> None:
        self._address = address
        self._tokens = tokens
        self._handover = handover
        self._timings = timings
        self._world = world
        self._on_reconnecting = on_reconnecting
        self._progress = Progress(handover.cursor, timings.remember_ids)
        self._backoff = Backoff(timings, world.random)
        self._ask_again = Backoff(timings, world.random)
        self._patience = Patience(timings)
        self._typing = TypingSignal(
            say=self._say_typing, timings=timings, sleep=world.sleep, clock=world.clock
        )
        self._group: asyncio.TaskGroup | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._socket: Socket | None = None
        self._heartbeat: Heartbeat | None = None
        self._opened_at: float | None = None
        self._stay_away = 0.0
        self._is_woken = asyncio.Event()
        self.state: State = "idle"
        self.latency: float | None = None

    async def live(self) -> None:
        """Connect, and connect again; a second life goes on where the first was.

        Raises:
            Closed: the connection ended, and must or can not be made again.
        """
        self._backoff.attempts = 0
        self._stay_away = 0.0
        self._tokens.begin()
        try:
            # Returned and not raised in there: the group would wrap it.
            async with asyncio.TaskGroup() as self._group:
                closed = await self._keep_up()
                self.state = "closed"  # nothing is begun in the group any more
                self._end_renewal()
        finally:
            self._tokens.end()
            self.state = "closed"
        raise closed

    # What the application says.

    def send(self, message: Mapping[str, Any]) -> bool:
        """False: there is no connection to say it on."""
        if self.state != "open" or self._socket is None:
            return False
        return self._socket.send(json.dumps(message))

    def ping(self) -> bool:
        timestamp = datetime.now(UTC).isoformat()
        if not self.send({"type": "ping", "timestamp": timestamp}):
            return False
        if self._heartbeat is not None:
            self._heartbeat.asked(timestamp)
        return True

    def typing(self, is_typing: bool) -> None:
        if self.state == "open" and self._group is not None:
            self._typing.set(is_typing, self._group)

    def forget_token(self) -> None:
        """The application has closed the client, and somebody else may use it next."""
        self._tokens.forget()

    def refresh(self, token: str) -> None:
        self._tokens.put(token)
        self._end_renewal()
        self._say_token()

    def _say_token(self) -> None:
        """Tell the connection of the newest token, if it does not know it and there is one."""
        token = self._tokens.newer()
        if not token or self.state != "open" or self._socket is None:
            return
        if self.send({"type": "authenticate", "data": {"token": token}}):
            self._tokens.was_said(token)
        elif self._socket.hears_only:
            self._socket.abort(CUT, "another is opened with a new token")

    def _say_typing(self, is_typing: bool) -> bool:
        return self.send({"type": "typing", "data": {"is_typing": is_typing}})

    # Connecting.

    async def _keep_up(self) -> Closed:
        while True:
            self.state = "connecting"
            try:
                token = await self._tokens.to_use()
            except TokenUnavailable as error:
                await self._retry(None, str(error))
                continue
            except Closed as closed:
                return closed
            ended = await self._visit(token)
            if not self._may_return(ended):
                return ended
            await self._retry(ended.code, ended.reason)

    def _may_return(self, ended: Closed) -> bool:
        is_refused = ended.code == TOKEN_REFUSED
        if is_refused:
            self._tokens.was_refused(ended.reason)
        if is_refused or self._tokens.is_due:
            self._end_renewal()  # what is due is begun on the next connection
        return self._tokens.may_return() if is_refused else ended.code not in FINAL_CODES

    async def _retry(self, code: int | None, reason: str) -> None:
        self.state = "reconnecting"
        delay = self._stay_away + self._backoff.next()
        self._stay_away = 0.0
        told = Reconnecting(self._backoff.attempts, delay, code, reason)
        log.info(
            "reconnect_planned seconds=%.1f code=%s reason=%s", delay, code, json.dumps(reason)
        )
        if self._on_reconnecting is not None:
            self._on_reconnecting(told)
        await self._wait(delay)

    async def _wait(self, delay: float) -> None:
        """Until then, or `wake`."""
        self._is_woken.clear()
        sleeping = asyncio.ensure_future(self._world.sleep(delay))
        woken = asyncio.create_task(self._is_woken.wait())
        try:
            await asyncio.wait([sleeping, woken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            woken.cancel()

    def wake(self) -> None:
        """Do not sit out a wait."""
        self._is_woken.set()

    async def _visit(self, token: str) -> Closed:
        """Run one connection, from its start to its end."""
        limit = self._timings.connect_within
        url = self._address.at(self._progress.begin())
        try:
            socket = await self._world.open_socket(url, {"Authorization": f"Bearer {token}"}, limit)
        except Closed as closed:
            self._stay_away = closed.retry_after
            return closed
        ended = await self._stay(socket)
        opened_at, self._opened_at = self._opened_at, None
        open_for = 0.0 if opened_at is None else self._world.clock() - opened_at
        self._backoff.ended(ended.code, open_for)
        return ended

    # One connection.

    async def _stay(self, socket: Socket) -> Closed:
        self._socket = socket
        try:
            async with asyncio.TaskGroup() as group:
                self._heartbeat = heartbeat = self._make_heartbeat(group, socket)
                heartbeat.expect(self._timings.connect_within, "the server did not answer")
                ended = await self._read(socket, heartbeat)
                heartbeat.stop()
        except asyncio.CancelledError:
            await socket.close(NORMAL)
            raise
        finally:
            socket.abort()
            self._socket = self._heartbeat = None
            self._typing.reset()
        return ended

    def _make_heartbeat(self, group: asyncio.TaskGroup, socket: Socket) -> Heartbeat:
        return Heartbeat(
            group,
            ping=self.ping,
            # A socket that went silent may take minutes to close by itself: it is left behind.
            dead=lambda reason: socket.abort(HEARD_NOTHING, reason),
            timings=self._timings,
            patience=self._patience,
            sleep=self._world.sleep,
            clock=self._world.clock,
            random=self._world.random,
        )

    async def _read(self, socket: Socket, heartbeat: Heartbeat) -> Closed:
        while True:
            try:
                frame = await socket.receive()
            except Closed as closed:
                return closed
            event = parse(frame)
            if event is None:
                log.warning("server_message_unreadable")
                event = unreadable(frame)
            meanings = self._meaning_of(event, heartbeat)
            if self.state == "open":  # before, only the greeting counts
                heartbeat.heard()
            for one in meanings:
                await self._hand_over(one, heartbeat)

    def _enter(self, heartbeat: Heartbeat, expires_at: object) -> None:
        self._opened_at = self._world.clock()
        self.state = "open"
        self._tokens.was_let_in(expires_at)
        if self._tokens.is_due:
            # Each answer that is refused costs a connection: the waits grow until one is taken.
            self._begin_renewal(self._ask_again.next())
        else:
            self._ask_again.attempts = 0
        heartbeat.start()
        self._say_token()

    def _meaning_of(self, event: Event, heartbeat: Heartbeat) -> list[Event]:
        """What it means to the client itself; returns what it means to the application."""
        match event.type:
            case "connection_established":
                self._enter(heartbeat, event.field("expires_at"))
                return self._progress.greeted(event)
            case "pong":
                took = heartbeat.took(event.raw.get("timestamp"))
                self.latency = self.latency if took is None else took
            case "authenticated":
                self._tokens.was_taken(event.field("expires_at"))
                self._ask_again.attempts = 0
            case "token_expiring" if not self._tokens.is_answered:
                self._begin_renewal(self._tokens.wait_to_renew())
            case "going_away":
                self._stay_away = retry_after(event.field("retry_after_seconds"))
        return [event]

    async def _hand_over(self, event: Event, heartbeat: Heartbeat) -> None:
        """Wait until there is room for it; only then does it count."""
        is_news = event.type != "pong" and not self._progress.knows(event)
        if is_news or event.cursor is not None:
            heartbeat.is_blind = self._handover.is_full
            await self._handover.put(event if is_news else None, event.cursor)
            heartbeat.is_blind = False
        self._progress.took(event)

    # Another token, before the one in use expires.

    def _begin_renewal(self, wait: float) -> None:
        is_under_way = self._renewal is not None and not self._renewal.done()
        if self._group is not None and self._tokens.can_ask and not is_under_way:
            self._renewal = self._group.create_task(self._renew(wait))

    def _end_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()

    async def _renew(self, wait: float) -> None:
        """Ask until there is a good answer, or no need: `to_use` may have asked meanwhile."""
        old = self._tokens.in_use
        if wait > 0:
            await self._world.sleep(wait)
        while self._tokens.in_use == old and not self._tokens.is_answered:
            try:
                await self._tokens.renew()
            except Superseded:
                return
            except TokenUnavailable as error:
                log.info("token_not_renewed reason=%s", json.dumps(str(error)))
                await self._world.sleep(self._ask_again.next())
            else:
                self._say_token()
