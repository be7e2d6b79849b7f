"""How a socket gets in: subscribed first, authorized second, brought up to date third, then live.

While all this is asked, the subscriber holds what arrives. The answer's place in the log says what
of it is not for this socket, and up to where the past answers for a client that comes back with a
cursor. Called by `sockets`, once per handshake.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from realtime.relay import closing
from realtime.relay.cursor import Cursor
from realtime.relay.errors import Refused
from realtime.relay.events import Event
from realtime.relay.protocol import stamp
from realtime.relay.resume import ResumeRequest, Unrecoverable, read_cursor
from realtime.relay.subscriber import State, Subscriber
from realtime.web.services import Admission, Services
from realtime.web.sink import SocketSink, frame

REPLAY_BYTES = 262_144
"""How much of the past is sent before the client must have taken it."""


class Joining:
    """One socket on its way in.

    Args:
        subject: whose token it is.
        bot_id: what has to be authorized; None: their own notifications.
        cursor: what the client sent as its cursor; None or empty: it begins now.
    """

    def __init__(
        self,
        services: Services,
        subscriber: Subscriber,
        sink: SocketSink,
        *,
        subject: str,
        bot_id: str | None,
        cursor: str | None,
    ) -> None:
        self._services = services
        self._subscriber = subscriber
        self._sink = sink
        self._subject = subject
        self._bot_id = bot_id
        self._cursor = cursor

    async def ask(self) -> Admission | None:
        """Subscribe, and find out whether they may be here; None: the client has left meanwhile.

        Raises:
            Refused: with the close code.
        """
        self._services.hub.subscribe(self._subscriber)
        admission = await self._admit()
        if self._has_left():
            return None
        hub = self._services.hub
        if hub.count_of(admission.user_id) >= self._services.settings.max_connections_per_user:
            raise Refused(*closing.TOO_MANY_CONNECTIONS)
        hub.identify(self._subscriber, admission.user_id, admission.username)
        self._move_to(admission)
        return admission

    async def _admit(self) -> Admission:
        refusals, topic = self._services.refusals, self._subscriber.topic
        if refusals.find(self._subject, topic):
            is_current = await self._is_log_read()
            refused = refusals.find(self._subject, topic)
            # Nobody who was let in before they came is sent off, however late it is heard here.
            if refused is not None and is_current:
                raise refused
        generation = refusals.generation
        try:
            return await self._services.access.authorize(self._subject, self._bot_id)
        except Refused as refused:
            refusals.remember(self._subject, topic, refused, generation)
            raise

    async def _is_log_read(self) -> bool:
        """Wait for news of grants; False where none is to be had in time."""
        try:
            async with asyncio.timeout(self._services.intervals.refusal):
                await self._services.refusals.up_to_date()
        except TimeoutError:
            return False
        return True

    async def look_back(self, admission: Admission) -> tuple[dict[str, Any], Sequence[Event]]:
        """What the client is told of its cursor, and the events that it is owed."""
        if not self._cursor:
            return {}, ()
        resumes = self._services.counters.resumes
        try:
            cursor = read_cursor(self._cursor, self._services.reader.database)
            owed = await self._since(cursor, admission)
        except Unrecoverable as lost:
            resumes[lost.reason] += 1
            return {"recovered": False, "reason": lost.reason}, ()
        self._subscriber.cursor = self._cursor  # until it has what it is owed
        resumes["recovered"] += 1
        return {"recovered": True}, owed

    async def enter(self, admission: Admission, owed: Sequence[Event]) -> None:
        """Send what is owed, and go live; if more arrived meanwhile than may be held, repeat.

        Raises:
            Refused: access ended meanwhile, or the client takes nothing.
        """
        await self._replay(owed, admission)
        while self._subscriber.has_overflowed and not self._has_left():
            seen = admission.cursor
            self._subscriber.hold_anew()
            admission = await self._services.access.authorize(self._subject, self._bot_id)
            try:
                owed = await self._since(seen, admission)
            except Unrecoverable as lost:
                raise Refused(*closing.EVENTS_MISSED) from lost
            await self._replay(owed, admission)
        self._services.hub.go_live(self._subscriber, admission.cursor)

    async def _since(self, cursor: Cursor, admission: Admission) -> Sequence[Event]:
        request = ResumeRequest(self._subscriber.topic, admission.user_id, cursor, admission.cursor)
        return await self._services.history.since(request)

    def _move_to(self, admission: Admission) -> None:
        self._subscriber.cursor = self._services.encode_cursor(admission.cursor)

    async def _replay(self, owed: Sequence[Event], admission: Admission) -> None:
        """Send at the pace at which the client reads."""
        for messages in _portions(owed, self._services.encode_cursor(admission.cursor)):
            self._sink.send(frame(messages))
            try:
                async with asyncio.timeout(self._services.intervals.replay):
                    await self._sink.drained()
            except TimeoutError:
                raise Refused(*closing.REPLAY_TOO_SLOW) from None
        self._move_to(admission)

    def _has_left(self) -> bool:
        return self._subscriber.state is State.STOPPED


def _portions(events: Sequence[Event], cursor: str) -> Iterator[list[bytes]]:
    """The events' messages in lists of about `REPLAY_BYTES`; the last message has the cursor."""
    portion: list[bytes] = []
    size = 0
    for number, event in enumerate(events, 1):
        message = stamp(event.payload, event.id, cursor if number == len(events) else None)
        portion.append(message)
        size += len(message)
        if size >= REPLAY_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
