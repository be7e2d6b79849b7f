"""Who is typing where: limited in rate, ended by time, and shared between processes.

None of it is stored in the log. `TypingIndicators` decides what is shown when: at most about three
indicators per second for each user and bot, always with the newest state. `TypingBroadcaster` sends
them to the bot's sockets, and passes them on for the other processes.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from realtime.relay.hub import Hub
from realtime.relay.protocol import bot_topic, typing_indicator
from realtime.relay.subscriber import Framed, State, Subscriber

MIN_INTERVAL = 1 / 3
"""Seconds between two indicators of one user on one bot."""
SILENCE = 6.0
"""Seconds without a message after which a user is shown as not typing."""
REMOTE_GRACE = 2.0
"""More seconds for users of another process. It says itself when they stop, unless it died."""
MAX_TYPISTS = 5000
MAX_TYPISTS_ON_BOT = 200
"""Above so many, typists on other processes are not shown."""


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
    """Whether the others were already told `is_typing`."""


class TypingIndicators:
    """What everybody's typing state is, as far as this process knows.

    Args:
        clock: monotonic seconds.
        max_typists: above so many, nobody more from other processes is shown.
        max_on_bot: the same for one bot.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_typists: int = MAX_TYPISTS,
        max_on_bot: int = MAX_TYPISTS_ON_BOT,
    ) -> None:
        self._clock = clock
        self._max_typists = max_typists
        self._max_on_bot = max_on_bot
        self._typists: dict[tuple[str, str], _Typist] = {}
        self._on_bot: Counter[str] = Counter()
        """How many typists each bot has."""

    @property
    def is_idle(self) -> bool:
        """Whether no state can change just by time, so that no tick is needed."""
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
        """Another process sent an indicator.

        The rate and the number of typists are limited anew: whoever knows the channel's name can
        send whatever they like.
        """
        is_known = (bot_id, user_id) in self._typists
        if not is_known and (not is_typing or self._is_full(bot_id)):
            return []
        typist = self._typist(bot_id, user_id, username)
        typist.connection_id = None
        typist.is_typing = is_typing
        typist.is_shown = False
        return self._due(bot_id, user_id, typist)

    def _is_full(self, bot_id: str) -> bool:
        is_full_for_bot = self._on_bot[bot_id] >= self._max_on_bot
        return is_full_for_bot or len(self._typists) >= self._max_typists

    def tick(self) -> list[Indicator]:
        """What is due now: states that were held back, and users who stopped."""
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
                self._on_bot[bot_id] -= 1
                if not self._on_bot[bot_id]:
                    del self._on_bot[bot_id]
        return shown

    def _typist(self, bot_id: str, user_id: str, username: str) -> _Typist:
        now = self._clock()
        typist = self._typists.get((bot_id, user_id))
        if typist is None:
            typist = _Typist(username, None, is_typing=False, heard_at=now)
            self._typists[bot_id, user_id] = typist
            self._on_bot[bot_id] += 1
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


class TypingBroadcaster:
    """Shows indicators to this process's sockets at once, and hands them on for the others.

    Args:
        tell: takes indicators to pass on to other processes.
        clock: epoch seconds, for the messages' timestamps.
        tick: seconds between two looks at what is due, while anybody types.
    """

    def __init__(
        self,
        indicators: TypingIndicators,
        hub: Hub,
        *,
        tell: Callable[[Iterable[Indicator]], None],
        clock: Callable[[], float],
        tick: float,
    ) -> None:
        self._tick = tick
        self._indicators = indicators
        self._hub = hub
        self._tell = tell
        self._clock = clock
        self._some = asyncio.Event()

    def said(self, subscriber: Subscriber, bot_id: str, is_typing: bool) -> None:
        """Show what a socket of this process sent as `typing`."""
        if subscriber.state is not State.LIVE:
            return  # a user who may not read may not type
        user_id, username = subscriber.user_id or "", subscriber.username or ""
        self._show(
            self._indicators.said(bot_id, user_id, username, subscriber.connection_id, is_typing)
        )

    def left(self, subscriber: Subscriber, bot_id: str) -> None:
        """Show that a user has stopped, if the socket that is gone had typed."""
        user_id = subscriber.user_id or ""
        self._show(self._indicators.left(bot_id, user_id, subscriber.connection_id))

    def heard(self, bot_id: str, user_id: str, username: str, is_typing: bool) -> None:
        """Another process says that one of its users types, or stopped."""
        if not self._hub.subscribers.has_topic(bot_topic(bot_id)):
            return  # nobody here would see it
        self._show(self._indicators.heard(bot_id, user_id, username, is_typing))

    async def run(self) -> NoReturn:
        """Show what becomes due by time, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._tick)
            self._show(self._indicators.tick())
            if self._indicators.is_idle:
                self._some.clear()

    def _show(self, indicators: list[Indicator]) -> None:
        for one in indicators:
            message = typing_indicator(
                one.bot_id, one.user_id, one.username, one.is_typing, self._clock()
            )
            framed = Framed([message])
            for subscriber in self._hub.subscribers.live_on(bot_topic(one.bot_id)):
                if subscriber.user_id != one.user_id:
                    subscriber.sink.send(framed.by(subscriber.sink.frame))
        self._tell(indicators)
        if not self._indicators.is_idle:
            self._some.set()
