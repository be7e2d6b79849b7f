"""Who is typing where: limited in rate, ended by time, and shared between processes.

None of it is stored in the log. `TypingIndicators` decides what is shown when: at most three
indicators per second for each user and bot, always with the newest state. `TypingBroadcaster` sends
them to the bot's sockets, and passes them on for the other processes.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from realtime.relay.hub import FAN_OUT_SLICE, Hub
from realtime.relay.protocol import bot_topic, typing_indicator
from realtime.relay.slices import Slices
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
    is_pending: bool = True
    """Whether the others are still to be told `is_typing`."""
    is_told: bool = False
    """What the others were told last."""


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
        typist.is_pending = True
        return self._due(bot_id, user_id, typist)

    def left(self, bot_id: str, user_id: str, connection_id: str) -> list[Indicator]:
        """A socket of this process is gone; if it was the one that typed, typing has stopped.

        That is shown no sooner than anything else, or coming and going would undo the throttle.
        """
        typist = self._typists.get((bot_id, user_id))
        if typist is None or typist.connection_id != connection_id:
            return []
        typist.is_typing = False
        typist.is_pending = typist.is_told  # else they know of no typing that could stop
        return self._due(bot_id, user_id, typist)

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
        typist.is_pending = True
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
                typist.is_pending = True
            shown += self._due(bot_id, user_id, typist)
            is_over = not typist.is_pending and not typist.is_typing
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
        if not typist.is_pending or now - typist.shown_at < MIN_INTERVAL:
            return []
        typist.is_pending, typist.is_told = False, typist.is_typing
        typist.shown_at = now
        is_local = typist.connection_id is not None
        return [Indicator(bot_id, user_id, typist.username, typist.is_typing, is_local)]

    @staticmethod
    def _patience(typist: _Typist) -> float:
        return SILENCE if typist.connection_id is not None else SILENCE + REMOTE_GRACE


class TypingBroadcaster:
    """Shows indicators to this process's sockets, and hands them on for the others.

    One bot can have thousands of sockets and many typists, so what is to be shown waits for its
    turn: of each user on each bot the newest state.

    Args:
        tell: takes indicators to pass on to other processes.
        pause: awaited between the slices of a fan-out.
        clock: epoch seconds, for the messages' timestamps.
        tick: seconds between two looks at what is due, while anybody types.
        fan_out_slice: how many sockets are shown something before other tasks get a turn.
    """

    def __init__(
        self,
        indicators: TypingIndicators,
        hub: Hub,
        *,
        tell: Callable[[Iterable[Indicator]], None],
        pause: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        tick: float,
        fan_out_slice: int = FAN_OUT_SLICE,
    ) -> None:
        self._tick = tick
        self._indicators = indicators
        self._hub = hub
        self._tell = tell
        self._slices = Slices(pause, fan_out_slice)
        self._clock = clock
        self._waiting: OrderedDict[tuple[str, str], Indicator] = OrderedDict()
        """What is to be shown here, by bot and user; the first is next."""
        self._has_waiting = asyncio.Event()
        self._has_typists = asyncio.Event()

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

    def _show(self, indicators: Iterable[Indicator]) -> None:
        for one in indicators:
            self._waiting[one.bot_id, one.user_id] = one
            self._has_waiting.set()
        self._tell(indicators)
        if not self._indicators.is_idle:
            self._has_typists.set()

    async def run(self) -> NoReturn:
        """Show what is said, and what becomes due by time, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_looking())
            while True:
                await self._has_waiting.wait()
                while self._waiting:
                    _, one = self._waiting.popitem(last=False)
                    await self._send(one)
                    await self._slices.count()
                self._has_waiting.clear()

    async def _keep_looking(self) -> NoReturn:
        """Look what becomes due by time, while anybody types."""
        while True:
            await self._has_typists.wait()
            await asyncio.sleep(self._tick)
            self._show(self._indicators.tick())
            if self._indicators.is_idle:
                self._has_typists.clear()

    async def _send(self, one: Indicator) -> None:
        message = typing_indicator(
            one.bot_id, one.user_id, one.username, one.is_typing, self._clock()
        )
        framed = Framed([message])
        # It looks whether each is live only when it comes to it, so also after a pause.
        for subscriber in self._hub.subscribers.live_on(bot_topic(one.bot_id)):
            if subscriber.user_id == one.user_id:
                continue
            subscriber.sink.send(framed.by(subscriber.sink.frame))
            await self._slices.count()
