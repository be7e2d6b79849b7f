"""Tests of `realtime.web.openings`: what happens to handshakes when the process ends."""

import asyncio

from realtime.relay import closing
from realtime.web.openings import Openings
from tests.unit.relay_fakes import run


class Socket:
    """Remembers what it was refused with, and waits to be let in."""

    def __init__(self) -> None:
        self.closed_with: list[tuple[int, str]] = []
        self.is_over = False
        self.let_in = asyncio.Event()

    def close(self, code: int, reason: str) -> None:
        self.closed_with.append((code, reason))

    async def open(self) -> None:
        try:
            await self.let_in.wait()
        finally:
            self.is_over = True


def test_who_is_left_is_refused_at_the_end() -> None:
    """Also one that came a moment ago, and none that was let in before."""

    async def go() -> list[Socket]:
        openings = Openings(asyncio.get_running_loop())
        early, late, last = sockets = Socket(), Socket(), Socket()
        for one in (early, late):
            openings.start(one, one.open())
        early.let_in.set()
        while not early.is_over:  # noqa: ASYNC110 - a task of this loop, which is about to end
            await asyncio.sleep(0)
        openings.start(last, last.open())
        await openings.end(closing.RESTARTING)
        await openings.end(closing.RESTARTING)
        return list(sockets)

    early, late, last = run(go())
    assert early.closed_with == []
    assert late.closed_with == last.closed_with == [closing.RESTARTING]
    assert early.is_over
    assert late.is_over
    assert last.is_over
