"""What the relay counts."""

from __future__ import annotations

from realtime.relay.counters import MAX_CODES, Counters, Histogram
from realtime.relay.cursor import Snapshot
from realtime.relay.events import Event, Page

SNAPSHOT = Snapshot.parse("20:20:")


def a_page(*written_at: float, offset: float = 0.0) -> Page:
    """A read that found events which were written then, by the database's clock."""
    events = tuple(
        Event(number, 10, "bot:x", "{}", written_at=round(one * 1e6))
        for number, one in enumerate(written_at)
    )
    return Page(SNAPSHOT, (), events, is_last=True, clock_offset=offset, seconds=0.25)


def test_a_value_is_in_the_first_bucket_that_it_fits() -> None:
    """A bound belongs to its bucket, and there is one for what is above them all."""
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 8


def test_latency_is_measured_by_the_databases_clock() -> None:
    """However far it is from this process's, which only says how long ago the read was asked."""
    now = 50.0
    counters = Counters(lambda: now)
    page = a_page(1_000_010.0, 1_000_010.5, offset=49.0 - 1_000_010.75)
    counters.found(page)
    assert counters.lag == 1.75
    now += 0.25
    counters.delivered(page.events, 3)
    assert counters.latency.total == 2.0 + 1.5
    assert sum(counters.latency.counts) == counters.events == 2
    assert counters.deliveries == 6


def test_what_nobody_was_sent_has_no_latency() -> None:
    """Events are read for all topics, also for those that lost their last socket just now."""
    counters = Counters(lambda: 0.0)
    counters.delivered(a_page(1.0).events, 0)
    assert counters.deliveries == sum(counters.latency.counts) == 0


def test_no_event_is_younger_than_nothing() -> None:
    """The database's clock was set back after it was written, or since the read compared them."""
    counters = Counters(lambda: 9.0)
    page = a_page(3600.0)
    counters.found(page)
    counters.delivered(page.events, 1)
    assert counters.lag == counters.latency.total == 0.0


def test_a_read_that_finds_nothing_is_no_batch() -> None:
    """While awake most find nothing; that would be all that the histogram shows."""
    counters = Counters(lambda: 9.0)
    counters.found(a_page(8.0))
    counters.found(a_page())
    assert counters.reads == 2
    assert counters.read_seconds == 0.5
    assert sum(counters.batches.counts) == 1
    assert counters.lag == 0.0


def test_codes_that_clients_make_up_are_counted_together() -> None:
    """So that nobody can make this process remember more and more of them."""
    counters = Counters(lambda: 0.0)
    for code in (1000, 4321, 4999):
        counters.gone(code, is_ours=False)
    counters.gone(4003, is_ours=True)
    counters.gone(4003, is_ours=False)
    assert counters.closes == {"1000": 1, "other": 2, "4003": 2}
    for code in range(4100, 4200):
        counters.gone(code, is_ours=True)
    counters.gone(1006, is_ours=False)
    assert len(counters.closes) <= MAX_CODES + 2
    assert sum(counters.closes.values()) == 106
