"""Tests of `realtime.relay.large_read`: what was delivered ahead of a read in many pages."""

import pytest

from realtime.relay.carried import Ahead
from realtime.relay.large_read import LargeRead
from realtime.relay.resume import GapReason, Unrecoverable
from tests.unit.relay_fakes import at, event, page, seen

CARRIED, LATER = event(1, 20), event(2, 21)


def make_read() -> LargeRead:
    """A read before which a ring had carried an event."""
    ahead = Ahead()
    ahead.add([CARRIED.anchor])
    return LargeRead(1, at(5), seen(30), ahead)


def test_what_a_ring_carried_is_found_and_not_delivered_again() -> None:
    """It is due until then."""
    large = make_read()
    assert large.has_due
    assert large.take(page(seen(30), CARRIED, LATER)).events == (LATER,)
    assert not large.has_due
    large.take(page(seen(30)))
    assert large.is_over


def test_what_a_ring_carried_and_no_page_has_means_another_history() -> None:
    """Only the last page, which is empty, says that it is missing."""
    large = make_read()
    large.take(page(seen(30), LATER))
    with pytest.raises(Unrecoverable) as lost:
        large.take(page(seen(30)))
    assert lost.value.reason is GapReason.FOREIGN
