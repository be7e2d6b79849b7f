"""Who is typing where: throttled, timed out, and shared between processes.

Nothing of this is stored in the log. `said` and `left` come from this process's sockets, `heard`
from other processes; each returns, as does `tick`, what is now to be shown to the bot's sockets.
At most about three indicators a second leave per user and bot, the newest state always among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

MIN_INTERVAL = 1 / 3
"""Seconds between two indicators of one user on one bot."""
SILENCE = 6.0
"""Seconds without a word after which somebody is shown as stopped."""
REMOTE_GRACE = 2.0
"""Seconds more for those on another process, which says itself when they stop, unless it died."""
TICK = 0.1
"""Seconds between ticks while anybody is typing."""


class Indicator(NamedTuple):
    bot_id: str
    user_id: str
    username: str
    is_typing: bool
    is_local: bool
    """Whether it comes from this process's sockets, so that others must be told."""


@dataclass(slots=True)
class _Typist:
    username: str
    connection_id: str | None
    """The socket that spoke last; None: it is on another process."""
    is_typing: bool
    heard_at: float
    shown_at: float = float("-inf")
    is_shown: bool = False
    """Whether `is_typing` is what the others were told last."""


class TypingIndicators:
    """What everybody's typing state is, as far as this process knows.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._typists: dict[tuple[str, str], _Typist] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nobody's state can change by time alone, so that no tick is needed."""
        return not self._typists

    def said(
        self, bot_id: str, user_id: str, username: str, connection_id: str, is_typing: bool
    ) -> list[Indicator]:
        """A socket of this process sent `typing`."""
        typist = self._typist(bot_id, user_id, username)
        typist.connection_id = connection_id
        typist.is_typing = is_typing
        typist.is_shown = False
        return self._due(bot_id, user_id, typist)

    def left(self, bot_id: str, user_id: str, connection_id: str) -> list[Indicator]:
        """A socket of this process is gone; if it was the one that typed, typing has stopped."""
        typist = self._typists.get((bot_id, user_id))
        if typist is None or typist.connection_id != connection_id:
            return []
        was_told = typist.is_typing if typist.is_shown else typist.shown_at > float("-inf")
        # It is kept until the next tick finds it over, or coming and going would undo the throttle.
        typist.is_typing = False
        typist.is_shown = True
        return [Indicator(bot_id, user_id, typist.username, False, True)] if was_told else []

    def heard(self, bot_id: str, user_id: str, username: str, is_typing: bool) -> list[Indicator]:
        """Another process says so. It has throttled already."""
        key = (bot_id, user_id)
        if is_typing:
            typist = self._typist(bot_id, user_id, username)
            typist.connection_id = None
            typist.is_typing = typist.is_shown = True
        else:
            self._typists.pop(key, None)
        return [Indicator(bot_id, user_id, username, is_typing, False)]

    def tick(self) -> list[Indicator]:
        """What has become due: held back states, and those who fell silent."""
        now = self._clock()
        shown: list[Indicator] = []
        for (bot_id, user_id), typist in tuple(self._typists.items()):
            if typist.is_typing and now - typist.heard_at >= self._patience(typist):
                typist.is_typing = False
                typist.is_shown = False
            shown += self._due(bot_id, user_id, typist)
            is_over = typist.is_shown and not typist.is_typing
            if is_over and now - typist.shown_at >= MIN_INTERVAL:
                del self._typists[bot_id, user_id]
        return shown

    def _typist(self, bot_id: str, user_id: str, username: str) -> _Typist:
        now = self._clock()
        typist = self._typists.setdefault(
            (bot_id, user_id), _Typist(username, None, is_typing=False, heard_at=now)
        )
        typist.heard_at = now
        return typist

    def _due(self, bot_id: str, user_id: str, typist: _Typist) -> list[Indicator]:
        now = self._clock()
        if typist.is_shown or now - typist.shown_at < MIN_INTERVAL:
            return []
        typist.is_shown = True
        typist.shown_at = now
        is_local = typist.connection_id is not None
        return [Indicator(bot_id, user_id, typist.username, typist.is_typing, is_local)]

    @staticmethod
    def _patience(typist: _Typist) -> float:
        return SILENCE if typist.connection_id is not None else SILENCE + REMOTE_GRACE
