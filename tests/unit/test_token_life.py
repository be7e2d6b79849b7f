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
from realtime.web.pings import AT_ONCE, Pings
from realtime.web.services import Services
from realtime.web.token_life import ClockWatch, TokenLife
from tests.waiting import eventually

NOW = 1000.0
SETTINGS = Settings.from_environ({"DATABASE_URL": "postgresql://h/d", "JWT_SECRET": "s" * 32})


class Socket:
    """What was sent on it, at which time, and the code that closed it."""

    def __init__(self, *lives: float, settings: Settings = SETTINGS, timer: float = 0.0) -> None:
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
            # At 0, the clock is read at each turn of the timer.
            intervals=Intervals(timer=timer),
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
async def test_a_token_ends_by_the_wall_clock_though_its_timer_stood_still() -> None:
    """The machine slept, or the clock was set: the timer would be late by as much."""
    here, renewing, gone = Socket(600, timer=3600), Socket(600, timer=3600), Socket(600, timer=3600)
    gone.life.stop()
    renewing.life._unschedule()  # as while it verifies another token
    for one in (here, renewing, gone):
        await one.pass_to(601)
        assert one.code is None
        one.life.set_timer_anew()
        await one.pass_to(601)
    assert [one.code for one in (here, renewing, gone)] == [4001, None, None]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("moved", "is_told"), [(-3600.0, True), (3600.0, True), (2.0, True), (0.5, False)]
)
async def test_all_sockets_are_told_that_the_clock_has_moved(moved: float, is_told: bool) -> None:
    """Once, however many they are, and not for each small correction."""
    told = asyncio.Event()
    sockets = [Told(told) for _ in range(3 * AT_ONCE)]
    pings, clock = Pings(60.0), Clock()
    for socket in sockets:
        pings.add(socket)
    watch = asyncio.create_task(ClockWatch(pings, clock, lambda: 0.0, seconds=0.0).run())
    await eventually(lambda: clock.looks > 3)
    assert not told.is_set()
    clock.now += moved
    looks = clock.looks
    await eventually(lambda: clock.looks > looks + 10)
    watch.cancel()
    assert {socket.times for socket in sockets} == {int(is_told)}


class Clock:
    """The wall clock, which the test moves."""

    def __init__(self) -> None:
        self.now, self.looks = NOW, 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now


class Told:
    """A socket that counts how often it is told."""

    def __init__(self, told: asyncio.Event) -> None:
        self.times, self._told = 0, told

    def ping(self) -> None:
        raise NotImplementedError

    def clock_has_moved(self) -> None:
        self.times += 1
        self._told.set()


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
async def test_who_renews_in_time_may_wait_for_a_key() -> None:
    """However long it is fetched: neither a warning nor a close comes meanwhile."""
    socket = Socket(60, 600)
    verify = socket.verify

    async def fetch_and_verify(token: str, *, leeway: bool) -> Identity:
        await socket.pass_to(61)
        return await verify(token, leeway=leeway)

    socket.verify = fetch_and_verify  # type: ignore[method-assign]
    await socket.life.refresh("another")
    assert (socket.code, socket.sent) == (None, [(61, "authenticated")])
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
