"""Tests of `realtime.runtime.control`: what a worker says to its supervisor."""

import pytest

from realtime.runtime.control import BEAT, Up, decode_up

UP = Up(4, 25.0)


@pytest.mark.parametrize("said", [UP.encoded(), BEAT + UP.encoded(), UP.encoded() + BEAT, 2 * BEAT])
def test_that_a_worker_is_up_is_heard_among_signs_of_life(said: bytes) -> None:
    """They may be read at once: it is said only once."""
    assert decode_up(said) == (UP if b"up" in said else None)
