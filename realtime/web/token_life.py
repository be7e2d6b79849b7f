"""Watches one socket's token: warns before it expires, closes after, and takes a new one in time.

A new token of the same subject costs no database query: changes of access come with the log, not
with tokens.
"""

import asyncio

from realtime.auth.keys import KeysUnavailable
from realtime.auth.tokens import Identity, TokenError, TokenReason
from realtime.relay import closing
from realtime.relay.closing import CloseCode
from realtime.relay.protocol import Message, authenticated, token_expiring
from realtime.relay.subscriber import Sink
from realtime.web.services import Services


class TokenLife:
    """Watches one socket's token from the moment it was accepted."""

    __slots__ = ("_expires_at", "_is_warned", "_services", "_sink", "_subject", "_timer")

    def __init__(self, identity: Identity, services: Services, sink: Sink) -> None:
        self._subject = identity.subject
        self._services = services
        self._sink = sink
        self._timer: asyncio.TimerHandle | None = None
        self._watch(identity.expires_at)

    async def refresh(self, token: str) -> None:
        """The client sent `authenticate`: go on with the new token, or close."""
        try:
            identity = await self._services.verifier.verify(token, leeway=False)
        except TokenError as error:
            self._sink.close(CloseCode.UNAUTHENTICATED, error.reason)
            return
        except KeysUnavailable:
            self._sink.close(*closing.KEYS_AWAY)
            return
        if identity.subject != self._subject:
            self._sink.close(*closing.OTHER_USER)
            return
        self._send(authenticated(identity.expires_at))
        self._watch(identity.expires_at)

    def stop(self) -> None:
        """Stop watching: the socket is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self, expires_at: float) -> None:
        self.stop()
        self._expires_at = expires_at
        self._is_warned = False
        if expires_at <= self._services.clock():
            # Accepted within the leeway of the handshake, so it lasts that much longer.
            self._expires_at += self._services.settings.jwt_leeway_seconds
        self._schedule()

    def _schedule(self) -> None:
        due = self._expires_at
        if not self._is_warned:
            due -= self._services.settings.token_warning_seconds
        delay = min(max(due - self._services.clock(), 0.0), self._services.intervals.timer)
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        now = self._services.clock()
        if now >= self._expires_at:
            self._sink.close(CloseCode.UNAUTHENTICATED, TokenReason.EXPIRED)
            return
        warn_at = self._expires_at - self._services.settings.token_warning_seconds
        if now >= warn_at and not self._is_warned:
            self._is_warned = True
            self._send(token_expiring(self._expires_at))
        self._schedule()

    def _send(self, message: Message) -> None:
        self._sink.send(self._sink.frame([message]))
