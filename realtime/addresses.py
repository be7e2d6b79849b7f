"""Tries all that a name stands for: one of its addresses may be dead, or accept and never answer.

asyncio and Tornado try the addresses of a name one after the other, and have one time limit for all
of them. A dead one takes the time of those behind it, each time anew.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

STAGGER_SECONDS = 0.25
"""How long one attempt may take until the next is made beside it."""


async def addresses_of(name: str, port: int) -> list[str]:
    """The IP addresses of a name, in the order that the system prefers.

    Raises:
        OSError: nobody knows the name.
        UnicodeError: it cannot be one.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_text_of(place) for *_, place in found))


def _text_of(place: tuple[Any, ...]) -> str:
    """An address as text. A link-local one of IPv6 needs its interface."""
    address, *_, scope = place if len(place) == 4 else (*place, 0)
    return f"{address}%{scope}" if scope and "%" not in address else str(address)


async def first_of(
    attempts: Sequence[Callable[[], Awaitable[T]]],
    *,
    usefulness: Callable[[BaseException], int],
    discard: Callable[[T], object] = lambda _: None,
    stagger: float = STAGGER_SECONDS,
) -> T:
    """What the first attempt has that succeeds; each begins a moment after the one before.

    Args:
        usefulness: of the errors, the one that says most is raised.
        discard: called with what comes too late.
        stagger: the moment, in seconds; after a failure it is not waited for.
    """
    waiting = [*attempts]
    running: set[asyncio.Future[T]] = set()
    errors: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(waiting.pop(0)()))
            done, running = await asyncio.wait(
                running,
                timeout=stagger if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            errors += [error for one in done if (error := one.exception())]
            made = [one.result() for one in done if one.exception() is None]
            for other in made[1:]:
                discard(other)
            if made:
                return made[0]
    finally:
        for one in running:
            one.add_done_callback(lambda late: _discard(late, discard))
            one.cancel()
    raise max(errors, key=usefulness)


def _discard(attempt: asyncio.Future[T], discard: Callable[[T], object]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        discard(attempt.result())
