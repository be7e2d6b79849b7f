"""The WebSocket endpoints: a bot's chat, a user's notifications, and many of these on one socket.

`Sockets` opens a socket on a connection, whoever has read its request: the entrance, which is the
usual way, or Tornado. A refusal completes the handshake and then closes with a code, because a
browser shows its script nothing of a refused handshake.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable
from typing import Any, NamedTuple, NoReturn

from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from realtime.auth.tokens import token_from_request
from realtime.relay import closing, protocol
from realtime.relay.admission import Admission
from realtime.relay.errors import Refused
from realtime.relay.subscriber import Subscriber
from realtime.web.conversation import Conversation, HandshakeRequest
from realtime.web.handlers import CarefulHandler, log_foreign_origin
from realtime.web.multiplex import MultiConversation
from realtime.web.services import Services
from realtime.web.stream import ClientStream, take_over
from realtime.web.upgrade import FOREIGN_ORIGIN, VERSION, BadUpgrade, Upgrade, check_upgrade
from realtime.web.websocket import WebSocket

CORKED_SECONDS = 0.5
"""The answer to a handshake goes with the first message, but it waits no longer than twice this."""


class SocketRoute(NamedTuple):
    """An address of WebSockets. The parts in brackets name the topic."""

    address: re.Pattern[str]
    kind: type[Conversation]


class Sockets:
    """Opens the sockets of one process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        base = re.escape(services.settings.base_path)
        self.routes = (
            SocketRoute(re.compile(f"{base}/api/ws/chat/([^/]+)"), ChatConversation),
            SocketRoute(re.compile(f"{base}/api/ws/notifications"), NotificationsConversation),
            SocketRoute(re.compile(f"{base}/api/ws"), MultiConversation),
        )
        self._corked: list[ClientStream] = []

    def check(self, upgrade: Upgrade) -> BadUpgrade | None:
        """Say what is wrong with a handshake; None: nothing is."""
        return check_upgrade(upgrade.headers, self._services.settings.allowed_origins)

    def find(self, path: str) -> tuple[type[Conversation], tuple[str, ...]] | None:
        """The kind of socket at an address, and the parts of it that name the topic."""
        for route in self.routes:
            if match := route.address.fullmatch(path):
                return route.kind, match.groups()
        return None

    def open(
        self,
        connection: socket.socket,
        upgrade: Upgrade,
        kind: type[Conversation],
        path: tuple[str, ...],
        early: bytes = b"",
    ) -> None:
        """Complete the handshake, and let the client in or refuse it.

        Args:
            connection: non-blocking; from now on this owns it.
            path: the parts of the address that name the topic.
            early: what the client has sent behind its request.
        """
        settings = self._services.settings
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = ClientStream(connection, settings.send_buffer_bytes, self._services.loop)
        stream.cork(upgrade.answer())
        self._corked.append(stream)
        conversation = kind(self._services)
        opened = WebSocket(
            stream,
            conversation,
            self._services.room,
            max_message=settings.max_message_bytes,
            early=early,
        )
        self._services.openings.start(
            conversation, conversation.open(opened, _request(upgrade, path))
        )

    async def run(self) -> NoReturn:
        """Send the answers for which nothing has come to send with them, until cancelled."""
        older: list[ClientStream] = []
        while True:
            await asyncio.sleep(CORKED_SECONDS)
            for stream in older:
                stream.flush()
            older, self._corked = self._corked, []


def _request(upgrade: Upgrade, path: tuple[str, ...]) -> HandshakeRequest:
    query, headers = upgrade.query, upgrade.headers
    token = token_from_request(
        query.get("token"), headers.get("authorization"), upgrade.subprotocols
    )
    return HandshakeRequest(
        path,
        token,
        query.get("cursor"),
        knows_cursors="cursor" in query,
        wants_presence=query.get("presence") == "true",
    )


class SocketHandler(CarefulHandler):
    """The handler of a handshake that Tornado has read: one that is not plain, or has an error."""

    def __init__(
        self,
        application: Application,
        request: HTTPServerRequest,
        *,
        sockets: Sockets,
        kind: type[Conversation],
    ) -> None:
        super().__init__(application, request)
        self._sockets = sockets
        self._kind = kind

    def get(self, *path: str) -> None:
        upgrade = self._upgrade()
        bad = self._check(upgrade)
        if bad is None:
            # Its cycle would keep this handler, its request and all until the collector comes by.
            self.ui.clear()
            connection, early = take_over(self.detach())
            if connection is not None:
                self._sockets.open(connection, upgrade, self._kind, path, early)
            return
        self._refuse(bad)

    def head(self, *path: str) -> None:
        """What GET answers who asks for no WebSocket; nothing is opened."""
        bad = self._check(self._upgrade())
        self._refuse(bad or BadUpgrade(400, "a WebSocket handshake is a GET"))

    def _refuse(self, bad: BadUpgrade) -> None:
        self.set_status(bad.status)
        if bad.error == FOREIGN_ORIGIN:
            log_foreign_origin(self.request.headers.get("Origin"))
        if bad.status == 426:
            self.set_header("Upgrade", "websocket")
            self.set_header("Sec-WebSocket-Version", VERSION)
        self.finish({"error": bad.error})

    def _upgrade(self) -> Upgrade:
        request = self.request
        query = {name: self.query(name) or "" for name in request.query_arguments}
        return Upgrade(
            request.path, query, {name.lower(): text for name, text in request.headers.items()}
        )

    def _check(self, upgrade: Upgrade) -> BadUpgrade | None:
        if self.request.version != "HTTP/1.1":
            return BadUpgrade(400, "a WebSocket handshake needs HTTP/1.1")
        if self.request.body:
            return BadUpgrade(400, "a WebSocket handshake has no body")
        return self._sockets.check(upgrade)


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
