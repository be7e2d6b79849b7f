"""Tests of `realtime.relay.resume`: what a client that comes back is owed."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from realtime.relay.cursor import Cursor, encode_cursor
from realtime.relay.events import AccessChange, Event
from realtime.relay.resume import (
    Floor,
    GapReason,
    ReadRange,
    ResumeRequest,
    TopicHistory,
    Unrecoverable,
    missed_events,
    range_for,
    read_cursor,
)
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    HISTORY,
    OTHER_BOT,
    access_change,
    at,
    cursors,
    event,
    seen,
)

NOTHING_REMOVED = Floor(0, seen(1))


def past(
    *rows: Event | AccessChange, floor: Floor = NOTHING_REMOVED, complete_after: int = 0
) -> TopicHistory:
    return TopicHistory(
        floor,
        [row for row in rows if isinstance(row, AccessChange)],
        [row for row in rows if isinstance(row, Event)],
        complete_after,
    )


def owed(
    cursor: Cursor, until: Cursor, found: TopicHistory, limit: int = 100
) -> list[int] | GapReason:
    """The ids of what Ada is owed, or why that cannot be said."""
    try:
        return [
            one.id for one in missed_events(ResumeRequest(BOT, ADA, cursor, until), found, limit)
        ]
    except Unrecoverable as lost:
        return lost.reason


# The cursor that a client sends.


def test_a_cursor_of_ours() -> None:
    """A cursor of this database's history is read."""
    assert read_cursor(encode_cursor(HISTORY, at(9, 5)), HISTORY) == at(9, 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", GapReason.INVALID),
        ("x" * 10_000, GapReason.INVALID),
        (encode_cursor(HISTORY._replace(system=8), at(9)), GapReason.FOREIGN),
        (encode_cursor(HISTORY._replace(oid=6), at(9)), GapReason.FOREIGN),
        (encode_cursor(HISTORY._replace(timeline=2), at(9)), GapReason.FOREIGN),
    ],
)
def test_no_cursor_of_ours(text: str, reason: GapReason) -> None:
    """What is no cursor, or one of another history, is refused with the reason."""
    with pytest.raises(Unrecoverable) as caught:
        read_cursor(text, HISTORY)
    assert caught.value.reason is reason


@given(st.lists(cursors(), min_size=1, max_size=4))
def test_a_place_for_all(several: list[Cursor]) -> None:
    """What is read for several clients includes all that any of them has not seen."""
    range_ = range_for(several)
    for xid in range(1, 15):
        is_read = xid > range_.last or xid in range_.open
        assert is_read or all(cursor.covers(xid) for cursor in several)
    assert range_for([at(9, 5)]) == ReadRange(9, [5])


# What is owed.


@given(cursors(), cursors(), st.lists(st.integers(1, 12), max_size=12))
def test_owed(cursor: Cursor, until: Cursor, xids: list[int]) -> None:
    """A client is owed, in order, what `until` covers and its cursor does not."""
    rows = [event(number, xid) for number, xid in enumerate(xids, 1)]
    expected = [row.id for row in rows if until.covers(row.xid) and not cursor.covers(row.xid)]
    assert owed(cursor, until, past(*reversed(rows))) == expected


@pytest.mark.parametrize(
    ("row", "is_lost"),
    [
        (access_change(2, 11), True),
        (access_change(2, 11, topic=None), True),
        (access_change(2, 11, user_id=None), True),
        (access_change(2, 11, None, None), True),
        (access_change(2, 11, user_id=GRACE), False),
        (access_change(2, 11, topic=OTHER_BOT), False),
        (access_change(2, 10), False),
        (access_change(2, 13), False),
        (access_change(2, 11, is_recheck=True), False),
    ],
)
def test_access_was_lost(row: AccessChange, is_lost: bool) -> None:
    """Who lost access in the gap is owed nothing, even though they have it again."""
    expected: list[int] | GapReason = GapReason.ACCESS_CHANGED if is_lost else [1]
    assert owed(at(10), at(12), past(event(1, 11), row)) == expected


@pytest.mark.parametrize(
    ("granted_to", "xid", "is_lost"),
    [(ADA, 11, True), (GRACE, 11, False), (ADA, 10, False), (ADA, 13, False)],
)
def test_access_was_in_ask_about(granted_to: str, xid: int, is_lost: bool) -> None:
    """A recheck with a grant in the same gap may have been a loss."""
    grant = event(2, xid, granted_to=granted_to)
    found = owed(at(10), at(12), past(access_change(1, 11, is_recheck=True), grant, event(3, 12)))
    assert (found is GapReason.ACCESS_CHANGED) == is_lost


def test_a_grant_alone() -> None:
    """A grant without any change took nothing away."""
    assert owed(at(10), at(12), past(event(2, 11, granted_to=ADA))) == [2]


# What cannot be said any more.


@given(cursors(), st.integers(0, 12), st.integers(1, 13))
def test_too_old(cursor: Cursor, last: int, xmax: int) -> None:
    """A cursor is too old where it does not cover what may have been removed, and only then."""
    floor = Floor(last, seen(xmax))
    assume(last < xmax)
    is_recoverable = last <= cursor.last and all(xid >= xmax for xid in cursor.open)
    assert floor.is_above(cursor) != is_recoverable
    found = owed(cursor, at(13), past(floor=floor))
    assert found == ([] if is_recoverable else GapReason.TOO_OLD)


def test_too_many() -> None:
    """Up to the limit everything is owed, and beyond it nothing."""
    rows = [event(number, 11) for number in (1, 2, 3)]
    assert owed(at(10), at(12), past(*rows), limit=3) == [1, 2, 3]
    assert owed(at(10), at(12), past(*rows), limit=2) is GapReason.TOO_MANY


def test_what_others_asked_for_does_not_count() -> None:
    """The limit is for what this client is owed, not for what was read for all."""
    rows = [event(number, number) for number in range(5, 13)]
    assert owed(at(10), at(11), past(*rows), limit=1) == [11]


def test_cut_short() -> None:
    """Where the log returned the newest only, who has seen the rest is still served."""
    found = past(event(1, 11), event(2, 12), complete_after=11)
    assert owed(at(11), at(12), found) == [2]
    assert owed(at(10), at(12), found) is GapReason.TOO_MANY
