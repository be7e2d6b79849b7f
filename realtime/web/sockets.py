"""The two WebSocket endpoints: a bot's chat, and a user's notifications.

A socket subscribes first, holding what arrives, and asks for its right second; the answer's
snapshot says what is not for it. Refusals complete the handshake and then close with a code,
because a browser shows its script nothing of a refused handshake. Routed by `app`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application
from tornado.websocket import _WebSocketParams

from realtime.auth import Identity, TokenError, token_from_request
from realtime.keys import KeysUnavailable
from realtime.relay import protocol
from realtime.relay.errors import CloseCode, ErrorCode, MessageError, Refused
from realtime.relay.rate_limit import RateLimit, Verdict
from realtime.relay.subscriber import Subscriber
from realtime.web.closing import Endable, ExplainingProtocol
from realtime.web.handlers import CarefulHandler
from realtime.web.joining import Joining
from realtime.web.services import Admission, Services
from realtime.web.token_life import TokenLife
from realtime.web.transport import SocketSink, frame

log = logging.getLogger(__name__)


class RelaySocket(CarefulHandler, Endable):
    """What both endpoints share; see `_topic_and_bot`, `_describe` and `_on_client_message`."""

    def __init__(
        self, application: Application, request: HTTPServerRequest, *, services: Services
    ) -> None:
        super().__init__(application, request)
        self._services = services
        self._connection_id = services.new_id()
        self._subscriber: Subscriber | None = None
        self._token_life: TokenLife | None = None
        self._limit: RateLimit | None = None
        self._sink: SocketSink | None = None
        self._entering: asyncio.Task[None] | None = None

    # The handshake.

    def check_origin(self, origin: str) -> bool:
        allowed = self._services.settings.allowed_origins
        return allowed is None or origin in allowed

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "bearer" if "bearer" in subprotocols else None

    def get_websocket_protocol(self) -> ExplainingProtocol | None:
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            return None
        parameters = _WebSocketParams(
            ping_interval=self.ping_interval,
            ping_timeout=self.ping_timeout,
            max_message_size=self._services.settings.max_message_bytes,
        )
        return ExplainingProtocol(self, False, parameters)

    async def open(self, *path: str) -> None:
        assert self.ws_connection is not None
        assert self.ws_connection.stream is not None
        self.set_nodelay(True)
        stream = self.ws_connection.stream
        stream.max_write_buffer_size = self._services.settings.send_buffer_bytes
        self._sink = SocketSink(stream, self._close)
        await self._or_close(self._sink, partial(self._join, self._sink, *path))

    async def _or_close(self, sink: SocketSink, work: Callable[[], Awaitable[None]]) -> None:
        """Do a part of the way in; whatever goes wrong ends this socket, and says why."""
        try:
            await work()
        except Refused as refused:
            sink.close(refused.code, refused.reason)
        except TokenError as error:
            sink.close(CloseCode.UNAUTHENTICATED, error.reason)
        except KeysUnavailable:
            sink.close(CloseCode.TRY_AGAIN_LATER, "tokens cannot be verified at the moment")
        except Exception:
            # The boundary to the framework: what nobody foresaw ends this socket, and no other.
            log.exception("connection=%s failed to open", self._connection_id)
            sink.close(CloseCode.INTERNAL_ERROR, "unexpected server error")

    async def _join(self, sink: SocketSink, *path: str) -> None:
        identity = await self._services.verifier.verify(self._token() or "")
        topic, bot_id = await self._topic_and_bot(identity.subject, *path)
        self._require_room()
        if self._is_gone():
            return
        self._subscriber = subscriber = self._make_subscriber(topic, sink)
        joining = Joining(
            self._services,
            subscriber,
            sink,
            subject=identity.subject,
            bot_id=bot_id,
            cursor=self.query("cursor"),
        )
        admission = await joining.ask()
        if admission is None:
            return
        if bot_id is None and topic != protocol.user_topic(admission.user_id):
            raise Refused(CloseCode.TRY_AGAIN_LATER, "the user was renamed just now")
        recovery, owed = await joining.look_back(admission)
        self._welcome(subscriber, admission, identity, recovery)
        enter = partial(joining.enter, admission, owed)
        if owed:
            # Tornado reads nothing from a socket that is still opening, pongs included.
            self._entering = asyncio.create_task(self._or_close(sink, enter))
        else:
            await enter()

    def _require_room(self) -> None:
        if self._services.status.is_draining:
            raise Refused(CloseCode.GOING_AWAY, "the server is restarting")
        if len(self._services.hub) >= self._services.settings.max_connections:
            raise Refused(CloseCode.TRY_AGAIN_LATER, "this process is full")

    def _make_subscriber(self, topic: str, sink: SocketSink) -> Subscriber:
        return Subscriber(
            topic,
            self._connection_id,
            sink,
            opened_at=self._services.clock(),
            hold_bytes=self._services.settings.send_buffer_bytes,
            knows_cursors="cursor" in self.request.query_arguments,
        )

    def _welcome(
        self,
        subscriber: Subscriber,
        admission: Admission,
        identity: Identity,
        recovery: dict[str, Any],
    ) -> None:
        services = self._services
        self._limit = RateLimit(
            services.settings.messages_per_second,
            services.settings.message_burst,
            services.monotonic,
        )
        self._token_life = TokenLife(identity, services, subscriber.sink)
        data = {
            **self._describe(admission),
            "user_id": admission.user_id,
            "connection_id": self._connection_id,
            "cursor": services.encode_place(admission.place),
            "expires_at": protocol.rfc3339(identity.expires_at),
            **recovery,
        }
        self._say(protocol.connection_established(data))
        told = "".join(f" {name}={value}" for name, value in recovery.items())
        whose = f"user={admission.user_id} topic={subscriber.topic}"
        log.info("open connection=%s %s%s", self._connection_id, whose, told)

    def _token(self) -> str | None:
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        return token_from_request(
            self.query("token"),
            self.request.headers.get("Authorization"),
            [name.strip() for name in offered],
        )

    async def _topic_and_bot(self, subject: str, *path: str) -> tuple[str, str | None]:
        """The topic that the address asks for, and the bot that has to be authorized for it."""
        raise NotImplementedError

    def _describe(self, admission: Admission) -> dict[str, Any]:
        """What `connection_established` says on this endpoint alone."""
        raise NotImplementedError

    # What the client says.

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        if self._sink is None or self._sink.is_closed or self._limit is None:
            return None
        if isinstance(message, bytes):
            self._sink.close(CloseCode.UNSUPPORTED_DATA, "binary frames are not understood here")
            return None
        try:
            if self._is_within_limit(self._limit):
                return self._on_client_message(protocol.decode_client_message(message))
        except MessageError as error:
            self._say(protocol.error(error.code, error.message))
        except Exception:
            # As in `open`: nothing that a client sends may end more than its own socket.
            log.exception("connection=%s failed on a message", self._connection_id)
            self._sink.close(CloseCode.INTERNAL_ERROR, "unexpected server error")
        return None

    def _is_within_limit(self, limit: RateLimit) -> bool:
        verdict = limit.judge()
        if verdict is Verdict.REFUSE:
            raise MessageError(ErrorCode.RATE_LIMITED, "too many messages; this one was dropped")
        if verdict is Verdict.DISCONNECT and self._sink is not None:
            self._sink.close(CloseCode.POLICY_VIOLATION, "kept sending above the rate limit")
        return verdict is Verdict.ACCEPT

    def _on_client_message(self, message: protocol.ClientMessage) -> Awaitable[None] | None:
        """Answer what both endpoints understand."""
        match message:
            case protocol.Ping(timestamp):
                now = protocol.rfc3339(self._services.clock())
                assert self._subscriber is not None
                place = self._services.hub.place_of(self._subscriber)
                self._say(protocol.pong(now if timestamp is None else timestamp, place))
            case protocol.Authenticate(token) if self._token_life is not None:
                return self._token_life.refresh(token)
            case _:
                raise MessageError(ErrorCode.UNKNOWN_TYPE, "this message type is for chats only")
        return None

    def _say(self, message: bytes) -> None:
        if self._sink is not None:
            self._sink.send(frame([message]))

    # The end.

    def end(self, code: int, reason: str) -> None:
        if self._sink is not None:
            self._sink.close(code, reason)

    def _close(self, code: int, reason: str) -> None:
        log.info("close connection=%s code=%d reason=%r", self._connection_id, code, reason)
        if self._subscriber is not None:
            self._subscriber.stop()
        protocol_of_socket, self.ws_connection = self.ws_connection, None
        if isinstance(protocol_of_socket, ExplainingProtocol):
            protocol_of_socket.finish(code, reason)

    def _is_gone(self) -> bool:
        return self.ws_connection is None or self.ws_connection.is_closing()

    def on_close(self) -> None:
        if self._token_life is not None:
            self._token_life.end()
        if self._entering is not None:
            self._entering.cancel()
        if self._subscriber is not None:
            self._services.hub.unsubscribe(self._subscriber)
        log.info("gone connection=%s code=%s", self._connection_id, self.close_code)


class ChatSocket(RelaySocket):
    """`/api/ws/chat/{bot_id}`: everything that happens on one bot."""

    _bot_id = ""

    async def _topic_and_bot(self, subject: str, *path: str) -> tuple[str, str | None]:
        bot_id = protocol.canonical_uuid(path[0])
        if bot_id is None:
            raise Refused(CloseCode.ACCESS_DENIED, "bot not found or access denied")
        self._bot_id = bot_id
        return protocol.bot_topic(bot_id), bot_id

    def _describe(self, admission: Admission) -> dict[str, Any]:
        return {"bot_id": self._bot_id, "bot_name": admission.bot_name, "role": admission.role}

    def _on_client_message(self, message: protocol.ClientMessage) -> Awaitable[None] | None:
        assert self._subscriber is not None
        match message:
            case protocol.Typing(is_typing):
                self._services.typing.said(self._subscriber, self._bot_id, is_typing)
            case protocol.SessionSync(session_id):
                now = self._services.clock()
                self._say(protocol.session_synced(session_id, self._bot_id, now))
            case _:
                return super()._on_client_message(message)
        return None

    def on_close(self) -> None:
        super().on_close()
        if self._subscriber is not None and self._subscriber.user_id is not None:
            self._services.typing.left(self._subscriber, self._bot_id)


class NotificationsSocket(RelaySocket):
    """`/api/ws/notifications`: what concerns one user."""

    async def _topic_and_bot(self, subject: str, *path: str) -> tuple[str, str | None]:
        if self._services.settings.jwt_subject == "id":
            user_id = protocol.canonical_uuid(subject)
        else:
            # The topic has the id in its name, which only the database knows.
            user_id = (await self._services.access.admit(subject, None)).user_id
        if user_id is None:
            raise Refused(CloseCode.UNAUTHENTICATED, "user unknown or deactivated")
        return protocol.user_topic(user_id), None

    def _describe(self, admission: Admission) -> dict[str, Any]:
        return {"connection_type": "notifications"}
