"""`/api/ws`: many subscriptions on one socket, each with every promise of a socket of its own.

The socket itself is a subscriber, on a topic without events: a row of the log that ends all of a
user's sockets ends it, too. Each subscription is one more subscriber, whose sink writes into the
socket. So the hub treats them as it treats sockets. Where it would close one, the client is told
`unsubscribed`, and the socket stays.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from realtime.relay import closing, protocol
from realtime.relay.admission import Admission
from realtime.relay.cursor import Cursor
from realtime.relay.errors import ErrorCode, MessageError, Refused
from realtime.relay.owed import Owed
from realtime.relay.protocol import Message, Subscribe, Target
from realtime.relay.rate_limit import SHORT, RateLimit, RateVerdict
from realtime.relay.resume import Missed
from realtime.relay.subscriber import HoldLimit, SendNow, Subscriber
from realtime.web.conversation import Connection, Conversation, HandshakeRequest
from realtime.web.joining import Joining
from realtime.web.services import Services
from realtime.web.sink import SocketSink, WebSocketSink
from realtime.web.socket_log import socket_line

log = logging.getLogger("realtime.socket")


class SharedSocket:
    """What the subscriptions of one socket share.

    Args:
        sink: the way to the socket.
        hold: how many bytes may be held, by all of them together.
    """

    __slots__ = ("_borrowers", "hold", "sink")

    def __init__(self, sink: SocketSink, hold: HoldLimit) -> None:
        self.sink = sink
        self.hold = hold
        self._borrowers: dict[Subscription, Callable[[], None]] = {}

    def lend(self, borrower: "Subscription", withdraw: Callable[[], None]) -> SendNow | None:
        """As `SocketSink.lend`, but to many at once."""
        send = self.sink.lend(self._take_back)
        if send is not None:
            self._borrowers[borrower] = withdraw
        return send

    def forget(self, borrower: "Subscription") -> None:
        """It uses nothing that was lent any more."""
        self._borrowers.pop(borrower, None)

    def _take_back(self) -> None:
        borrowers, self._borrowers = self._borrowers, {}
        for withdraw in borrowers.values():
            withdraw()


class Subscription(WebSocketSink):
    """One of a socket's subscriptions: a subscriber, and its sink.

    Args:
        target: what it is to.
        subscriber: given this sink.
        on_close: called once, where it ends before the socket does.
    """

    __slots__ = (
        "_is_closed",
        "_is_released",
        "_on_close",
        "_shared",
        "_task",
        "is_within_message",
        "subscriber",
        "target",
    )
    subscriber: Subscriber

    def __init__(
        self,
        target: Target,
        shared: SharedSocket,
        on_close: Callable[["Subscription", int, str], None],
    ) -> None:
        self.target = target
        self._shared = shared
        self._on_close = on_close
        self._is_closed = False
        self._is_released = False
        self.is_within_message = False
        """Whether it has begun a message of which parts are still to come."""
        self._task: asyncio.Task[None] | None = None

    def start(self, joining: Coroutine[Any, Any, None]) -> None:
        """Join in a task of its own, which ends with the subscription."""
        self._task = asyncio.create_task(joining)
        self._task.add_done_callback(lambda _: self._let_go())

    def end(self) -> None:
        """Nothing more is sent to it, but the rest of a message: nothing else can follow half."""
        self._is_closed = True
        self._shared.forget(self)
        is_own_task = self._task is asyncio.current_task()
        if self._task is not None and not is_own_task and not self.is_within_message:
            self._task.cancel()

    def release(self) -> None:
        """Drop the subscriber, which has this, once nothing more is done for it.

        Else both would be kept until the collector comes by, which is seldom.
        """
        self._is_released = True
        self._let_go()

    def _let_go(self) -> None:
        is_at_work = self._task is not None and not self._task.done()
        if self._is_released and not is_at_work and hasattr(self, "subscriber"):
            del self.subscriber

    # As a sink.

    def send(self, frames: bytes) -> None:
        if not self._is_closed:
            self._shared.sink.send(frames)

    def send_rest(self, frames: bytes, sent: int) -> None:
        self._shared.sink.send_rest(frames, sent)

    def send_part(self, part: Message, *, is_first: bool, is_last: bool) -> None:
        self.is_within_message = not is_last
        self._shared.sink.send_part(part, is_first=is_first, is_last=is_last)

    def break_off(self, code: int, reason: str) -> None:
        # Nothing but the rest may follow on the socket, for any of its subscriptions.
        self._shared.sink.break_off(code, reason)

    @property
    def turn(self) -> asyncio.Lock:
        return self._shared.sink.turn

    def lend(self, withdraw: Callable[[], None]) -> SendNow | None:
        return None if self._is_closed else self._shared.lend(self, withdraw)

    def close(self, code: int, reason: str) -> None:
        if not self._is_closed:
            self.end()
            self._on_close(self, code, reason)

    @property
    def is_closed(self) -> bool:
        has_ended = self._is_closed and not self.is_within_message
        return has_ended or self._shared.sink.is_closed

    @property
    def is_idle(self) -> bool:
        return self._shared.sink.is_idle

    @property
    def waiting_bytes(self) -> int:
        return 0  # they count as the socket's

    @property
    def taken_bytes(self) -> int:
        return self._shared.sink.taken_bytes

    async def drained(self) -> None:
        await self._shared.sink.drained()


class MultiConversation(Conversation):
    """A conversation on `/api/ws`."""

    __slots__ = ("_shared", "_subject", "_subscribing_limit", "_subscriptions")
    has_cursor = False
    _shared: SharedSocket
    _subject: str

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._subscriptions: dict[Target, Subscription] = {}
        self._subscribing_limit: RateLimit | None = None

    # The handshake.

    def open(
        self, connection: Connection, request: HandshakeRequest
    ) -> Coroutine[None, None, None]:
        return super().open(connection, request._replace(cursor=None))

    async def _topic_and_bot(self, subject: str, *path: str) -> tuple[str, str | None]:
        self._subject = subject
        return protocol.SOCKET_TOPIC, None

    def _make_subscriber(self, topic: str, request: HandshakeRequest) -> Subscriber:
        hold = HoldLimit(self._services.settings.send_buffer_bytes)
        self._shared = SharedSocket(self._sink, hold)
        return Subscriber(
            topic,
            self._connection_id,
            self._sink,
            opened_at=self._services.clock(),
            hold=hold,
            knows_cursors=True,  # it has none, but it misses nothing either
        )

    def _describe(self, admission: Admission) -> dict[str, Any]:
        return {"connection_type": "multi"}

    # What the client says.

    def _on_text(self, text: str, length: int) -> Awaitable[None] | None:
        # The rate of subscribing is for no longer messages: so many characters are enough.
        if length <= SHORT and 'subscribe"' in text:
            verdict = self._judge_subscribing()
        elif self._admit(length):
            verdict = RateVerdict.ACCEPT
        else:
            return None
        target, message = protocol.decode_multi_message(text)
        try:
            if verdict is RateVerdict.ACCEPT or self._ends_one(target, message):
                return self._on_message_about(target, message)
            self._on_subscribing_too_often(target, message)
        except MessageError as error:
            error.target = target
            raise
        return None

    def _judge_subscribing(self) -> RateVerdict:
        """Count a message that is probably `subscribe` or `unsubscribe`: they have their own rate.

        Each subscription begins and ends once.
        """
        settings = self._services.settings
        if self._subscribing_limit is None:
            self._subscribing_limit = RateLimit(
                settings.messages_per_second,
                2 * settings.max_subscriptions,
                self._services.monotonic,
            )
        verdict = self._subscribing_limit.judge()
        if verdict is RateVerdict.DISCONNECT:
            self.close(*closing.RATE_LIMITED)
        return verdict

    def _ends_one(self, target: Target | None, message: protocol.MultiMessage) -> bool:
        """Whether this message above the rate is obeyed: each `subscribe` has paid for its end.

        Refused, it would leave a subscription of which the client knows nothing any more.
        """
        if not isinstance(message, protocol.Unsubscribe) or target not in self._subscriptions:
            return False
        assert self._subscribing_limit is not None
        self._subscribing_limit.forgive()
        return True

    def _on_subscribing_too_often(
        self, target: Target | None, message: protocol.MultiMessage
    ) -> None:
        if isinstance(message, Subscribe) and target not in self._subscriptions:
            assert target is not None
            self._send(protocol.unsubscribed(target, *closing.SUBSCRIBING_TOO_OFTEN))
        else:
            raise MessageError(ErrorCode.RATE_LIMITED, "too many messages; this one was dropped")

    def _on_message_about(
        self, target: Target | None, message: protocol.MultiMessage
    ) -> Awaitable[None] | None:
        match message:
            case Subscribe() if target is not None:
                self._subscribe(target, message)
            case protocol.Unsubscribe() if target is not None:
                self._named(target).close(*closing.UNSUBSCRIBED)
            case protocol.Ping(timestamp):
                self._on_ping(target, timestamp)
            case protocol.Typing(is_typing) if target is not None and target.bot_id is not None:
                subscriber = self._named(target).subscriber
                self._services.typing.said(subscriber, target.bot_id, is_typing)
            case protocol.SessionSync(session_id) if (
                target is not None and target.bot_id is not None
            ):
                self._named(target)
                now = self._services.clock()
                self._send(protocol.session_synced(session_id, target.bot_id, now, target))
            case protocol.Authenticate():
                return super()._on_client_message(message)
        return None

    def _named(self, target: Target) -> Subscription:
        found = self._subscriptions.get(target)
        if found is None:
            raise MessageError(ErrorCode.NOT_SUBSCRIBED, "this socket has no such subscription")
        return found

    def _on_ping(self, target: Target | None, timestamp: str | float | None) -> None:
        found = None if target is None else self._subscriptions.get(target)
        cursor = None if found is None else self._services.hub.cursor_of(found.subscriber)
        now = protocol.rfc3339(self._services.clock())
        self._send(protocol.pong(now if timestamp is None else timestamp, cursor, target))

    # Subscribing.

    def _subscribe(self, target: Target, message: Subscribe) -> None:
        if target in self._subscriptions:
            raise MessageError(ErrorCode.ALREADY_SUBSCRIBED, "there is such a subscription already")
        if len(self._subscriptions) >= self._services.settings.max_subscriptions:
            self._send(protocol.unsubscribed(target, *closing.TOO_MANY_SUBSCRIPTIONS))
            return
        if target.bot_id is not None and protocol.canonical_uuid(target.bot_id) is None:
            self._send(protocol.unsubscribed(target, *closing.ACCESS_DENIED))
            return
        subscription = self._make_subscription(target, message)
        self._subscriptions[target] = subscription
        join = partial(self._start_joining, subscription, message.cursor)
        self._services.room.subscribing.add(self._subject, subscription, join)

    def _start_joining(self, subscription: Subscription, cursor: str | None) -> None:
        work = partial(self._join_topic, subscription, cursor)
        subscription.start(self._or_end(subscription, work))

    def _make_subscription(self, target: Target, message: Subscribe) -> Subscription:
        assert self._subscriber is not None
        user_id = self._subscriber.user_id or ""
        subscription = Subscription(target, self._shared, self._on_subscription_close)
        subscription.subscriber = Subscriber(
            protocol.user_topic(user_id)
            if target.bot_id is None
            else protocol.bot_topic(target.bot_id),
            self._services.new_id(),
            subscription,
            opened_at=self._services.clock(),
            hold=self._shared.hold,
            socket_id=self._connection_id,
            knows_cursors=message.cursor is not None,
            wants_presence=message.wants_presence and target.bot_id is not None,
            catch_up=partial(self._catch_up_with, subscription),
        )
        return subscription

    async def _or_end(
        self, subscription: Subscription, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do something for a subscription; whatever goes wrong ends it, and says why.

        Args:
            work: called only here: the subscription may end before this begins.
        """
        try:
            await work()
        except Refused as refused:
            subscription.close(refused.code, refused.reason)
        except Exception:
            # As in `_or_close`: it ends this subscription, and no other.
            log.exception(
                socket_line("subscription_failed", self._connection_id, subscription.subscriber)
            )
            subscription.close(*closing.SERVER_ERROR)

    async def _join_topic(self, subscription: Subscription, cursor: str | None) -> None:
        joining = self._make_joining(subscription)
        try:
            admission = await self._authorize_one(joining, subscription)
        finally:
            self._services.room.subscribing.remove(self._subject, subscription)
        if admission is None:
            return
        assert self._subscriber is not None
        if admission.user_id != self._subscriber.user_id:
            self.close(*closing.USER_RENAMED)  # the token's name is somebody else's now
            return
        recovery, missed = await joining.recover(cursor, admission)
        self._tell_subscribed(subscription, admission, recovery)
        await joining.go_live(admission.cursor, missed)

    async def _authorize_one(
        self, joining: Joining, subscription: Subscription
    ) -> Admission | None:
        began = self._services.monotonic()
        try:
            return await joining.authorize()
        except Refused:
            self._services.hub.stop(subscription.subscriber)
            await self._services.refuse_evenly(began)
            raise

    def _catch_up_with(self, subscription: Subscription, owed: Owed, since: Cursor) -> None:
        work = partial(self._make_joining(subscription).go_live, since, Missed(owed=owed))
        subscription.start(self._or_end(subscription, work))

    def _make_joining(self, subscription: Subscription) -> Joining:
        return Joining(
            self._services,
            subscription.subscriber,
            subscription,
            subject=self._subject,
            bot_id=subscription.target.bot_id,
        )

    def _tell_subscribed(
        self, subscription: Subscription, admission: Admission, recovery: dict[str, Any]
    ) -> None:
        is_bot = subscription.target.bot_id is not None
        described = {"bot_name": admission.bot_name, "role": admission.role} if is_bot else {}
        cursor = self._services.cursor_text(admission.cursor, subscription.subscriber.topic)
        data = {**described, "cursor": cursor, **recovery}
        self._send(protocol.subscribed(subscription.target, data))
        log.info(
            socket_line(
                "subscription_opened", self._connection_id, subscription.subscriber, **recovery
            )
        )

    # The end, of one or of all.

    def _on_subscription_close(self, subscription: Subscription, code: int, reason: str) -> None:
        if self._sink.is_closed:
            return  # it goes with the socket
        del self._subscriptions[subscription.target]
        subscriber = subscription.subscriber
        self._release(subscription)
        self._send(protocol.unsubscribed(subscription.target, code, reason))
        log.info(
            socket_line(
                "subscription_ended",
                self._connection_id,
                subscriber,
                code=code,
                reason=reason,
            )
        )

    def _end(self, subscription: Subscription) -> None:
        subscription.end()
        self._services.room.subscribing.remove(self._subject, subscription)

    def _release(self, subscription: Subscription) -> None:
        self._end(subscription)
        subscriber, bot_id = subscription.subscriber, subscription.target.bot_id
        self._services.hub.unsubscribe(subscriber)
        if bot_id is not None and subscriber.user_id is not None:
            self._services.typing.left(subscriber, bot_id)
        subscription.release()

    def _on_close(self, code: int, reason: str) -> None:
        # The last first: so none of those that wait begins to join in the place of another.
        for subscription in reversed(self._subscriptions.values()):
            self._end(subscription)
            self._services.hub.stop(subscription.subscriber)
        super()._on_close(code, reason)

    def _unsubscribe(self, subscriber: Subscriber) -> None:
        super()._unsubscribe(subscriber)
        ended, self._subscriptions = self._subscriptions, {}
        for subscription in reversed(ended.values()):  # as in `_on_close`
            self._release(subscription)
