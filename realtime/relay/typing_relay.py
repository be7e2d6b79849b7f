"""Typing on its way: from a socket or another process to the bot's other users, and onwards.

Joins `typing_indicators` (what to show when) to the hub (whom to show it). The sockets call `said`
and `left`, the cluster `heard`; `server` keeps `run` going.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import NoReturn

from realtime.relay.hub import Hub
from realtime.relay.protocol import bot_topic, typing_indicator
from realtime.relay.subscriber import Framer, State, Subscriber
from realtime.relay.typing_indicators import TICK, Indicator, TypingIndicators


class TypingRelay:
    """Shows indicators to this process's sockets at once, and hands them on for the others.

    Args:
        frame: joins messages into the bytes for a socket.
        tell: takes indicators to pass on to other processes.
        clock: epoch seconds, for the messages' timestamps.
    """

    def __init__(
        self,
        indicators: TypingIndicators,
        hub: Hub,
        *,
        frame: Framer,
        tell: Callable[[Iterable[Indicator]], None],
        clock: Callable[[], float],
    ) -> None:
        self._indicators = indicators
        self._hub = hub
        self._frame = frame
        self._tell = tell
        self._clock = clock
        self._some = asyncio.Event()

    def said(self, subscriber: Subscriber, bot_id: str, is_typing: bool) -> None:
        """A socket sent `typing`."""
        if subscriber.state is not State.LIVE:
            return  # nobody may type who may not read
        user_id, username = subscriber.user_id or "", subscriber.username or ""
        self._show(
            self._indicators.said(bot_id, user_id, username, subscriber.connection_id, is_typing)
        )

    def left(self, subscriber: Subscriber, bot_id: str) -> None:
        """A socket is gone."""
        user_id = subscriber.user_id or ""
        self._show(self._indicators.left(bot_id, user_id, subscriber.connection_id))

    def heard(self, bot_id: str, user_id: str, username: str, is_typing: bool) -> None:
        """Another process says that one of its users types, or stopped."""
        self._show(self._indicators.heard(bot_id, user_id, username, is_typing))

    async def run(self) -> NoReturn:
        """Show what becomes due by time alone. Cancel to end."""
        while True:
            await self._some.wait()
            await asyncio.sleep(TICK)
            self._show(self._indicators.tick())
            if self._indicators.is_idle:
                self._some.clear()

    def _show(self, indicators: list[Indicator]) -> None:
        for one in indicators:
            message = typing_indicator(
                one.bot_id, one.user_id, one.username, one.is_typing, self._clock()
            )
            frames = self._frame([message])
            for subscriber in self._hub.on_topic(bot_topic(one.bot_id)):
                if subscriber.user_id != one.user_id:
                    subscriber.sink.send(frames)
        self._tell(indicators)
        if not self._indicators.is_idle:
            self._some.set()
