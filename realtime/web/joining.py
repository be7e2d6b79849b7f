"""Lets one socket in: subscribes it, authorizes it, sends the events it missed, and goes live.

In this order nothing is lost. While the database is asked, the subscriber holds what arrives. The
answer comes with a cursor, which says what of that is not for this socket, and up to where missed
events have to be read from the log for a client that comes back with a cursor of its own.
"""

import asyncio
from typing import Any

from realtime.relay import closing
from realtime.relay.admission import Admission
from realtime.relay.cursor import Cursor
from realtime.relay.errors import Refused
from realtime.relay.position import Position
from realtime.relay.resume import Missed, ResumeRequest, Unrecoverable, read_cursor
from realtime.relay.subscriber import Subscriber
from realtime.web.replay import Replay, ReplaySink
from realtime.web.services import Services


def require_room(services: Services) -> None:
    """The process takes new sockets.

    Raises:
        Refused: it does not.
    """
    if services.status.is_draining:
        raise Refused(*closing.RESTARTING)
    if services.hub.subscribers.open_count >= services.settings.max_connections:
        raise Refused(*closing.PROCESS_FULL)


def require_few(services: Services, admission: Admission) -> None:
    """The user may have one more socket.

    Raises:
        Refused: they may not.
    """
    most = services.settings.max_connections_per_user
    sockets = services.hub.subscribers.count_of(admission.user_id)
    if sockets >= most:
        raise Refused(*closing.TOO_MANY_CONNECTIONS)
    if sockets + admission.remote_sockets >= most:
        raise Refused(*closing.TOO_MANY_IN_ALL)


class Joining:
    """One subscription that asks to be accepted, or that fell behind and comes back to the others.

    Args:
        sink: the way out to its client.
        subject: the subject of the client's token.
        bot_id: the bot that has to be authorized; None: the user's own notifications.
    """

    def __init__(
        self,
        services: Services,
        subscriber: Subscriber,
        sink: ReplaySink,
        *,
        subject: str,
        bot_id: str | None,
    ) -> None:
        self._services = services
        self._subscriber = subscriber
        self._sink = sink
        self._subject = subject
        self._bot_id = bot_id

    async def authorize(self) -> Admission | None:
        """Subscribe, and ask whether the user may; None: the client has left meanwhile.

        Raises:
            Refused: with the close code.
        """
        if self._has_left():
            return None  # nobody would remove it
        self._services.hub.subscribe(self._subscriber)
        admission = await self._ask()
        if self._has_left():
            return None
        if self._subscriber.is_socket:
            require_few(self._services, admission)
        self._services.hub.identify(self._subscriber, admission.user_id, admission.username)
        signer = self._services.hub.position.signer
        self._subscriber.cursor = Position(admission.cursor, signer)
        return admission

    def _has_left(self) -> bool:
        return self._sink.is_closed

    async def _ask(self) -> Admission:
        refusals, topic = self._services.refusals, self._subscriber.topic
        is_remembered = refusals.find(self._subject, topic) is not None
        if is_remembered:
            is_current = await self._is_log_read()
            why = refusals.find(self._subject, topic)
            # A user who was granted access before they connected is not refused, however late the
            # grant is read here.
            if why is not None and is_current:
                # No variable has the error: its traceback would have that, and all that is refused.
                raise Refused(*why)
        generation = refusals.generation
        try:
            return await self._services.access.authorize(self._subject, self._bot_id)
        except Refused as refused:
            refusals.remember(self._subject, topic, refused, generation)
            if not is_remembered:
                await self._is_log_read()  # as long as one from memory waits
            raise

    async def _is_log_read(self) -> bool:
        """Wait for the next read of the log, with its grants; False: none ended in time."""
        try:
            async with asyncio.timeout(self._services.intervals.refusal):
                await self._services.refusals.up_to_date()
        except TimeoutError:
            return False
        return True

    async def recover(
        self, given: str | None, admission: Admission
    ) -> tuple[dict[str, Any], Missed]:
        """Find the events that the client missed; returns what it is told of that, and them.

        Args:
            given: the cursor that the client sent; None or empty: it wants no missed events.
        """
        if not given:
            return {}, Missed()
        resumes = self._services.counters.resumes
        signer, admitted = self._services.hub.position.signer, self._subscriber.cursor
        try:
            cursor = read_cursor(given, self._subscriber.topic, signer)
            # Until it has the missed events, of which a pong that comes meanwhile claims nothing.
            self._subscriber.cursor = Position(cursor, signer)
            missed = await self._since(cursor, admission)
        except Unrecoverable as lost:
            self._subscriber.cursor = admitted
            resumes[lost.reason] += 1
            return {"recovered": False, "reason": lost.reason}, Missed()
        resumes["recovered"] += 1
        return {"recovered": True}, missed

    async def go_live(self, cursor: Cursor, missed: Missed) -> None:
        """Send the missed events and go live; if more arrived meanwhile than may be held, repeat.

        Args:
            cursor: covers the missed events and all before them.

        Raises:
            Refused: access ended meanwhile, or the client reads too slowly.
        """
        await self._replay(missed, cursor)
        while self._subscriber.has_overflowed and not self._sink.is_closed:
            seen = cursor
            self._subscriber.hold_anew()
            admission = await self._services.access.authorize(self._subject, self._bot_id)
            if admission.user_id != self._subscriber.user_id:
                raise Refused(*closing.USER_RENAMED)  # the name is somebody else's now
            try:
                missed = await self._since(seen, admission)
            except Unrecoverable as lost:
                raise Refused(*closing.EVENTS_MISSED) from lost
            cursor = admission.cursor
            await self._replay(missed, cursor)
        self._services.hub.go_live(self._subscriber, cursor)

    async def _since(self, cursor: Cursor, admission: Admission) -> Missed:
        request = ResumeRequest(self._subscriber.topic, admission.user_id, cursor, admission.cursor)
        return await self._services.history.since(request)

    def cursor_text(self, admission: Admission) -> str | None:
        """The cursor as of which the client may be here; None where there is none."""
        return self._services.cursor_text(admission.cursor, self._subscriber.topic)

    async def _replay(self, missed: Missed, cursor: Cursor) -> None:
        """Send missed events; the last one has the cursor as of which the client may be here."""
        assert self._subscriber.cursor is not None
        end = self._subscriber.cursor.claiming(cursor)
        await Replay(self._services, self._sink, self._subscriber).send(missed, end)
        self._subscriber.cursor = end
