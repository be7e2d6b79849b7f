"""Waiting for a condition with a limit, in place of sleeping. For tests only."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

LIMIT = 60.0
"""Seconds: longer than anything takes, even on a busy machine."""
PAUSE = 0.02


def wait_until(condition: Callable[[], Result], *, limit: float = LIMIT, what: str = "") -> Result:
    """Call `condition` until it returns something true, and return that."""
    deadline = time.monotonic() + limit
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(condition, limit, what))
        time.sleep(PAUSE)
    return result


async def eventually(
    condition: Callable[[], Result | Awaitable[Result]], *, limit: float = LIMIT, what: str = ""
) -> Result:
    """The same on the event loop; `condition` may be a plain or an async function."""
    deadline = time.monotonic() + limit
    while True:
        answer = condition()
        result: Any = await answer if inspect.isawaitable(answer) else answer
        if result:
            return result  # type: ignore[no-any-return]
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(condition, limit, what))
        await asyncio.sleep(PAUSE)


def _complaint(condition: Callable[[], object], limit: float, what: str) -> str:
    name = what or getattr(condition, "__name__", repr(condition))
    return f"still waiting after {limit:.0f} s for: {name}"
