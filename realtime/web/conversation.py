"""One open socket: how it gets in, what its client says and is answered, and its end.

A socket subscribes first, holding what arrives, and asks for its right second; the answer's
snapshot says what is not for it. There are many of these and most are idle, so they hold little.
Made by `sockets` at the handshake; Tornado's protocol calls `on_…`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

from realtime.auth.keys import KeysUnavailable
from realtime.auth.tokens import Identity, TokenError
from realtime.relay import closing, protocol
from realtime.relay.closing import CloseCode
from realtime.relay.errors import ErrorCode, MessageError, Refused
from realtime.relay.rate_limit import RateLimit, RateVerdict
from realtime.relay.subscriber import Subscriber
from realtime.runtime.logging import Line
from realtime.web.handshake import Joining
from realtime.web.services import Admission, Services
from realtime.web.sink import PING, SocketSink, frame
from realtime.web.socket_log import about, note_end
from realtime.web.token_life import TokenLife
from realtime.web.websocket import ExplainingProtocol

log = logging.getLogger("realtime.socket")


class Arrival(NamedTuple):
    """What came with the handshake."""

    path: tuple[str, ...]
    token: str | None
    cursor: str | None
    knows_cursors: bool
    wants_presence: bool


class Conversation:
    """What both endpoints share; see `_topic_and_bot`, `_describe` and `_on_client_message`."""

    __slots__ = (
        "_code",
        "_connection_id",
        "_entering",
        "_is_pinged",
        "_limit",
        "_ping_slice",
        "_protocol",
        "_services",
        "_sink",
        "_subscriber",
        "_token_life",
    )
    _protocol: ExplainingProtocol
    _sink: SocketSink

    def __init__(self, services: Services) -> None:
        self._services = services
        self._connection_id = services.new_id()
        self._subscriber: Subscriber | None = None
        self._token_life: TokenLife | None = None
        self._limit: RateLimit | None = None
        self._entering: asyncio.Task[None] | None = None
        self._code: int | None = None
        self._is_pinged = False
        self._ping_slice = 0

    # The way in.

    async def begin(self, socket: ExplainingProtocol, arrival: Arrival) -> None:
        """The handshake is complete; nothing is read before this returns."""
        self._protocol = socket
        self._sink = SocketSink(socket.stream, self._close)
        await self._or_close(partial(self._join, arrival))

    async def _or_close(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do a part of the way in; whatever goes wrong ends this socket, and says why."""
        try:
            await work()
        except Refused as refused:
            self.end(refused.code, refused.reason)
        except TokenError as error:
            self.end(CloseCode.UNAUTHENTICATED, error.reason)
        except KeysUnavailable:
            self.end(*closing.KEYS_AWAY)
        except Exception:
            # The boundary to the framework: what nobody foresaw ends this socket, and no other.
            log.exception(self._line("failed to open"))
            self.end(*closing.SERVER_ERROR)

    async def _join(self, arrival: Arrival) -> None:
        identity = await self._services.verifier.verify(arrival.token or "")
        topic, bot_id = await self._topic_and_bot(identity.subject, *arrival.path)
        self._require_room()
        if self._protocol.is_closing():
            return
        self._subscriber = subscriber = self._make_subscriber(topic, arrival)
        joining = Joining(
            self._services,
            subscriber,
            self._sink,
            subject=identity.subject,
            bot_id=bot_id,
            cursor=arrival.cursor,
        )
        admission = await joining.ask()
        if admission is None:
            return
        if bot_id is None and topic != protocol.user_topic(admission.user_id):
            raise Refused(*closing.USER_RENAMED)
        recovery, owed = await joining.look_back(admission)
        self._welcome(subscriber, admission, identity, recovery)
        enter = partial(joining.enter, admission, owed)
        if owed:
            # Tornado reads nothing from a socket that is still opening, pongs included.
            self._entering = asyncio.create_task(self._or_close(enter))
        else:
            await enter()

    def _require_room(self) -> None:
        if self._services.status.is_draining:
            raise Refused(*closing.RESTARTING)
        if len(self._services.hub) >= self._services.settings.max_connections:
            raise Refused(*closing.PROCESS_FULL)

    def _make_subscriber(self, topic: str, arrival: Arrival) -> Subscriber:
        return Subscriber(
            topic,
            self._connection_id,
            self._sink,
            opened_at=self._services.clock(),
            hold_bytes=self._services.settings.send_buffer_bytes,
            knows_cursors=arrival.knows_cursors,
            wants_presence=arrival.wants_presence and protocol.bot_of(topic) is not None,
        )

    def _welcome(
        self,
        subscriber: Subscriber,
        admission: Admission,
        identity: Identity,
        recovery: dict[str, Any],
    ) -> None:
        services = self._services
        self._token_life = TokenLife(identity, services, subscriber.sink)
        self._ping_slice = services.pings.add(self)
        data = {
            **self._describe(admission),
            "user_id": admission.user_id,
            "connection_id": self._connection_id,
            "cursor": services.encode_cursor(admission.cursor),
            "expires_at": protocol.rfc3339(identity.expires_at),
            **recovery,
        }
        self._say(protocol.connection_established(data))
        services.counters.opens += 1
        log.info(self._line("open", **recovery))

    async def _topic_and_bot(self, subject: str, *path: str) -> tuple[str, str | None]:
        """The topic that the address asks for, and the bot that has to be authorized for it."""
        raise NotImplementedError

    def _describe(self, admission: Admission) -> dict[str, Any]:
        """What `connection_established` says on this endpoint alone."""
        raise NotImplementedError

    # What the client says.

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        if self._sink.is_closed or self._token_life is None:
            return None
        if isinstance(message, bytes):
            self.end(*closing.BINARY_FRAME)
            return None
        try:
            if self._is_within_limit():
                return self._on_client_message(protocol.decode_client_message(message))
        except MessageError as error:
            self._say(protocol.error(error.code, error.message))
        except Exception:
            # As in `begin`: nothing that a client sends may end more than its own socket.
            log.exception(self._line("failed on a message"))
            self.end(*closing.SERVER_ERROR)
        return None

    def _is_within_limit(self) -> bool:
        if self._limit is None:
            settings = self._services.settings
            self._limit = RateLimit(
                settings.messages_per_second, settings.message_burst, self._services.monotonic
            )
        verdict = self._limit.judge()
        if verdict is RateVerdict.REFUSE:
            raise MessageError(ErrorCode.RATE_LIMITED, "too many messages; this one was dropped")
        if verdict is RateVerdict.DISCONNECT:
            self.end(*closing.RATE_LIMITED)
        return verdict is RateVerdict.ACCEPT

    def _on_client_message(self, message: protocol.ClientMessage) -> Awaitable[None] | None:
        """Answer what both endpoints understand."""
        match message:
            case protocol.Ping(timestamp):
                now = protocol.rfc3339(self._services.clock())
                assert self._subscriber is not None
                place = self._services.hub.cursor_of(self._subscriber)
                self._say(protocol.pong(now if timestamp is None else timestamp, place))
            case protocol.Authenticate(token) if self._token_life is not None:
                return self._token_life.refresh(token)
            case _:
                raise MessageError(ErrorCode.UNKNOWN_TYPE, "this message type is for chats only")
        return None

    def _say(self, message: bytes) -> None:
        self._sink.send(frame([message]))

    # Whether it is still there.

    def ping(self) -> None:
        """Called by `pings`."""
        if self._is_pinged:
            # Not 1000, Tornado's code for this: it would tell the client to stay away.
            self.end(*closing.PING_TIMED_OUT)
            return
        self._is_pinged = True
        self._sink.send(PING)

    def on_pong(self, data: bytes) -> None:
        self._is_pinged = False

    def on_ping(self, data: bytes) -> None:
        """Tornado has answered it."""

    # The end.

    def end(self, code: int, reason: str) -> None:
        """Close with a code; not before the handshake is complete."""
        self._sink.close(code, reason)

    def _close(self, code: int, reason: str) -> None:
        self._code = code
        log.info(self._line("close", code=code, reason=reason))
        if self._subscriber is not None:
            self._services.hub.stop(self._subscriber)
        self._protocol.finish(code, reason)

    def on_ws_connection_close(
        self, close_code: int | None = None, close_reason: str | None = None
    ) -> None:
        """It is gone, whoever closed it (None: without a code)."""
        self._sink.is_closed = True
        self._protocol.cut()
        if self._token_life is not None:
            self._token_life.end()
            self._services.pings.remove(self, self._ping_slice)
        if self._entering is not None:
            self._entering.cancel()
        if self._subscriber is not None:
            self._leave(self._subscriber)
        note_end(
            self._services,
            self._connection_id,
            self._subscriber,
            ours=self._code,
            theirs=close_code,
        )

    def _line(self, what: str, **more: str | float | None) -> Line:
        return about(what, self._connection_id, self._subscriber, **more)

    def _leave(self, subscriber: Subscriber) -> None:
        self._services.hub.unsubscribe(subscriber)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        failed = (typ, value, tb) if typ is not None and value is not None else None
        log.error(self._line("failed"), exc_info=failed)
