"""The chaos suite's witness: a client that does not keep the rules is found out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rowcast.events import parse, resync
from tests.chaos.loader import Loaded
from tests.chaos.population import Seat
from tests.chaos.record import Record
from tests.chaos.websocket import Dial
from tests.chaos.witness import Witness


@pytest.fixture
def record() -> Record:
    return Record("client 1", Seat("user-1", "bot-1"))


def greeting(number: int, **data: Any) -> dict[str, Any]:
    place = {"connection_id": str(number), "cursor": f"c{number}"}
    return {"type": "connection_established", "data": place | data}


def dial(number: int, claimed: str | None) -> Dial:
    return Dial(number, 8000, float(number), claimed, claimed)


def hand_over(witness: Witness, message: dict[str, Any]) -> None:
    event = parse(json.dumps(message))
    assert event is not None
    witness.take(event, None)


def test_a_client_that_forgets_its_cursor_is_found(record: Record) -> None:
    """Only the first connection may begin with nothing."""
    witness = Witness(record, lambda: 0)
    witness.dialled(dial(1, None))
    witness.watch(dial(1, None), greeting(1))
    witness.dialled(dial(2, "c1"))
    assert record.strange == []
    witness.dialled(dial(3, None))
    assert record.strange == [(3.0, "came back without its cursor")]


def test_a_client_that_claims_a_replay_before_it_came_is_found(record: Record) -> None:
    """The greeting's cursor counts only where nothing is replayed."""
    witness = Witness(record, lambda: 0)
    witness.watch(dial(1, None), greeting(1))
    witness.watch(dial(2, "c1"), greeting(2, recovered=True))
    witness.dialled(dial(3, "c2"))
    assert record.strange == [(3.0, "came back with a cursor not its own")]


def test_a_resync_that_is_not_handed_over_is_found(record: Record) -> None:
    """With the greeting that it belongs to; and one that nobody sent."""
    witness = Witness(record, lambda: 0)
    said = greeting(1, recovered=False, reason="too_old")
    witness.watch(dial(1, "c0"), said)
    hand_over(witness, said)
    assert len(record.strange) == 1
    witness.take(resync("too_old"), None)
    assert len(record.strange) == 1
    witness.take(resync("too_old"), None)
    assert record.strange[1][1].startswith("resync that nobody sent")


def test_what_comes_twice_on_a_connection_is_the_servers_fault(record: Record) -> None:
    """It is seen on the wire, whatever the client makes of it."""
    witness = Witness(record, lambda: 0)
    here = dial(1, None)
    for _ in range(2):
        witness.watch(here, {"type": "chat_message", "id": "7-1"})
    assert [seen.id for seen in record.repeated_on_a_connection] == ["7-1"]
    assert record.seen == []


def test_an_episode_of_a_loaded_state_begins_with_its_cursor(record: Record) -> None:
    """Once the server says that it is good; the state is what is on screen."""
    witness = Witness(record, lambda: 0)
    witness.load(None, Loaded("c1", {"document 1": "failed"}))
    witness.dialled(dial(1, "c1"))
    said = greeting(1, recovered=True)
    witness.watch(dial(1, "c1"), said)
    hand_over(witness, said)
    assert [(one.first_cursor, one.is_loaded) for one in record.episodes] == [("c1", True)]
    assert record.model.is_whole
    assert record.strange == []


def test_who_comes_back_with_an_older_cursor_has_an_older_screen(record: Record) -> None:
    """What it showed since then is not held against it."""
    witness = Witness(record, lambda: 0)
    witness.load(None, Loaded("c1", {"document 1": "failed"}))
    older = Dial(2, 8000, 2.0, "c1", "c0")
    said = greeting(2, recovered=True)
    witness.watch(older, said)
    hand_over(witness, said)
    assert record.model.things == {}
    assert not record.model.is_whole
