"""One open socket, from its handshake to its close: answers what its client says.

There are many of these and most are idle, so each holds little. The `WebSocket` calls the methods
whose names begin with `on_`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Protocol

from realtime.auth.keys import KeysUnavailable
from realtime.auth.tokens import Identity, TokenError
from realtime.log_line import Field, LogLine
from realtime.relay import closing, protocol
from realtime.relay.admission import Admission
from realtime.relay.budget import MIN_SPEED
from realtime.relay.closing import CloseCode
from realtime.relay.cursor import Cursor
from realtime.relay.errors import ErrorCode, MessageError, Refused
from realtime.relay.owed import Owed
from realtime.relay.rate_limit import FRAME, RateLimit, RateVerdict
from realtime.relay.resume import Missed
from realtime.relay.subscriber import HoldLimit, Subscriber
from realtime.web.joining import Joining, require_room
from realtime.web.services import Services
from realtime.web.sink import PING, SocketSink, pong_frame
from realtime.web.socket_log import log_gone, log_unfit_subject, socket_line
from realtime.web.stream import ClientStream
from realtime.web.token_life import TokenLife

log = logging.getLogger("realtime.socket")


class HandshakeRequest(NamedTuple):
    """What the client sent with its handshake."""

    path: tuple[str, ...]
    """The parts of the address that name the topic: a chat's is its bot's id."""
    token: str | None
    """The token, not yet verified; None: the client sent none."""
    cursor: str | None
    """The cursor that the client wants missed events from; None or empty: it wants none."""
    knows_cursors: bool
    """Whether the client sent the parameter `cursor`, so it understands `resync`."""
    wants_presence: bool
    """Whether the client wants to be told who else is present."""


class Connection(Protocol):
    """The connection of one client."""

    stream: ClientStream

    def start(self) -> None:
        """Read what the client says, from now on."""

    def send_close(self, code: int, reason: str) -> None:
        """Say why it ends, and end it."""


MOST_IN_PROXIES = 16_000_000
"""How many bytes proxies and the kernels on the way hold for a client, at most."""


class _Ping:
    """A ping that is not answered yet.

    Args:
        acknowledged: how many bytes the other side had acknowledged when it was sent.
        behind: with how many it has all that was before the ping.
        until: by when a client has that at the least speed, if it had all that was confirmed.
    """

    __slots__ = ("_acknowledged", "_until", "behind")

    def __init__(self, acknowledged: int, behind: int, until: float) -> None:
        self._acknowledged = acknowledged
        self.behind = behind
        self._until = until

    def is_on_its_way(self, acknowledged: int, now: float) -> bool:
        """Look whether the client may not have it, over a slow line, or has it since the last look.

        What is acknowledged may lie in a proxy, which takes megabytes for a client that reads
        slowly. But where the ping itself is not acknowledged, nobody is there.
        """
        before, self._acknowledged = self._acknowledged, acknowledged
        if before < self.behind and acknowledged > before:
            return True
        return acknowledged > self.behind and now < self._until


class Conversation:
    """One open socket. Its endpoint is a subclass, with a topic and messages of its own."""

    __slots__ = (
        "_confirmed_bytes",
        "_connection",
        "_connection_id",
        "_is_stuck",
        "_limit",
        "_ping",
        "_ping_slice",
        "_replaying",
        "_services",
        "_sink",
        "_subscriber",
        "_taken_bytes",
        "_token_life",
    )
    has_cursor: ClassVar[bool] = True
    """Whether it has a topic of which a client may be told a cursor."""
    is_over_http: ClassVar[bool] = False
    """Whether the client takes events over HTTP."""
    _connection: Connection
    _sink: SocketSink

    def __init__(self, services: Services) -> None:
        self._services = services
        self._connection_id = services.new_id()
        self._subscriber: Subscriber | None = None
        self._token_life: TokenLife | None = None
        self._limit: RateLimit | None = None
        self._replaying: asyncio.Task[None] | None = None
        self._ping: _Ping | None = None
        """The ping that was not answered yet."""
        self._ping_slice = 0
        self._confirmed_bytes = 0
        """How many bytes were before the last ping that was answered."""
        self._taken_bytes = 0
        """How many its client had taken at the last ping."""
        self._is_stuck = False
        """Of events over HTTP: whether it had taken nothing then of what waited."""

    # The handshake.

    def open(
        self, connection: Connection, request: HandshakeRequest
    ) -> Coroutine[None, None, None]:
        """Let the client in, or close; what it says is read from the end of this on.

        It can be closed as soon as this was called, before what this returns has begun.
        """
        self._connection = connection
        self._sink = self._make_sink(connection.stream)
        return self._open(request)

    async def _open(self, request: HandshakeRequest) -> None:
        connection = self._connection
        try:
            await self._or_close(partial(self._let_in, request))
        finally:
            connection.start()  # also where the process ends: the client's close is still to come

    def _make_sink(self, stream: ClientStream) -> SocketSink:
        return SocketSink(stream, self._on_close)

    async def _or_close(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do a part of the handshake; whatever goes wrong closes this socket, and says why."""
        try:
            await work()
        except Refused as refused:
            self.close(refused.code, refused.reason)
        except TokenError as error:
            self.close(CloseCode.UNAUTHENTICATED, error.reason)
        except KeysUnavailable:
            self.close(*closing.KEYS_AWAY)
        except Exception:
            # The boundary of a socket: what nobody foresaw closes this socket, and no other.
            log.exception(self._line("socket_open_failed"))
            self.close(*closing.SERVER_ERROR)

    async def _let_in(self, request: HandshakeRequest) -> None:
        identity = await self._services.verifier.verify(request.token or "")
        with self._services.room.joining(identity.subject):
            await self._join(request, identity)

    async def _join(self, request: HandshakeRequest, identity: Identity) -> None:
        began = self._services.monotonic()
        try:
            joining, admission = await self._authorize(request, identity.subject)
        except Refused as refused:
            if self._subscriber is not None:
                self._services.hub.stop(self._subscriber)
            log_unfit_subject(self._services, self._connection_id, identity.subject, refused.code)
            await self._services.refuse_evenly(began)
            raise
        if admission is None:
            return
        assert self._subscriber is not None
        recovery, missed = await joining.recover(request.cursor, admission)
        if self._sink.is_closed:
            return  # the client has left: nobody would stop what begins here
        self._establish(joining, admission, identity, recovery, missed)
        go_live = partial(joining.go_live, admission.cursor, missed)
        if missed:
            # Nothing is read from a socket that is still opening, pongs included.
            self._replaying = asyncio.create_task(self._or_close(go_live))
        else:
            await go_live()

    async def _authorize(
        self, request: HandshakeRequest, subject: str
    ) -> tuple[Joining, Admission | None]:
        topic, bot_id = await self._topic_and_bot(subject, *request.path)
        require_room(self._services)
        self._subscriber = self._make_subscriber(topic, request)
        joining = Joining(
            self._services, self._subscriber, self._sink, subject=subject, bot_id=bot_id
        )
        admission = await joining.authorize()
        if admission and protocol.user_of(topic) not in (None, admission.user_id):
            raise Refused(*closing.USER_RENAMED)
        return joining, admission

    def _make_subscriber(self, topic: str, request: HandshakeRequest) -> Subscriber:
        return Subscriber(
            topic,
            self._connection_id,
            self._sink,
            opened_at=self._services.clock(),
            hold=HoldLimit(self._services.settings.send_buffer_bytes),
            knows_cursors=request.knows_cursors,
            wants_presence=request.wants_presence and protocol.bot_of(topic) is not None,
            is_over_http=self.is_over_http,
            catch_up=self._catch_up,
        )

    def _catch_up(self, owed: Owed, since: Cursor) -> None:
        """It is too slow for the others on its topic: send it the rest at its own pace."""
        assert self._subscriber is not None
        assert self._token_life is not None
        joining = Joining(
            self._services,
            self._subscriber,
            self._sink,
            subject=self._token_life.subject,
            bot_id=protocol.bot_of(self._subscriber.topic),
        )
        work = partial(joining.go_live, since, Missed(owed=owed))
        self._replaying = asyncio.create_task(self._or_close(work))

    def _establish(
        self,
        joining: Joining,
        admission: Admission,
        identity: Identity,
        recovery: dict[str, Any],
        missed: Missed,
    ) -> None:
        services = self._services
        cursor = joining.cursor_text(admission)
        self._token_life = TokenLife(identity, services, self._sink)
        self._ping_slice = services.pings.add(self)
        data = {
            **self._describe(admission),
            "user_id": admission.user_id,
            "connection_id": self._connection_id,
            **({"cursor": cursor} if self.has_cursor else {}),
            "expires_at": protocol.rfc3339(identity.expires_at),
            **recovery,
        }
        # Ahead of the missed events, the cursor is good only together with them.
        self._send(protocol.connection_established(data, None if missed else cursor))
        services.counters.opens += 1
        log.info(self._line("socket_opened", **recovery))

    async def _topic_and_bot(self, subject: str, *path: str) -> tuple[str, str | None]:
        """The topic that the address asks for, and the bot that has to be authorized for it."""
        raise NotImplementedError

    def _describe(self, admission: Admission) -> dict[str, Any]:
        """The fields of `connection_established` that only this endpoint has."""
        raise NotImplementedError

    # What the client says.

    def on_message(self, message: str, frames: int = 1) -> Awaitable[None] | None:
        if self._sink.is_closed or self._token_life is None:
            return None
        try:
            return self._on_text(message, max(len(message), frames * FRAME))
        except MessageError as error:
            self._send(protocol.error(error.code, error.message, error.target))
        except Exception:
            # As in `_or_close`: nothing that a client sends may close more than its own socket.
            log.exception(self._line("socket_message_failed"))
            self.close(*closing.SERVER_ERROR)
        return None

    def _on_text(self, text: str, length: int) -> Awaitable[None] | None:
        """Act on a message.

        Args:
            length: how many characters it counts as.
        """
        if self._admit(length):
            return self._on_client_message(protocol.decode_client_message(text))
        return None

    def _admit(self, length: int = 0) -> bool:
        """Count a message, and close if these are far too many; return whether it is accepted.

        Raises:
            MessageError: it is not, and the socket stays.
        """
        if self._limit is None:
            settings = self._services.settings
            self._limit = RateLimit(
                settings.messages_per_second, settings.message_burst, self._services.monotonic
            )
        verdict = self._limit.judge(length)
        if verdict is RateVerdict.REFUSE:
            raise MessageError(ErrorCode.RATE_LIMITED, "too many messages; this one was dropped")
        if verdict is RateVerdict.DISCONNECT:
            self.close(*closing.RATE_LIMITED)
        return verdict is RateVerdict.ACCEPT

    def _on_client_message(self, message: protocol.ClientMessage) -> Awaitable[None] | None:
        """Answer what every WebSocket endpoint understands."""
        match message:
            case protocol.Ping(timestamp):
                now = protocol.rfc3339(self._services.clock())
                assert self._subscriber is not None
                cursor = self._services.hub.cursor_of(self._subscriber)
                self._send(protocol.pong(now if timestamp is None else timestamp, cursor))
            case protocol.Authenticate(token) if self._token_life is not None:
                return self._token_life.refresh(token)
            case _:
                raise MessageError(ErrorCode.UNKNOWN_TYPE, "this message type is for chats only")
        return None

    def _send(self, message: protocol.Message) -> None:
        self._sink.send(self._sink.frame([message]))

    # Pings, and the clock.

    def clock_has_moved(self) -> None:
        """The wall clock was set, or the machine slept: its token may have expired."""
        if self._token_life is not None:
            self._token_life.set_timer_anew()

    def ping(self) -> None:
        """Send a ping, or close: the client did not answer the one before.

        Not while the client takes what waits for it: it is there, and the ping would come last.
        """
        if self._note_taken() and not self._sink.is_idle:
            return
        acknowledged, now = self._sink.acknowledged_bytes, self._services.monotonic()
        if self._ping is None:
            behind = acknowledged + self._sink.unacknowledged_bytes
            seconds = min(behind - self._confirmed_bytes, MOST_IN_PROXIES) / MIN_SPEED
            self._ping = _Ping(acknowledged, behind, now + seconds)
            self._sink.send_control(PING)
        elif not self._ping.is_on_its_way(acknowledged, now):
            # Not 1000: it would tell the client to stay away.
            self.close(*closing.PING_TIMED_OUT)

    def _note_taken(self) -> bool:
        """Note what the client has taken; return whether that is more than at the last ping."""
        before, self._taken_bytes = self._taken_bytes, self._sink.taken_bytes
        return self._taken_bytes != before

    def on_pong(self, data: bytes) -> None:
        if self._ping is not None:
            self._confirmed_bytes, self._ping = self._ping.behind, None
        else:
            self._admit_frame()  # nobody asked for it: it counts

    def on_ping(self, data: bytes) -> None:
        if self._admit_frame():
            self._sink.send_control(pong_frame(data))

    def _admit_frame(self) -> bool:
        """Count a control frame as if it were a message; return whether it is accepted."""
        try:
            return not self._sink.is_closed and self._admit()
        except MessageError as error:
            self._send(protocol.error(error.code, error.message))
            return False

    # The close.

    def close(self, code: int, reason: str) -> None:
        """Close with a code; not before the handshake is complete."""
        self._sink.close(code, reason)

    def _on_close(self, code: int, reason: str) -> None:
        log.info(self._line("socket_close_sent", code=code, reason=reason))
        if self._subscriber is not None:
            self._services.hub.stop(self._subscriber)
        self._connection.send_close(code, reason)

    def on_ws_connection_close(self, close_code: int | None = None) -> None:
        """The connection is over, whoever closed it (None: without a code)."""
        self._sink.connection_lost()
        if self._token_life is not None:
            self._token_life.stop()
            self._services.pings.remove(self, self._ping_slice)
        if self._replaying is not None:
            self._replaying.cancel()
        if self._subscriber is not None:
            self._unsubscribe(self._subscriber)
        log_gone(
            self._services,
            self._connection_id,
            self._subscriber,
            ours=self._sink.close_code,
            theirs=close_code,
        )

    def _line(self, event: str, **more: Field) -> LogLine:
        return socket_line(event, self._connection_id, self._subscriber, **more)

    def _unsubscribe(self, subscriber: Subscriber) -> None:
        self._services.hub.unsubscribe(subscriber)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        failed = (typ, value, tb) if typ is not None and value is not None else None
        log.error(self._line("socket_failed"), exc_info=failed)
