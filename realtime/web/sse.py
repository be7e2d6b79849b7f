"""Events over HTTP, for clients without WebSockets: `EventSource` in browsers, `curl`, a script.

Such a client says nothing after its request, so this is a conversation in which only the server
speaks, as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html). The
answer has no length and no chunks: it ends with its connection, which HTTP/1.0 knows too. A refusal
is an HTTP status, for there is no close code before the answer has begun.
"""

import asyncio
import json
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import Application

from realtime.auth.tokens import token_from_request
from realtime.relay import closing
from realtime.relay.closing import CloseCode
from realtime.relay.errors import Refused
from realtime.relay.protocol import Message, canonical_uuid
from realtime.web.conversation import Conversation, HandshakeRequest
from realtime.web.handlers import JsonHandler, http_status, refusal_headers
from realtime.web.joining import require_few, require_room
from realtime.web.services import Services
from realtime.web.sink import SocketSink
from realtime.web.sockets import ChatConversation, NotificationsConversation
from realtime.web.stream import ClientStream, give_up_after, take_over

CLOSE_SECONDS = 5.0
"""How long the rest of an answer may take after its end was decided; then the line is cut."""
PATIENCE_SECONDS = 5.0
"""How much longer than two pings the kernel waits. A client that is there is told why it ends."""
MAX_HEARD_BYTES = 65_536
"""How much a client may send after its request. Nothing is needed, and all of it is discarded."""
RETRY_SECONDS = (1.0, 4.0)
"""How long a client waits before it comes back is between these, for each a time of its own."""
_COMES_BACK = frozenset({CloseCode.GOING_AWAY, CloseCode.INTERNAL_ERROR, CloseCode.TRY_AGAIN_LATER})
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    # A proxy must neither keep, nor compress, nor collect what is to be seen at once.
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}


class EventSink(SocketSink):
    """Sends events to one client."""

    __slots__ = ()

    @staticmethod
    def frame(messages: Iterable[Message]) -> bytes:
        """Each message as an event; `id` is its cursor, which the browser sends when it returns."""
        parts: list[bytes] = []
        for text, cursor in messages:
            if cursor:
                parts.append(_id_field(cursor))
            # JSON has line ends between its parts only, where a blank is as good.
            is_one_line = b"\n" not in text and b"\r" not in text
            parts += (b"data: ", text if is_one_line else text.translate(_LINE_ENDS), b"\n\n")
        return b"".join(parts)

    @staticmethod
    def frame_part(part: Message, *, is_first: bool, is_last: bool) -> bytes:
        """A part of an event."""
        start = (_id_field(part.cursor) if part.cursor else b"") + b"data: " if is_first else b""
        return start + part.text.translate(_LINE_ENDS) + (b"\n\n" if is_last else b"")


def _id_field(cursor: str) -> bytes:
    return f"id: {cursor}\n".encode()


def ping_comment(cursor: str | None) -> bytes:
    """A comment, which keeps the connection open; a new cursor goes with it, and is no event."""
    return b":\n" + (_id_field(cursor) if cursor else b"") + b"\n"


class EventStream:
    """The answer to one request: the events, or a refusal.

    Args:
        connection: non-blocking; nothing of the answer was sent.
        headers: those of every answer here.
    """

    def __init__(
        self,
        connection: socket.socket,
        conversation: "EventConversation",
        services: Services,
        headers: Mapping[str, str],
    ) -> None:
        self.stream = ClientStream(connection, services.settings.send_buffer_bytes, services.loop)
        self._conversation = conversation
        self._services = services
        self._headers = headers
        self._has_begun = False
        self._heard_bytes = 0
        self._limit: asyncio.TimerHandle | None = None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Nobody answers a comment, so the kernel has to notice that the client is gone.
        give_up_after(connection, 2 * services.intervals.ping + PATIENCE_SECONDS)
        self.stream.begin(self)

    def start(self) -> None:
        """Nothing: what the client says is discarded."""

    def data_received(self, data: bytes) -> None:
        self._heard_bytes += len(data)
        if self._heard_bytes > MAX_HEARD_BYTES:
            self.drop()  # it would go on for ever, at the cost of the others

    def head(self) -> bytes:
        """The head of an answer with events. From now on there is no refusal any more."""
        self._has_begun = True
        return _head(HTTPStatus.OK, {**self._headers, **STREAM_HEADERS}) + self._retry() + b"\n"

    def _retry(self) -> bytes:
        """How long the client should wait before it comes back, in milliseconds."""
        least, most = RETRY_SECONDS
        spread = least + (most - least) * self._services.random()
        return b"retry: %d\n" % (1000 * (self._services.status.retry_after + spread))

    def send_close(self, code: int, reason: str) -> None:
        """End the answer: with an event that says why, or with a refusal."""
        if self.stream.closed():
            return
        # It is the last that is sent, and must find room behind what waits.
        self.stream.max_waiting = None
        last = self._last_words(code, reason)
        self._limit = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.drop)
        self._services.room.add_closing(self)
        self.stream.write(last)
        self.stream.end_output()

    def _last_words(self, code: int, reason: str) -> bytes:
        if not self._has_begun:
            return self._refusal(code, reason)
        if self._conversation.is_within_message:
            return b""  # the client discards what it has of the message
        return self._close_event(code, reason)

    def _close_event(self, code: int, reason: str) -> bytes:
        retry = self._retry() if code in _COMES_BACK else b""
        data = json.dumps({"code": code, "reason": reason}, ensure_ascii=False)
        return retry + f"event: close\ndata: {data}\n\n".encode()

    def _refusal(self, code: int, reason: str) -> bytes:
        status = http_status(code)
        body = json.dumps({"error": reason}).encode() + b"\n"
        more = {"Content-Length": str(len(body)), **refusal_headers(status)}
        return _head(status, {**self._headers, **more}) + body

    def drop(self) -> None:
        """End the connection now."""
        self.stream.close()

    def connection_lost(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._services.room.remove(self)
        # An HTTP client that leaves can only end the connection; one that was cut has an error.
        left = None if self.stream.is_broken else CloseCode.NORMAL
        self._conversation.on_ws_connection_close(left)


def _head(status: HTTPStatus, headers: Mapping[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} {status.phrase}\r\n{fields}Connection: close\r\n\r\n"
    return head.encode("latin-1")


class EventConversation(Conversation):
    """A conversation in which only the server speaks; its endpoint is a subclass."""

    __slots__ = ()
    _connection: EventStream
    is_over_http = True

    def _make_sink(self, stream: ClientStream) -> SocketSink:
        return EventSink(stream, self._on_close)

    @property
    def is_within_message(self) -> bool:
        """Whether a message is begun that is not sent completely."""
        return self._sink.is_within_message

    def _establish(self, *told: Any) -> None:
        self._sink.send(self._connection.head())
        super()._establish(*told)

    def ping(self) -> None:
        """Send a comment, or close: the client has taken nothing of what waits for long."""
        has_moved = self._note_taken()
        if self._sink.is_idle:
            assert self._subscriber is not None
            self._sink.send(ping_comment(self._services.hub.cursor_of(self._subscriber)))
        elif self._is_stuck and not has_moved:
            self.close(*closing.TOO_SLOW)
        self._is_stuck = not (self._sink.is_idle or has_moved)


class ChatEvents(EventConversation, ChatConversation):
    """`/api/sse/chat/{bot_id}`."""

    __slots__ = ()


class NotificationsEvents(EventConversation, NotificationsConversation):
    """`/api/sse/notifications`."""

    __slots__ = ()


class EventsHandler(JsonHandler):
    """GET and HEAD of the addresses that send events."""

    def __init__(
        self,
        application: Application,
        request: HTTPServerRequest,
        *,
        services: Services,
        kind: type[EventConversation],
    ) -> None:
        self._kind = kind
        super().__init__(application, request, services=services)

    def prepare(self) -> None:
        self.require_origin()

    def get(self, *path: str) -> None:
        headers = dict(self._headers.get_all())
        connection, _ = take_over(self.detach())
        if connection is None:
            return
        conversation = self._kind(self._services)
        # Its cycle would keep this handler, its request and all until the collector comes by.
        self.ui.clear()
        stream = EventStream(connection, conversation, self._services, headers)
        self._services.openings.start(conversation, conversation.open(stream, self._asked(path)))

    async def head(self, *path: str) -> None:
        """Who may not come in is told so; nothing is opened."""
        subject = (await self.token_identity()).subject
        bot_id = canonical_uuid(path[0]) if path else None
        async with self.refusing():
            if path and bot_id is None:
                raise Refused(*closing.ACCESS_DENIED)
            require_room(self._services)
            with self._services.room.joining(subject):
                admission = await self._services.access.authorize(subject, bot_id)
            require_few(self._services, admission)
        headers = {**dict(self._headers.get_all()), **STREAM_HEADERS}
        stream = self.detach()
        with suppress(StreamClosedError):
            await stream.write(_head(HTTPStatus.OK, headers))
        stream.close()

    def _asked(self, path: tuple[str, ...]) -> HandshakeRequest:
        header, parameter = self.request.headers.get("Last-Event-ID"), self.query("cursor")
        return HandshakeRequest(
            path,
            token_from_request(self.query("token"), self.request.headers.get("Authorization"), []),
            header or parameter,
            # The header comes from the browser: it does not say that the page knows `resync`.
            knows_cursors=parameter is not None,
            wants_presence=self.query("presence") == "true",
        )
