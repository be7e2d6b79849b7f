"""Tests of `realtime.relay.resume`: what a client that comes back is owed."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from realtime.relay.cursor import Anchor, Cursor, Signer
from realtime.relay.events import AccessChange, Event
from realtime.relay.resume import (
    Floor,
    GapReason,
    LogState,
    ReadRange,
    ResumeRequest,
    TopicHistory,
    Unrecoverable,
    answers,
    range_for,
    read_cursor,
)
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    HISTORY,
    OTHER_BOT,
    SIGNER,
    access_change,
    at,
    cursors,
    event,
    grant_row,
    missed_events,
    seen,
)

NOTHING_REMOVED = Floor(0, seen(1))


class Everything:
    """A log that holds every row that it is asked for."""

    def __contains__(self, row: object) -> bool:
        return True


def past(
    *rows: Event | AccessChange, floor: Floor = NOTHING_REMOVED, complete_after: int = 0
) -> TopicHistory:
    events = [row for row in rows if isinstance(row, Event)]
    changes = [row for row in rows if isinstance(row, AccessChange)]
    state = LogState(floor, Everything())
    return TopicHistory(state, changes, events, complete_after)


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


def text_of(cursor: Cursor, topic: str = BOT, **elsewhere: int) -> str:
    signer = Signer(HISTORY._replace(**elsewhere), SIGNER.keys)
    return signer.write(cursor, topic) or ""


def test_a_cursor_of_ours() -> None:
    """A cursor of this database's history is read."""
    assert read_cursor(text_of(at(9, 5)), BOT, SIGNER) == at(9, 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", GapReason.INVALID),
        ("x" * 10_000, GapReason.INVALID),
        (text_of(at(9), topic=OTHER_BOT), GapReason.INVALID),
        (text_of(at(9)).replace(".9.", ".8.", 1), GapReason.INVALID),
        (text_of(at(9), system=8), GapReason.FOREIGN),
        (text_of(at(9), oid=6), GapReason.FOREIGN),
        (text_of(at(9), timeline=2), GapReason.FOREIGN),
    ],
)
def test_no_cursor_of_ours(text: str, reason: GapReason) -> None:
    """What is no cursor, or one of another history, is refused with the reason."""
    with pytest.raises(Unrecoverable) as caught:
        read_cursor(text, BOT, SIGNER)
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
        (access_change(2, 11, topic=None, is_recheck=True), False),
        (access_change(2, 11, user_id=None, is_recheck=True), False),
        (access_change(2, 11, None, None, is_recheck=True), True),
        (access_change(2, 10, None, None, is_recheck=True), False),
    ],
)
def test_access_was_lost(row: AccessChange, is_lost: bool) -> None:
    """Who lost access in the gap is owed nothing, even though they have it again."""
    expected: list[int] | GapReason = GapReason.ACCESS_CHANGED if is_lost else [1]
    assert owed(at(10), at(12), past(event(1, 11), row)) == expected


@pytest.mark.parametrize(
    ("row", "is_lost"),
    [
        (grant_row(11, BOT, ADA), True),
        (grant_row(11, BOT, GRACE), False),
        (grant_row(10, BOT, ADA), False),
        (grant_row(13, BOT, ADA), False),
        (grant_row(11, None, ADA), True),
        (grant_row(11, OTHER_BOT, ADA), False),
        (grant_row(11, BOT, None), False),
        (grant_row(11, None, None), False),
    ],
)
def test_access_was_given(row: AccessChange, is_lost: bool) -> None:
    """What came before a grant that names the user was not for them; one that names nobody
    concerns nobody who had access."""
    found = owed(at(10), at(12), past(event(1, 11), row))
    assert (found is GapReason.ACCESS_CHANGED) == is_lost


# Whether the cursor is of this log.

NEWEST = Anchor(9, 4, 7)
CUT = Cursor(9, (), NEWEST)


@pytest.mark.parametrize(
    ("floor", "known", "reason"),
    [
        (NOTHING_REMOVED, {NEWEST}, None),
        (NOTHING_REMOVED, set(), GapReason.FOREIGN),
        (NOTHING_REMOVED, {NEWEST._replace(id=5)}, GapReason.FOREIGN),
        (NOTHING_REMOVED, {NEWEST._replace(written_at=8)}, GapReason.FOREIGN),
        (Floor(9, seen(10), NEWEST), set(), None),
        (Floor(9, seen(10), NEWEST._replace(written_at=8)), set(), GapReason.FOREIGN),
        (Floor(10, seen(11), NEWEST), {NEWEST}, GapReason.TOO_OLD),
        (Floor(10, seen(11), NEWEST), set(), GapReason.TOO_OLD),
        (NOTHING_REMOVED._replace(is_ours=False), {NEWEST}, GapReason.FOREIGN),
    ],
)
def test_the_newest_row_must_be_there(
    floor: Floor, known: set[Anchor], reason: GapReason | None
) -> None:
    """Exactly it, or the floor must name it; for the client's cursor and for the answer's."""
    state = LogState(floor, known | {Anchor(8, 1, 1)})
    cursors = [(CUT, at(0)), (Cursor(8, (), Anchor(8, 1, 1)), CUT)]
    for cursor, until in cursors if floor.last == 0 else cursors[:1]:
        found = reason_for(cursor, until if until.last else CUT, state)
        assert found == reason


def reason_for(cursor: Cursor, until: Cursor, state: LogState) -> GapReason | None:
    found = owed(cursor, until, TopicHistory(state, [], [], 0))
    return found if isinstance(found, GapReason) else None


def test_who_has_seen_nothing() -> None:
    """Has no newest row, and is good until something is removed; others must have one."""
    state = LogState(NOTHING_REMOVED, {NEWEST})
    assert reason_for(Cursor(0), CUT, state) is None
    assert reason_for(Cursor(1), CUT, state) is GapReason.FOREIGN
    removed = LogState(Floor(3, seen(4)), {NEWEST})
    assert reason_for(Cursor(0), CUT, removed) is GapReason.TOO_OLD


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


def test_only_what_happened_to_a_user_is_looked_at_for_them() -> None:
    """After a restart all of a large bot come back, and the access of all may have changed."""
    many, compared = 100, 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    users = [Counted(f"user {number}") for number in range(many)]
    changes = [access_change(number, 10, user_id=user) for number, user in enumerate(users)]
    requests = [ResumeRequest(BOT, user, at(9), at(12)) for user in users]
    requests += [request._replace(cursor=at(10)) for request in requests]
    found = answers(requests, {BOT: past(*changes)}, 100)
    lost = [isinstance(one, Unrecoverable) for one in found]
    assert (lost, compared <= 10 * many) == ([True] * many + [False] * many, True)
