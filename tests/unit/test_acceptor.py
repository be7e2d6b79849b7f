"""Tests of `realtime.web.acceptor`: when there is no room, and how often that is said."""

import errno

import pytest

from realtime.web.acceptor import FULL_SECONDS, LOG_SECONDS, OpenFiles


class Clocked:
    def __init__(self, spare: int = 20, limit: int = 1000) -> None:
        self.now = 50.0
        self.files = OpenFiles(spare, lambda: self.now, limit=lambda: limit)


@pytest.mark.parametrize(
    ("spare", "limit", "first_spare"), [(20, 1000, 980), (20, 40, 30), (0, 1000, 1000)]
)
def test_the_last_descriptors_are_kept(spare: int, limit: int, first_spare: int) -> None:
    """As many as were asked for, and a quarter of a small limit."""
    assert Clocked(spare, limit).files.first_spare == first_spare


def test_full_for_a_while() -> None:
    """Counted from the last connection that there was no room for."""
    clocked = Clocked()
    assert not clocked.files.is_full
    clocked.files.ran_out()
    clocked.now += FULL_SECONDS - 1
    assert clocked.files.is_full
    clocked.files.ran_out()
    clocked.now += FULL_SECONDS - 1
    assert clocked.files.is_full
    clocked.now += 1
    assert not clocked.files.is_full


def test_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """With how many there were."""
    clocked = Clocked()
    for _ in range(3):
        clocked.files.ran_out(OSError(errno.EMFILE, "Too many open files"))
    clocked.now += LOG_SECONDS
    clocked.files.ran_out()
    first, second = (record.getMessage() for record in caplog.records)
    assert "refused=1 limit=1000" in first
    assert "Too many open files" in first
    assert "refused=3 limit=1000" in second
