"""The judge of the chaos suite: every rule finds what it is there to find, and accuses nobody else.

Histories made by hand, on one bot's topic, with one client. Moments are whole numbers.
"""

from __future__ import annotations

import json

import pytest

from realtime.relay.cursor import Anchor, Cursor, Database, Key, Signer
from tests.chaos.ledger import Book, LogRow, Loss, Truth
from tests.chaos.population import Absence, Bot, Population, Seat
from tests.chaos.record import Ending, Greeting, Record, Seen
from tests.chaos.verdict import Verdict, Violation

SEAT = Seat("user-1", "bot-1")


class History:
    """Things that happen to a population, one after another."""

    def __init__(self) -> None:
        self.now = 0.0
        self.book = Book(lambda: self.now)
        self.population = Population()
        self.record = Record("client 1", SEAT)
        self.rows: dict[str, LogRow] = {}
        self.xids: dict[str, int] = {}
        self.marks: dict[str, str | None] = {}

    def commit(
        self, number: int, at: float, *, topic: str = SEAT.topic, saw: tuple[str, ...] = ()
    ) -> str:
        """An event whose id, transaction id and mark are one number; COMMIT took half a second."""
        payload = {"type": "marked", "data": {"mark": f"m{number}", "saw": saw}}
        tag = self.transaction(number, at)
        row = LogRow(number, number, topic, "marked", None, None, json.dumps(payload), tag=tag)
        self.rows[row.wire_id] = row
        self.marks[f"m{number}"] = topic
        return row.wire_id

    def transaction(self, xid: int, at: float) -> str:
        tag = f"t{xid}"
        self.xids[tag] = xid
        self.now = at
        self.book.sent(tag)
        self.now = at + 0.5
        self.book.acked(tag)
        return tag

    def revoke(self, xid: int, at: float) -> None:
        self.population.absences[SEAT].append(Absence(self.transaction(xid, at)))

    def grant(self, xid: int, at: float) -> None:
        self.population.absences[SEAT][-1].gained = self.transaction(xid, at)

    def begin(self, at: float, last: int = 0) -> None:
        """The client is let in, with a cursor that covers transactions up to `last`."""
        self.record.begin_episode(at, cursor(last) if last else None)

    def see(self, *ids: str, at: float = 50) -> None:
        self.record.seen += [Seen(one, at, 1) for one in ids]

    def greet(self, *, last: int, opened: float, recovered: bool, reason: str | None) -> None:
        self.record.greetings.append(
            Greeting(2, opened, opened + 1, cursor(last), recovered, reason)
        )

    def close(self, code: int, *, opened: float, at: float) -> None:
        self.record.endings.append(Ending(1, opened, at, code, ""))

    def violations(self) -> list[Violation]:
        truth = Truth(self.rows, self.book, self.xids, self.marks)
        return Verdict(truth, self.population).of_all([self.record])

    def broken_rules(self) -> list[str]:
        return [violation.rule for violation in self.violations()]


def wire(number: int) -> str:
    """The id of an event for clients, where nothing is said of its time."""
    return f"{number}-0"


def cursor(last: int, *still_open: int) -> str:
    signer = Signer(Database(1, 1, 1), (Key(b"", b""),))
    return signer.write(Cursor(last, still_open), "t") or ""


@pytest.fixture
def history() -> History:
    return History()


def test_a_client_that_saw_everything_once_is_content(history: History) -> None:
    """Nothing to complain of."""
    history.begin(1)
    history.see(history.commit(10, 2), history.commit(11, 3))
    assert history.violations() == []


def test_an_event_committed_after_the_beginning_is_missed(history: History) -> None:
    """With the transaction and the client named."""
    history.begin(1)
    history.commit(10, 2)
    (violation,) = history.violations()
    assert violation.rule == "missing"
    assert "event 10" in violation.what
    assert "client 1" in violation.who


def test_of_many_updates_of_a_thing_only_the_newest_is_owed(history: History) -> None:
    """One in between may be missing; the last may not, nor one of another thing."""
    history.begin(1)
    for number, thing in ((10, "a"), (11, "b"), (12, "a"), (13, "b")):
        history.commit(number, number)
        history.rows[wire(number)] = history.rows[wire(number)]._replace(subject=thing)
    history.see(wire(11), wire(12))
    (violation,) = history.violations()
    assert violation.rule == "missing"
    assert "event 13" in violation.what


def test_an_event_that_the_first_cursor_does_not_cover_is_missed(history: History) -> None:
    """Though it was committed before the client knew that it was let in."""
    history.begin(5, last=9)
    history.commit(10, 2)
    assert history.broken_rules() == ["missing"]


def test_what_was_committed_before_the_beginning_is_not_due(history: History) -> None:
    """Nor what another topic had."""
    history.commit(10, 2)
    history.begin(5, last=10)
    history.commit(11, 6, topic="bot:other")
    assert history.violations() == []


def test_a_gap_that_the_client_was_told_of_is_no_violation(history: History) -> None:
    """Unless the cursor that it had claimed the event."""
    history.begin(1)
    history.commit(10, 2)
    history.record.end_episode(cursor(9))
    history.begin(20, last=10)
    assert history.violations() == []
    history.record.episodes[0].last_cursor = cursor(10)
    assert history.broken_rules() == ["missing"]
    history.record.episodes[0].last_cursor = cursor(11, 10)
    assert history.violations() == []


def test_an_event_twice_is_found_whatever_came_between(history: History) -> None:
    """After the id check anywhere, before it on one connection."""
    history.begin(1)
    event = history.commit(10, 2)
    history.see(event)
    history.record.repeats += 1
    assert history.violations() == []
    history.record.repeated_on_a_connection.append(Seen(event, 60, 1))
    assert history.broken_rules() == ["twice"]
    history.see(event, at=70)
    assert history.broken_rules() == ["twice", "twice"]


def test_what_was_committed_between_revoke_and_grant_must_not_be_seen(history: History) -> None:
    """Where the order of the commits is proven; where they overlap, nothing is asserted."""
    history.begin(1)
    history.revoke(20, 10)
    history.see(history.commit(21, 10.4))
    within = history.commit(22, 12)
    history.commit(23, 19.9)
    history.grant(30, 20)
    history.record.end_episode(cursor(9))
    assert history.violations() == []
    history.see(within)
    assert history.broken_rules() == ["after revoke"]


def test_the_revoking_transactions_own_messages_must_not_be_seen(history: History) -> None:
    """Its final message may; and where the same transaction gave access back, nothing is hidden."""
    history.begin(1)
    history.revoke(20, 10)
    history.rows[wire(19)] = LogRow(19, 20, SEAT.topic, "eject", SEAT.user, 4003, "{}", tag="t20")
    history.see(wire(19))
    history.record.end_episode(cursor(9))
    assert history.violations() == []
    history.commit(20, 10)
    history.see(wire(20))
    assert history.broken_rules() == ["after revoke"]
    history.population.absences[SEAT][-1].gained = "t20"
    assert history.violations() == []


def test_what_the_revoking_transaction_wrote_first_may_be_seen_or_not(history: History) -> None:
    """A ring may carry it, and that is heard before the revoke."""
    history.begin(1)
    history.revoke(20, 10)
    history.commit(20, 10)
    history.rows[wire(21)] = LogRow(21, 20, SEAT.topic, "eject", SEAT.user, 4003, "{}", tag="t20")
    assert history.violations() == []
    history.see(wire(20), wire(21))
    assert history.violations() == []


def test_what_nobody_committed_or_another_was_meant_for_is_foreign(history: History) -> None:
    """An event from nowhere, one of another topic, another user's final message."""
    history.begin(1)
    history.commit(10, 2, topic="bot:other")
    history.rows[wire(11)] = LogRow(11, 11, SEAT.topic, "eject", "user-2", 4003, "{}")
    history.see(wire(10), wire(11), wire(12))
    assert history.broken_rules() == ["foreign", "foreign", "foreign"]


def test_an_effect_before_its_cause_is_found(history: History) -> None:
    """What the writer had not seen may come in any order."""
    history.begin(1)
    for number, saw in ((10, ()), (11, ()), (12, (wire(10),))):
        history.commit(number, number, saw=saw)
    history.see(wire(11), wire(10), wire(12))
    assert history.violations() == []
    history.record.seen.reverse()
    assert history.broken_rules() == ["effect before cause"]


def test_access_changed_needs_a_change_that_the_cursor_does_not_cover(history: History) -> None:
    """A revoke or a grant; every other reason is wrong in such a run."""
    history.revoke(20, 10)
    history.grant(30, 20)
    history.greet(last=19, opened=25, recovered=False, reason="access_changed")
    assert history.violations() == []
    history.greet(last=30, opened=35, recovered=False, reason="access_changed")
    history.greet(last=19, opened=25, recovered=False, reason="too_old")
    assert history.broken_rules() == ["told without cause", "told without cause"]


def test_who_kept_access_but_was_asked_about_may_be_told_so(history: History) -> None:
    """As an owner whose bot was another's for a while."""
    history.population.shaken[SEAT].append(history.transaction(20, 10))
    history.greet(last=19, opened=25, recovered=False, reason="access_changed")
    assert history.violations() == []


def test_recovery_across_a_revoke_is_found(history: History) -> None:
    """The revoke was over when the connection began, and the cursor is from before it."""
    history.revoke(20, 10)
    history.grant(30, 20)
    history.greet(last=20, opened=25, recovered=True, reason=None)
    assert history.violations() == []
    history.greet(last=19, opened=25, recovered=True, reason=None)
    assert history.broken_rules() == ["not told"]


def test_a_refusal_needs_a_loss_while_the_socket_was_there(history: History) -> None:
    """One opened after the grant stays, however late the process hears of the revoke."""
    history.revoke(20, 10)
    history.grant(30, 20)
    history.close(4003, opened=5, at=11)
    history.close(4003, opened=20.2, at=21)
    assert history.violations() == []
    history.close(4003, opened=21, at=22)
    history.close(4001, opened=5, at=9)
    assert history.broken_rules() == ["refused without cause", "refused without cause"]


def test_who_is_still_there_without_access_was_left_in(history: History) -> None:
    """At the end of the run."""
    history.revoke(20, 10)
    assert history.violations() == []
    history.record.was_open_at_the_end = True
    assert history.broken_rules() == ["left in"]


def test_messages_and_codes_that_should_not_come_are_reported(history: History) -> None:
    """With their moment."""
    history.record.strange.append((3, "closed with 1011"))
    assert history.broken_rules() == ["strange"]


def test_the_log_is_held_against_the_writers_own_word(history: History) -> None:
    """Lost, invented, repeated, not durable, not undone."""
    history.commit(10, 2)
    history.marks["lost"] = SEAT.topic
    history.commit(11, 3)
    del history.marks["m11"]
    history.rows[wire(12)] = history.rows[wire(10)]._replace(id=12)
    history.book.sent("t99")
    history.book.acked("t99")
    history.book.took_back("t10")
    found = [violation.what for violation in history.violations() if violation.rule == "log"]
    assert found == [
        "1 committed, but not in the log",
        "1 in the log, but never committed",
        "1 more than once in the log",
        "1 acknowledged, but not in the ledger",
        "1 rolled back, but in the ledger",
    ]


def forget(history: History, *numbers: int, at: float) -> None:
    """The database loses these events, in an outage of a second."""
    rows = {wire(number): history.rows.pop(wire(number)) for number in numbers}
    for number in numbers:
        del history.marks[f"m{number}"], history.xids[f"t{number}"]
    history.book.lose(Loss(at, at + 1, rows), {f"t{number}" for number in numbers})


def lost_cursor(number: int) -> str:
    """The cursor of one who had seen that event last, and all before it."""
    signer = Signer(Database(1, 1, 1), (Key(b"", b""),))
    return signer.write(Cursor(number, (), Anchor(number, number, 0)), "t") or ""


def test_what_was_forgotten_is_not_owed_but_who_saw_it_must_be_told(history: History) -> None:
    """It was committed once, so it is nothing foreign; and what got its number after that is owed
    to who claims it only by its number."""
    history.begin(1)
    history.commit(10, 2)
    history.commit(11, 3)
    forget(history, 10, 11, at=5)
    assert history.violations() == []
    history.see(wire(10))
    assert history.broken_rules() == ["phantom"]
    history.record.end_episode(lost_cursor(10))
    history.begin(8)
    assert history.violations() == []
    history.commit(9, 9)
    assert history.broken_rules() == ["missing"]


def test_a_cursor_of_a_lost_history_must_be_foreign_and_no_other(history: History) -> None:
    """Unless its owner came, or lived, while the history was lost."""
    history.commit(10, 2)
    forget(history, 10, at=5)
    told = (False, "foreign")
    for text, opened in ((lost_cursor(10), 20.0), (cursor(9), 5.5)):
        history.record.greetings.append(Greeting(2, opened, opened + 1, text, *told))
    history.record.greetings.append(Greeting(2, 12, 12, cursor(9), *told))
    assert history.violations() == []
    history.record.greetings.append(Greeting(3, 20, 21, cursor(9), *told))
    history.record.greetings.append(Greeting(4, 30, 30, cursor(9), *told))
    assert history.broken_rules() == ["told without cause", "told without cause"]
    history.record.greetings = [Greeting(5, 20, 21, lost_cursor(10), True, None)]
    assert history.broken_rules() == ["not told"]


def test_a_durable_commit_may_not_be_forgotten(history: History) -> None:
    """Though rows of others were, in the same crash."""
    history.commit(10, 2)
    history.commit(11, 3)
    forget(history, 10, at=5)
    assert history.violations() == []
    history.book.forgotten.clear()
    assert history.broken_rules() == ["log"]


def test_a_cursor_that_is_not_ones_own_must_be_turned_away(history: History) -> None:
    """For the reason that fits it, and nothing of the time without access is shown."""
    history.revoke(20, 10)
    within = history.commit(22, 12)
    history.grant(30, 20)
    history.record.only_told = frozenset({"invalid"})
    history.greet(last=22, opened=25, recovered=False, reason="invalid")
    assert history.violations() == []
    history.greet(last=22, opened=25, recovered=True, reason=None)
    history.greet(last=22, opened=25, recovered=False, reason="access_changed")
    assert history.broken_rules() == ["deceived", "deceived"]
    history.see(within)
    assert history.broken_rules() == ["after revoke", "deceived", "deceived"]


def test_a_lost_history_is_a_reason_to_turn_away_any_cursor(history: History) -> None:
    """Also the own one from before a revoke, of which `access_changed` would be said otherwise."""
    history.commit(10, 2)
    forget(history, 10, at=5)
    history.record.only_told = frozenset({"access_changed"})
    told = (False, "foreign")
    history.record.greetings.append(Greeting(2, 20.0, 21.0, lost_cursor(10), *told))
    assert history.violations() == []
    history.record.greetings.append(Greeting(3, 20.0, 21.0, cursor(9), *told))
    assert history.broken_rules() == ["deceived"]


def test_a_screen_that_is_not_as_the_tables_are_is_found(history: History) -> None:
    """Of who was there at the end, and has access."""
    history.population.bots.append(Bot("bot-1", "user-2", "session"))
    history.record.model.things["document 1"] = "uploaded"
    verdict = Verdict(Truth({}, history.book, {}, {}), history.population)
    states = {"bot-1": {"document 1": "failed"}}
    assert list(verdict.of_screens([history.record], states)) == []
    history.record.was_open_at_the_end = True
    (violation,) = verdict.of_screens([history.record], states)
    assert violation.rule == "wrong on screen"
    history.revoke(20, 10)
    assert list(verdict.of_screens([history.record], states)) == []


def test_what_was_in_the_loaded_state_must_not_come_again(history: History) -> None:
    """And what was not must come."""
    history.commit(10, 2)
    history.commit(11, 2)
    history.record.begin_episode(5, cursor(10), is_loaded=True)
    assert history.broken_rules() == ["missing"]
    history.see(wire(11))
    assert history.violations() == []
    history.see(wire(10))
    assert history.broken_rules() == ["twice"]


def test_what_a_surviving_transaction_hides_may_stay_on_screens(history: History) -> None:
    """It was forgotten, but no later transaction can have its id, and nothing is missed."""
    history.population.bots.append(Bot("bot-1", "user-2", "session"))
    history.begin(1)
    history.commit(10, 2)
    history.see(wire(10), history.commit(11, 2))
    uploaded = {"action": "uploaded", "document": {"id": "1", "status": "uploaded"}}
    payload = json.dumps({"type": "document_update", "data": uploaded})
    history.rows[wire(10)] = history.rows[wire(10)]._replace(payload=payload)
    history.record.model.apply(json.loads(payload))
    history.record.was_open_at_the_end = True
    forget(history, 10, at=5)
    for last, wrong in ((9, 1), (11, 0)):
        history.book.losses[0] = history.book.losses[0]._replace(last=last)
        truth = Truth(history.rows, history.book, history.xids, history.marks)
        verdict = Verdict(truth, history.population)
        assert len(list(verdict.of_screens([history.record], {"bot-1": {}}))) == wrong
        assert history.broken_rules() == ["phantom"] * wrong
