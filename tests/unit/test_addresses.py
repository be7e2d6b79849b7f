"""All addresses of a name are tried, and the first that answers is taken."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from realtime.addresses import addresses_of, first_of
from tests.names import NAME, names
from tests.waiting import eventually


class Made:
    """A connection that was made."""

    def __init__(self) -> None:
        self.is_terminated = False

    def terminate(self) -> None:
        self.is_terminated = True


@pytest.mark.gen_test
async def test_who_answers_too_late_is_closed() -> None:
    """The first that is made is taken; an attempt that cannot be stopped leaves nothing."""
    late, good = Made(), Made()
    is_late = asyncio.Event()

    async def stubborn() -> Made:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        is_late.set()
        return late

    async def quick() -> Made:
        return good

    taken = await first_of(
        [stubborn, quick], usefulness=lambda _: 0, discard=Made.terminate, stagger=0.01
    )
    assert taken is good
    await eventually(lambda: late.is_terminated)
    assert is_late.is_set()
    assert not good.is_terminated


@pytest.mark.gen_test
async def test_of_several_errors_the_most_useful_is_raised() -> None:
    """And the first of those that say the same; after a failure the next begins at once."""

    async def fail(error: Exception) -> Any:
        raise error

    errors = [OSError("away"), LookupError("wrong"), LookupError("too"), TimeoutError()]
    with pytest.raises(LookupError, match="wrong"):
        await first_of(
            [partial(fail, one) for one in errors],
            usefulness=lambda error: int(isinstance(error, LookupError)),
            stagger=60,
        )


@pytest.mark.gen_test
async def test_a_name_has_each_address_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the system lists it."""
    names(monkeypatch, "127.0.0.2", "::1", "127.0.0.2", "127.0.0.1")
    assert await addresses_of(NAME, 80) == ["127.0.0.2", "::1", "127.0.0.1"]
