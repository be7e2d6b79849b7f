"""Tests of `realtime.relay.backoff`: how long to wait before trying again."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.backoff import FIRST_SECONDS, MAX_SECONDS, Backoff


def test_waits_double_up_to_the_longest() -> None:
    """Without the shortening by chance, each wait is twice the one before, up to 5 s."""
    backoff = Backoff(lambda: 1.0)
    waits = [backoff.next() for _ in range(40)]
    assert waits[:3] == pytest.approx([FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS])
    assert all(after == min(2 * before, MAX_SECONDS) for before, after in pairwise(waits))
    assert waits[-1] == MAX_SECONDS


def test_reset_begins_again() -> None:
    """After a success the next failure is a first one."""
    backoff = Backoff(lambda: 1.0)
    for _ in range(9):
        backoff.next()
    backoff.reset()
    assert backoff.next() == pytest.approx(FIRST_SECONDS)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_chance_shortens_by_half_at_most(draws: list[float]) -> None:
    """Whatever chance says, a wait lies between half of its step and all of it."""
    left = iter(draws)
    backoff, longest = Backoff(lambda: next(left)), Backoff(lambda: 1.0)
    for _ in draws:
        step = longest.next()
        assert step / 2 <= backoff.next() <= step
