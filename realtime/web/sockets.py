"""The two WebSocket endpoints: a bot's chat, and a user's notifications.

A handler lives for the handshake alone. It and its request are larger than all that an open socket
needs, which is a `Conversation`. A refusal completes the handshake and then closes with a code,
because a browser shows its script nothing of a refused handshake.
"""

from collections.abc import Awaitable
from typing import Any, ClassVar

from tornado.httputil import HTTPServerRequest
from tornado.web import Application
from tornado.websocket import WebSocketHandler, _WebSocketParams

from realtime.auth.tokens import token_from_request
from realtime.relay import closing, protocol
from realtime.relay.admission import Admission
from realtime.relay.errors import Refused
from realtime.relay.subscriber import Subscriber
from realtime.web.conversation import Conversation, HandshakeRequest
from realtime.web.handlers import CarefulHandler
from realtime.web.services import Services
from realtime.web.upgrade import VERSION, check_upgrade
from realtime.web.websocket import ExplainingProtocol


class RelaySocket(CarefulHandler, WebSocketHandler):
    """The handler of a handshake; each endpoint is a subclass."""

    kind: ClassVar[type[Conversation]]
    ws_connection: ExplainingProtocol | None

    def __init__(
        self,
        application: Application,
        request: HTTPServerRequest,
        *,
        services: Services,
        parameters: _WebSocketParams,
    ) -> None:
        super().__init__(application, request)
        self._services = services
        self._parameters = parameters

    def prepare(self) -> None:
        if self.request.method != "GET":
            return  # Tornado answers 405
        bad = check_upgrade(self.request, self._services.settings.allowed_origins)
        # Some versions of Tornado have rules of their own for it; `Origin` alone decides here.
        self.request.headers.pop("Sec-Fetch-Site", None)
        if bad is not None:
            self.set_status(bad.status)
            if bad.status == 426:
                self.set_header("Upgrade", "websocket")
                self.set_header("Sec-WebSocket-Version", VERSION)
            self.finish({"error": bad.error})

    def check_origin(self, origin: str) -> bool:
        return True  # `prepare` has checked it; some versions of Tornado do not ask here

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "bearer" if "bearer" in subprotocols else None

    def get_websocket_protocol(self) -> ExplainingProtocol:
        return ExplainingProtocol(self.kind(self._services), self._parameters, self._services.room)

    async def open(self, *path: str) -> None:
        socket = self.ws_connection
        assert socket is not None
        assert isinstance(socket.handler, Conversation)
        self.set_nodelay(True)
        socket.stream.max_write_buffer_size = self._services.settings.send_buffer_bytes
        request = HandshakeRequest(
            path,
            self._token(),
            self.query("cursor"),
            knows_cursors="cursor" in self.request.query_arguments,
            wants_presence=self.query("presence") == "true",
        )
        # Its cycle would keep this handler, its request and all until the collector comes by.
        self.ui.clear()
        await socket.handler.open(socket, request)

    def _token(self) -> str | None:
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        return token_from_request(
            self.query("token"),
            self.request.headers.get("Authorization"),
            [name.strip() for name in offered],
        )


class ChatConversation(Conversation):
    """`/api/ws/chat/{bot_id}`: everything that happens on one bot."""

    __slots__ = ("_bot_id",)
    _bot_id: str

    async def _topic_and_bot(self, subject: str, *path: str) -> tuple[str, str | None]:
        bot_id = protocol.canonical_uuid(path[0])
        if bot_id is None:
            raise Refused(*closing.ACCESS_DENIED)
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
                self._send(protocol.session_synced(session_id, self._bot_id, now))
            case _:
                return super()._on_client_message(message)
        return None

    def _unsubscribe(self, subscriber: Subscriber) -> None:
        super()._unsubscribe(subscriber)
        if subscriber.user_id is not None:
            self._services.typing.left(subscriber, self._bot_id)


class NotificationsConversation(Conversation):
    """A conversation on `/api/ws/notifications`: what concerns one user."""

    __slots__ = ()

    async def _topic_and_bot(self, subject: str, *path: str) -> tuple[str, str | None]:
        if self._services.settings.jwt_subject == "id":
            user_id = protocol.canonical_uuid(subject)
        else:
            # The topic has the id in its name, which only the database knows.
            user_id = (await self._services.access.authorize(subject, None)).user_id
        if user_id is None:
            raise Refused(*closing.USER_UNKNOWN)
        return protocol.user_topic(user_id), None

    def _describe(self, admission: Admission) -> dict[str, Any]:
        return {"connection_type": "notifications"}


class ChatSocket(RelaySocket):
    """The handler of `/api/ws/chat/{bot_id}`."""

    kind = ChatConversation


class NotificationsSocket(RelaySocket):
    """The handler of `/api/ws/notifications`."""

    kind = NotificationsConversation
