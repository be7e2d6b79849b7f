"""Which token to connect with, what servers said of it, and when to ask for another.

A token is *in use* from the handshake, or from the `authenticated` that answers for it. It is
*refused* by a handshake for good. What an `authenticate` was refused with is in doubt only: the
server closes with 4001 for an old token that expired at that moment, too.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from inspect import isawaitable
from typing import Final

from rowcast.rules import OTHER_USER, TOKEN_REFUSED, Closed, Timings

log = logging.getLogger(__name__)

GetToken = Callable[[], Awaitable[str | None] | str | None]
"""A function for a new token, plain or async."""
MAX_REFUSALS: Final = 2
"""A token that is refused may be stale; a second one in a row means that the user is."""
_BEARER: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 section 2.1. A page with an error in it is no token."""


class TokenUnavailable(Exception):
    """`get_token` failed, took too long, or gave what is no new token: to be tried again later."""


class Superseded(Exception):
    """`refresh` gave a token while `get_token` was asked: that one counts."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """What tells the time; given by tests in other forms."""

    monotonic: Callable[[], float]
    epoch: Callable[[], float]


class Tokens:
    """The newest token, and what servers said of those before."""

    def __init__(
        self, token: str | None, get_token: GetToken | None, timings: Timings, clocks: Clocks
    ) -> None:
        self._token = token
        self._get_token = get_token
        self._timings = timings
        self._clocks = clocks
        self._question: asyncio.Task[str | None] | None = None
        self._withdrawn: asyncio.Task[str | None] | None = None
        """A question whose answer does not count any more."""
        self._in_use: str | None = None
        self._said: list[str] = []  # by `authenticate`, and not answered yet
        self._refused: str | None = None
        self._doubted: str | None = None
        self._refusals = 0
        self._is_due = False
        self._answered_for: str | None = None
        self._answered_at: float | None = None
        self._half_life: float | None = None

    @property
    def can_ask(self) -> bool:
        return self._get_token is not None

    def begin(self) -> None:
        """A new life: an old refusal does not count any more."""
        self._refusals = 0

    def end(self) -> None:
        """Nobody waits for an answer any more."""
        self._withdraw()

    def forget(self) -> None:
        """The application has closed the client: whoever comes next is asked for."""
        if self.can_ask:
            self._token = self._in_use = self._refused = self._doubted = None
            self._answered_at = None
            self._is_due = False

    # What the application and `get_token` give.

    async def to_use(self) -> str:
        """The token to connect with.

        Raises:
            TokenUnavailable: a new one is needed, and could not be had.
            Closed: 4001: there is no other than those that were refused, or none that can be sent.
        """
        while not self._can_use(self._token):
            if not self.can_ask:
                self._fall_back()
                break
            try:
                answer = await self._answer()
            except Superseded:
                if self._can_use(self._token):
                    continue
                raise TokenUnavailable("refresh gave a token that was refused") from None
            if answer is None:
                raise Closed(TOKEN_REFUSED, "no new token")
            if answer == self._refused:
                raise TokenUnavailable("get_token gave a token that was refused")
        assert self._token is not None
        self._in_use = self._token
        self._said.clear()
        return self._token

    def _can_use(self, token: str | None) -> bool:
        return token is not None and token != self._refused and _BEARER.fullmatch(token) is not None

    def _fall_back(self) -> None:
        """Without `get_token`: to what was refused by an `authenticate` alone, if to anything."""
        if self._can_use(self._doubted):
            self._token = self._doubted
            return
        is_refused = self._token is None or self._token == self._refused
        raise Closed(TOKEN_REFUSED, "no new token" if is_refused else "the token is malformed")

    async def renew(self) -> str | None:
        """Ask for the successor of the token in use; None when the user is signed out.

        Raises:
            TokenUnavailable: there is none yet.
            Superseded: there is no need any more.
        """
        answer = await self._answer()
        if answer in (self._in_use, self._refused, self._doubted) and answer is not None:
            self._token = self._in_use
            raise TokenUnavailable("get_token gave a token that is not new")
        self._answered_for = self._in_use
        self._is_due = False
        return answer

    async def _answer(self) -> str | None:
        """What `get_token` says: one question at a time, however many wait for its answer."""
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask())
            self._question.add_done_callback(_look_at)
        question = self._question
        await asyncio.wait([question])
        if question.cancelled():
            raise Superseded
        return question.result()

    async def _ask(self) -> str | None:
        assert self._get_token is not None
        try:
            async with asyncio.timeout(self._timings.connect_within):
                answer = self._get_token()
                if isawaitable(answer):
                    answer = await answer
        except TimeoutError as error:
            raise TokenUnavailable("get_token did not answer in time") from error
        except (Exception, asyncio.CancelledError) as error:
            self._end_if_withdrawn()
            # The application's own code: whatever it raises, the client goes on.
            log.warning("get_token_failed", exc_info=True)
            raise TokenUnavailable(f"get_token failed: {type(error).__name__}") from error
        self._end_if_withdrawn()
        if answer is None or answer == "":
            return None
        if not isinstance(answer, str) or not _BEARER.fullmatch(answer):
            log.warning("get_token_failed reason=malformed")
            raise TokenUnavailable("get_token gave what is no token")
        self._token = answer
        self._answered_at = self._clocks.monotonic()
        return answer

    def _end_if_withdrawn(self) -> None:
        """Whatever `get_token` made of it. What it called may have been cancelled, too."""
        if self._withdrawn is asyncio.current_task():
            raise asyncio.CancelledError

    def put(self, token: str) -> None:
        """The application gives one: it counts more than the answer to an older question.

        Raises:
            ValueError: it is no bearer token, and nothing has changed.
        """
        if not isinstance(token, str) or not _BEARER.fullmatch(token):
            raise ValueError("this is no bearer token")
        self._token = token
        self._is_due = False
        self._withdraw()

    def _withdraw(self) -> None:
        self._withdrawn = self._question
        if self._question is not None:
            self._question.cancel()

    # What is said on a connection, and what the server says of it.

    def newer(self) -> str | None:
        """The token that the present connection was not told yet."""
        told = self._said[-1] if self._said else self._in_use
        return self._token if self._token != told else None

    def was_said(self, token: str) -> None:
        """It was sent in an `authenticate`."""
        self._said.append(token)

    def was_let_in(self, expires_at: object) -> None:
        """The server accepted the handshake."""
        self._refusals = 0
        self._begin_life(expires_at)

    def was_taken(self, expires_at: object) -> None:
        """The server accepted an `authenticate`; it answers them in their order."""
        if self._said:
            self._in_use = self._said.pop(0)
        self._begin_life(expires_at)

    def _begin_life(self, expires_at: object) -> None:
        try:
            until = datetime.fromisoformat(str(expires_at)).timestamp()
        except (ValueError, OverflowError):
            self._half_life = None
        else:
            self._half_life = (until - self._clocks.epoch()) / 2

    @property
    def in_use(self) -> str | None:
        return self._in_use

    @property
    def is_answered(self) -> bool:
        """Whether the token in use has a successor, or is known to have none."""
        return self._token != self._in_use or self._answered_for == self._in_use

    def wait_to_renew(self) -> float:
        """Seconds until `get_token` may be asked because of a warning.

        A server may warn as soon as it has taken a token, where tokens are short. So the answer to
        one question counts for half of its token's life, or for a while.
        """
        if self._answered_at is None:
            return 0.0
        wait = self._timings.ask_every
        if self._half_life is not None and self._half_life > 0:
            wait = min(wait, self._half_life)
        return max(0.0, self._answered_at + wait - self._clocks.monotonic())

    @property
    def is_due(self) -> bool:
        """Whether another is wanted because the server refused the last one in `authenticate`."""
        return self._is_due

    def was_refused(self, reason: str) -> None:
        """The connection was closed with 4001, for what was said on it, or for the one in use."""
        if self._said and reason == OTHER_USER:
            # It is not refused: it is the old one that belongs to nobody here any more.
            self._in_use = self._doubted = self._answered_for = None
            self._is_due = False
        elif self._said:
            self._doubted = self._said.pop(0)
            self._token = self._said[-1] if self._said else self._in_use
            self._answered_for = None
            self._is_due = self.can_ask
        else:
            self._refused = self._in_use
            self._refusals += 1

    def may_return(self) -> bool:
        """Whether it makes sense to come back after a refusal."""
        is_any = self.can_ask or any(map(self._can_use, (self._token, self._doubted)))
        return is_any and self._refusals < MAX_REFUSALS


def _look_at(question: asyncio.Task[str | None]) -> None:
    """Who asked may have left: what `get_token` raised was logged, and is not told twice."""
    if not question.cancelled():
        question.exception()
