"""Tests of `realtime.relay.cursor`: what a place covers, its text, and reading a log with it."""

import re
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.relay.cursor import (
    MAX_CURSOR_LENGTH,
    SIGNATURE_BYTES,
    Anchor,
    Cursor,
    Database,
    ForeignCursor,
    InvalidCursor,
    Key,
    Signer,
    Snapshot,
    parse_cursor,
)
from realtime.relay.events import AccessChange, Event
from tests.unit.relay_fakes import HISTORY, FakeDatabase, cursors

FULL_XID = 2**64 - 1
DATABASES = st.builds(
    Database, st.integers(0, FULL_XID), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)
)


def place(last: int, runs: list[tuple[int, int]]) -> Cursor:
    """The place below whose `last` lie runs of open transactions: how far apart, and how many."""
    falling = [last]
    for gap, count in runs:
        falling += [falling[-1] - gap * step for step in range(1, count + 1)]
    anchor = Anchor(last, last % 1000, last % 777)
    return Cursor(last, tuple(xid for xid in reversed(falling[1:]) if xid > 0), anchor)


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
    """A snapshot is read from the text that Postgres writes, and is written as it was read."""
    assert Snapshot.parse(text) == snapshot
    assert str(snapshot) == text


def test_snapshot_covers_what_has_ended() -> None:
    """A snapshot covers what is below its xmax and not in progress."""
    snapshot = Snapshot(20, frozenset({10, 14}))
    assert [xid for xid in range(9, 22) if snapshot.covers(xid)] == [9, 11, 12, 13, *range(15, 20)]


# Cursors.


def row(xid: int) -> Anchor | None:
    return Anchor(xid, 1, 1) if xid else None


def newest_of(rows: Iterable[Event | AccessChange]) -> Anchor | None:
    return max((Anchor(one.xid, one.id, one.written_at) for one in rows), default=None)


@given(st.integers(1, 12), st.frozensets(st.integers(1, 11)), st.integers(0, 11))
def test_place_of_a_reader(xmax: int, in_progress: frozenset[int], last: int) -> None:
    """A place claims what the snapshot covers, as far as the highest event that was seen."""
    snapshot = Snapshot(xmax, in_progress)
    cursor = Cursor.at(snapshot, row(min(last, xmax - 1)))
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
    cursor = Cursor(5, (3,), row(5)).after(Snapshot(9, frozenset({7})), None)
    assert cursor == Cursor(5, (), row(5))


def test_last_moves_to_the_highest_seen() -> None:
    """A read with events moves `last` to the highest of them, not to the snapshot's xmax."""
    cursor = Cursor(5, (), row(5)).after(Snapshot(9, frozenset({4, 6, 8})), row(7))
    assert cursor == Cursor(7, (4, 6), row(7))


def test_the_anchor_is_the_newest_row() -> None:
    """By transaction first; a read without rows keeps the one before."""
    cursor = Cursor.at(Snapshot(6, frozenset()), Anchor(5, 8, 1))
    assert cursor.after(Snapshot(9, frozenset()), None).anchor == Anchor(5, 8, 1)
    assert cursor.after(Snapshot(9, frozenset()), Anchor(7, 2, 1)).anchor == Anchor(7, 2, 1)
    assert cursor.naming(Anchor(5, 9, 1)) == Cursor(5, (), Anchor(5, 9, 1))
    assert cursor.naming(Anchor(4, 9, 1)) == cursor
    assert Cursor(0).naming(None) == Cursor(0)


# The text on the wire.


KEYS = tuple(Key(bytes([one]) * 64, bytes([one + 1]) * 64) for one in (1, 3))
TOPIC = "bot:11111111-1111-4111-8111-aaaaaaaaaaaa"


def text_of(database: Database, cursor: Cursor) -> str:
    text = Signer(database, KEYS).write(cursor, TOPIC)
    assert text is not None
    return text


@given(DATABASES, CURSORS)
def test_round_trip(database: Database, cursor: Cursor) -> None:
    """What is written is read again, wherever the list of open transactions fits."""
    assert Signer(database, KEYS).read(text_of(database, cursor), TOPIC) == cursor


@given(DATABASES, CROWDED | CURSORS)
def test_whole_or_not_at_all(database: Database, cursor: Cursor) -> None:
    """A text is short, needs no escaping in a URL, and is never cut; else there is none."""
    text = Signer(database, KEYS).write(cursor, TOPIC)
    if text is None:
        assert len(cursor.open) > (MAX_CURSOR_LENGTH - 120) / 18
    else:
        assert len(text) <= MAX_CURSOR_LENGTH
        assert re.fullmatch(r"[0-9a-f.-]+", text)
        assert parse_cursor(text) == (database, cursor)


def test_the_longest_text() -> None:
    """One transaction more does not fit."""
    signer = Signer(HISTORY, KEYS)
    count = next(n for n in range(999) if signer.body(crowd(n)) is None)
    assert len(signer.write(crowd(count - 1), TOPIC) or "") in (
        MAX_CURSOR_LENGTH - 1,
        MAX_CURSOR_LENGTH,
    )
    with pytest.raises(InvalidCursor):
        parse_cursor("2.7.5.1.ffff." + "-".join(["1"] * 490) + ".ffff.1.1." + "0" * 32)


def crowd(count: int) -> Cursor:
    return Cursor(10_000, tuple(range(10_000 - count, 10_000)), Anchor(10_000, 1, 1))


def test_what_the_signature_covers() -> None:
    """Another topic, another key or an edited text: invalid. A retiring key is good."""
    text = text_of(HISTORY, Cursor(10, (4,), Anchor(10, 1, 1)))
    with pytest.raises(InvalidCursor):
        Signer(HISTORY, KEYS).read(text, TOPIC.replace("bot", "user"))
    with pytest.raises(InvalidCursor):
        Signer(HISTORY, KEYS[1:]).read(text, TOPIC)
    with pytest.raises(InvalidCursor):
        Signer(HISTORY, KEYS).read(text.replace(".a.6.", ".a.5."), TOPIC)
    assert Signer(HISTORY, KEYS[::-1]).read(text, TOPIC) == Cursor(10, (4,), Anchor(10, 1, 1))


@pytest.mark.parametrize(
    "text",
    [
        text_of(HISTORY._replace(system=8), Cursor(10, (), Anchor(10, 1, 1)))[:-1] + "f",
        text_of(HISTORY._replace(oid=6), Cursor(10, (), Anchor(10, 1, 1))),
        text_of(HISTORY._replace(timeline=2), Cursor(10, (), Anchor(10, 1, 1))),
        "1.7.5.1.a.",
        "1.7.5.1.a.1-2",
    ],
)
def test_where_it_comes_from_is_looked_at_first(text: str) -> None:
    """Whatever the signature: another database's key is another one, and 0.1.0 signed nothing."""
    with pytest.raises(ForeignCursor):
        Signer(HISTORY, KEYS).read(text, TOPIC)


def read_untrusted(text: str) -> None:
    """Read: it is a sound, small cursor, or one of the two errors is raised and nothing else."""
    try:
        _, cursor = parse_cursor(text)
    except (InvalidCursor, ForeignCursor):
        return
    assert list(cursor.open) == sorted(set(cursor.open))
    assert all(0 < xid < cursor.last for xid in cursor.open)
    assert cursor.last <= FULL_XID
    assert len(cursor.open) < MAX_CURSOR_LENGTH


TAIL = ".a.1.1." + "0" * 2 * SIGNATURE_BYTES
SHAPED = st.from_regex(
    r"2(\.[0-9a-f]{0,20}){0,6}(-[0-9a-f]{0,3})*(\.[0-9a-f]{0,17}){3}\.[0-9a-f]{32}", fullmatch=True
)


@given(st.text() | SHAPED)
def test_any_text(text: str) -> None:
    """Whatever the text, it is a sound cursor or an error that says it is none."""
    read_untrusted(text)


@given(DATABASES, CURSORS, st.data())
def test_mutated_text(database: Database, cursor: Cursor, data: st.DataObject) -> None:
    """A cursor with one character changed is no cursor of ours."""
    text = text_of(database, cursor)
    at = data.draw(st.integers(0, len(text) - 1))
    edited = text[:at] + data.draw(st.characters()) + text[at + 1 :]
    read_untrusted(edited)
    if edited != text:
        with pytest.raises((InvalidCursor, ForeignCursor)):
            Signer(database, KEYS).read(edited, TOPIC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "3.7.5.1.a." + TAIL,
        "2.7.5.1.a." + TAIL[:-1],
        "2.7.5.1.a." + TAIL + "\n",
        "2.7.5.1.a" + TAIL,
        "2.7.5.1.A." + TAIL,
        "2.7.5.1.a.0" + TAIL,
        "2.7.5.1.a.a" + TAIL,
        "2.7.5.1.a.b" + TAIL,
        "2.7.5.1.a.1-" + TAIL,
        "2.7.5.1.a.-1" + TAIL,
        "2.7.5.1.a.1-9" + TAIL,
        "2.7.5.1.." + TAIL,
        "2.7.5.1.-a." + TAIL,
        "2.7.5.1.\u0663." + TAIL,
        "2." + "f" * 17 + ".5.1.a." + TAIL,
    ],
)
def test_no_cursor(text: str) -> None:
    """What this software would not have written is refused."""
    assert parse_cursor("2.7.5.1.a." + TAIL)
    with pytest.raises(InvalidCursor):
        parse_cursor(text)


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
            found.update(one.id for one in rows)
            cursor = cursor.after(log.snapshot(), newest_of(rows))
            cursor = Signer(HISTORY, KEYS).read(text_of(HISTORY, cursor), TOPIC)
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
            given_ids |= {one.id for one in rows}
            cursor = cursor.after(log.snapshot(), newest_of(rows))
    assert {row.id for row in log.committed if cursor.covers(row.xid)} == given_ids


def test_what_an_open_transaction_wrote_does_not_take_a_cursor_back() -> None:
    """Its rows are older than the newest one seen, which was delivered, and is not read again."""
    before = Cursor(11, (10,), Anchor(11, 1, 0))
    assert before.after(Snapshot(12, frozenset()), Anchor(10, 2, 0)) == Cursor(
        11, (), before.anchor
    )
