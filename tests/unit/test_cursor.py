"""Tests of `realtime.relay.cursor`: what a place covers, its text, and reading a log with it."""

import re
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.cursor import (
    MAX_CURSOR_LENGTH,
    Cursor,
    Database,
    InvalidCursor,
    Snapshot,
    decode_cursor,
    encode_cursor,
)
from tests.unit.relay_world import HISTORY, FakeDatabase, cursors

FULL_XID = 2**64 - 1
DATABASES = st.builds(
    Database, st.integers(0, FULL_XID), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)
)


def place(last: int, runs: list[tuple[int, int]]) -> Cursor:
    """The place below whose `last` lie runs of open transactions: how far apart, and how many."""
    falling = [last]
    for gap, count in runs:
        falling += [falling[-1] - gap * step for step in range(1, count + 1)]
    return Cursor(last, tuple(xid for xid in reversed(falling[1:]) if xid > 0))


GAPS = st.integers(1, 20) | st.integers(1, 2**60)
CURSORS = st.builds(
    place, st.integers(1, FULL_XID), st.lists(st.tuples(GAPS, st.just(1)), max_size=15)
)
"""Whose list of open transactions fits, however large the numbers."""
CROWDED = st.builds(
    place, st.integers(1, FULL_XID), st.lists(st.tuples(GAPS, st.integers(1, 200)), max_size=8)
)
"""Whose list of open transactions may be too long for a cursor's text."""


# Snapshots.


@pytest.mark.parametrize(
    ("text", "snapshot"),
    [
        ("10:10:", Snapshot(10, frozenset())),
        ("10:20:10", Snapshot(20, frozenset({10}))),
        ("10:20:10,14,15", Snapshot(20, frozenset({10, 14, 15}))),
        (f"3:{FULL_XID}:3", Snapshot(FULL_XID, frozenset({3}))),
    ],
)
def test_postgres_form(text: str, snapshot: Snapshot) -> None:
    """A snapshot is read from the text that Postgres writes."""
    assert Snapshot.parse(text) == snapshot


def test_snapshot_covers_what_has_ended() -> None:
    """A snapshot covers what is below its xmax and not in progress."""
    snapshot = Snapshot(20, frozenset({10, 14}))
    assert [xid for xid in range(9, 22) if snapshot.covers(xid)] == [9, 11, 12, 13, *range(15, 20)]


# Cursors.


@given(st.integers(1, 12), st.frozensets(st.integers(1, 11)), st.integers(0, 11))
def test_place_of_a_reader(xmax: int, in_progress: frozenset[int], last: int) -> None:
    """A place claims what the snapshot covers, as far as the highest event that was seen."""
    snapshot = Snapshot(xmax, in_progress)
    cursor = Cursor.at(snapshot, min(last, xmax - 1))
    assert list(cursor.open) == sorted(cursor.open)
    for xid in range(xmax):
        was_seen = snapshot.covers(xid) or xid == cursor.last
        assert cursor.covers(xid) == (was_seen and xid <= cursor.last)


@given(cursors(), cursors())
def test_includes(one: Cursor, other: Cursor) -> None:
    """A place includes another exactly where it covers everything that the other covers."""
    covered = [xid for xid in range(1, 14) if other.covers(xid)]
    assert one.includes(other) == all(map(one.covers, covered))


def test_last_is_kept_where_a_read_finds_nothing() -> None:
    """A read without events does not move `last`: only a seen commit is safe from a crash."""
    cursor = Cursor(5, (3,)).after(Snapshot(9, frozenset({7})), highest=0)
    assert cursor == Cursor(5)


def test_last_moves_to_the_highest_seen() -> None:
    """A read with events moves `last` to the highest of them, not to the snapshot's xmax."""
    cursor = Cursor(5).after(Snapshot(9, frozenset({4, 6, 8})), highest=7)
    assert cursor == Cursor(7, (4, 6))


# The text on the wire.


@given(DATABASES, CURSORS)
def test_round_trip(database: Database, cursor: Cursor) -> None:
    """What is written is read again, wherever the list of open transactions fits."""
    assert decode_cursor(encode_cursor(database, cursor)) == (database, cursor)


@given(DATABASES, CROWDED | CURSORS)
def test_text_is_short_and_plain(database: Database, cursor: Cursor) -> None:
    """Any cursor's text is at most 400 characters that need no escaping in a URL."""
    text = encode_cursor(database, cursor)
    assert len(text) <= MAX_CURSOR_LENGTH
    assert re.fullmatch(r"[A-Za-z0-9_.~-]+", text)


@given(DATABASES, CROWDED | CURSORS)
def test_shortened_claims_no_more(database: Database, cursor: Cursor) -> None:
    """A cursor whose list did not fit can be read, and covers nothing that it did not before."""
    decoded, shortened = decode_cursor(encode_cursor(database, cursor))
    assert decoded == database
    assert shortened.last <= cursor.last
    # Coverage changes only at `last` and at open ids: checking around them checks every id.
    edges = {0, 1, shortened.last, cursor.last, *shortened.open, *cursor.open}
    for xid in {near for edge in edges for near in (edge - 1, edge, edge + 1)}:
        assert cursor.covers(xid) or not shortened.covers(xid)


@given(CROWDED)
def test_shortened_claims_what_it_can(cursor: Cursor) -> None:
    """However much is open, all that came before the first open transaction stays claimed."""
    _, shortened = decode_cursor(encode_cursor(HISTORY, cursor))
    assert shortened.last >= (cursor.open[0] - 1 if cursor.open else cursor.last)


def test_neighbours_among_the_open() -> None:
    """A shortened list of transactions that follow one another directly can be read again."""
    cursor = Cursor(10_000, tuple(range(9_000, 9_400)))
    _, shortened = decode_cursor(encode_cursor(HISTORY, cursor))
    assert shortened.last < 9_400
    assert not any(shortened.covers(xid) for xid in range(9_000, 9_400))
    assert shortened.covers(8_999)


def read_untrusted(text: str) -> None:
    """Decode: it is a sound, small cursor, or InvalidCursor is raised and nothing else."""
    try:
        _, cursor = decode_cursor(text)
    except InvalidCursor:
        return
    assert list(cursor.open) == sorted(set(cursor.open))
    assert all(0 < xid < cursor.last for xid in cursor.open)
    assert cursor.last <= FULL_XID
    assert len(cursor.open) < MAX_CURSOR_LENGTH


@given(st.text() | st.from_regex(r"1(\.[0-9a-f]{0,20}){0,6}(-[0-9a-f]{0,3})*", fullmatch=True))
def test_any_text(text: str) -> None:
    """Whatever the text, it is a sound cursor or an InvalidCursor."""
    read_untrusted(text)


@given(DATABASES, CURSORS, st.data())
def test_mutated_text(database: Database, cursor: Cursor, data: st.DataObject) -> None:
    """A cursor with one character changed is another sound cursor or an InvalidCursor."""
    text = encode_cursor(database, cursor)
    at = data.draw(st.integers(0, len(text) - 1))
    read_untrusted(text[:at] + data.draw(st.characters()) + text[at + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "2.7.5.1.a.",
        "1.7.5.1.a",
        "1.7.5.1.A.",
        "1.7.5.1.a.\n",
        "1.7.5.1.a.0",
        "1.7.5.1.a.a",
        "1.7.5.1.a.b",
        "1.7.5.1.a.1-",
        "1.7.5.1.a.-1",
        "1.7.5.1.a.1-9",
        "1.7.5.1..",
        "1.7.5.1.-a.",
        "1.7.5.1.٣.",
        "1." + "f" * 17 + ".5.1.a.",
        "1.7.5.1.a." + "-".join(["1"] * 300),
    ],
)
def test_no_cursor(text: str) -> None:
    """What this software would not have written is refused."""
    with pytest.raises(InvalidCursor):
        decode_cursor(text)


# Reading a log.


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Steps of writers and a reader; the number chooses among the running transactions."""
    step = st.sampled_from(["begin", "write", "write", "commit", "commit", "abort", "read"])
    return draw(st.lists(st.tuples(step, st.integers(0, 5)), max_size=60))


def take_step(log: FakeDatabase, step: str, choice: int) -> None:
    """One step of a writer, on one of the running transactions."""
    acts: dict[str, Callable[[int], object]] = {
        "write": log.write,
        "commit": log.commit,
        "abort": log.abort,
    }
    if step == "begin":
        log.begin()
    elif step in acts and log.running:
        acts[step](sorted(log.running)[choice % len(log.running)])


@given(histories())
def test_exactly_once(history: list[tuple[str, int]]) -> None:
    """A reader with a cursor gets each committed event once, whatever happens in between."""
    log = FakeDatabase()
    cursor = log.place()
    found: Counter[int] = Counter()
    for step, choice in [*history, ("read", 0)]:
        take_step(log, step, choice)
        if step == "read":
            rows = log.unseen(cursor)
            found.update(row.id for row in rows)
            cursor = cursor.after(log.snapshot(), max((row.xid for row in rows), default=0))
            _, cursor = decode_cursor(encode_cursor(HISTORY, cursor))
    assert found == Counter(row.id for row in log.committed)


@given(histories())
def test_cursor_claims_what_was_found(history: list[tuple[str, int]]) -> None:
    """A cursor covers the committed events that its reader was given, and no others ever."""
    log = FakeDatabase()
    cursor = log.place()
    given_ids: set[int] = set()
    for step, choice in history:
        take_step(log, step, choice)
        if step == "read":
            rows = log.unseen(cursor)
            given_ids |= {row.id for row in rows}
            cursor = cursor.after(log.snapshot(), max((row.xid for row in rows), default=0))
    assert {row.id for row in log.committed if cursor.covers(row.xid)} == given_ids
