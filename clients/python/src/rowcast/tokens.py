"""Which token to connect with, and when to stop trying."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final

from rowcast.rules import TOKEN_REFUSED, Closed

log = logging.getLogger(__name__)

GetToken = Callable[[], Awaitable[str | None]]
MAX_REFUSALS: Final = 2
"""A token that is refused may be stale; a second one in a row means that the user is."""
_SENDABLE: Final = re.compile(r"[\x21-\x7e]+")


class TokenUnavailable(Exception):
    """`get_token` failed or took too long: to be tried again later."""


class Tokens:
    """The newest token, and what servers said of those before.

    Args:
        within: seconds that `get_token` may take.
    """

    def __init__(self, token: str | None, get_token: GetToken | None, within: float) -> None:
        self._token = token
        self._get_token = get_token
        self._within = within
        self._in_use: str | None = None
        self._refused: str | None = None
        self._refusals = 0

    @property
    def can_ask(self) -> bool:
        return self._get_token is not None

    def begin(self) -> None:
        """A new life: an old refusal does not count any more."""
        self._refusals = 0

    async def to_use(self) -> str:
        """The token to connect with.

        Raises:
            TokenUnavailable: a new one is needed, and could not be had.
            Closed: 4001: there is no other than the one that was refused, or none that can be sent.
        """
        is_fresh = self._token is not None and self._token != self._refused
        if not is_fresh and self.can_ask:
            self._token = await self.ask()
            is_fresh = self._token is not None and self._token != self._refused
        if self._token is None or (not is_fresh and self.can_ask):
            raise Closed(TOKEN_REFUSED, "no new token")
        if not _SENDABLE.fullmatch(self._token):
            raise Closed(TOKEN_REFUSED, "the token is malformed")
        self._in_use = self._token
        return self._token

    async def ask(self) -> str | None:
        """Call `get_token`; None when the user is signed out.

        Raises:
            TokenUnavailable: it failed.
        """
        assert self._get_token is not None
        try:
            async with asyncio.timeout(self._within):
                return await self._get_token() or None
        except TimeoutError as error:
            raise TokenUnavailable("get_token did not answer in time") from error
        except Exception as error:
            # The application's own code: whatever it raises, the client goes on.
            log.warning("get_token_failed", exc_info=True)
            raise TokenUnavailable(f"get_token failed: {type(error).__name__}") from error

    def put(self, token: str) -> None:
        """A newer one, for the next connection or, by `authenticate`, for the present one."""
        self._token = token

    def newer(self) -> str | None:
        """The token that the present connection does not have yet."""
        return self._token if self._token != self._in_use else None

    def was_let_in(self) -> None:
        """The server accepted the handshake."""
        self._refusals = 0

    def was_taken(self) -> None:
        """The server accepted an `authenticate`."""
        self._in_use = self._token

    def may_return_refused(self) -> bool:
        """The connection was closed with 4001: whether it makes sense to come back."""
        self._refused = self._in_use
        self._refusals += 1
        has_another = self._token != self._refused or self.can_ask
        return has_another and self._refusals < MAX_REFUSALS
