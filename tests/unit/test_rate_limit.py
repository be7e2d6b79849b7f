"""Tests of `realtime.relay.rate_limit`: how much a client may say."""

from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.rate_limit import SHORT, RateLimit, RateVerdict

ACCEPT, REFUSE, DISCONNECT = RateVerdict.ACCEPT, RateVerdict.REFUSE, RateVerdict.DISCONNECT


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_refusals_then_the_end() -> None:
    """A whole burst is accepted, a whole burst more refused, and what comes then disconnects."""
    limit = RateLimit(rate=1, burst=3, clock=Clock())
    verdicts = [limit.judge() for _ in range(8)]
    assert verdicts == [ACCEPT] * 3 + [REFUSE] * 3 + [DISCONNECT] * 2


def test_refills_with_time() -> None:
    """After a refusal, as much is accepted as the rate has refilled meanwhile."""
    clock = Clock()
    limit = RateLimit(rate=4, burst=2, clock=clock)
    assert [limit.judge() for _ in range(3)] == [ACCEPT, ACCEPT, REFUSE]
    clock.now = 0.25
    assert [limit.judge() for _ in range(2)] == [ACCEPT, REFUSE]
    clock.now = 100.0
    assert [limit.judge() for _ in range(3)] == [ACCEPT, ACCEPT, REFUSE]


def test_an_accepted_message_forgives() -> None:
    """Refusals count towards the end only while none is accepted in between."""
    clock = Clock()
    limit = RateLimit(rate=1, burst=1, clock=clock)
    for second in range(10):
        clock.now = float(second)
        assert [limit.judge(), limit.judge()] == [ACCEPT, REFUSE]


def test_what_is_forgiven_does_not_count_towards_the_end() -> None:
    """However many there are in a row; the next that is not forgiven does."""
    limit = RateLimit(rate=1, burst=1, clock=Clock())
    assert limit.judge() is ACCEPT
    for _ in range(10):
        assert limit.judge() is REFUSE
        limit.forgive()
    assert [limit.judge(), limit.judge()] == [REFUSE, DISCONNECT]


def test_a_long_message_counts_as_several() -> None:
    """One for so many characters that have begun, in what is accepted and in what is refused."""
    limit = RateLimit(rate=1, burst=5, clock=Clock())
    lengths = [SHORT, SHORT + 1, 3 * SHORT, 2 * SHORT, 0]
    assert [limit.judge(one) for one in lengths] == [ACCEPT, ACCEPT, REFUSE, ACCEPT, REFUSE]
    assert [limit.judge(4 * SHORT), limit.judge()] == [REFUSE, DISCONNECT]


def test_the_longest_message_counts_as_a_whole_burst() -> None:
    """So it is accepted from a client that was silent before, however low the rate is."""
    clock = Clock()
    limit = RateLimit(rate=1, burst=3, clock=clock)
    assert [limit.judge(1000 * SHORT), limit.judge(1000 * SHORT)] == [ACCEPT, REFUSE]
    clock.now = 3.0
    assert limit.judge(1000 * SHORT) is ACCEPT


def test_only_the_latest_refusal_is_forgiven() -> None:
    """Those before it count towards the end as ever."""
    limit = RateLimit(rate=1, burst=2, clock=Clock())
    assert [limit.judge() for _ in range(4)] == [ACCEPT, ACCEPT, REFUSE, REFUSE]
    limit.forgive()
    assert [limit.judge(), limit.judge()] == [REFUSE, DISCONNECT]


STEPS = st.integers(0, 64).map(lambda n: n / 32)


@given(st.sampled_from([0.5, 1, 4, 20]), st.integers(1, 20), st.lists(STEPS, max_size=80))
def test_never_above_the_rate(rate: float, burst: int, waits: list[float]) -> None:
    """In any stretch of time, no more is accepted than a burst and what the rate refills."""
    clock = Clock()
    limit = RateLimit(rate, burst, clock)
    accepted = []
    for wait in waits:
        clock.now += wait
        if limit.judge() is ACCEPT:
            accepted.append(clock.now)
    for first, start in enumerate(accepted):
        for last, end in enumerate(accepted[first:], first):
            assert last - first + 1 <= burst + (end - start) * rate


@given(st.sampled_from([1, 4, 16]), st.integers(1, 20), st.integers(1, 100))
def test_never_refused_within_the_rate(rate: int, burst: int, count: int) -> None:
    """A client that keeps to the rate is never refused."""
    clock = Clock()
    limit = RateLimit(rate, burst, clock)
    for _ in range(count):
        assert limit.judge() is ACCEPT
        clock.now += 1 / rate
