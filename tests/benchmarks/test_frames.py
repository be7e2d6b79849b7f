"""The load generator's arithmetic, on which every figure rests."""

from __future__ import annotations

from array import array

import pytest

from tests.benchmarks.report import BEGIN, END, with_part
from tests.benchmarks.tally import Counters, percentile, stamps_of
from tests.benchmarks.wire import PING, TEXT, masked, small_or_long_frame


@pytest.mark.parametrize(
    ("length", "header"),
    [(5, b"\x81\x05"), (300, b"\x81\x7e\x01\x2c"), (70_000, b"\x81\x7f" + (70_000).to_bytes(8))],
)
def test_a_frame_of_any_length_is_found_once_it_is_whole(length: int, header: bytes) -> None:
    """All three forms of a length are read, and an unfinished frame waits for the rest."""
    data = b"xx" + header + b"a" * length
    assert small_or_long_frame(data[:-1], 2) is None
    assert small_or_long_frame(data[: 2 + len(header) - 1], 2) is None
    assert small_or_long_frame(data + b"more", 2) == (TEXT, len(data), b"a" * length)


def test_a_ping_and_a_masked_answer_have_their_bytes_in_place() -> None:
    """A ping is recognized, and what the generator sends is masked as a client's must be."""
    assert small_or_long_frame(b"\x89\x02hi", 0) == (PING, 4, b"hi")
    assert masked(TEXT, b"40") == b"\x81\x82\0\0\0\x0040"


def test_delays_are_taken_from_the_stamps_in_the_data() -> None:
    """Each stamp in what was received counts, and nothing behind the last whole frame."""
    tally = Counters(expected=3, limit=60, window=1)
    tally.last_received = 2_000_000_000_005_000
    data = b"..^at=2000000000000000..^at=2000000000003000..^at=2000000000004000"
    tally.sample(stamps_of(data, len(data) - 1))
    tally.deliveries = 3
    assert tally.is_over()
    result = tally.result()
    assert (result["samples"], result["p50_ms"], result["p99_ms"]) == (2, 5.0, 5.0)
    assert result["seconds"] == pytest.approx(0.005)


def test_what_was_written_before_it_has_settled_counts_as_delivered_only() -> None:
    """The delays of the beginning are left out, but nothing else is."""
    tally = Counters(expected=2, limit=60, window=1, settle=0.002)
    tally.last_received = 2_000_000_000_005_000
    tally.sample(array("q", (2_000_000_000_000_000, 2_000_000_000_003_000)))
    result = tally.result()
    assert (result["samples"], result["p50_ms"], result["p99_ms"]) == (2, 2.0, 2.0)
    assert result["seconds"] == pytest.approx(0.005)


def test_a_percentile_is_one_of_the_values() -> None:
    """No value is made up between two that were seen, and none at all is zero."""
    assert percentile([1000, 2000, 3000, 4000], 0.5) == 3.0
    assert percentile([], 0.99) == 0.0


def test_the_generated_part_of_the_page_is_replaced_and_nothing_else() -> None:
    """What is written by hand before and after the markers stays."""
    page = with_part(f"before\n{BEGIN}\nold\n{END}\nafter\n", "new")
    assert page == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="markers"):
        with_part("a page without them", "new")
