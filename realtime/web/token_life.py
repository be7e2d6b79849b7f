"""Watches one socket's token: warns before it expires, closes after, and takes a new one in time.

Each token is warned of once: `TOKEN_WARNING_SECONDS` before its end, or at half of what was left of
it when it came, where that is later. A token that lives no longer than that time would be warned of
as soon as it came, and a client that gets a new one at each warning would do nothing else.

Tokens end by the wall clock, and timers run by another one, which stands still while the machine
sleeps. So where the two have moved apart, the timer of every socket is set anew (`ClockWatch`).

A new token of the same subject costs no database query: changes of access come with the log, not
with tokens.
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from realtime.auth.keys import KeysUnavailable
from realtime.auth.tokens import Identity, TokenError, TokenReason
from realtime.relay import closing
from realtime.relay.closing import CloseCode
from realtime.relay.protocol import Message, authenticated, token_expiring
from realtime.relay.subscriber import Sink
from realtime.web.pings import AT_ONCE, Pings
from realtime.web.services import Services

LOOK_SECONDS = 1.0
"""The time between two looks at the clocks."""
APART_SECONDS = 1.0
"""How far they may move apart until the timers are set anew: so late may a socket be closed."""


class TokenLife:
    """Watches one socket's token from the moment it was accepted."""

    __slots__ = ("_expires_at", "_is_over", "_services", "_sink", "_timer", "_warn_at", "subject")

    def __init__(self, identity: Identity, services: Services, sink: Sink) -> None:
        self.subject = identity.subject
        self._services = services
        self._sink = sink
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None
        self._expires_at = 0.0
        self._warn_at: float | None = None  # None: the client was warned
        self._watch(identity.expires_at)

    async def refresh(self, token: str) -> None:
        """The client sent `authenticate`: go on with the new token, or close."""
        # Who renews in time is not closed because a key has to be fetched meanwhile.
        self._unschedule()
        try:
            identity = await self._services.verifier.verify(token, leeway=False)
        except TokenError as error:
            self._sink.close(CloseCode.UNAUTHENTICATED, error.reason)
            return
        except KeysUnavailable:
            self._sink.close(*closing.KEYS_AWAY)
            return
        if self._is_over:
            return
        if identity.subject != self.subject:
            self._sink.close(*closing.OTHER_USER)
            return
        self._send(authenticated(identity.expires_at))
        self._watch(identity.expires_at)

    def set_timer_anew(self) -> None:
        """The wall clock was set, or the machine slept."""
        if self._timer is not None and not self._timer.cancelled():
            self._unschedule()
            self._schedule()

    def stop(self) -> None:
        """Stop watching: the socket is gone."""
        self._is_over = True
        self._unschedule()

    def _unschedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self, expires_at: float) -> None:
        self._unschedule()
        if expires_at == self._expires_at:
            self._schedule()  # it is the token that it has
            return
        now, settings = self._services.clock(), self._services.settings
        if settings.token_expiry == "handshake":
            return
        if expires_at <= now:
            # Accepted within the leeway of the handshake, so it lasts that much longer.
            expires_at += settings.jwt_leeway_seconds
        self._expires_at = expires_at
        self._warn_at = expires_at - min(settings.token_warning_seconds, (expires_at - now) / 2)
        self._schedule()

    def _schedule(self) -> None:
        due = self._expires_at if self._warn_at is None else self._warn_at
        delay = min(max(due - self._services.clock(), 0.0), self._services.intervals.timer)
        self._timer = self._services.loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        now = self._services.clock()
        if now >= self._expires_at:
            self._sink.close(CloseCode.UNAUTHENTICATED, TokenReason.EXPIRED)
            return
        if self._warn_at is not None and now >= self._warn_at:
            self._warn_at = None
            self._send(token_expiring(self._expires_at))
        self._schedule()

    def _send(self, message: Message) -> None:
        self._sink.send(self._sink.frame([message]))


class ClockWatch:
    """Sees that the wall clock has moved by itself, and has the timers of all sockets set anew.

    Args:
        pings: has all sockets that are open.
        clock: epoch seconds.
        monotonic: seconds, by the clock that timers run by.
    """

    def __init__(
        self,
        pings: Pings,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        *,
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._pings = pings
        self._seconds = seconds
        self._clock = clock
        self._monotonic = monotonic

    async def run(self) -> NoReturn:
        """Look until cancelled."""
        offset = self._offset()
        while True:
            await asyncio.sleep(self._seconds)
            now = self._offset()
            if abs(now - offset) > APART_SECONDS:
                offset = now
                await self._set_all_anew()

    def _offset(self) -> float:
        return self._clock() - self._monotonic()

    async def _set_all_anew(self) -> None:
        for number, socket in enumerate(self._pings.sockets(), 1):
            socket.clock_has_moved()
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
