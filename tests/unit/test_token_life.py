"""When a socket's client is warned that its token expires, and when the socket is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from realtime.auth.tokens import Identity
from realtime.config.intervals import Intervals
from realtime.config.settings import Settings
from realtime.relay import closing
from realtime.relay.protocol import Message
from realtime.web.services import Services
from realtime.web.token_life import TokenLife

NOW = 1000.0
SETTINGS = Settings.from_environ({"DATABASE_URL": "postgresql://h/d", "JWT_SECRET": "s" * 32})


class Socket:
    """What was sent on it, at which time, and the code that closed it."""

    def __init__(self, *lives: float, settings: Settings = SETTINGS) -> None:
        """The life of each token in seconds: the first one's, and those of later `refresh`es."""
        self.now = NOW
        self.sent: list[tuple[float, str]] = []
        self.code: int | None = None
        self._lives = [*lives]
        self.subject = "ada"
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while a new token is verified."""
        services = SimpleNamespace(
            clock=lambda: self.now,
            settings=settings,
            # The clock is read at each turn of the timer.
            intervals=Intervals(timer=0.0),
            verifier=self,
            loop=asyncio.get_running_loop(),
        )
        self.life = TokenLife(self._next(), cast(Services, services), cast(Any, self))

    def _next(self) -> Identity:
        return Identity(self.subject, is_admin=False, expires_at=self.now + self._lives.pop(0))

    async def verify(self, _token: str, *, leeway: bool) -> Identity:
        assert not leeway
        self.meanwhile()
        return self._next()

    @staticmethod
    def frame(messages: Iterable[Message]) -> bytes:
        (message,) = messages
        return message.text

    def send(self, frame: bytes) -> None:
        self.sent.append((self.now - NOW, json.loads(frame)["type"]))

    def close(self, code: int, _reason: str) -> None:
        self.code = code

    async def pass_to(self, seconds: float) -> None:
        """Let the time come, and let the timer see it."""
        self.now = NOW + seconds
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def warnings(self) -> list[float]:
        return [at for at, kind in self.sent if kind == "token_expiring"]


@pytest.mark.parametrize(("life", "due"), [(600, 540), (120, 60), (60, 30), (2, 1), (0, 2.5)])
@pytest.mark.gen_test
async def test_each_token_is_warned_of_once(life: float, due: float) -> None:
    """A minute before its end, or at half of its life; then the socket is closed.

    One that was accepted within the leeway has what the leeway gives it.
    """
    socket = Socket(life)
    await socket.pass_to(due - 0.1)
    assert socket.warnings == []
    await socket.pass_to(due)
    assert socket.warnings == [due]
    await socket.pass_to(2 * due - 0.1)
    assert socket.warnings == [due]
    await socket.pass_to(700)
    assert socket.code == 4001


@pytest.mark.gen_test
async def test_a_new_token_is_not_warned_of_at_once() -> None:
    """Tokens of a minute, renewed at each warning: two in a minute, and no more."""
    socket = Socket(60, 60, 60, 60, 60)
    for second in range(61):
        await socket.pass_to(second)
        if len(socket.warnings) > len(socket.sent) - len(socket.warnings):
            await socket.life.refresh("another")
    assert socket.warnings == [30, 60]
    socket.life.stop()


@pytest.mark.gen_test
async def test_the_same_token_again_is_not_warned_of_again() -> None:
    """An issuer that keeps its tokens gives the same one to every question."""
    socket = Socket(60, 30)
    await socket.pass_to(30)
    await socket.life.refresh("the same: it ends at the same moment")
    await socket.pass_to(59)
    assert socket.warnings == [30]
    socket.life.stop()


@pytest.mark.gen_test
async def test_a_new_token_for_a_socket_that_is_gone_changes_nothing() -> None:
    """It was being verified when the socket ended: nobody would stop a timer that begins now."""
    socket = Socket(60, 60)
    socket.meanwhile = socket.life.stop
    await socket.life.refresh("another")
    await socket.pass_to(700)
    assert (socket.sent, socket.code) == ([], None)


@pytest.mark.gen_test
@pytest.mark.parametrize("life", [600, 0])
async def test_who_renews_in_time_is_not_closed_meanwhile(life: float) -> None:
    """The keys take until after the old token's end. If it is the old one again, it is over."""
    socket = Socket(60, life)
    await socket.pass_to(59)

    def after_its_end() -> None:
        socket.now = NOW + 60

    socket.meanwhile = after_its_end
    await socket.life.refresh("another")
    await socket.pass_to(61)
    assert socket.code == (None if life else 4001)
    socket.life.stop()


@pytest.mark.gen_test
async def test_a_new_token_of_another_user_closes_the_socket() -> None:
    """Whoever is on it was let in by the first one's right."""
    socket = Socket(60, 600)
    socket.subject = "grace"
    await socket.life.refresh("another")
    assert (socket.sent, socket.code) == ([], closing.OTHER_USER.code)
    socket.life.stop()


@pytest.mark.gen_test
async def test_only_the_newest_token_ends_the_socket() -> None:
    """The timer of the one before is gone."""
    socket = Socket(60, 600)
    before = socket.life._timer
    assert before is not None
    await socket.life.refresh("another")
    assert before.cancelled()
    await socket.pass_to(120)
    assert (socket.warnings, socket.code) == ([], None)
    await socket.pass_to(600)
    assert socket.code == 4001


@pytest.mark.gen_test
async def test_a_token_may_be_for_the_handshake_only() -> None:
    """By the setting: then nobody is warned, and the socket outlives its token."""
    socket = Socket(60, settings=SETTINGS.model_copy(update={"token_expiry": "handshake"}))
    await socket.pass_to(30)
    await socket.pass_to(700)
    assert (socket.sent, socket.code) == ([], None)
