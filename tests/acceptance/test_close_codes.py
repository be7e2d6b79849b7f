"""Every close code of the protocol, as a client meets it on a real socket."""

from __future__ import annotations

import socket as sockets
import struct
from contextlib import suppress

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClosedError

from realtime.auth.tokens import mint_token
from tests.commands import free_port
from tests.platform import Platform
from tests.serving import SECRET, RunningServer, StartServer, World, token
from tests.waiting import LIMIT, eventually

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.mark.gen_test
async def test_1000_a_client_that_closes_normally_is_answered_with_1000(
    server: RunningServer, world: World
) -> None:
    """And is forgotten at once."""
    guest = await server.chat(world.bot, world.guest)
    guest.close(1000)
    assert await guest.closed() == 1000
    await eventually(lambda: len(server.server.hub.subscribers) == 0)


@pytest.mark.gen_test
async def test_1001_a_server_that_is_told_to_stop_sends_everybody_away(
    server: RunningServer, world: World
) -> None:
    """Chats and notifications alike."""
    guest = await server.chat(world.bot, world.guest)
    bell = await server.notifications(world.guest)
    server.request_stop()
    assert await guest.closed() == 1001
    assert await bell.closed() == 1001


def raw_frame(opcode: int, payload: bytes, *, first_byte: int = 0x80) -> bytes:
    """A masked client frame (RFC 6455 section 5.2); the mask is zero."""
    assert len(payload) < 126
    return bytes([first_byte | opcode, 0x80 | len(payload)]) + bytes(4) + payload


class RawSocket:
    """A handshake by hand, to send what no client library would."""

    def __init__(self, server: RunningServer, path: str) -> None:
        self._socket = sockets.create_connection(("127.0.0.1", server.server.port), timeout=LIMIT)
        self._socket.setblocking(False)
        self._received = b""
        request = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._socket.sendall(request.encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    async def close_code(self) -> int:
        """Read to the end; the code of the close frame that came last."""
        await self.ended()
        tail = self._received.rpartition(b"\x88")[2]
        return int(struct.unpack("!H", tail[1:3])[0])

    async def ended(self) -> None:
        """Read to the end, however it comes."""
        await eventually(self._is_at_end)
        self._socket.close()

    def _is_at_end(self) -> bool:
        try:
            chunk = self._socket.recv(65536)
        except BlockingIOError:
            return False
        self._received += chunk
        return not chunk

    async def is_established(self) -> bool:
        return await eventually(lambda: self._is_at_end() or b"established" in self._received)


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        pytest.param(1002, raw_frame(0x1, b"x", first_byte=0xC0), id="1002-reserved-bit"),
        pytest.param(1002, raw_frame(0x3, b"x"), id="1002-unknown-opcode"),
        pytest.param(1002, raw_frame(0x0, b"x"), id="1002-continuation-of-nothing"),
        pytest.param(1002, raw_frame(0x9, b"x", first_byte=0), id="1002-fragmented-ping"),
        pytest.param(1003, raw_frame(0x2, b"x"), id="1003-binary-frame"),
        pytest.param(1007, raw_frame(0x1, b"\xff\xfe"), id="1007-not-utf-8"),
        pytest.param(
            1009, b"\x81\xff" + struct.pack("!Q", 2**40) + bytes(4), id="1009-message-too-large"
        ),
    ],
)
@pytest.mark.gen_test
async def test_a_frame_that_is_wrong_closes_with_its_code(
    server: RunningServer, world: World, code: int, bad: bytes
) -> None:
    """The code reaches the client, though it had more to send; others on the bot go on."""
    other = await server.chat(world.bot, world.owner)
    raw = RawSocket(server, f"/api/ws/chat/{world.bot}?token={token(world.guest)}")
    await raw.is_established()
    raw.send(bad + raw_frame(0x1, b'{"type":"ping"}') * 50 + raw_frame(0x8, b""))
    assert await raw.close_code() == code
    await other.caught_up()


@pytest.mark.gen_test
async def test_1008_who_keeps_sending_above_the_rate_limit_is_closed(
    start_server: StartServer, world: World
) -> None:
    """First errors, for a whole burst, then the close."""
    server = await start_server(MESSAGES_PER_SECOND="1")
    guest = await server.chat(world.bot, world.guest)
    with suppress(WebSocketClosedError):
        for _ in range(20):
            await guest.send({"type": "ping"})
    assert await guest.closed() == 1008
    assert len(guest.of_type("pong")) >= 3
    assert {one["code"] for one in guest.of_type("error")} == {"rate_limited"}


@pytest.mark.gen_test
async def test_1011_an_unexpected_error_closes_with_1011(
    server: RunningServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says nothing of what it was; nobody else notices."""
    other = await server.chat(world.bot, world.owner)
    guest = await server.chat(world.bot, world.guest)

    def fail(*_: object) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(server.server.relaying.typing, "said", fail)
    await guest.send({"type": "typing", "data": {"is_typing": True}})
    assert await guest.closed() == 1011
    assert "secret" not in (guest.reason or "")
    await other.caught_up()


@pytest.mark.gen_test
async def test_1013_a_process_that_is_full_says_try_again_later(
    start_server: StartServer, world: World
) -> None:
    """And takes the next one when somebody has left."""
    server = await start_server(MAX_CONNECTIONS="1")
    guest = await server.chat(world.bot, world.guest)
    refused = await server.open(f"/api/ws/chat/{world.bot}", world.owner)
    assert await refused.closed() == 1013
    guest.close()
    await eventually(lambda: len(server.server.hub.subscribers) == 0)
    await server.chat(world.bot, world.owner)


@pytest.mark.gen_test
async def test_1013_keys_that_cannot_be_had_are_no_reason_to_refuse_for_good(
    start_server: StartServer, world: World
) -> None:
    """The token may be good: whoever issues them does not answer at the moment."""
    key = rsa.generate_private_key(65537, 2048)
    claims = {"sub": world.guest, "exp": 4_000_000_000}
    unproven = jwt.encode(claims, key, "RS256", headers={"kid": "k"})
    nobody = f"http://127.0.0.1:{free_port()}/keys"
    server = await start_server(JWT_SECRET="", JWT_JWKS_URL=nobody)
    refused = await server.connect(server.ws_url("/api/ws/notifications", token=unproven))
    assert await refused.closed() == 1013


@pytest.mark.gen_test
async def test_4001_a_token_that_is_missing_or_bad_is_refused(
    server: RunningServer, world: World
) -> None:
    """After the handshake, with a reason, on both endpoints."""
    chat = f"/api/ws/chat/{world.bot}"
    another = mint_token("another secret, long enough for HS256!", world.guest, ttl=60, now=0)
    for path in (chat, "/api/ws/notifications"):
        for query, reason in (
            ({}, "token missing"),
            ({"token": "x"}, "token invalid"),
            ({"token": another}, "token invalid"),
            ({"token": token(world.guest, ttl=-60)}, "token expired"),
        ):
            refused = await server.connect(server.ws_url(path, **query))
            assert await refused.closed() == 4001
            assert (refused.reason, refused.messages) == (reason, [])


@pytest.mark.gen_test
async def test_4001_a_token_that_expires_on_an_open_socket_closes_it(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """After a warning, which comes at half of a short life."""
    del platform
    url = server.ws_url(f"/api/ws/chat/{world.bot}", token=token(world.guest, ttl=1))
    guest = await server.connect(url)
    established = await guest.established()
    warning = await guest.next("token_expiring")
    assert warning["data"]["expires_at"] == established["data"]["expires_at"]
    assert await guest.closed() == 4001


@pytest.mark.gen_test
async def test_with_token_expiry_handshake_a_socket_outlives_its_token(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """It is not warned, gets its events, and is closed when its user is deactivated."""
    lasting, other = await start_server(TOKEN_EXPIRY="handshake"), await start_server()
    path, of_guest = f"/api/ws/chat/{world.bot}", token(world.guest, ttl=1)
    guest = await lasting.connect(lasting.ws_url(path, token=of_guest))
    await guest.established()
    multi = await lasting.connect(lasting.ws_url("/api/ws", token=of_guest))
    events = await lasting.events(f"chat/{world.bot}", world.guest, token=of_guest)
    await events.next("connection_established")
    assert await (await other.connect(other.ws_url(path, token=of_guest))).closed() == 4001
    await multi.send({"type": "subscribe", "data": {"bot_id": world.bot}})
    await multi.next("subscribed")
    await platform.message(world.session, world.bot, world.owner, "after the token's end")
    for one in (guest, multi, events):
        await one.next("chat_message")
        assert one.of_type("token_expiring") == []
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    assert [await one.closed() for one in (guest, multi)] == [4001, 4001]
    assert (await events.ended() or {})["code"] == 4001


@pytest.mark.gen_test
async def test_4001_an_unknown_or_deactivated_user_is_refused(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """However good the token."""
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    for subject in (world.guest, NOBODY, "not a uuid", "olga"):
        for path in (f"/api/ws/chat/{world.bot}", "/api/ws/notifications"):
            assert await (await server.open(path, subject)).closed() == 4001


@pytest.mark.gen_test
async def test_4003_a_bot_that_is_unknown_or_not_permitted_is_refused(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """An address that is no UUID, a bot that is not there, and one of others look the same."""
    stranger = await platform.user("sam")
    for bot in (NOBODY, "not-a-uuid", "'; DROP TABLE bots --"):
        refused = await server.open(f"/api/ws/chat/{bot.replace(' ', '%20')}", world.guest)
        assert await refused.closed() == 4003
    refused = await server.open(f"/api/ws/chat/{world.bot}", stranger)
    assert await refused.closed() == 4003
    assert refused.reason == "bot not found or access denied"


@pytest.mark.gen_test
async def test_4029_a_user_with_too_many_connections_is_refused(
    start_server: StartServer, world: World
) -> None:
    """Others are not; and closing one makes room."""
    server = await start_server(MAX_CONNECTIONS_PER_USER="2")
    first = await server.chat(world.bot, world.guest)
    await server.notifications(world.guest)
    refused = await server.open(f"/api/ws/chat/{world.bot}", world.guest)
    assert await refused.closed() == 4029
    await server.chat(world.bot, world.owner)
    first.close()
    await eventually(lambda: server.server.hub.subscribers.count_of(world.guest) == 1)
    await server.chat(world.bot, world.guest)


@pytest.mark.gen_test
async def test_tokens_are_taken_from_all_three_places(server: RunningServer, world: World) -> None:
    """Query, header, subprotocol; where `bearer` was offered it is selected, on refusals too."""
    path = f"/api/ws/chat/{world.bot}"
    good = token(world.guest)
    by_header = await server.connect(
        server.ws_url(path), headers={"Authorization": f"Bearer {good}"}
    )
    await by_header.established()
    by_protocol = await server.connect(server.ws_url(path), subprotocols=["bearer", good])
    await by_protocol.established()
    refused = await server.connect(server.ws_url(path), subprotocols=["bearer", "bad"])
    assert await refused.closed() == 4001
    for one in (by_protocol, refused):
        assert one.selected_subprotocol == "bearer"


@pytest.mark.gen_test
async def test_an_origin_that_is_not_allowed_is_a_403(
    start_server: StartServer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception to close codes; no Origin at all is allowed, for browsers always send one."""
    server = await start_server(ALLOWED_ORIGINS="https://app.example.org")
    url = server.ws_url(f"/api/ws/chat/{world.bot}", token=token(world.guest))
    with pytest.raises(HTTPClientError) as refused:
        await server.connect(url, headers={"Origin": "https://evil.example.org"})
    assert refused.value.code == 403
    assert "origin=https://evil.example.org setting=ALLOWED_ORIGINS" in caplog.text
    for headers in ({"Origin": "https://app.example.org"}, {}):
        await (await server.connect(url, headers=headers)).established()


@pytest.mark.gen_test
async def test_a_token_never_appears_in_the_log(
    server: RunningServer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever way it came, good or bad."""
    good = token(world.guest)
    with caplog.at_level("DEBUG"):
        await (
            await server.connect(server.ws_url("/api/ws/notifications", token=good))
        ).established()
        await (await server.connect(server.ws_url("/api/ws/chat/x", token=good))).closed()
        bad = await server.connect(server.ws_url("/api/ws/notifications", token=good + "x"))
        await bad.closed()
    assert "socket_opened connection=" in caplog.text
    assert good not in caplog.text
    assert SECRET not in caplog.text
