"""Holds what each client saw against what was committed. Pure; every rule has a test of its own.

For a client of user U on topic T, with the truth of `ledger` and the record of `record`:

- *foreign*: what it saw is a committed event of T, or the final message of an ejection of U from T.
- *missing*: within an episode (see `record`), it saw every event of T that was committed after the
  episode began: those not covered by the cursor that the server named then, and those whose COMMIT
  was sent after the client was told. Where the server declared the episode over, only what the
  newest cursor before that claims is due; so a cursor may never claim what was not sent. An update
  of something of which it saw a newer one is not owed.
- *phantom*: who saw what the database forgot afterwards was told that the episode is over. (Not
  where a transaction with a higher id, durable earlier, hides it: `Loss.is_found_out`. Nor who
  came back with an older cursor, for its state is as old.)
- *twice*: no event twice after the id check, even where the ids were forgotten in between, and none
  twice on one connection even before it; nothing by an event that was in the loaded state.
- *after revoke*: it saw nothing whose commit is proven to lie after a revoke and before the grant
  that followed it, nor anything that the revoking transaction wrote after it took access away.
  (What that wrote before may be seen, or withheld.)
- *effect before cause*: whatever the writer of an event had seen on T, the client saw before it.
- *told without cause*: `access_changed` only where U's access was taken (or, for an owner, was in
  question) in the gap; `foreign` only where the database has lost what the client, or its process,
  had seen; never `too_old`, `too_many` or `invalid` in such a run.
- *not told*: `recovered: true` never across a revoke that was over when the connection began, nor
  with a cursor of a history that was lost.
- *deceived*: a cursor that is not its owner's is turned away, for the right reason.
- *wrong on screen*: who was there at the end and applied all events in order has what the tables
  have.
- *refused without cause*: 4001 and 4003 only where access was lost at some moment between the
  opening of the connection and the close: who opens a socket after a grant stays.
- *left in*: at the end, no socket is open without access.
- *strange*: no close code and no message that has no business in such a run.

And of the product as a whole, *log*: the marks that writers say they committed are exactly those
that triggers put into the log, each once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import inf
from typing import NamedTuple

from realtime.relay.cursor import Cursor, parse_cursor
from tests.chaos.ledger import Interval, LogRow, Loss, Truth
from tests.chaos.model import Model, Things
from tests.chaos.population import Absence, Population
from tests.chaos.record import Ending, Episode, Greeting, Record, Seen

FINAL_MESSAGE = "permission_change"
EVIDENCE = 5
NOTICED_SECONDS = 15.0
"""Until a process has noticed that the database has another history, itself cut off perhaps."""


class Violation(NamedTuple):
    """One promise that was not kept, with what shows it."""

    rule: str
    who: str
    what: str
    evidence: tuple[str, ...] = ()


class Verdict:
    """Judges records.

    Args:
        population: who had access when.
    """

    def __init__(self, truth: Truth, population: Population) -> None:
        self._truth = truth
        self._population = population
        self._cursors: dict[str, Cursor] = {}

    def of_all(self, records: Iterable[Record]) -> list[Violation]:
        return [*self.of_log(), *(found for record in records for found in self.of(record))]

    def of_screens(
        self, records: Iterable[Record], states: Mapping[str, Things]
    ) -> Iterator[Violation]:
        """Compare what clients have on screen with the tables.

        Args:
            states: what the tables have, of each bot.
        """
        may_stay = self._may_stay()
        owners = {bot.id: bot.owner for bot in self._population.bots}
        for record in records:
            seat = record.seat
            if seat.bot is None or not record.was_open_at_the_end or self._population.is_away(seat):
                continue
            ignored = may_stay | {f"permission {owners[seat.bot]}"}
            wrong = list(record.model.differences(states[seat.bot], ignored))
            if wrong:
                what = f"{len(wrong)} things are not as in the tables"
                evidence = tuple(wrong[:EVIDENCE])
                yield Violation("wrong on screen", f"{record.name}, {seat.topic}", what, evidence)

    def of_log(self) -> list[Violation]:
        """Whether the triggers did their part, and whether the suite's own record is whole."""
        truth = self._truth
        logged = Counter(mark.mark for mark in truth.marked.values())
        written = {mark for mark, topic in truth.marks.items() if topic is not None}
        tags = truth.xids.keys()
        wrong = {
            "committed, but not in the log": written - logged.keys(),
            "in the log, but never committed": logged.keys() - written,
            "more than once in the log": {mark for mark, times in logged.items() if times > 1},
            "acknowledged, but not in the ledger": truth.book.known_to_be_committed() - tags,
            "rolled back, but in the ledger": truth.book.rolled_back & tags,
        }
        return [
            Violation("log", "the database", f"{len(marks)} {what}", tuple(sorted(marks)[:10]))
            for what, marks in wrong.items()
            if marks
        ]

    def of(self, record: Record) -> Iterator[Violation]:
        """Everything that is wrong with one client's history."""
        for event in record.seen:
            if not self._is_theirs(record, event.id):
                yield self._about_event("foreign", record, event)
            row = self._truth.row(event.id)
            if self._is_withheld(record, row) and not self._is_earlier(record, row):
                yield self._about_event("after revoke", record, event)
        yield from self._missing(record)
        yield from self._phantoms(record)
        yield from self._twice(record)
        yield from self._out_of_order(record)
        for greeting in record.greetings:
            yield from self._greeting(record, greeting)
        for ending in record.endings:
            if ending.code in (4001, 4003) and not self._had_cause(record, ending):
                what = f"{ending.code} {ending.reason}, opened at {ending.opened_at:.3f}"
                yield self._violation("refused without cause", record, what, ending.at)
        if record.was_open_at_the_end and self._population.is_away(record.seat):
            yield self._violation("left in", record, "open without access at the end", inf)
        for at, what in record.strange:
            yield self._violation("strange", record, what, at)

    # Events.

    def _is_theirs(self, record: Record, identifier: str) -> bool:
        row = self._truth.row(identifier)
        if row is None:
            return False
        if row.is_event:
            return row.topic == record.seat.topic
        return row.topic == record.seat.topic and row.user_id in (None, record.seat.user)

    def _is_withheld(self, record: Record, row: LogRow | None) -> bool:
        if row is None or not row.is_event:
            return False
        return any(
            self._is_within(row, absence) for absence in self._population.absences[record.seat]
        )

    def _is_earlier(self, record: Record, row: LogRow | None) -> bool:
        """Whether its own transaction took access away only after it had written this."""
        losses = {absence.lost for absence in self._population.absences[record.seat]}
        if row is None or row.tag not in losses:
            return False
        revokes = [
            other.id
            for other in self._truth.rows.values()
            if other.tag == row.tag
            and not other.is_event
            and other.user_id in (None, record.seat.user)
        ]
        return row.id < min(revokes, default=0)

    def _is_within(self, row: LogRow, absence: Absence) -> bool:
        if row.tag == absence.lost:
            return absence.gained != absence.lost
        at = self._truth.interval(row)
        return self._interval(absence.lost).is_before(at) and (
            absence.gained is None or at.is_before(self._interval(absence.gained))
        )

    def _missing(self, record: Record) -> Iterator[Violation]:
        seen = {event.id for event in record.seen}
        newest = self._newest_seen(seen)
        for episode in record.episodes:
            for row in self._truth.by_topic.get(record.seat.topic, ()):
                is_due = row.wire_id not in seen and self._is_due(row, episode)
                if row.subject is not None and row.id < newest.get(row.subject, 0):
                    continue
                if is_due and not self._is_withheld(record, row):
                    at = self._truth.interval(row)
                    yield self._violation("missing", record, self._words(row), at.sent)

    def _phantoms(self, record: Record) -> Iterator[Violation]:
        older = [one.connection for one in record.greetings if one.recovered and one.is_older]
        for episode, end in zip(record.episodes, self._ends(record), strict=False):
            for event in record.seen[episode.first_seen : end]:
                is_later = event.connection >= max([0, *older])
                if is_later and not episode.is_over and self._is_found_out(event.id):
                    yield self._about_event("phantom", record, event, "and never told")

    def _is_found_out(self, identifier: str) -> bool:
        """Whether it was forgotten, and who saw it is to be told."""
        loss = self._truth.lost_in.get(identifier)
        return loss is not None and loss.is_found_out(loss.rows[identifier])

    def _may_stay(self) -> set[str]:
        """What may stay on screens though it was forgotten."""
        model = Model()
        for loss in self._truth.book.losses:
            for row in loss.rows.values():
                if row.is_event and not loss.is_found_out(row):
                    model.apply(json.loads(row.payload or "{}"))
        return set(model.things)

    def _newest_seen(self, seen: Iterable[str]) -> Mapping[str, int]:
        """Of each thing that changed, the newest event."""
        rows = sorted(self._truth.rows[one] for one in seen if one in self._truth.rows)
        return {row.subject: row.id for row in rows if row.subject is not None}

    def _is_due(self, row: LogRow, episode: Episode) -> bool:
        began = episode.first_cursor is not None and not self._covers(
            episode.first_cursor, row.xid, row.tag
        )
        if not began and self._truth.interval(row).sent <= episode.began_at:
            return False
        if not episode.is_over:
            return True
        return episode.last_cursor is not None and self._covers(
            episode.last_cursor, row.xid, row.tag
        )

    def _twice(self, record: Record) -> Iterator[Violation]:
        first: dict[str, Seen] = {}
        for event in record.seen:
            if event.id in first:
                yield self._about_event("twice", record, event)
            first[event.id] = event
        for event in record.repeated_on_a_connection:
            yield self._about_event("twice", record, event)
        for episode, end in zip(record.episodes, self._ends(record), strict=False):
            for event in record.seen[episode.first_seen : end] if episode.is_loaded else ():
                row = self._truth.row(event.id)
                if row and self._covers(episode.first_cursor or "", row.xid, row.tag):
                    yield self._about_event("twice", record, event, "and in the loaded state")

    @staticmethod
    def _ends(record: Record) -> list[int]:
        """How many events had been handed over at the end of each episode."""
        return [episode.first_seen for episode in record.episodes[1:]] + [len(record.seen)]

    def _out_of_order(self, record: Record) -> Iterator[Violation]:
        place = {event.id: number for number, event in enumerate(record.seen)}
        for number, event in enumerate(record.seen):
            mark = self._truth.marked.get(event.id)
            late = [one for one in mark.saw if place.get(one, -1) > number] if mark else []
            if late:
                yield self._about_event("effect before cause", record, event, f"before {late}")

    # What was said.

    def _is_right(self, reasons: Collection[str], greeting: Greeting) -> bool:
        """Whether that is a reason to turn a cursor away; a lost history always is one."""
        if greeting.reason == "foreign" and greeting.cursor is not None:
            return "foreign" in reasons or self._loss_of(greeting.cursor) is not None
        return greeting.reason in reasons

    def _greeting(self, record: Record, greeting: Greeting) -> Iterator[Violation]:
        if record.only_told:
            if greeting.recovered or not self._is_right(record.only_told, greeting):
                what = f"recovered: {greeting.recovered}, {greeting.reason}"
                yield self._violation("deceived", record, what, greeting.at)
            return
        if greeting.recovered is None or greeting.cursor is None:
            return
        loss = self._loss_of(greeting.cursor)
        if greeting.recovered and loss is not None and loss.over_at < greeting.opened_at:
            what = "recovered: true with a cursor of a history that was lost"
            yield self._violation("not told", record, what, greeting.at)
        absences = self._population.absences[record.seat]
        lost = [absence.lost for absence in absences]
        unseen = [tag for tag in lost if not self._covers_tag(greeting.cursor, tag)]
        if greeting.recovered:
            over = [t for t in unseen if self._interval(t).acked < greeting.opened_at]
            if over:
                what = f"recovered: true in spite of {over}"
                yield self._violation("not told", record, what, greeting.at)
            return
        if greeting.reason == "foreign" and (loss is not None or self._may_be_foreign(greeting)):
            return
        shaken = self._population.shaken[record.seat]
        granted = [absence.gained for absence in absences if absence.gained]
        named = [tag for tag in shaken + granted if not self._covers_tag(greeting.cursor, tag)]
        causes = unseen + named
        is_caused = any(self._interval(tag).sent < greeting.at for tag in causes)
        if greeting.reason != "access_changed" or not is_caused:
            what = f"recovered: false, {greeting.reason}"
            yield self._violation("told without cause", record, what, greeting.at)

    def _may_be_foreign(self, greeting: Greeting) -> bool:
        """Whether a history was lost while the connection was made, or not long before it lived.

        A process tells all who are there, also those who saw nothing of what was lost.
        """
        noticing = NOTICED_SECONDS if greeting.is_of_a_live_socket else 0.0
        return any(
            loss.at <= greeting.at and greeting.opened_at <= loss.over_at + noticing
            for loss in self._truth.book.losses
        )

    def _had_cause(self, record: Record, ending: Ending) -> bool:
        for absence in self._population.absences[record.seat]:
            gained = self._interval(absence.gained).acked if absence.gained else inf
            if self._interval(absence.lost).sent < ending.at and gained > ending.opened_at:
                return True
        return False

    # Their parts.

    def _interval(self, tag: str) -> Interval:
        return self._truth.book.interval(tag)

    def _covers(self, cursor: str, xid: int, tag: str | None) -> bool:
        """Whether it claims a transaction that was not forgotten.

        One of a lost history claims nothing of what came after that, whatever its number.
        """
        if not self._cursor(cursor).covers(xid):
            return False
        loss = self._loss_of(cursor)
        return loss is None or self._truth.book.interval(tag).sent <= loss.at

    def _cursor(self, text: str) -> Cursor:
        if text not in self._cursors:
            self._cursors[text] = parse_cursor(text)[1]
        return self._cursors[text]

    def _loss_of(self, cursor: str) -> Loss | None:
        """Where the newest row that the cursor's owner had seen was forgotten."""
        anchor = self._cursor(cursor).anchor
        if anchor is None:
            return None
        return self._truth.lost_in.get(f"{anchor.id}-{anchor.written_at}")

    def _covers_tag(self, cursor: str, tag: str) -> bool:
        xid = self._truth.xids.get(tag)
        return xid is not None and self._covers(cursor, xid, tag)

    def _words(self, row: LogRow) -> str:
        at, tag = self._truth.interval(row), row.tag
        between = f"committed between {at.sent:.3f} and {at.acked:.3f}"
        return f"event {row.id} ({row.type}, transaction {row.xid} = {tag}), {between}"

    def _about_event(self, rule: str, record: Record, event: Seen, more: str = "") -> Violation:
        row = self._truth.row(event.id)
        words = self._words(row) if row else f"event {event.id}, which was never committed"
        what = f"{words}, seen at {event.at:.3f} on connection {event.connection} {more}"
        return self._violation(rule, record, what.rstrip(), event.at)

    def _violation(self, rule: str, record: Record, what: str, at: float) -> Violation:
        history = [
            f"access lost by {a.lost} {self._interval(a.lost)}, back by {a.gained}"
            f" {self._interval(a.gained) if a.gained else ''}"
            for a in self._population.absences[record.seat]
        ]
        who = f"{record.name}, {record.seat.topic}, user {record.seat.user}"
        return Violation(rule, who, what, (*record.around(at), *history, *self._told_of(record)))

    def _told_of(self, record: Record) -> list[str]:
        """The rows of the log about access that concern the client."""
        user, topic = record.seat.user, record.seat.topic
        rows = [
            row
            for row in sorted(self._truth.rows.values(), key=lambda row: row.written_at)
            if (row.code is not None or row.user_id is not None or row.type == "grant")
            and row.user_id in (None, user)
            and row.topic in (None, topic)
        ]
        return [f"about access: {self._words(row)}, user {row.user_id}" for row in rows[-EVIDENCE:]]
